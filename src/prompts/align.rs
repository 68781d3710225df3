//! One position axis for pairs of different lengths.

use super::encode::Encode;
use super::show::show_token;
use super::{Pair, PromptSet};
use serde::Serialize;

/// Which ends of the prompts stand in one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Align {
    /// First tokens in column 0.
    #[default]
    Start,
    /// Last tokens in the last column.
    End,
}

/// The position axis of a set: as long as its longest pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionAxis {
    pub align: Align,
    /// Number of columns.
    pub len: usize,
}

impl PositionAxis {
    pub fn new(set: &PromptSet, align: Align) -> Self {
        PositionAxis { align, len: set.longest() }
    }

    /// The position that column `column` is in a pair of `pair_len` tokens; `None` where the pair does not reach it.
    pub fn position(&self, column: usize, pair_len: usize) -> Option<usize> {
        let position = match self.align {
            Align::Start => column,
            Align::End => column.checked_sub(self.len.checked_sub(pair_len)?)?,
        };
        (column < self.len && position < pair_len).then_some(position)
    }

    /// The column of position `position` of a pair of `pair_len` tokens; the inverse of [`Self::position`].
    pub fn column(&self, position: usize, pair_len: usize) -> Option<usize> {
        let before = self.len.checked_sub(pair_len)?;
        (position < pair_len).then_some(match self.align {
            Align::Start => position,
            Align::End => before + position,
        })
    }

    /// What column `column` is called when the pairs have different tokens there: `pos_3`, or `end-3` from the end.
    fn plain_label(&self, column: usize) -> String {
        match (self.align, self.len - 1 - column) {
            (Align::Start, _) => format!("pos_{column}"),
            (Align::End, 0) => "end".to_owned(),
            (Align::End, distance) => format!("end-{distance}"),
        }
    }
}

/// The label of every column of the set's position axis: `token_3`, the clean token and the column, where all pairs
/// that reach it have the same clean token there, else `pos_3` (or `end-3` with [`Align::End`]). Without a tokenizer
/// the token is its id. Spaces and control characters are made visible ([`show_piece`](super::show_piece)).
pub fn position_labels(set: &PromptSet, tokenizer: Option<&dyn Encode>, align: Align) -> Vec<String> {
    let axis = PositionAxis::new(set, align);
    (0..axis.len)
        .map(|column| {
            let token = |pair: &Pair| axis.position(column, pair.len()).and_then(|at| pair.clean.get(at).copied());
            let mut tokens = set.pairs.iter().filter_map(token);
            match tokens.next() {
                Some(first) if tokens.all(|token| token == first) => {
                    format!("{}_{column}", show_token(tokenizer, first))
                }
                _ => axis.plain_label(column),
            }
        })
        .collect()
}

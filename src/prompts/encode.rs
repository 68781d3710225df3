//! What the prompts need of a tokenizer, and what happens at the start of a prompt.

use crate::model::Tokenizer;
use serde::Serialize;

/// The part of a tokenizer that prompts need. The file of a model without one is read with token ids only.
pub trait Encode {
    /// The token ids of `text`, without special tokens added. Special tokens *written in* the text count as themselves.
    fn encode(&self, text: &str) -> Result<Vec<u32>, String>;

    /// The id of the beginning-of-sequence token, if there is one.
    fn bos(&self) -> Option<u32>;

    /// The text of one token as it stands in a string (` Mary`, not `ĠMary`), or `None` for an unknown id.
    fn piece(&self, id: u32) -> Option<String>;
}

impl Encode for Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Tokenizer::encode(self, text).map_err(|e| e.to_string())
    }

    fn bos(&self) -> Option<u32> {
        Tokenizer::bos(self)
    }

    fn piece(&self, id: u32) -> Option<String> {
        self.token(id)
    }
}

/// Whether a BOS token goes before a prompt that is text. Arrays of ids are never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum BosPolicy {
    /// Where the tokenizer has one and the text does not begin with it.
    #[default]
    Auto,
    /// As auto, but a tokenizer without one is an error.
    Always,
    /// The text as it is.
    Never,
}

/// What was done at the start of the prompts of a set. Counts are of prompts, two a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bos {
    pub policy: BosPolicy,
    /// The tokenizer's BOS token.
    pub id: Option<u32>,
    /// Texts that `id` was put before.
    pub prepended: usize,
    /// Texts that began with `id` already.
    pub already_there: usize,
    /// Texts that begin with no BOS.
    pub none: usize,
    /// Arrays of ids, taken as they were.
    pub given_as_ids: usize,
}

impl Bos {
    pub(super) fn new(policy: BosPolicy, id: Option<u32>) -> Self {
        Bos { policy, id, prepended: 0, already_there: 0, none: 0, given_as_ids: 0 }
    }

    /// Applies the policy to the tokens of one text, counts what it did, and says how far the tokens moved (0 or 1).
    pub(super) fn apply(&mut self, ids: &mut Vec<u32>) -> usize {
        match self.id {
            Some(bos) if ids.first() == Some(&bos) => self.already_there += 1,
            Some(bos) if self.policy != BosPolicy::Never => {
                ids.insert(0, bos);
                self.prepended += 1;
                return 1;
            }
            _ => self.none += 1,
        }
        0
    }
}

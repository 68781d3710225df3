//! The shape of a wave: how many rows, in segments of how many.

use crate::model::ModelSpec;

/// Rows of a wave and the prompts that they belong to. Every pair is `len` tokens long and first differs at
/// [`WaveShape::first`], as IOI pairs do; a cell's segment is the rest of its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct WaveShape {
    pub rows: usize,
    pub pairs: usize,
    /// Tokens of a prompt, at least 2.
    pub len: usize,
}

impl WaveShape {
    /// Tokens that both prompts of a pair have in common: two thirds, and at least one.
    pub fn first(&self) -> usize {
        (2 * self.len / 3).max(1)
    }

    /// Rows of a segment.
    pub fn own(&self) -> usize {
        self.len - self.first()
    }

    /// Segments of the wave; the last may be shorter.
    pub fn segments(&self) -> usize {
        self.rows.div_ceil(self.own())
    }

    /// Rows of the base run.
    pub fn base_rows(&self) -> usize {
        self.pairs * self.len
    }

    /// Rows of the wave of all heads of all pairs in the last layer: those of every cell.
    pub fn peak(spec: &ModelSpec, pairs: usize, len: usize) -> usize {
        let heads: usize = (0..spec.n_layers()).filter_map(|l| spec.attn(l)).map(|a| a.n_heads).sum();
        let shape = WaveShape { rows: 0, pairs, len };
        heads.saturating_mul(pairs).saturating_mul(shape.own()).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_two_pairs_of_fifteen_tokens_through_gpt2() {
        let spec = super::super::like::like("gpt2").expect("a spec");
        assert_eq!(WaveShape::peak(&spec, 32, 15), 144 * 32 * 5);
        let shape = WaveShape { rows: 64, pairs: 32, len: 15 };
        assert_eq!((shape.first(), shape.own(), shape.segments(), shape.base_rows()), (10, 5, 13, 480));
        let least = WaveShape { rows: 1, pairs: 1, len: 2 };
        assert_eq!((least.first(), least.own(), least.segments()), (1, 1, 1));
    }
}

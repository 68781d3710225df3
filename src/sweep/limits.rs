//! How much of a sweep is in memory at once.

use super::cells::SiteCells;
use super::entry::temporary_bytes_per_row;
use super::group::{keeps, kept_bytes};
use super::intervention::PatchKind;
use crate::engine::Program;
use crate::engine::workspace::bytes_per_row;
use crate::model::ModelSpec;

/// Bounds that cut a sweep into groups of pairs and waves of rows. No bound changes a bit of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Token rows of one wave. Waves are cut to this; a single item may exceed it.
    pub max_rows: usize,
    /// Bytes of kept activations; pairs are grouped to this. A single pair may exceed it.
    pub cache_bytes: usize,
}

impl Default for Limits {
    /// On a CPU throughput saturates at some 700 rows, so tall waves would only cost memory.
    fn default() -> Self {
        Limits { max_rows: 2048, cache_bytes: 128 << 20 }
    }
}

/// What a sweep needs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// float32 weights.
    pub weights: u64,
    /// One token row in a wave, what its entry takes for a moment included.
    pub per_row: u64,
    /// Kept activations of one pair of the longest length, both runs.
    pub per_pair: u64,
    /// The process itself: code, tokenizer, vocabulary blocks of metrics.
    pub fixed: u64,
}

/// `--max-memory` is below what the smallest possible cut needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--max-memory {given} bytes: this run needs at least {least} ({} MiB), of which the weights take {weights}", least.div_ceil(1 << 20))]
pub struct TooLittleMemory {
    pub given: u64,
    pub least: u64,
    pub weights: u64,
}

impl Needs {
    /// Of sweeping `sites` over pairs of up to `longest` tokens.
    pub fn new(
        spec: &ModelSpec,
        n_parameters: u64,
        sites: &[SiteCells],
        patch: PatchKind<'_>,
        longest: usize,
    ) -> Needs {
        let (base, source) = keeps(spec, &Program::new(spec), sites, patch);
        Needs {
            weights: 4 * n_parameters,
            per_row: (bytes_per_row(spec) + temporary_bytes_per_row(spec, sites)) as u64,
            per_pair: (kept_bytes(spec, &base, longest) + patch.n_draws() * kept_bytes(spec, &source, longest)) as u64,
            fixed: (64 << 20) + 4 * 40 * spec.d_vocab as u64,
        }
    }

    /// The limits that keep a sweep over pairs of up to `longest` tokens within `max` bytes.
    pub fn limits(&self, max: u64, longest: usize) -> Result<Limits, TooLittleMemory> {
        // Base and source run have their workspaces one after the other; a wave has one, beside the caches.
        let least = self.weights + self.fixed + self.per_pair + self.per_row * longest as u64;
        if max < least {
            return Err(TooLittleMemory { given: max, least, weights: self.weights });
        }
        let spare = max - self.weights - self.fixed;
        let usual = Limits::default();
        let rows = ((spare - self.per_pair) / 2 / self.per_row.max(1)).min(usual.max_rows as u64).max(longest as u64);
        let cache = (spare - rows * self.per_row).max(self.per_pair);
        Ok(Limits { max_rows: rows as usize, cache_bytes: cache as usize })
    }
}

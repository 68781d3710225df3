//! A finished sweep held to the reference path: items drawn at random, each run again as a forward pass of its own.

use super::cells::Cell;
use super::joint::{Batch, Start, Target};
use super::plan::patched_positions;
use super::run::{Outcome, Sweep, SweepError};
use crate::backend::Backend;
use crate::random::SplitMix64;

/// Comparison of sampled items with the reference path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verification {
    pub items: usize,
    /// Largest |wave − reference| of the metric.
    pub worst: f32,
}

impl<B: Backend> Sweep<'_, B> {
    /// Runs `n` items, drawn at random among all that exist, on the reference path, and compares.
    pub fn verify(&self, outcome: &Outcome, n: usize) -> Result<Verification, SweepError> {
        let (cells, n_pairs) = (self.cells(), self.pairs.len());
        let existing: Vec<(usize, usize)> = (0..cells.len())
            .flat_map(|c| (0..n_pairs).map(move |p| (c, p)))
            .filter(|(c, p)| self.exists(&cells[*c], *p))
            .collect();
        let mut worst = 0.0f32;
        let chosen = sample(existing.len(), n);
        for at in &chosen {
            let (cell, pair) = existing[*at];
            let value = self.reference(&cells[cell], pair, outcome)?;
            worst = worst.max((value - outcome.metric[cell * n_pairs + pair]).abs());
        }
        Ok(Verification { items: chosen.len(), worst })
    }

    /// One item on the reference path: a whole forward pass of its own from the embedding, with the patch made where the
    /// forward pass computes that activation. It trusts none of the savings, nor any cache of the sweep but the means.
    pub fn reference(&self, cell: &Cell, pair: usize, outcome: &Outcome) -> Result<f32, SweepError> {
        let positions = |p: usize| match p == pair {
            true => patched_positions(cell, &self.positions(), p, self.pairs[p].len()),
            false => Vec::new(),
        };
        let target = Target {
            site: cell.site,
            layer: cell.layer as usize,
            head: cell.head.map(|h| h as usize),
            column: cell.column.map(|c| c as usize),
            positions: (0..self.pairs.len()).map(positions).collect(),
        };
        let batch = Batch {
            model: self.model,
            from: self.from(pair),
            n: 1,
            targets: &[target],
            columns: &self.columns,
            patch: self.patch,
            metric: self.metric,
            made: &outcome.made,
        };
        Ok(batch.run(Start::Embedding)?.metric[0])
    }
}

/// `n` different numbers below `len` (all of them if there are no more), the same every time.
fn sample(len: usize, n: usize) -> Vec<usize> {
    if n >= len {
        return (0..len).collect();
    }
    let mut random = SplitMix64(SplitMix64::STEP);
    let mut chosen = std::collections::BTreeSet::new();
    while chosen.len() < n {
        chosen.insert((random.next() % len as u64) as usize);
    }
    chosen.into_iter().collect()
}

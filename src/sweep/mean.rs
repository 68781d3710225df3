//! Mean activations over the source runs of all pairs: the values of a mean ablation.
//!
//! The mean is taken per aligned position where positions are aligned (all prompts equally long, or the user said how),
//! and over all positions of all pairs where they are not.

use super::group::point_width;
use super::intervention::Kept;
use super::run::SweepError;
use crate::backend::{Backend, View};
use crate::engine::{Cache, Keep, Model, PromptRows};
use crate::prompts::Align;
use std::collections::BTreeMap;

/// A running sum of rows: `[slots, width]` and how many rows fell into each slot.
struct Sum {
    width: usize,
    sums: Vec<f64>,
    counts: Vec<u64>,
}

/// Mean rows of every kept activation.
pub(crate) struct Means {
    align: Option<Align>,
    longest: usize,
    sums: BTreeMap<Kept, Sum>,
}

impl Means {
    /// `lengths` are those of all pairs; `align` is what the user said, if anything.
    pub fn new(lengths: &[usize], align: Option<Align>) -> Means {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let equal = lengths.iter().all(|l| *l == longest);
        let align = if equal { Some(Align::Start) } else { align };
        Means { align, longest, sums: BTreeMap::new() }
    }

    fn slots(&self) -> usize {
        if self.align.is_some() { self.longest } else { 1 }
    }

    fn slot(&self, position: usize, len: usize) -> usize {
        match self.align {
            None => 0,
            Some(Align::Start) => position,
            Some(Align::End) => self.longest - len + position,
        }
    }

    /// Adds the source runs of a group of prompts.
    pub fn add<B: Backend>(&mut self, model: &Model<B>, prompts: PromptRows, keep: &Keep) -> Result<(), SweepError> {
        let run = model.run(prompts.clone(), keep, &[])?;
        let (d, n) = (model.spec.d_model, prompts.n_rows());
        for b in &keep.boundaries {
            let rows = model.backend.download(run.cache.resid(*b, d));
            self.accumulate(Kept::Boundary(*b), d, &rows, &prompts);
        }
        for (layer, point) in &keep.points {
            let buf = run.cache.buffer(*layer, *point);
            let heads = model.spec.attn(*layer).map_or(0, |a| a.n_heads);
            let (width, rows) = if point.is_quadratic() {
                if (0..prompts.n_prompts()).any(|p| prompts.len_of(p) != self.longest) {
                    return Err(SweepError::MeanOfMatrices);
                }
                (heads * self.longest, model.backend.download(View::packed(buf, n, heads * self.longest)))
            } else {
                let width = point_width(&model.spec, *layer, *point);
                (width, model.backend.download(View::packed(buf, n, width)))
            };
            self.accumulate(Kept::Point(*layer, *point), width, &rows, &prompts);
        }
        Ok(())
    }

    fn accumulate(&mut self, kept: Kept, width: usize, rows: &[f32], prompts: &PromptRows) {
        let slots = self.slots();
        let new = || Sum { width, sums: vec![0.0; slots * width], counts: vec![0; slots] };
        let mut sum = self.sums.remove(&kept).unwrap_or_else(new);
        let mut rows = rows.chunks_exact(width);
        for p in 0..prompts.n_prompts() {
            let len = prompts.len_of(p);
            for (position, row) in rows.by_ref().take(len).enumerate() {
                let slot = self.slot(position, len);
                sum.counts[slot] += 1;
                for (s, x) in sum.sums[slot * width..][..width].iter_mut().zip(row) {
                    *s += *x as f64;
                }
            }
        }
        self.sums.insert(kept, sum);
    }

    /// The means in the rows of `prompts`, as a cache that patches can be taken from.
    pub fn cache<B: Backend>(&self, model: &Model<B>, prompts: &PromptRows) -> Result<Cache<B>, SweepError> {
        let mut cache = Cache::empty(prompts.clone());
        for (kept, sum) in &self.sums {
            let mut rows = Vec::with_capacity(prompts.n_rows() * sum.width);
            for p in 0..prompts.n_prompts() {
                let len = prompts.len_of(p);
                for position in 0..len {
                    let slot = self.slot(position, len);
                    let count = sum.counts[slot] as f64;
                    rows.extend(sum.sums[slot * sum.width..][..sum.width].iter().map(|s| (s / count) as f32));
                }
            }
            let buf = model.backend.upload(rows)?;
            match kept {
                Kept::Boundary(b) => cache.insert_resid(*b, buf),
                Kept::Point(layer, point) => cache.insert_point(*layer, *point, buf),
            }
        }
        Ok(cache)
    }
}

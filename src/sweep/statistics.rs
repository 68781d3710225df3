//! How far effects would move with other pairs: standard errors and bootstrap intervals over the pairs of a run.
//!
//! A cell's effect is a ratio of two means over the same pairs, r = Σ xᵢ / Σ sᵢ with xᵢ = mᵢ − m_baseᵢ and
//! sᵢ = m_cleanᵢ − m_corruptedᵢ. Pairs are what is drawn at random from a population; the model is not.
//!
//! * **Standard error** by the delta method (linearisation; Cochran, *Sampling Techniques*, 3rd ed. 1977, ch. 6):
//!   se² = n/(n−1) · Σ dᵢ², dᵢ = (xᵢ − r·sᵢ) / Σ s. Unlike the standard deviation of the draws it stays finite where a
//!   draw's denominator may come near 0.
//! * **Interval**: percentile bootstrap (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, ch. 13): n pairs
//!   are drawn with replacement, the ratio of means is taken again, and the interval ends at quantiles of all draws
//!   (interpolated linearly, as numpy's default does). Every cell sees the same draws, so the ratios of all cells are
//!   one matrix product of `[draws, pairs]` counts with `[pairs, cells]` numerators.

use super::cells::Direction;
use crate::random::SplitMix64;
use rayon::prelude::*;
use serde::Serialize;

/// How intervals are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bootstrap {
    /// Number of resamples.
    pub draws: usize,
    /// Share of the draws inside the interval.
    pub level: f64,
    /// Equal seeds and pairs give equal bits.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { draws: 1000, level: 0.95, seed: 0 }
    }
}

/// What all cells of a run share with the metrics of their pairs.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// `[cells, pairs]`, NaN where a pair has no such cell.
    pub metric: &'a [f32],
    /// `[pairs]`
    pub clean: &'a [f32],
    /// `[pairs]`
    pub corrupted: &'a [f32],
    pub direction: Direction,
}

/// Spread of the effects of a site's cells. All `[cells]`; NaN where fewer than two pairs have the cell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spread {
    pub stderr: Vec<f32>,
    /// Lower ends of the intervals.
    pub low: Vec<f32>,
    /// Upper ends.
    pub high: Vec<f32>,
}

impl Spread {
    /// Makes the cells NaN that `keep` does not want.
    pub fn mask(&mut self, keep: impl Fn(usize) -> bool) {
        for values in [&mut self.stderr, &mut self.low, &mut self.high] {
            values.iter_mut().enumerate().filter(|(cell, _)| !keep(*cell)).for_each(|(_, v)| *v = f32::NAN);
        }
    }
}

/// Standard error and interval of every cell's effect.
pub fn spread(sample: &Sample<'_>, bootstrap: &Bootstrap) -> Spread {
    let resampled = Resampled::new(sample, Draws::new(sample.clean.len(), bootstrap, 0));
    let one = |cell: usize| {
        let cell = Cell::new(sample, cell);
        if cell.n < 2 {
            return [f32::NAN; 3];
        }
        let residuals = cell.residuals();
        let [low, high] = quantiles(resampled.ratios(&cell), bootstrap.level);
        [standard_error(&residuals, cell.n), low, high].map(|v| v as f32)
    };
    collect(sample.cells(), one)
}

/// Standard error and interval of the difference of effects, `second` − `first`, cell by cell.
///
/// With `paired`, pair i of one sample is pair i of the other, and both are resampled together; else each on its own.
///
/// # Panics
/// When the samples differ in cells, or are paired and differ in pairs.
pub fn spread_of_difference(first: &Sample<'_>, second: &Sample<'_>, paired: bool, bootstrap: &Bootstrap) -> Spread {
    assert_eq!(first.cells(), second.cells(), "cells");
    assert!(!paired || first.clean.len() == second.clean.len(), "pairs");
    let stream = if paired { 0 } else { 1 };
    let resampled = [(first, 0), (second, stream)]
        .map(|(sample, stream)| Resampled::new(sample, Draws::new(sample.clean.len(), bootstrap, stream)));
    let one = |cell: usize| {
        let (a, b) = (Cell::new(first, cell), Cell::new(second, cell));
        if a.n < 2 || b.n < 2 {
            return [f32::NAN; 3];
        }
        let (da, db) = (a.residuals(), b.residuals());
        let stderr = if paired {
            let both: Vec<f64> = da.iter().zip(&db).map(|(a, b)| b - a).collect();
            standard_error(&both, a.has.iter().zip(&b.has).filter(|(a, b)| **a || **b).count())
        } else {
            standard_error(&da, a.n).hypot(standard_error(&db, b.n))
        };
        let mut draws = resampled[1].ratios(&b);
        draws.iter_mut().zip(resampled[0].ratios(&a)).for_each(|(b, a)| *b -= a);
        let [low, high] = quantiles(draws, bootstrap.level);
        [stderr, low, high].map(|v| v as f32)
    };
    collect(first.cells(), one)
}

fn collect(cells: usize, one: impl Fn(usize) -> [f32; 3] + Sync + Send) -> Spread {
    let all: Vec<[f32; 3]> = (0..cells).into_par_iter().map(one).collect();
    let column = |i: usize| all.iter().map(|row| row[i]).collect();
    Spread { stderr: column(0), low: column(1), high: column(2) }
}

impl Sample<'_> {
    fn cells(&self) -> usize {
        self.metric.len() / self.clean.len().max(1)
    }

    /// `[pairs]`: m_clean − m_corrupted.
    fn spans(&self) -> Vec<f64> {
        self.clean.iter().zip(self.corrupted).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
    }
}

/// One cell: numerators and denominators of its ratio, 0 for pairs that lack it.
struct Cell {
    x: Vec<f64>,
    s: Vec<f64>,
    has: Vec<bool>,
    /// Pairs that have the cell.
    n: usize,
}

impl Cell {
    fn new(sample: &Sample<'_>, cell: usize) -> Self {
        let n_pairs = sample.clean.len();
        let metric = &sample.metric[cell * n_pairs..][..n_pairs];
        let base = match sample.direction {
            Direction::Denoise => sample.corrupted,
            Direction::Noise => sample.clean,
        };
        let has: Vec<bool> = metric.iter().map(|m| !m.is_nan()).collect();
        let only = |values: &mut dyn Iterator<Item = f64>| -> Vec<f64> {
            values.zip(&has).map(|(v, has)| if *has { v } else { 0.0 }).collect()
        };
        let x = only(&mut metric.iter().zip(base).map(|(m, b)| f64::from(*m) - f64::from(*b)));
        let s = only(&mut sample.spans().into_iter());
        Cell { n: has.iter().filter(|has| **has).count(), x, s, has }
    }

    /// `[pairs]`: dᵢ = (xᵢ − r·sᵢ) / Σ s, how much each pair moves the ratio.
    fn residuals(&self) -> Vec<f64> {
        let span: f64 = self.s.iter().sum();
        let ratio = self.x.iter().sum::<f64>() / span;
        self.x.iter().zip(&self.s).map(|(x, s)| (x - ratio * s) / span).collect()
    }
}

fn standard_error(residuals: &[f64], n: usize) -> f64 {
    let n = n as f64;
    (n / (n - 1.0) * residuals.iter().map(|d| d * d).sum::<f64>()).sqrt()
}

/// The resamples of `n` pairs, as counts.
struct Draws {
    n: usize,
    draws: usize,
    seed: u64,
    /// `[n, draws]`: how often pair i is in draw d; `None` where that would not fit ([`MAX_COUNTS`]).
    counts: Option<Vec<f32>>,
}

/// 64 MB of counts. With more pairs than that allows, each cell walks through the drawn pairs one by one.
const MAX_COUNTS: usize = 16 << 20;

impl Draws {
    fn new(n: usize, bootstrap: &Bootstrap, stream: u64) -> Self {
        let seed = mix(bootstrap.seed ^ mix(stream));
        let mut draws = Draws { n, draws: bootstrap.draws, seed, counts: None };
        if n.checked_mul(draws.draws).is_some_and(|len| len <= MAX_COUNTS) {
            let mut counts = vec![0.0; n * draws.draws];
            for draw in 0..draws.draws {
                draws.pairs(draw).for_each(|pair| counts[pair * draws.draws + draw] += 1.0);
            }
            draws.counts = Some(counts);
        }
        draws
    }

    /// The `n` pairs of one draw.
    fn pairs(&self, draw: usize) -> impl Iterator<Item = usize> + use<> {
        let (n, seed) = (self.n, mix(self.seed.wrapping_add(draw as u64)));
        // The high half of a product maps 64 random bits onto 0..n with a bias below n / 2^64.
        let pick = move |i: usize| (u128::from(mix(seed.wrapping_add(i as u64))) * n as u128) >> 64;
        (0..n).map(move |i| pick(i) as usize)
    }

    /// `[draws]`: the sum of `values` over the pairs of each draw.
    fn sums(&self, values: &[f64]) -> Vec<f64> {
        match &self.counts {
            Some(counts) => self.sums_by_count(values, counts),
            None => self.sums_one_by_one(values),
        }
    }

    fn sums_by_count(&self, values: &[f64], counts: &[f32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.draws];
        let row = |pair: usize| &counts[pair * self.draws..][..self.draws];
        // Four pairs at a time, so that the sums are read and written once for four products.
        let whole = values.len() / 4 * 4;
        for pair in (0..whole).step_by(4) {
            let v = &values[pair..pair + 4];
            let (a, b, c, d) = (row(pair), row(pair + 1), row(pair + 2), row(pair + 3));
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += (f64::from(a[i]) * v[0] + f64::from(b[i]) * v[1])
                    + (f64::from(c[i]) * v[2] + f64::from(d[i]) * v[3]);
            }
        }
        for (pair, &value) in values.iter().enumerate().skip(whole) {
            sums.iter_mut().zip(row(pair)).for_each(|(sum, count)| *sum += f64::from(*count) * value);
        }
        sums
    }

    /// The plain way, in no memory; the counts are tested against it.
    fn sums_one_by_one(&self, values: &[f64]) -> Vec<f64> {
        (0..self.draws).map(|draw| self.pairs(draw).map(|pair| values[pair]).sum()).collect()
    }
}

/// The draws of one sample, and its denominators in each of them.
struct Resampled {
    draws: Draws,
    /// `[draws]`: Σ s of a cell that all pairs have.
    spans: Vec<f64>,
}

impl Resampled {
    fn new(sample: &Sample<'_>, draws: Draws) -> Self {
        let spans = draws.sums(&sample.spans());
        Resampled { draws, spans }
    }

    /// `[draws]`: the cell's ratio in each draw; NaN or infinite where no drawn pair has the cell.
    fn ratios(&self, cell: &Cell) -> Vec<f64> {
        if cell.x.iter().all(|x| *x == 0.0) {
            // Exactly the base run in every pair, as all cells are that the sweep could skip.
            return vec![0.0; self.draws.draws];
        }
        let mut ratios = self.draws.sums(&cell.x);
        let of_its_own = (cell.n < self.draws.n).then(|| self.draws.sums(&cell.s));
        let spans = of_its_own.as_ref().unwrap_or(&self.spans);
        ratios.iter_mut().zip(spans).for_each(|(x, s)| *x /= s);
        ratios
    }
}

/// Both ends of the middle `level` of the finite `values`; NaN if there are none.
fn quantiles(mut values: Vec<f64>, level: f64) -> [f64; 2] {
    values.retain(|v| v.is_finite());
    let tail = (1.0 - level) / 2.0;
    [tail, 1.0 - tail].map(|share| {
        let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
        let at = share * last as f64;
        let below = (at.floor() as usize).min(last);
        let (_, &mut low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
        let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
        low + (at - below as f64) * (high - low)
    })
}

/// Number `counter` of the sequence of seed 0.
fn mix(counter: u64) -> u64 {
    SplitMix64(counter.wrapping_mul(SplitMix64::STEP)).next()
}

#[cfg(test)]
mod tests;

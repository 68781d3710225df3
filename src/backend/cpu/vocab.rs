//! From final hidden rows to what the metrics read: logits of a few tokens, log-sum-exp and KL over the vocabulary.

use super::matrix::{Rhs, matmul};
use super::rows::row;
use super::simd;
use crate::backend::{Unembedding, View};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

type Buf = Vec<f32>;

/// Rows whose logits are in memory at once: 32 MiB of them, since the whole unembedding is read for each block, within
/// bounds. A row's bits do not depend on its block.
fn block_rows(d_vocab: usize) -> usize {
    (8usize << 20).checked_div(d_vocab).unwrap_or(0).clamp(32, 256)
}

fn finish(logit: f32, token: usize, u: &Unembedding<'_, Buf>) -> f32 {
    let logit = u.scale * (logit + u.bias.map_or(0.0, |b| b[token]));
    u.softcap.map_or(logit, |cap| cap * (logit / cap).tanh())
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        simd::dot(simd, self.0, self.1)
    }
}

pub fn token_logits(h: View<'_, Buf>, u: &Unembedding<'_, Buf>, tokens: &[u32], counts: &[usize]) -> Vec<f32> {
    let (arch, d) = (Arch::new(), h.cols);
    let mut rest = tokens;
    let mut out = Vec::with_capacity(tokens.len());
    for (i, n) in counts.iter().enumerate() {
        let (these, others) = rest.split_at(*n);
        rest = others;
        for t in these {
            let t = *t as usize;
            out.push(finish(arch.dispatch(Dot(row(h, i), &u.matrix[t * d..][..d])), t, u));
        }
    }
    out
}

/// Calls `f(first row, logits [rows, d_vocab])` block by block.
fn blocks(h: View<'_, Buf>, u: &Unembedding<'_, Buf>, mut f: impl FnMut(usize, &[f32])) {
    let (d, v) = (h.cols, u.d_vocab);
    let most = block_rows(v);
    let mut logits = vec![0.0; most.min(h.rows) * v];
    for first in (0..h.rows).step_by(most) {
        let rows = most.min(h.rows - first);
        let block = &mut logits[..rows * v];
        let x = &h.buf[h.offset + first * h.stride..];
        matmul(rows, v, d, x, h.stride, Rhs { numbers: u.matrix, start: 0, row: 1, col: d }, block, v);
        block.par_chunks_exact_mut(v).for_each(|row| {
            row.iter_mut().enumerate().for_each(|(t, x)| *x = finish(*x, t, u));
        });
        f(first, block);
    }
}

/// Σ exp(x − max).
struct SumOfExp<'a> {
    logits: &'a [f32],
    max: f32,
}

impl WithSimd for SumOfExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let mut sum = simd::Lanes::ZERO;
        for x in self.logits.chunks(simd::Lanes::WIDTH) {
            sum.add(x.iter().map(|x| simd::exp_f64((x - self.max) as f64)));
        }
        sum.sum()
    }
}

fn log_sum_exp_of(logits: &[f32]) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    max as f64 + Arch::new().dispatch(SumOfExp { logits, max }).ln()
}

pub fn log_sum_exp(h: View<'_, Buf>, u: &Unembedding<'_, Buf>) -> Vec<f32> {
    let mut out = Vec::with_capacity(h.rows);
    blocks(h, u, |_, logits| {
        out.par_extend(logits.par_chunks_exact(u.d_vocab).map(|l| log_sum_exp_of(l) as f32));
    });
    out
}

/// KL(clean ‖ patched) in nats, of logits and their log-sum-exps: Σ p (ln p − ln q).
struct Divergence<'a> {
    clean: &'a [f32],
    clean_total: f64,
    logits: &'a [f32],
    total: f64,
}

impl WithSimd for Divergence<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let mut sum = simd::Lanes::ZERO;
        for (c, l) in self.clean.chunks(simd::Lanes::WIDTH).zip(self.logits.chunks(simd::Lanes::WIDTH)) {
            sum.add(c.iter().zip(l).map(|(c, l)| {
                let log_p = *c as f64 - self.clean_total;
                simd::exp_f64(log_p) * (log_p - (*l as f64 - self.total))
            }));
        }
        sum.sum()
    }
}

fn divergence(clean: &[f32], clean_total: f64, logits: &[f32]) -> f32 {
    let total = log_sum_exp_of(logits);
    Arch::new().dispatch(Divergence { clean, clean_total, logits, total }) as f32
}

pub fn kl(h: View<'_, Buf>, reference: View<'_, Buf>, reference_rows: &[u32], u: &Unembedding<'_, Buf>) -> Vec<f32> {
    // Rows of one reference side by side, so that each reference's logits are computed once: in a wave the pairs alternate
    // from row to row.
    let mut order: Vec<usize> = (0..h.rows).collect();
    order.sort_by_key(|i| reference_rows[*i]);
    let mut references: Vec<u32> = order.iter().map(|i| reference_rows[*i]).collect();
    references.dedup();
    let gathered = gather(reference, references.iter().map(|r| *r as usize));
    let mut out = vec![0.0; h.rows];
    blocks(View::packed(&gathered, references.len(), h.cols), u, |first, clean| {
        let clean: Vec<&[f32]> = clean.chunks_exact(u.d_vocab).collect();
        let totals: Vec<f64> = clean.par_iter().map(|l| log_sum_exp_of(l)).collect();
        let (from, to) = (references[first], references[first + clean.len() - 1]);
        let begin = order.partition_point(|i| reference_rows[*i] < from);
        let end = order.partition_point(|i| reference_rows[*i] <= to);
        let rows = &order[begin..end];
        let patched = gather(h, rows.iter().copied());
        blocks(View::packed(&patched, rows.len(), h.cols), u, |first_row, logits| {
            let values = logits.par_chunks_exact(u.d_vocab).zip(&rows[first_row..]).map(|(l, i)| {
                let place = references.partition_point(|r| *r < reference_rows[*i]) - first;
                (*i, divergence(clean[place], totals[place], l))
            });
            for (i, value) in values.collect::<Vec<_>>() {
                out[i] = value;
            }
        });
    });
    out
}

/// These rows of `x`, one behind the other.
fn gather(x: View<'_, Buf>, rows: impl Iterator<Item = usize>) -> Buf {
    rows.flat_map(|i| row(x, i)).copied().collect()
}

pub fn logits(h: View<'_, Buf>, u: &Unembedding<'_, Buf>) -> Vec<f32> {
    let mut out = Vec::with_capacity(h.rows * u.d_vocab);
    blocks(h, u, |_, logits| out.extend_from_slice(logits));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the order of the references, each row has the divergence, and the bits, that it has alone; and those of a
    /// row from itself are zero. More rows and more references than a block.
    #[test]
    fn divergences_do_not_depend_on_the_order_of_rows() {
        let (d, d_vocab, clean, rows) = (16, 100, 300, 2 * block_rows(100) + 7);
        let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 500.0 - 1.0;
        let matrix: Vec<f32> = (0..d_vocab * d).map(number).collect();
        let bias: Vec<f32> = (0..d_vocab).map(|i| number(i + 3)).collect();
        let u = Unembedding { matrix: &matrix, bias: Some(&bias), d_vocab, scale: 1.5, softcap: Some(20.0) };
        let reference: Vec<f32> = (0..clean * d).map(|i| number(i + 77)).collect();
        let h: Vec<f32> = (0..rows * d).map(|i| number(3 * i + 5)).collect();
        let reference = View::packed(&reference, clean, d);
        let wanted: Vec<u32> = (0..rows).map(|i| (i * 7 % clean) as u32).collect();
        let together = kl(View::packed(&h, rows, d), reference, &wanted, &u);
        for (i, value) in together.iter().enumerate() {
            let alone = kl(View::packed(&h, rows, d).range(i..i + 1), reference, &wanted[i..i + 1], &u);
            assert_eq!(alone[0].to_bits(), value.to_bits(), "row {i}");
            assert!(*value > 0.0, "row {i}: {value}");
        }
        let same: Vec<u32> = (0..clean as u32).rev().collect();
        let reversed = gather(reference, same.iter().map(|r| *r as usize));
        assert_eq!(kl(View::packed(&reversed, clean, d), reference, &same, &u), vec![0.0; clean]);
    }
}

//! From final hidden rows to what the metrics read: logits of a few tokens, log-sum-exp and KL over the vocabulary.

use super::matrix::{Rhs, matmul};
use super::rows::row;
use super::simd;
use crate::backend::{Unembedding, View};
use pulp::{Arch, Simd, WithSimd};

type Buf = Vec<f32>;

/// Rows whose logits are in memory at once.
const BLOCK: usize = 32;

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
    let mut logits = vec![0.0; BLOCK.min(h.rows) * v];
    for first in (0..h.rows).step_by(BLOCK) {
        let rows = BLOCK.min(h.rows - first);
        let block = &mut logits[..rows * v];
        let x = &h.buf[h.offset + first * h.stride..];
        matmul(rows, v, d, x, h.stride, Rhs { numbers: u.matrix, start: 0, row: 1, col: d }, block, v);
        for row in block.chunks_exact_mut(v) {
            row.iter_mut().enumerate().for_each(|(t, x)| *x = finish(*x, t, u));
        }
        f(first, block);
    }
}

fn log_sum_exp_of(logits: &[f32]) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let sum: f64 = logits.iter().map(|x| ((x - max) as f64).exp()).sum();
    max as f64 + sum.ln()
}

pub fn log_sum_exp(h: View<'_, Buf>, u: &Unembedding<'_, Buf>) -> Vec<f32> {
    let mut out = Vec::with_capacity(h.rows);
    blocks(h, u, |_, logits| out.extend(logits.chunks_exact(u.d_vocab).map(|l| log_sum_exp_of(l) as f32)));
    out
}

pub fn kl(h: View<'_, Buf>, reference: View<'_, Buf>, reference_rows: &[u32], u: &Unembedding<'_, Buf>) -> Vec<f32> {
    let mut out = Vec::with_capacity(h.rows);
    let mut current: Option<(u32, Vec<f32>, f64)> = None;
    blocks(h, u, |first, logits| {
        for (i, logits) in logits.chunks_exact(u.d_vocab).enumerate() {
            let wanted = reference_rows[first + i];
            if current.as_ref().is_none_or(|(r, ..)| *r != wanted) {
                let row = reference.range(wanted as usize..wanted as usize + 1);
                let mut clean = Vec::new();
                blocks(row, u, |_, l| clean = l.to_vec());
                let total = log_sum_exp_of(&clean);
                current = Some((wanted, clean, total));
            }
            let (_, clean, clean_total) = current.as_ref().expect("set just above");
            let total = log_sum_exp_of(logits);
            let sum: f64 = clean
                .iter()
                .zip(logits)
                .map(|(c, l)| {
                    let log_p = *c as f64 - clean_total;
                    log_p.exp() * (log_p - (*l as f64 - total))
                })
                .sum();
            out.push(sum as f32);
        }
    });
    out
}

pub fn logits(h: View<'_, Buf>, u: &Unembedding<'_, Buf>) -> Vec<f32> {
    let mut out = Vec::with_capacity(h.rows * u.d_vocab);
    blocks(h, u, |_, logits| out.extend_from_slice(logits));
    out
}

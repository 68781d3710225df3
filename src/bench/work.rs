//! How much an operation computes and how much memory it must touch.
//!
//! **FLOP.** A multiplication, an addition, a comparison, a division, a root, an exponential, a tanh and an error function
//! count as one each. Of a product only `2·m·k·n` counts, whatever its precision takes inside (six bfloat16 products for
//! one of `float32`) and whatever its epilogue does; of attention only the products of queries and keys and of patterns and
//! values, at unmasked positions. So the share of a ceiling is one of useful work.
//!
//! **Bytes.** Every distinct number that is read, once, and every number that is written, once: what a perfect cache would
//! leave. A number that is updated counts twice. Numbers have 4 bytes; those of a packed weight as many as its precision
//! keeps.

use crate::backend::AttnSegment;
use crate::model::spec::{Act, NormKind};

/// Of one call.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Work {
    pub flops: f64,
    pub bytes: f64,
}

impl Work {
    pub fn new(flops: f64, numbers: f64) -> Work {
        Work { flops, bytes: 4.0 * numbers }
    }

    /// FLOP per byte.
    pub fn intensity(&self) -> f64 {
        self.flops / self.bytes
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.flops += other.flops;
        self.bytes += other.bytes;
    }
}

/// What a product writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Sums, activated or not.
    Write,
    /// Half as many: act(gate) · up.
    Gate,
    /// The residual stream, which it reads, too.
    Add,
}

/// x `[m, k]` · w `[k, n]`, with a weight of `weight_bytes` a number: 2·m·k·n FLOP.
pub fn gemm(m: usize, k: usize, n: usize, weight_bytes: f64, bias: bool, finish: Finish) -> Work {
    let (m, k, n) = (m as f64, k as f64, n as f64);
    let out = match finish {
        Finish::Write => m * n,
        Finish::Gate => m * n / 2.0,
        Finish::Add => 2.0 * m * n,
    };
    let numbers = m * k + out + if bias { n } else { 0.0 };
    Work { flops: 2.0 * m * k * n, bytes: 4.0 * numbers + weight_bytes * k * n }
}

/// Head deltas: `rows` of `width` inputs each, by `groups` different slices `[width, n]` of W_O.
pub fn head_delta(rows: usize, width: usize, n: usize, groups: usize, weight_bytes: f64) -> Work {
    let one = gemm(rows, width, n, weight_bytes, false, Finish::Write);
    Work { bytes: one.bytes + weight_bytes * (groups.max(1) - 1) as f64 * (width * n) as f64, ..one }
}

/// Attention over `segments`: for each query and head, 2·d_qk FLOP for each key that it may see, and 2·d_v for each value.
///
/// Bytes: queries, z, own keys and values, and the `prefix_rows` distinct rows of the base cache; with `captured`, a number
/// for each query, head and key, masked or not.
pub fn attention(
    segments: &[AttnSegment],
    (heads, kv_heads): (usize, usize),
    (d_qk, d_v): (usize, usize),
    window: Option<usize>,
    prefix_rows: usize,
    captured: bool,
) -> Work {
    let (mut seen, mut queries, mut own, mut pattern) = (0.0, 0.0, 0.0, 0.0);
    for s in segments {
        for q in 0..s.n_q {
            let before = s.q_position + q + 1;
            seen += window.map_or(before, |w| before.min(w)) as f64;
        }
        queries += s.n_q as f64;
        own += s.own_len as f64;
        pattern += (s.n_q * (s.prefix_len + s.own_len)) as f64;
    }
    let (heads, kv_heads, d) = (heads as f64, kv_heads as f64, (d_qk + d_v) as f64);
    let kept = if captured { pattern * heads } else { 0.0 };
    Work::new(2.0 * seen * heads * d, queries * heads * d + (own + prefix_rows as f64) * kv_heads * d + kept)
}

/// A norm of `rows` rows. RMSNorm: square and add, scale, weigh: 4 FLOP a number. LayerNorm has the mean (1), the
/// difference (1) and the bias (1) beside these: 7.
pub fn norm(rows: usize, width: usize, kind: NormKind) -> Work {
    let (n, parameters, flops) = match kind {
        NormKind::RmsNorm => (rows * width, width, 4.0),
        NormKind::LayerNorm => (rows * width, 2 * width, 7.0),
    };
    Work::new(flops * n as f64, (2 * n + parameters) as f64)
}

/// `rows` rows of `heads` heads with `n_rot` rotated dimensions, from `positions` rows of the table: 4 products and 2 sums a
/// pair.
pub fn rope(rows: usize, heads: usize, n_rot: usize, positions: usize) -> Work {
    let n = (rows * heads * n_rot) as f64;
    Work::new(3.0 * n, 2.0 * n + (positions * n_rot) as f64)
}

/// FLOP of an activation of one number, as written in [`Act`].
pub fn act_flops(act: Act) -> f64 {
    match act {
        Act::Relu => 1.0,
        Act::Relu2 => 2.0,
        // x / (1 + exp(−x))
        Act::Silu => 4.0,
        // ½ x (1 + erf(x / √2))
        Act::GeluErf | Act::QuickGelu => 5.0,
        // x·σ(2c (x + 0.044715 x³))
        Act::GeluTanh => 9.0,
        // The branch for x ≤ 0.
        Act::XIelu => 8.0,
    }
}

/// An activation in place, or of gates times ups.
pub fn activation(rows: usize, d_mlp: usize, act: Act, gated: bool) -> Work {
    let n = (rows * d_mlp) as f64;
    let gate = if gated { 1.0 } else { 0.0 };
    Work::new((act_flops(act) + gate) * n, (2.0 + gate) * n)
}

/// `n` numbers read and written with `flops` each; `indices` more are read to find them.
pub fn each(n: usize, flops: f64, numbers: f64, indices: usize) -> Work {
    Work::new(flops * n as f64, numbers * n as f64 + indices as f64)
}

/// Logits over the whole vocabulary of `rows` rows of `d`, with an exponential and a sum for each.
pub fn log_sum_exp(rows: usize, d: usize, d_vocab: usize) -> Work {
    let (m, d, v) = (rows as f64, d as f64, d_vocab as f64);
    Work::new(2.0 * m * v * (d + 1.0), m * d + v * d + m)
}

/// As [`log_sum_exp`] for the rows and for `clean` different rows of the reference, and 5 FLOP for each token's share of a
/// row's divergence.
pub fn kl(rows: usize, clean: usize, d: usize, d_vocab: usize) -> Work {
    let (both, divergences) = (log_sum_exp(rows + clean, d, d_vocab), 5.0 * (rows * d_vocab) as f64);
    Work { flops: both.flops + divergences, ..both }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_by_hand() {
        // 2·3·5 FLOP a column; 6 + 10 + 15 numbers
        assert_eq!(gemm(2, 3, 5, 4.0, false, Finish::Write), Work { flops: 60.0, bytes: 4.0 * 31.0 });
        assert_eq!(gemm(2, 3, 4, 2.0, true, Finish::Gate), Work { flops: 48.0, bytes: 4.0 * (6.0 + 4.0 + 4.0) + 24.0 });
        assert_eq!(gemm(2, 3, 5, 6.0, false, Finish::Add).bytes, 4.0 * (6.0 + 20.0) + 90.0);
        let large = gemm(4096, 4096, 4096, 4.0, false, Finish::Write);
        assert_eq!(large.flops, 137_438_953_472.0);
        assert_eq!(large.intensity(), 2.0 * 4096.0 / 12.0);
        assert_eq!(head_delta(6, 2, 4, 3, 4.0), Work { flops: 96.0, bytes: 4.0 * (12.0 + 24.0 + 24.0) });
    }

    #[test]
    fn attention_by_hand() {
        let segment = |q_row, prefix_len| AttnSegment {
            q_row,
            n_q: 2,
            q_position: prefix_len,
            prefix_row: 0,
            prefix_len,
            own_row: q_row,
            own_len: 2,
            first_head: 0,
            capture_at: 0,
        };
        // Queries at 3 and 4 see 4 and 5 keys: 9, with 4 heads of 8 + 8, twice.
        let w = attention(&[segment(0, 3)], (4, 2), (8, 8), None, 3, false);
        assert_eq!(w.flops, 2.0 * 9.0 * 4.0 * 16.0);
        // q and z of 2 rows × 4 heads; 2 + 3 rows of keys and values of 2 heads
        assert_eq!(w.bytes, 4.0 * (2.0 * 4.0 * 16.0 + 5.0 * 2.0 * 16.0));
        // A window of 2, and two segments that share a prefix of 3; every pattern is 2 × 5 per head.
        let both = attention(&[segment(0, 3), segment(2, 3)], (4, 2), (8, 8), Some(2), 3, true);
        assert_eq!(both.flops, 2.0 * 8.0 * 4.0 * 16.0);
        assert_eq!(both.bytes, 4.0 * (4.0 * 4.0 * 16.0 + 7.0 * 2.0 * 16.0 + 20.0 * 4.0));
    }

    #[test]
    fn rowwise_operations_by_hand() {
        assert_eq!(norm(3, 10, NormKind::RmsNorm), Work { flops: 120.0, bytes: 4.0 * 70.0 });
        assert_eq!(norm(3, 10, NormKind::LayerNorm), Work { flops: 210.0, bytes: 4.0 * 80.0 });
        assert_eq!(rope(3, 2, 4, 5), Work { flops: 72.0, bytes: 4.0 * (48.0 + 20.0) });
        assert_eq!(activation(3, 10, Act::Silu, true), Work { flops: 150.0, bytes: 4.0 * 90.0 });
        assert_eq!(activation(3, 10, Act::Relu, false), Work { flops: 30.0, bytes: 4.0 * 60.0 });
        // rows gathered by a list: read, write, and an index for each of 3 rows
        assert_eq!(each(30, 0.0, 2.0, 3), Work { flops: 0.0, bytes: 4.0 * 63.0 });
        assert_eq!(log_sum_exp(2, 3, 10), Work { flops: 160.0, bytes: 4.0 * (6.0 + 30.0 + 2.0) });
        assert_eq!(kl(2, 1, 3, 10), Work { flops: 240.0 + 100.0, bytes: 4.0 * (9.0 + 30.0 + 3.0) });
    }
}

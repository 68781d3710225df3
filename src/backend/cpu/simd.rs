//! Vector kernels on slices, compiled for the instruction set that the processor turns out to have (`pulp`).
//!
//! Sums run in a fixed order that depends on the length of the slice alone.

use pulp::Simd;

/// Σ a_i b_i in one accumulator per vector lane.
#[inline(always)]
pub fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    if !a_rest.is_empty() {
        sum = simd.mul_add_e_f32s(simd.partial_load_f32s(a_rest), simd.partial_load_f32s(b_rest), sum);
    }
    simd.reduce_sum_f32s(sum)
}

/// Σ a_i.
#[inline(always)]
pub fn sum<S: Simd>(simd: S, a: &[f32]) -> f32 {
    let (a, rest) = S::as_simd_f32s(a);
    let mut sum = simd.splat_f32s(0.0);
    for a in a {
        sum = simd.add_f32s(*a, sum);
    }
    if !rest.is_empty() {
        sum = simd.add_f32s(simd.partial_load_f32s(rest), sum);
    }
    simd.reduce_sum_f32s(sum)
}

/// Σ (a_i − center)².
#[inline(always)]
pub fn sum_of_squares_around<S: Simd>(simd: S, a: &[f32], center: f32) -> f32 {
    let (a, rest) = S::as_simd_f32s(a);
    let (mut sum, c) = (simd.splat_f32s(0.0), simd.splat_f32s(center));
    for a in a {
        let d = simd.sub_f32s(*a, c);
        sum = simd.mul_add_e_f32s(d, d, sum);
    }
    let mut total = simd.reduce_sum_f32s(sum);
    for a in rest {
        total += (a - center) * (a - center);
    }
    total
}

/// out = Σ_j weights[j] · rows[j], j in order; every row is as long as `out`.
#[inline(always)]
pub fn weighted_sum<S: Simd>(simd: S, out: &mut [f32], weights: &[f32], rows: &[&[f32]]) {
    let lanes = std::mem::size_of::<S::f32s>() / 4;
    let mut at = 0;
    for chunk in out.chunks_mut(4 * lanes) {
        let n = chunk.len();
        if n == 4 * lanes {
            let mut sums = [simd.splat_f32s(0.0); 4];
            for (w, row) in weights.iter().zip(rows) {
                let (w, (row, _)) = (simd.splat_f32s(*w), S::as_simd_f32s(&row[at..at + n]));
                for (sum, v) in sums.iter_mut().zip(row) {
                    *sum = simd.mul_add_e_f32s(w, *v, *sum);
                }
            }
            chunk.copy_from_slice(bytemuck::cast_slice(&sums));
        } else {
            chunk.fill(0.0);
            for (w, row) in weights.iter().zip(rows) {
                for (o, v) in chunk.iter_mut().zip(&row[at..at + n]) {
                    *o += *w * *v;
                }
            }
        }
        at += n;
    }
}

/// eˣ by Cephes' polynomial (expf.c), within 2 ulp between −87 and 88 and clamped to there, in arithmetic that
/// compilers turn into vectors.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let e = p * (r * r) + r + 1.0;
    // n is within ±127, so the exponent is that of a normal number; NaN becomes 0 in the cast and stays NaN in e.
    e * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// e^x for x up to 700, within 2 ulp of the true value; below −700, as e^−700, which is nothing beside a 1. NaN stays NaN.
///
/// x = k ln 2 + r with |r| ≤ ln 2 / 2 (Cody and Waite 1980; ln 2 in two parts, the first with 21 zeros at its end, so that k
/// times it is exact), and the series of e^r, whose 14th term is below 1e-17. Plain multiplications and additions, which
/// compilers turn into vectors.
#[inline(always)]
pub fn exp_f64(x: f64) -> f64 {
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// 1.5 · 2^52: a sum with it ends in the nearest integer.
    const INTEGERS: f64 = 6_755_399_441_055_744.0;
    // Not `max`, which would make a number of NaN.
    let x = if x < -700.0 { -700.0 } else { x };
    let shifted = x * std::f64::consts::LOG2_E + INTEGERS;
    let k = shifted - INTEGERS;
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    let mut series = 1.0 / 6_227_020_800.0;
    for factorial in
        [479_001_600.0, 39_916_800.0, 3_628_800.0, 362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0]
    {
        series = series * r + 1.0 / factorial;
    }
    let e_r = (series * r + 1.0) * r + 1.0;
    // 2^k, from the integer in the last bits.
    e_r * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)
}

/// Sums in eight lanes, added up at the end.
pub struct Lanes([f64; 8]);

impl Lanes {
    pub const ZERO: Lanes = Lanes([0.0; 8]);
    pub const WIDTH: usize = 8;

    /// Adds up to eight terms, one to each lane.
    #[inline(always)]
    pub fn add(&mut self, terms: impl Iterator<Item = f64>) {
        self.0.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }

    #[inline(always)]
    pub fn sum(self) -> f64 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + b) + (c + d)) + ((e + f) + (g + h))
    }
}

/// Logistic function σ(x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::{Arch, WithSimd};

    #[test]
    fn exp_is_within_two_ulp_of_the_true_value() {
        for i in -86_990..87_990 {
            let x = i as f32 * 1e-3;
            let (got, want) = (exp(x), (x as f64).exp());
            assert!((got as f64 / want - 1.0).abs() < 2.4e-7, "exp({x}) = {got}, not {want}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp_of_float64_is_within_two_ulp() {
        for i in 0..200_000 {
            let x = -700.0 + i as f64 * 0.003_501_7;
            let (got, want) = (exp_f64(x), libm::exp(x));
            assert!((got - want).abs() <= 2.0 * f64::EPSILON * want, "e^{x}: {got:e} {want:e}");
        }
        assert_eq!(exp_f64(0.0), 1.0);
        assert_eq!(exp_f64(-1e9), exp_f64(-700.0));
        assert_eq!(exp_f64(f64::NEG_INFINITY), exp_f64(-700.0));
        assert!(exp_f64(f64::NAN).is_nan());
    }

    #[test]
    fn sums_equal_those_of_float64_at_every_length() {
        struct Check(usize);
        impl WithSimd for Check {
            type Output = ();
            fn with_simd<S: Simd>(self, simd: S) {
                let a: Vec<f32> = (0..self.0).map(|i| (i as f32 * 0.37).sin()).collect();
                let b: Vec<f32> = (0..self.0).map(|i| (i as f32 * 0.73).cos()).collect();
                let exact: f64 = a.iter().zip(&b).map(|(a, b)| *a as f64 * *b as f64).sum();
                assert!((dot(simd, &a, &b) as f64 - exact).abs() < 1e-5);
                let exact: f64 = a.iter().map(|a| *a as f64).sum();
                assert!((sum(simd, &a) as f64 - exact).abs() < 1e-5);
                let exact: f64 = a.iter().map(|a| (*a as f64 - 0.5).powi(2)).sum();
                assert!((sum_of_squares_around(simd, &a, 0.5) as f64 - exact).abs() < 1e-4);
                let rows = [&a[..], &b[..]];
                let mut out = vec![9.0; self.0];
                weighted_sum(simd, &mut out, &[2.0, -1.0], &rows);
                for i in 0..self.0 {
                    assert!((out[i] - (2.0 * a[i] - b[i])).abs() < 1e-6);
                }
            }
        }
        for n in 0..150 {
            Arch::new().dispatch(Check(n));
        }
    }
}

//! gemm_f32.cu and gemm_sm80.cu: accuracy of every precision, slices, groups, and rows that do not depend on their batch.

use crate::device::gpu;
use crate::support::*;
use patchwave::backend::cuda::emulated::Emulated;
use patchwave::backend::cuda::{Precision, Weight};
use patchwave::backend::{Backend, Epilogue, HeadRows, View, ViewMut, WeightSlice};
use std::ops::Range;

/// Every precision, and the largest error of a product over Σ|x||w| in it.
pub const ALL: [(Precision, f64); 4] =
    [(Precision::Ffma, 4e-7), (Precision::Float32, 4e-7), (Precision::Bf16x3, 1.2e-5), (Precision::Bfloat16, 6e-3)];

/// What a product may be wrong by. Tensor cores of a GPU truncate where the emulator rounds. The worst that is thought of
/// (each step's terms cut to 24 bits of the largest, and their sum, too) makes 6.1e-7 here of the emulator's 4e-7.
pub fn allowed(precision: Precision, emulated: f64) -> f64 {
    match (precision, gpu()) {
        (Precision::Float32, Some(_)) => 1e-6,
        _ => emulated,
    }
}

/// A weight of one part, `[n, k]` numbers.
pub fn pack(gpu: &Gpu, k: usize, n: usize, w: &[f32]) -> Weight<TestDevice> {
    let read = &mut |_, out: &mut [f32]| {
        out.copy_from_slice(w);
        Ok(())
    };
    gpu.pack(k, &[n], read).expect("there is room")
}

/// x · w(slice) + bias in float64, and Σ |x| |w|, in whose units errors are measured. w is `[n, k]`.
pub fn reference(
    x: &[f32],
    m: usize,
    w: &[f32],
    k: usize,
    slice: &WeightSlice,
    bias: Option<&[f32]>,
) -> (Vec<f64>, Vec<f64>) {
    let (mut product, mut size) = (Vec::new(), Vec::new());
    let width = slice.k.len();
    for row in x.chunks(width).take(m) {
        for n in slice.n.clone() {
            let w = &w[n * k + slice.k.start..][..width];
            let terms = row.iter().zip(w).map(|(a, b)| *a as f64 * *b as f64);
            product.push(terms.clone().sum::<f64>() + bias.map_or(0.0, |b| b[n - slice.n.start] as f64));
            size.push(terms.map(f64::abs).sum::<f64>() + bias.map_or(0.0, |b| b[n - slice.n.start].abs() as f64));
        }
    }
    (product, size)
}

pub fn worst(got: &[f32], want: &(Vec<f64>, Vec<f64>)) -> f64 {
    assert_eq!(got.len(), want.0.len());
    let error = |((g, w), s): ((&f32, &f64), &f64)| (*g as f64 - w).abs() / s;
    let errors = got.iter().zip(&want.0).zip(&want.1).map(error);
    errors.fold(0.0, |a, e| if e.is_nan() { f64::INFINITY } else { a.max(e) })
}

#[allow(clippy::too_many_arguments)]
fn gemm(
    gpu: &Gpu,
    x: &[f32],
    m: usize,
    w: &[f32],
    k: usize,
    outs: &[usize],
    slice: WeightSlice,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut at = 0;
    let weight = gpu.pack(k, outs, &mut |i, out| {
        out.copy_from_slice(&w[at..at + outs[i] * k]);
        at += outs[i] * k;
        Ok(())
    });
    let x = Askew::new(gpu, x, m, slice.k.len());
    let mut out = Askew::new(gpu, &vec![f32::NAN; m * slice.n.len()], m, slice.n.len());
    let bias = bias.map(|b| upload(gpu, b));
    let bias = bias.as_ref().map(|b| View::packed(b, 1, slice.n.len()));
    gpu.gemm(x.view(), &weight.expect("there is room"), slice, Epilogue::bias(bias), out.view_mut());
    out.read(gpu)
}

#[test]
#[allow(clippy::type_complexity)]
fn products_of_odd_sizes_with_bias_and_slices() {
    let cases: [(usize, usize, &[usize], Range<usize>, Range<usize>, bool); 5] = [
        (1, 1, &[1], 0..1, 0..1, false),
        (3, 16, &[5, 7], 0..16, 0..12, true),
        (67, 70, &[30, 45], 0..70, 0..75, true),
        (20, 100, &[64, 10, 3], 0..100, 61..77, true),
        (9, 77, &[40], 13..42, 5..38, false),
    ];
    for (precision, tolerance) in ALL {
        for (m, k, outs, k_range, n_range, with_bias) in &cases {
            let w = random(1, k * outs.iter().sum::<usize>());
            let x = random(2, m * k_range.len());
            let bias = with_bias.then(|| random(3, n_range.len()));
            let slice = WeightSlice { k: k_range.clone(), n: n_range.clone() };
            let want = reference(&x, *m, &w, *k, &slice, bias.as_deref());
            let got = everywhere(precision, |gpu| gemm(gpu, &x, *m, &w, *k, outs, slice.clone(), bias.as_deref()));
            let error = worst(&got, &want);
            let tolerance = allowed(precision, tolerance);
            assert!(error < tolerance, "{precision:?} m {m} k {k_range:?} n {n_range:?}: {error:.1e}");
        }
    }
}

/// Aligned rows go through copies of 16 bytes, others through copies of 4: the same bits.
#[test]
fn alignment_changes_no_bit() {
    let (m, k, n) = (37, 84, 50);
    let (x, w) = (random(4, m * k), random(5, k * n));
    for precision in [Precision::Float32, Precision::Bf16x3, Precision::Bfloat16] {
        let got = everywhere(precision, |gpu| {
            let askew = gemm(gpu, &x, m, &w, k, &[n], WeightSlice { k: 0..k, n: 0..n }, None);
            let weight = pack(gpu, k, n, &w);
            let (aligned, mut out) = (upload(gpu, &x), upload(gpu, &vec![0.0; m * n]));
            let slice = WeightSlice { k: 0..k, n: 0..n };
            gpu.gemm(View::packed(&aligned, m, k), &weight, slice, Epilogue::none(), ViewMut::packed(&mut out, m, n));
            let packed = gpu.download(View::packed(&out, m, n));
            assert_eq!(packed, askew);
            packed
        });
        assert_eq!(got.len(), m * n);
    }
}

/// A row alone, a row in a batch, some columns, a group of a grouped product: the same bits.
#[test]
fn a_row_does_not_depend_on_its_batch() {
    let (m, k, n) = (130, 96, 70);
    let (x, w) = (random(6, m * k), random(7, k * n));
    for (precision, _) in ALL {
        let gpu = Gpu::new(Default::default(), precision).expect("every kernel is there");
        let run = |rows: Range<usize>, cols: Range<usize>| {
            let slice = WeightSlice { k: 0..k, n: cols };
            gemm(&gpu, &x[rows.start * k..rows.end * k], rows.len(), &w, k, &[n], slice, None)
        };
        parts_have_the_bits_of_the_whole(precision, (m, n), run);
    }
}

/// `run` is a product's rows and columns.
pub fn parts_have_the_bits_of_the_whole(
    precision: Precision,
    (m, n): (usize, usize),
    run: impl Fn(Range<usize>, Range<usize>) -> Vec<f32>,
) {
    let whole = run(0..m, 0..n);
    for rows in [0..1, 63..66, 127..130, 5..100] {
        for cols in [0..n, 3..4, 9..60, 64..70] {
            let want: Vec<f32> =
                rows.clone().flat_map(|r| cols.clone().map(move |c| r * n + c)).map(|i| whole[i]).collect();
            assert_eq!(run(rows.clone(), cols.clone()), want, "{precision:?} rows {rows:?} columns {cols:?}");
        }
    }
}

#[test]
fn head_deltas_use_each_groups_own_slice_of_w_o() {
    for (precision, tolerance) in ALL {
        head_deltas(devices, (precision, tolerance), 7, Askew::new);
    }
}

/// Heads of width `d_v`, their deltas laid out by `lay_out`.
pub fn head_deltas(
    devices: fn() -> Vec<Emulated>,
    (precision, tolerance): (Precision, f64),
    d_v: usize,
    lay_out: fn(&Gpu, &[f32], usize, usize) -> Askew,
) {
    let (heads, d_model, n) = (5, 33, 150);
    let w = random(8, heads * d_v * d_model);
    let delta = random(9, n * d_v);
    let groups = [
        HeadRows { rows: 0..2, k: 3 * d_v },
        HeadRows { rows: 2..3, k: 0 },
        HeadRows { rows: 3..140, k: d_v },
        HeadRows { rows: 140..150, k: 4 * d_v },
    ];
    let got = among(devices(), precision, |gpu| {
        let w_o = pack(gpu, heads * d_v, d_model, &w);
        let delta = lay_out(gpu, &delta, n, d_v);
        let mut out = Askew::new(gpu, &vec![f32::NAN; n * d_model], n, d_model);
        gpu.head_delta(delta.view(), &groups, &w_o, out.view_mut());
        out.read(gpu)
    });
    let mut want = (Vec::new(), Vec::new());
    for g in &groups {
        let slice = WeightSlice { k: g.k..g.k + d_v, n: 0..d_model };
        let part = reference(&delta[g.rows.start * d_v..], g.rows.len(), &w, heads * d_v, &slice, None);
        want.0.extend(part.0);
        want.1.extend(part.1);
    }
    let error = worst(&got, &want);
    assert!(error < allowed(precision, tolerance), "{precision:?}: {error:.1e}");
}

/// Long sums and badly scaled rows: `Float32` on tensor cores is no worse than float32 arithmetic. Prints the table of
/// `docs/kernels.md` (`-- --nocapture error_table`).
#[test]
fn error_table() {
    let (m, n) = (16, 48);
    println!("| K | rows scaled | precision | max | RMS |\n|---|---|---|---|---|");
    for k in [768, 4096] {
        for scaled in [false, true] {
            let scale = |i: usize| if scaled { 2f32.powi((i * 7 % 41) as i32 - 20) } else { 1.0 };
            let x: Vec<f32> = random(10, m * k).iter().enumerate().map(|(i, v)| v * scale(i / k)).collect();
            let w: Vec<f32> = random(11, n * k).iter().enumerate().map(|(i, v)| v * scale(3 + i / k)).collect();
            let slice = WeightSlice { k: 0..k, n: 0..n };
            let want = reference(&x, m, &w, k, &slice, None);
            let error = |precision: Precision| {
                let gpu = Gpu::new(Default::default(), precision).expect("every kernel is there");
                let got = gemm(&gpu, &x, m, &w, k, &[n], slice.clone(), None);
                let squares = got.iter().zip(&want.0).zip(&want.1).map(|((g, w), s)| ((*g as f64 - w) / s).powi(2));
                let rms = (squares.sum::<f64>() / got.len() as f64).sqrt();
                let worst = worst(&got, &want);
                let by = if scaled { "2^±20" } else { "no" };
                println!("| {k} | {by} | {precision:?} | {worst:.1e} | {rms:.1e} |");
                worst
            };
            let [plain, planes, x3, x1] = ALL.map(|(precision, _)| error(precision));
            assert!(planes <= plain && plain < 5e-7, "k {k} scaled {scaled}: {planes:.1e} against {plain:.1e}");
            assert!(x3 < 2e-6 && x1 < 1e-3, "k {k} scaled {scaled}: {x3:.1e}, {x1:.1e}");
        }
    }
}

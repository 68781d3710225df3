//! gemm_sm90.cu: tensor copies, mbarriers and wgmma, emulated. Accuracy of every precision, slices, groups, gates; rows that
//! depend neither on their batch nor on the width of tiles.

use crate::gemm::{allowed, pack, reference, worst};
use crate::support::*;
use patchwave::backend::cuda::Precision;
use patchwave::backend::cuda::emulated::Emulated;
use patchwave::backend::{Backend, Epilogue, HeadRows, Then, View, WeightSlice};
use patchwave::model::spec::Act;
use std::ops::Range;

const ALL: [(Precision, f64); 3] =
    [(Precision::Float32, 4e-7), (Precision::Bf16x3, 1.2e-5), (Precision::Bfloat16, 6e-3)];

/// A GEMM of rows that tensor copies can read; of a weight `[n, k]`.
#[derive(Clone)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    slice: WeightSlice,
    bias: bool,
}

impl Case {
    fn whole(m: usize, k: usize, n: usize, bias: bool) -> Self {
        Case { m, k, n, slice: WeightSlice { k: 0..k, n: 0..n }, bias }
    }

    fn numbers(&self) -> (Vec<f32>, Vec<f32>, Option<Vec<f32>>) {
        let bias = self.bias.then(|| random(3, self.slice.n.len()));
        (random(2, self.m * self.slice.k.len()), random(1, self.n * self.k), bias)
    }

    fn run(&self, gpu: &Gpu) -> Vec<f32> {
        let (x, w, bias) = self.numbers();
        let weight = pack(gpu, self.k, self.n, &w);
        let x = Askew::aligned(gpu, &x, self.m, self.slice.k.len());
        let mut out = Askew::new(gpu, &vec![f32::NAN; self.m * self.slice.n.len()], self.m, self.slice.n.len());
        let bias = bias.map(|b| upload(gpu, &b));
        let bias = bias.as_ref().map(|b| View::packed(b, 1, self.slice.n.len()));
        gpu.gemm(x.view(), &weight, self.slice.clone(), Epilogue::bias(bias), out.view_mut());
        out.read(gpu)
    }

    /// Largest error of `got`.
    fn error(&self, got: &[f32]) -> f64 {
        let (x, w, bias) = self.numbers();
        worst(got, &reference(&x, self.m, &w, self.k, &self.slice, bias.as_deref()))
    }
}

fn gpu(device: TestDevice, precision: Precision) -> Gpu {
    Gpu::new(device, precision).expect("every kernel is there")
}

#[test]
fn products_of_odd_sizes_with_bias_and_slices() {
    let slice = |k: Range<usize>, n: Range<usize>| WeightSlice { k, n };
    let cases = [
        Case::whole(1, 1, 1, false),
        Case::whole(130, 70, 75, true),
        Case { m: 20, k: 200, n: 77, slice: slice(64..133, 61..77), bias: true },
        Case { m: 70, k: 77, n: 140, slice: slice(13..42, 5..138), bias: false },
    ];
    for (precision, tolerance) in ALL {
        for case in &cases {
            let error = case.error(&among(hoppers(), precision, |gpu| case.run(gpu)));
            let tolerance = allowed(precision, tolerance);
            assert!(error < tolerance, "{precision:?} m {} {:?}: {error:.1e}", case.m, case.slice);
        }
    }
}

/// What the copy engine cannot read goes through the kernel for every card, and so does everything on another card.
#[test]
fn which_kernel_takes_what() {
    let launched = |device: TestDevice, aligned: bool| {
        let gpu = gpu(device, Precision::Float32);
        let (m, k, n) = (3, 16, 16);
        let weight = pack(&gpu, k, n, &random(1, n * k));
        let numbers = random(2, m * k);
        let x = if aligned { Askew::aligned(&gpu, &numbers, m, k) } else { Askew::new(&gpu, &numbers, m, k) };
        let mut out = Askew::new(&gpu, &vec![f32::NAN; m * n], m, n);
        gpu.gemm(x.view(), &weight, WeightSlice { k: 0..k, n: 0..n }, Epilogue::none(), out.view_mut());
        let of = |names: &[&str]| names.iter().map(|name| gpu.driver().launches_of(name)).sum::<u64>();
        let sm80 = of(&["gemm_sm80_bf16x6", "gemm_sm80_bf16x6_a16"]);
        (of(&["gemm_sm90_bf16x6_64", "gemm_sm90_bf16x6_128"]), sm80)
    };
    assert_eq!(launched(TestDevice::default().hopper(), true), (1, 0));
    assert_eq!(launched(TestDevice::default().hopper(), false), (0, 1));
    assert_eq!(launched(TestDevice::default(), true), (0, 1));
}

/// Several row tiles and column tiles to a block, and several turns of the ring of stages.
#[test]
fn a_block_stays_for_many_tiles() {
    let case = Case::whole(300, 330, 400, true);
    for (precision, tolerance) in ALL {
        for device in TestDevice::all(vec![Emulated::default(), hoppers().swap_remove(4)]) {
            let error = case.error(&case.run(&gpu(device.hopper(), precision)));
            assert!(error < allowed(precision, tolerance), "{precision:?}: {error:.1e}");
        }
    }
}

/// More multiprocessors, narrower tiles (`tile_width`): the same bits.
#[test]
fn the_width_of_tiles_changes_no_bit() {
    let case = Case::whole(140, 150, 270, true);
    let names = |planes: &str| ["64", "128", "256"].map(|width| format!("gemm_sm90_{planes}_{width}"));
    for (precision, planes, widths) in
        [(Precision::Float32, "bf16x6", 2), (Precision::Bf16x3, "bf16x3", 2), (Precision::Bfloat16, "bf16", 3)]
    {
        let mut launched = [0; 3];
        let mut run = |n| {
            let gpu = gpu(TestDevice::default().hopper().with_multiprocessors(n), precision);
            let result = case.run(&gpu);
            for (count, name) in launched.iter_mut().zip(names(planes)) {
                *count += gpu.driver().launches_of(&name);
            }
            result
        };
        let one = run(1);
        for n in [2, 3, 5, 6, 8, 200] {
            assert_eq!(run(n), one, "{precision:?} on {n} multiprocessors");
        }
        assert_eq!(launched.iter().filter(|n| **n > 0).count(), widths, "{precision:?}: {launched:?}");
    }
}

/// The same without a say in the number of multiprocessors: a product that fills the device has wide tiles, some rows of
/// it alone have narrow ones.
#[test]
fn rows_of_a_product_that_fills_the_device() {
    let (m, k, n) = if crate::device::gpu().is_some() { (6000, 512, 4096) } else { (300, 72, 200) };
    let x = random(41, m * k);
    for (precision, _) in ALL {
        let gpu = gpu(TestDevice::default().hopper(), precision);
        let weight = pack(&gpu, k, n, &random(42, n * k));
        let run = |rows: Range<usize>| {
            let part = Askew::aligned(&gpu, &x[rows.start * k..rows.end * k], rows.len(), k);
            let mut out = Askew::new(&gpu, &vec![f32::NAN; rows.len() * n], rows.len(), n);
            gpu.gemm(part.view(), &weight, WeightSlice { k: 0..k, n: 0..n }, Epilogue::none(), out.view_mut());
            out.read(&gpu)
        };
        let whole = run(0..m);
        for rows in [0..1, 100..164, m - 130..m] {
            assert!(run(rows.clone()) == whole[rows.start * n..rows.end * n], "{precision:?} rows {rows:?}");
        }
    }
}

/// A row alone, a row in a batch, some columns: the same bits.
#[test]
fn a_row_does_not_depend_on_its_batch() {
    let (m, k, n) = (140, 96, 70);
    let (x, w) = (random(6, m * k), random(7, k * n));
    for (precision, _) in ALL {
        let gpu = gpu(TestDevice::default().hopper(), precision);
        let weight = pack(&gpu, k, n, &w);
        let run = |rows: Range<usize>, cols: Range<usize>| {
            let part = Askew::aligned(&gpu, &x[rows.start * k..rows.end * k], rows.len(), k);
            let mut out = Askew::new(&gpu, &vec![f32::NAN; rows.len() * cols.len()], rows.len(), cols.len());
            gpu.gemm(part.view(), &weight, WeightSlice { k: 0..k, n: cols }, Epilogue::none(), out.view_mut());
            out.read(&gpu)
        };
        let whole = run(0..m, 0..n);
        for rows in [0..1, 63..66, 127..130, 5..100] {
            for cols in [0..n, 3..4, 9..60, 64..70] {
                let want: Vec<f32> =
                    rows.clone().flat_map(|r| cols.clone().map(move |c| r * n + c)).map(|i| whole[i]).collect();
                assert_eq!(run(rows.clone(), cols.clone()), want, "{precision:?} rows {rows:?} columns {cols:?}");
            }
        }
    }
}

#[test]
fn head_deltas_use_each_groups_own_slice_of_w_o() {
    let (heads, d_v, d_model, n) = (5, 8, 33, 150);
    let w = random(8, heads * d_v * d_model);
    let delta = random(9, n * d_v);
    let groups = [
        HeadRows { rows: 0..2, k: 3 * d_v },
        HeadRows { rows: 2..3, k: 0 },
        HeadRows { rows: 3..140, k: d_v },
        HeadRows { rows: 140..150, k: 4 * d_v },
    ];
    for (precision, tolerance) in ALL {
        let got = among(hoppers(), precision, |gpu| {
            let w_o = pack(gpu, heads * d_v, d_model, &w);
            let delta = Askew::aligned(gpu, &delta, n, d_v);
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
}

/// The epilogue's bits are those of the separate operations; gate and up need not begin at a multiple of anything.
#[test]
fn epilogues_equal_the_operations_they_replace() {
    let (m, k) = (70, 72);
    for (precision, _) in ALL {
        for up in [37, 100, 136] {
            let got = among(hoppers(), precision, |gpu| {
                let weight = pack(gpu, k, 2 * up, &random(21, 2 * up * k));
                let x = Askew::aligned(gpu, &random(22, m * k), m, k);
                let bias = upload(gpu, &random(23, 2 * up));
                let bias = Some(View::packed(&bias, 1, 2 * up));
                let slice = WeightSlice { k: 0..k, n: 0..2 * up };
                let blank = vec![f32::NAN; m * 2 * up];
                let mut fused = Askew::new(gpu, &blank, m, 2 * up);
                let epilogue = Epilogue { bias, then: Then::Gate(Act::Silu) };
                gpu.gemm(x.view(), &weight, slice.clone(), epilogue, fused.view_mut());
                let mut apart = Askew::new(gpu, &blank, m, 2 * up);
                gpu.gemm(x.view(), &weight, slice, Epilogue::bias(bias), apart.view_mut());
                gpu.activation(apart.view_mut(), Act::Silu, Default::default(), true);
                let hidden =
                    |all: Vec<f32>| -> Vec<f32> { all.chunks(2 * up).flat_map(|row| row[..up].to_vec()).collect() };
                let (fused, apart) = (hidden(fused.read(gpu)), hidden(apart.read(gpu)));
                gpu.check().expect("no report");
                assert!(fused == apart, "{precision:?} {up} hidden units");
                fused
            });
            assert!(got.iter().all(|x| x.is_finite()), "{precision:?} {up}");
        }
    }
}

/// What is added to lies elsewhere than what is written otherwise, and keeps its neighbours.
#[test]
fn results_are_added_to_the_residual_stream() {
    let (m, k, n) = (66, 64, 130);
    for (precision, tolerance) in ALL {
        let before = random(31, m * n);
        let case = Case::whole(m, k, n, false);
        let got = among(hoppers(), precision, |gpu| {
            let (x, w, _) = case.numbers();
            let weight = pack(gpu, k, n, &w);
            let x = Askew::aligned(gpu, &x, m, k);
            let mut stream = Askew::new(gpu, &before, m, n);
            let mut unused = Askew::new(gpu, &vec![7.5; m * n], m, n);
            let then = Then::AddTo { stream: stream.view_mut(), scale: 0.5 };
            gpu.gemm(x.view(), &weight, case.slice.clone(), Epilogue { bias: None, then }, unused.view_mut());
            stream.read(gpu)
        });
        let product: Vec<f32> = got.iter().zip(&before).map(|(g, b)| 2.0 * (g - b)).collect();
        let error = case.error(&product);
        assert!(error < allowed(precision, tolerance) + 1e-6, "{precision:?}: {error:.1e}");
    }
}

/// Long sums: `Float32` on Hopper's tensor cores is no worse than float32 arithmetic. Prints rows of the table of
/// `docs/kernels.md` (`-- --nocapture gemm_sm90::error_table`).
#[test]
fn error_table() {
    println!("| K | precision | max | RMS |\n|---|---|---|---|");
    for k in [768, 4096] {
        let case = Case::whole(16, k, 48, false);
        let (x, w, _) = case.numbers();
        let want = reference(&x, case.m, &w, k, &case.slice, None);
        let error = |gpu: Gpu, precision: Precision| {
            let got = case.run(&gpu);
            let squares = got.iter().zip(&want.0).zip(&want.1).map(|((g, w), s)| ((*g as f64 - w) / s).powi(2));
            let rms = (squares.sum::<f64>() / got.len() as f64).sqrt();
            println!("| {k} | {precision:?} | {:.1e} | {rms:.1e} |", worst(&got, &want));
            worst(&got, &want)
        };
        let on = |precision| error(gpu(TestDevice::default().hopper(), precision), precision);
        let plain = on(Precision::Ffma);
        let [planes, x3, x1] = ALL.map(|(precision, _)| on(precision));
        assert!(planes <= plain && plain < 5e-7, "k {k}: {planes:.1e} against {plain:.1e}");
        assert!(x3 < 2e-6 && x1 < 1e-3, "k {k}: {x3:.1e}, {x1:.1e}");
    }
}

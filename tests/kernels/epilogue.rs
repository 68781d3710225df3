//! The epilogue of every GEMM: the bits of the separate kernels, and their float64 value, at odd sizes, in every
//! precision, under every schedule and the checker. (tests/epilogue.rs does the same for the CPU.)

use crate::activations::{ACTS, exact};
use crate::gemm::{ALL, pack, reference};
use crate::support::*;
use patchwave::backend::cuda::Precision;
use patchwave::backend::{Backend, Epilogue, Then, View, WeightSlice, XIelu};
use patchwave::model::spec::Act;

/// Rows, k and half the columns of some weights: less than a tile and more, halves that gate and up may share a tile in
/// (multiples of 8) and others.
const SIZES: [(usize, usize, usize); 4] = [(1, 5, 8), (3, 33, 40), (66, 20, 13), (130, 70, 72)];

struct Case {
    precision: Precision,
    size: (usize, usize, usize),
    bias: bool,
    x: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
}

impl Case {
    fn new(precision: Precision, size: (usize, usize, usize), bias: bool) -> Self {
        let (m, k, half) = size;
        Case { precision, size, bias, x: random(1, m * k), w: random(2, 2 * half * k), b: random(3, 2 * half) }
    }

    /// The product through an epilogue: what the buffer of the sums holds afterwards.
    fn gemm<'a>(&self, gpu: &Gpu, then: Then<'a, Buf>, out: &'a mut Askew) {
        let (m, k, half) = self.size;
        let w = pack(gpu, k, 2 * half, &self.w);
        let x = Askew::new(gpu, &self.x, m, k);
        let b = upload(gpu, &self.b);
        let bias = self.bias.then(|| View::packed(&b, 1, 2 * half));
        let slice = WeightSlice { k: 0..k, n: 0..2 * half };
        let epilogue = Epilogue { bias, then };
        gpu.gemm(x.view(), &w, slice, epilogue, out.view_mut());
    }

    fn empty(&self, gpu: &Gpu) -> Askew {
        let (m, _, half) = self.size;
        Askew::new(gpu, &vec![f32::NAN; m * 2 * half], m, 2 * half)
    }

    /// Sums in float64, and the error that the precision allows each.
    fn sums(&self, tolerance: f64) -> Vec<(f64, f64)> {
        let (m, k, half) = self.size;
        let bias = self.bias.then_some(&self.b[..]);
        let (sums, sizes) = reference(&self.x, m, &self.w, k, &WeightSlice { k: 0..k, n: 0..2 * half }, bias);
        sums.into_iter().zip(sizes.iter().map(|s| s * tolerance)).collect()
    }
}

/// `case`s of every precision and size, with bias and without.
fn cases() -> impl Iterator<Item = (Case, f64)> {
    ALL.into_iter().flat_map(|(precision, tolerance)| {
        let case = move |(i, size)| (Case::new(precision, size, i % 2 == 0), tolerance);
        SIZES.into_iter().enumerate().map(case)
    })
}

fn assert_bits(fused: &[f32], separate: &[f32], what: &str) {
    let differs = fused.iter().zip(separate).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differs, None, "{what}");
}

#[test]
fn activations_have_the_bits_of_their_kernel() {
    for (i, (case, tolerance)) in cases().enumerate() {
        let act = ACTS[i % ACTS.len()];
        let what = format!("{act:?} {:?} {:?}", case.precision, case.size);
        let got = everywhere(case.precision, |gpu| {
            let (mut fused, mut separate) = (case.empty(gpu), case.empty(gpu));
            case.gemm(gpu, Then::Activate(act), &mut fused);
            case.gemm(gpu, Then::Write, &mut separate);
            gpu.activation(separate.view_mut(), act, XIelu::default(), false);
            let fused = fused.read(gpu);
            assert_bits(&fused, &separate.read(gpu), &what);
            fused
        });
        for (got, (sum, error)) in got.iter().zip(case.sums(tolerance)) {
            // No activation is steeper than 1.2, but the square, at its place.
            let slope = if act == Act::Relu2 { 2.0 * sum.abs() + error } else { 1.2 };
            let error = slope * error + 1e-6 * (1.0 + exact(act, sum).abs());
            assert!((*got as f64 - exact(act, sum)).abs() <= error, "{what}: {sum} gives {got}");
        }
    }
}

#[test]
fn gates_have_the_bits_of_their_kernel() {
    for (i, (case, tolerance)) in cases().enumerate() {
        let (act, (m, _, half)) = (ACTS[i % ACTS.len()], case.size);
        let what = format!("{act:?} {:?} {:?}", case.precision, case.size);
        let left = |rows: Vec<f32>| -> Vec<f32> { rows.chunks(2 * half).flat_map(|r| r[..half].to_vec()).collect() };
        let got = everywhere(case.precision, |gpu| {
            let (mut fused, mut separate) = (case.empty(gpu), case.empty(gpu));
            case.gemm(gpu, Then::Gate(act), &mut fused);
            case.gemm(gpu, Then::Write, &mut separate);
            gpu.activation(separate.view_mut(), act, XIelu::default(), true);
            let fused = left(fused.read(gpu));
            assert_bits(&fused, &left(separate.read(gpu)), &what);
            fused
        });
        let sums = case.sums(tolerance);
        for row in 0..m {
            for col in 0..half {
                let ((gate, gate_error), (up, up_error)) =
                    (sums[row * 2 * half + col], sums[(row * 2 + 1) * half + col]);
                let (active, got) = (exact(act, gate), got[row * half + col]);
                let slope = if act == Act::Relu2 { 2.0 * gate.abs() + gate_error } else { 1.2 };
                let active_error = slope * gate_error + 1e-6 * (1.0 + active.abs());
                let error = active_error * (up.abs() + up_error) + active.abs() * up_error + 1e-6;
                assert!((got as f64 - active * up).abs() <= error, "{what}: {gate} gates {up} to {got}");
            }
        }
    }
}

#[test]
fn additions_have_the_bits_of_their_kernels() {
    for (i, (case, tolerance)) in cases().enumerate() {
        let (scale, (m, _, half)) = ([1.0, 0.4, -3.0][i % 3], case.size);
        let what = format!("{scale} {:?} {:?}", case.precision, case.size);
        let before = random(9, m * 2 * half);
        let got = everywhere(case.precision, |gpu| {
            let mut fused = Askew::new(gpu, &before, m, 2 * half);
            let mut separate = Askew::new(gpu, &before, m, 2 * half);
            let (mut room, mut sums) = (case.empty(gpu), case.empty(gpu));
            case.gemm(gpu, Then::AddTo { stream: fused.view_mut(), scale }, &mut room);
            case.gemm(gpu, Then::Write, &mut sums);
            gpu.scale(sums.view_mut(), scale);
            gpu.add(separate.view_mut(), sums.view(), 1.0);
            let fused = fused.read(gpu);
            assert_bits(&fused, &separate.read(gpu), &what);
            fused
        });
        for ((got, before), (sum, error)) in got.iter().zip(&before).zip(case.sums(tolerance)) {
            let (want, scale) = (*before as f64 + scale as f64 * sum, scale.abs() as f64);
            assert!((*got as f64 - want).abs() <= scale * error + 1e-6 * (1.0 + want.abs()), "{what}: {got}");
        }
    }
}

//! The epilogue of the CPU's GEMM: the bits of the separate operations, and their float64 value. (tests/kernels/epilogue.rs
//! does the same for the CUDA kernels.)

use patchwave::backend::cpu::{Cpu, Weight};
use patchwave::backend::{Backend, Epilogue, Then, View, ViewMut, WeightSlice, XIelu};
use proptest::prelude::*;

mod activations;
mod support;
use activations::{ACTS, exact};
use support::{Rng, bits};

fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng(seed);
    (0..n).map(|_| rng.normal()).collect()
}

/// x · w + bias by [`Then::Write`], packed.
fn sums(x: &Vec<f32>, m: usize, w: &Weight, bias: Option<&Vec<f32>>) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * w.n];
    let bias = bias.map(|b| View::packed(b, 1, w.n));
    let slice = WeightSlice { k: 0..w.k, n: 0..w.n };
    Cpu.gemm(View::packed(x, m, w.k), w, slice, Epilogue::bias(bias), ViewMut::packed(&mut out, m, w.n));
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Activation, gate and addition in the epilogue, from one row (whose GEMM is padded) to several tasks' worth.
    #[test]
    fn an_epilogue_has_the_bits_of_the_operations_it_stands_for(
        seed in any::<u64>(),
        m in prop::sample::select(vec![1usize, 2, 31, 70]),
        k in 1usize..40,
        half in 1usize..30,
        act in prop::sample::select(ACTS.to_vec()),
        scale in prop::sample::select(vec![1.0f32, 0.4, -3.0]),
        with_bias in any::<bool>(),
    ) {
        let n = 2 * half;
        let (x, w, bias) = (numbers(seed, m * k), numbers(seed ^ 1, k * n), numbers(seed ^ 2, n));
        let weight = Cpu.pack(k, &[n], &mut |_, out| { out.copy_from_slice(&w); Ok(()) }).expect("it packs");
        let bias = with_bias.then_some(&bias);
        let sums = sums(&x, m, &weight, bias);
        let run = |then: Then<'_, Vec<f32>>| {
            let mut out = vec![f32::NAN; m * n];
            let slice = WeightSlice { k: 0..k, n: 0..n };
            let epilogue = Epilogue { bias: bias.map(|b| View::packed(b, 1, n)), then };
            Cpu.gemm(View::packed(&x, m, k), &weight, slice, epilogue, ViewMut::packed(&mut out, m, n));
            out
        };
        let close = |got: f32, want: f64| (got as f64 - want).abs() <= 2e-6 * want.abs().max(1.0);

        let mut separate = sums.clone();
        Cpu.activation(ViewMut::packed(&mut separate, m, n), act, XIelu::default(), false);
        let fused = run(Then::Activate(act));
        prop_assert_eq!(bits(&fused), bits(&separate));
        for (f, s) in fused.iter().zip(&sums) {
            prop_assert!(close(*f, exact(act, *s as f64)), "{:?}({}) = {}", act, s, f);
        }

        let mut separate = sums.clone();
        Cpu.activation(ViewMut::packed(&mut separate, m, n), act, XIelu::default(), true);
        let gated = run(Then::Gate(act));
        for row in 0..m {
            let (at, sums) = (row * n, &sums[row * n..][..n]);
            prop_assert_eq!(bits(&gated[at..at + half]), bits(&separate[at..at + half]));
            for i in 0..half {
                let want = exact(act, sums[i] as f64) * sums[half + i] as f64;
                prop_assert!(close(gated[at + i], want), "{:?} of {} gates {}", act, sums[i], sums[half + i]);
            }
        }

        let before = numbers(seed ^ 3, m * n);
        let (mut stream, mut separate, mut scaled) = (before.clone(), before.clone(), sums.clone());
        run(Then::AddTo { stream: ViewMut::packed(&mut stream, m, n), scale });
        Cpu.scale(ViewMut::packed(&mut scaled, m, n), scale);
        Cpu.add(ViewMut::packed(&mut separate, m, n), View::packed(&scaled, m, n), 1.0);
        prop_assert_eq!(bits(&stream), bits(&separate));
        for ((after, before), s) in stream.iter().zip(&before).zip(&sums) {
            prop_assert!(close(*after, *before as f64 + scale as f64 * *s as f64));
        }
    }
}

//! Whole sweeps through the CUDA kernels on the emulated device: the effects are the CPU's, and what must hold to the bit
//! holds to the bit.
//!
//! `cargo test --release --features emulator --test emulated`
#![cfg(feature = "emulator")]

mod support;

use patchwave::backend::Backend;
use patchwave::backend::cpu::Cpu;
use patchwave::backend::cuda::emulated::{AsyncCopies, Emulated, Schedule};
use patchwave::backend::cuda::{Cuda, Precision};
use patchwave::engine::Model;
use patchwave::sweep::{By, Direction, Limits, Metric, Outcome, PatchKind};
use proptest::prelude::*;
use std::sync::Arc;
use support::*;

fn load_on<B: Backend>(backend: B, seed: u64) -> Model<B> {
    let spec = Arc::new(random_spec(seed));
    let params = RandomParams { spec: spec.clone(), seed };
    Model::load(spec, &params, backend, &|_| ()).expect("a random model loads")
}

fn emulated(precision: Precision) -> Cuda<Emulated> {
    Cuda::new(Emulated::default(), precision).expect("every kernel is there")
}

/// Largest difference of two runs' metrics, relative to the largest metric of the unpatched runs (1 at least).
fn difference(a: &Outcome, b: &Outcome) -> f32 {
    let size = a.clean.iter().chain(&a.corrupted).fold(1.0f32, |m, x| m.max(x.abs()));
    let pairs = a.metric.iter().zip(&b.metric).chain(a.clean.iter().zip(&b.clean));
    pairs.fold(0.0, |worst, (x, y)| {
        assert_eq!(x.is_nan(), y.is_nan(), "the same cells exist");
        if x.is_nan() { worst } else { worst.max((x - y).abs() / size) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Random models over every knob, all their sites.
    #[test]
    fn effects_equal_the_cpus(
        seed in any::<u64>(),
        by in prop::sample::select(vec![By::Head, By::HeadPos, By::Pos, By::Layer]),
        direction in prop::sample::select(vec![Direction::Denoise, Direction::Noise]),
        patch in prop::sample::select(vec![PatchKind::Source, PatchKind::Zero, PatchKind::Mean]),
        metric in prop::sample::select(Metric::ALL.to_vec()),
        precision in prop::sample::select(vec![Precision::Ffma, Precision::Float32]),
    ) {
        let (cpu, gpu) = (load_on(Cpu, seed), load_on(emulated(precision), seed));
        let pairs = random_pairs(seed, 2, cpu.spec.d_vocab);
        let (mut a, mut b) = (sweep(&cpu, &pairs, by), sweep(&gpu, &pairs, by));
        (a.direction, a.patch, a.metric) = (direction, patch, metric);
        (b.direction, b.patch, b.metric) = (direction, patch, metric);
        if patch == PatchKind::Mean && pairs[0].clean.len() != pairs[1].clean.len() {
            // Matrices of different sizes have no mean.
            a.sites.retain(|s| !matches!(s.site.name(), "pattern" | "attn_scores"));
            b.sites.retain(|s| !matches!(s.site.name(), "pattern" | "attn_scores"));
        }
        let (a, b) = (run(&a), run(&b));
        prop_assert!(gpu.backend.check().is_ok());
        let difference = difference(&a, &b);
        prop_assert!(difference < 2e-5, "{:?} {:?} {:?}: {}", direction, patch, precision, difference);
    }

    /// Patching the base run with itself, nothing skipped, gives the base metric bit for bit at every cell.
    #[test]
    fn a_self_patch_changes_no_bit(
        seed in any::<u64>(),
        by in prop::sample::select(vec![By::Head, By::HeadPos, By::Pos, By::Layer]),
        precision in prop::sample::select(vec![Precision::Ffma, Precision::Float32, Precision::Bfloat16]),
    ) {
        let model = load_on(emulated(precision), seed);
        let mut pairs = random_pairs(seed, 2, model.spec.d_vocab);
        for p in &mut pairs {
            p.corrupted = p.clean.clone();
        }
        let mut sweep = sweep(&model, &pairs, by);
        sweep.skip = false;
        let outcome = run(&sweep);
        prop_assert!(model.backend.check().is_ok());
        prop_assert_eq!(outcome.stats.unchanged, 0);
        for (i, cell) in sweep.cells().iter().enumerate() {
            for pair in 0..pairs.len() {
                let m = outcome.metric[i * pairs.len() + pair];
                prop_assert!(m.is_nan() || m.to_bits() == outcome.clean[pair].to_bits(), "{:?} {}", cell, m);
            }
        }
    }

    /// However the wave is cut and the pairs are grouped, the result has the same bits.
    #[test]
    fn cutting_the_wave_changes_no_bit(seed in any::<u64>(), by in prop::sample::select(vec![By::Head, By::Pos])) {
        let model = load_on(emulated(Precision::Bf16x3), seed);
        let pairs = random_pairs(seed, 3, model.spec.d_vocab);
        let mut sweep = sweep(&model, &pairs, by);
        let whole = run(&sweep);
        sweep.limits = Limits { max_rows: 17, cache_bytes: 1 };
        let cut = run(&sweep);
        prop_assert!(cut.stats.waves >= whole.stats.waves);
        prop_assert_eq!(bits(&cut.metric), bits(&whole.metric));
        prop_assert!(model.backend.check().is_ok());
    }
}

/// A device with too little memory for a whole wave: the wave is cut until it fits, and the result has the same bits.
#[test]
fn out_of_memory_cuts_the_wave_and_goes_on() {
    let pairs = random_pairs(7, 3, 37);
    let on = |device: Emulated| {
        let backend = Cuda::new(device, Precision::Float32).expect("every kernel is there");
        let model = load_on(backend, 7);
        let mut sweep = sweep(&model, &pairs, By::HeadPos);
        sweep.sites.retain(|s| s.site.name() == "z");
        let result = run(&sweep);
        (bits(&result.metric), result.stats.waves, model.backend.driver().memory_used())
    };
    let (whole, waves, used) = on(Emulated::default());
    assert_eq!(waves, 1);
    for share in [60, 70, 80] {
        let (cut, more, _) = on(Emulated::default().with_memory(used * share / 100));
        assert_eq!(cut, whole, "with {share} % of {used} bytes");
        assert!(more > 1, "with {share} % of {used} bytes");
    }
}

/// A sweep over every site under the checker and a random schedule: nothing to report, and the same bits.
#[test]
fn a_whole_sweep_has_nothing_to_report() {
    for seed in 0..2 {
        let pairs = random_pairs(seed, 1, 37);
        let on = |device: Emulated| {
            let backend = Cuda::new(device, Precision::Float32).expect("every kernel is there");
            let model = load_on(backend, seed);
            let result = run(&sweep(&model, &pairs, By::Head));
            model.backend.check().expect("nothing failed");
            bits(&result.metric)
        };
        let plain = on(Emulated::default());
        assert_eq!(plain, on(Emulated::new(Schedule::Random(seed), AsyncCopies::Random, true)));
    }
}

/// Every family, every site it has, both directions, every patch kind, through the kernels: the CPU's effects. Each
/// family's tiny models share the combinations out among them, and the families the ways of cutting.
#[test]
fn every_family_gives_the_cpus_effects() {
    let families = fixture_families();
    let combinations = combinations();
    for (f, cases) in families.values().enumerate() {
        for (i, (by, direction, patch)) in combinations.iter().copied().skip(6 * (f % 4)).take(6).enumerate() {
            let path = &cases[i % cases.len()];
            let files = patchwave::model::ModelFiles::open(path, &[]).expect("a model");
            let spec = Arc::new(files.spec.clone());
            let cpu = Model::load(spec.clone(), &*files.params, Cpu, &|_| ()).expect("it loads");
            let gpu = Model::load(spec, &*files.params, emulated(Precision::Float32), &|_| ()).expect("it loads");
            let pairs = random_pairs(i as u64, 1, cpu.spec.d_vocab);
            let (mut a, mut b) = (sweep(&cpu, &pairs, by), sweep(&gpu, &pairs, by));
            (a.direction, a.patch) = (direction, patch);
            (b.direction, b.patch) = (direction, patch);
            let difference = difference(&run(&a), &run(&b));
            assert!(difference < 2e-5, "{}: {by:?} {direction:?} {patch:?}: {difference}", path.display());
        }
    }
}

/// The demo's default sweep: the same two heads, to five digits.
#[test]
fn the_demo_gives_the_cpus_effects() {
    let files = patchwave::demo::model().expect("the demo opens");
    let options = patchwave::prompts::LoadOptions {
        bos: patchwave::prompts::BosPolicy::Auto,
        d_vocab: files.spec.d_vocab,
        n_ctx: files.spec.n_ctx,
        needs_wrong: true,
        needs_answer: true,
    };
    let tokenizer = files.tokenizer.as_ref().map(|t| t as &dyn patchwave::prompts::Encode);
    let pairs = patchwave::demo::PAIRS.lines().take(4).collect::<Vec<_>>().join("\n");
    let pairs = patchwave::prompts::parse("demo", pairs.as_bytes(), tokenizer, &options).expect("pairs").pairs;
    let spec = Arc::new(files.spec.clone());
    let cpu = Model::load(spec.clone(), &*files.params, Cpu, &|_| ()).expect("it loads");
    let gpu = Model::load(spec, &*files.params, emulated(Precision::Float32), &|_| ()).expect("it loads");
    let (mut a, mut b) = (sweep(&cpu, &pairs, By::Head), sweep(&gpu, &pairs, By::Head));
    a.sites.retain(|s| s.site.name() == "z");
    b.sites.retain(|s| s.site.name() == "z");
    let difference = difference(&run(&a), &run(&b));
    assert!(difference < 1e-5, "{difference}");
}

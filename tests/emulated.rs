//! Whole sweeps through the CUDA kernels on the emulated device: the effects are the CPU's, and what must hold to the bit
//! holds to the bit.
//!
//! `cargo test --release --features emulator --test emulated`; on a GPU with `PATCHWAVE_TEST_DEVICE=cuda:0`
#![cfg(feature = "emulator")]

mod device;
mod support;
#[path = "device/watched.rs"]
mod watched;

use device::TestDevice;
use patchwave::backend::Backend;
use patchwave::backend::cpu::Cpu;
use patchwave::backend::cuda::{Cuda, Precision};
use patchwave::engine::Model;
use patchwave::engine::Site;
use patchwave::sweep::{By, Direction, Draws, Joint, Limits, Metric, Outcome, PatchKind, Target};
use proptest::prelude::*;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::*;
use watched::{Watch, Watched};

fn load_on<B: Backend>(backend: B, seed: u64) -> Model<B> {
    let spec = Arc::new(random_spec(seed));
    let params = RandomParams { spec: spec.clone(), seed };
    Model::load(spec, &params, backend, &|_| ()).expect("a random model loads")
}

/// A device of the Hopper generation, which has a GEMM of its own, or of an older one.
fn card(hopper: bool) -> TestDevice {
    if hopper { TestDevice::default().hopper() } else { TestDevice::default() }
}

fn on_card(hopper: bool, precision: Precision) -> Cuda<TestDevice> {
    Cuda::new(card(hopper), precision).expect("every kernel is there")
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
        (hopper, precision) in prop::sample::select(vec![
            (false, Precision::Ffma),
            (false, Precision::Float32),
            (true, Precision::Float32),
        ]),
    ) {
        let (cpu, gpu) = (load_on(Cpu, seed), load_on(on_card(hopper, precision), seed));
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
        hopper in any::<bool>(),
        precision in prop::sample::select(vec![Precision::Ffma, Precision::Float32, Precision::Bfloat16]),
    ) {
        let model = load_on(on_card(hopper, precision), seed);
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

    /// Noise, scaling and knockouts, as cells of a sweep and several nodes at once.
    #[test]
    fn interventions_equal_the_cpus(
        seed in any::<u64>(),
        by in prop::sample::select(vec![By::Head, By::HeadPos, By::Pos, By::Layer]),
        patch in prop::sample::select(vec![
            PatchKind::Noise { sigma: 0.3, draws: Draws { seed: 1, n: 2 } },
            PatchKind::Resample { draws: Draws { seed: 1, n: 1 } },
            PatchKind::Scale(-0.5),
            PatchKind::Knockout(&[]),
        ]),
    ) {
        let (cpu, gpu) = (load_on(Cpu, seed), load_on(on_card(false, Precision::Float32), seed));
        let mut pairs = random_pairs(seed, 2, cpu.spec.d_vocab);
        for p in &mut pairs {
            p.clean.truncate(4);
            p.corrupted.truncate(4);
            p.corrupted[1] = (p.clean[1] + 1) % 37;
        }
        let columns: Vec<_> = all_columns(&pairs).split_off(2);
        let sources = vec![vec![Some(0), Some(1)], vec![Some(2), Some(0)]];
        let is_knockout = matches!(patch, PatchKind::Knockout(_));
        let patch = if is_knockout { PatchKind::Knockout(&sources) } else { patch };
        let (mut a, mut b) = (sweep(&cpu, &pairs, by), sweep(&gpu, &pairs, by));
        a.sites.retain(|s| patch.check_site(s.site).is_ok());
        b.sites.retain(|s| patch.check_site(s.site).is_ok());
        (a.patch, b.patch) = (patch, patch);
        if is_knockout {
            (a.columns, a.restricted) = (columns.clone(), true);
            (b.columns, b.restricted) = (columns.clone(), true);
            let cells = |by| patchwave::sweep::SiteCells::new(&cpu.spec, Site::AttnScores, by, 2, &Default::default());
            (a.sites, b.sites) = (vec![cells(by)], vec![cells(by)]);
        }
        let worst = difference(&run(&a), &run(&b));
        prop_assert!(worst < 2e-5, "{:?}: {}", patch, worst);

        let sites = if is_knockout { &[Site::AttnScores][..] } else { &[Site::Z, Site::AttnScores, Site::ResidPost] };
        let targets: Vec<Target> = sites
            .iter()
            .flat_map(|site| (0..2).map(move |layer| (*site, layer)))
            .filter(|(site, layer)| site.exists(&cpu.spec, *layer))
            .map(|(site, layer)| {
                let head = (site == Site::Z).then_some(0);
                Target { site, layer, head, column: None, positions: vec![vec![2, 3]; 2] }
            })
            .collect();
        fn joint<B: Backend>(
            model: &Model<B>,
            pairs: &[patchwave::prompts::Pair],
            targets: Vec<Target>,
            columns: Vec<patchwave::sweep::Column>,
            patch: PatchKind<'_>,
        ) -> Vec<f32> {
            let (direction, metric, limits) = (Direction::Noise, Metric::LogitDiff, Limits::default());
            let joint = Joint { model, pairs, targets, columns, direction, patch, metric, align: None, limits };
            let (fast, slow) = (joint.run().expect("it runs"), joint.reference().expect("it runs"));
            if joint.targets.len() > 1 {
                assert_eq!(bits(&fast.metric), bits(&slow.metric));
            }
            fast.metric
        }
        let columns = if is_knockout { columns } else { Vec::new() };
        let x = joint(&cpu, &pairs, targets.clone(), columns.clone(), patch);
        let y = joint(&gpu, &pairs, targets, columns, patch);
        prop_assert!(gpu.backend.check().is_ok());
        for (x, y) in x.iter().zip(&y) {
            prop_assert!((x - y).abs() < 2e-5 * x.abs().max(1.0), "{:?}: {} {}", patch, x, y);
        }
    }

    /// However the wave is cut and the pairs are grouped, the result has the same bits.
    #[test]
    fn cutting_the_wave_changes_no_bit(
        seed in any::<u64>(),
        by in prop::sample::select(vec![By::Head, By::Pos]),
        hopper in any::<bool>(),
    ) {
        let model = load_on(on_card(hopper, Precision::Bf16x3), seed);
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

/// Counts allocations.
struct Counter(Arc<AtomicUsize>);

impl Watch for Counter {
    fn allocates(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Waves run on memory that was had before they began. A wave of several items that needed one allocation more would
    /// be cut (the arena is closed to it), so there would be more waves than on the CPU; and from the end of one wave to
    /// the end of the next there is at most the one that makes room for it.
    #[test]
    fn nothing_is_allocated_inside_a_wave(
        seed in any::<u64>(),
        hopper in any::<bool>(),
        by in prop::sample::select(vec![By::Head, By::HeadPos, By::Pos, By::Layer]),
        patch in prop::sample::select(vec![PatchKind::Source, PatchKind::Zero]),
        metric in prop::sample::select(Metric::ALL.to_vec()),
        max_rows in prop::sample::select(vec![60usize, 2048]),
    ) {
        let allocations = Arc::new(AtomicUsize::new(0));
        let device = Watched { device: card(hopper), watch: Counter(allocations.clone()) };
        let gpu = load_on(Cuda::new(device, Precision::Float32).expect("every kernel is there"), seed);
        let cpu = load_on(Cpu, seed);
        let pairs = random_pairs(seed, 2, cpu.spec.d_vocab);
        let (mut a, mut b) = (sweep(&cpu, &pairs, by), sweep(&gpu, &pairs, by));
        (a.patch, a.metric, a.limits.max_rows) = (patch, metric, max_rows);
        (b.patch, b.metric, b.limits.max_rows) = (patch, metric, max_rows);
        // The same items on both: what is provably unchanged is a matter of bits.
        (a.skip, b.skip) = (false, false);
        let before = allocations.load(Ordering::Relaxed);
        let mut at_wave_ends = Vec::new();
        let result = b.run(&HashMap::new(), &mut |_, _| {
            at_wave_ends.push(allocations.load(Ordering::Relaxed));
            ControlFlow::Continue(())
        });
        let waves = result.expect("the sweep runs").stats.waves;
        prop_assert_eq!(waves, run(&a).stats.waves, "a wave was cut");
        prop_assert_eq!(waves as usize, at_wave_ends.len());
        // Later waves may need more room than earlier ones: at most one block each, before it begins.
        prop_assert!(at_wave_ends.windows(2).all(|w| w[1] - w[0] <= 1), "{:?}", at_wave_ends);
        let all = at_wave_ends.last().copied().unwrap_or(before) - before;
        prop_assert!(all <= 12, "{} allocations, {} waves", all, waves);
    }
}

/// A device with too little memory for a whole wave: the wave is cut until it fits, and the result has the same bits.
#[test]
fn out_of_memory_cuts_the_wave_and_goes_on() {
    let pairs = random_pairs(7, 3, 37);
    let on = |device: TestDevice| {
        let backend = Cuda::new(device, Precision::Float32).expect("every kernel is there");
        let model = load_on(backend, 7);
        let mut sweep = sweep(&model, &pairs, By::HeadPos);
        sweep.sites.retain(|s| s.site.name() == "z");
        let result = run(&sweep);
        (bits(&result.metric), result.stats.waves, model.backend.driver().memory_used())
    };
    let (whole, waves, used) = on(TestDevice::default());
    assert_eq!(waves, 1);
    for share in [60, 70, 80] {
        let (cut, more, _) = on(TestDevice::default().with_memory(used * share / 100));
        assert_eq!(cut, whole, "with {share} % of {used} bytes");
        assert!(more > 1, "with {share} % of {used} bytes");
    }
}

/// A sweep over every site under the checker and a random schedule: nothing to report, and the same bits.
#[test]
fn a_whole_sweep_has_nothing_to_report() {
    for (seed, hopper) in [(0, false), (1, false), (2, true)] {
        let pairs = random_pairs(seed, 1, 37);
        let on = |device: TestDevice| {
            let backend = Cuda::new(device, Precision::Float32).expect("every kernel is there");
            let model = load_on(backend, seed);
            let result = run(&sweep(&model, &pairs, By::Head));
            model.backend.check().expect("nothing failed");
            bits(&result.metric)
        };
        let strict = TestDevice::strict(seed);
        assert_eq!(on(card(hopper)), on(if hopper { strict.hopper() } else { strict }));
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
            let gpu = on_card(i % 2 == 1, Precision::Float32);
            let gpu = Model::load(spec, &*files.params, gpu, &|_| ()).expect("it loads");
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
        needs_corrupted: true,
    };
    let tokenizer = files.tokenizer.as_ref().map(|t| t as &dyn patchwave::prompts::Encode);
    let pairs = patchwave::demo::PAIRS.lines().take(4).collect::<Vec<_>>().join("\n");
    let pairs = patchwave::prompts::parse("demo", pairs.as_bytes(), tokenizer, &options).expect("pairs").pairs;
    let spec = Arc::new(files.spec.clone());
    let cpu = Model::load(spec.clone(), &*files.params, Cpu, &|_| ()).expect("it loads");
    for hopper in [false, true] {
        let gpu = on_card(hopper, Precision::Float32);
        let gpu = Model::load(spec.clone(), &*files.params, gpu, &|_| ()).expect("it loads");
        let (mut a, mut b) = (sweep(&cpu, &pairs, By::Head), sweep(&gpu, &pairs, By::Head));
        a.sites.retain(|s| s.site.name() == "z");
        b.sites.retain(|s| s.site.name() == "z");
        let difference = difference(&run(&a), &run(&b));
        assert!(difference < 1e-5, "Hopper: {hopper}, {difference}");
    }
}

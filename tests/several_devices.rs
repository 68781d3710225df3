//! Sweeps that several devices share: the bits of one device, whatever comes to which of them.
//!
//! The dealing itself is tested with several CPUs; with `--features emulator` the devices are emulated GPUs:
//! `cargo test --release --features emulator --test several_devices`

mod support;
#[cfg(feature = "emulator")]
#[path = "device/watched.rs"]
mod watched;

use patchwave::backend::Backend;
use patchwave::backend::cpu::Cpu;
use patchwave::engine::Model;
use patchwave::prompts::Pair;
use patchwave::sweep::effect::effects;
use patchwave::sweep::{By, Direction, Draws, Item, Limits, Outcome, PatchKind, Sweep, SweepError};
use proptest::prelude::*;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use support::*;

/// The same random model on each of `backends`.
fn load_on<B: Backend>(backends: Vec<B>, seed: u64) -> Vec<Model<B>> {
    let spec = Arc::new(random_spec(seed));
    let params = RandomParams { spec: spec.clone(), seed };
    Model::load_on_each(&spec, &params, backends, &|_| ()).expect("a random model loads")
}

/// Pairs of one length, so that every patch has a meaning at every site.
fn equal_pairs(seed: u64, d_vocab: usize) -> Vec<Pair> {
    let mut pairs = random_pairs(seed, 3, d_vocab);
    for p in &mut pairs {
        p.clean.truncate(4);
        p.corrupted.truncate(4);
        p.corrupted[1] = (p.clean[1] + 1) % d_vocab as u32;
    }
    pairs
}

fn patches() -> Vec<PatchKind<'static>> {
    let draws = |n| Draws { seed: 1, n };
    let noise = PatchKind::Noise { sigma: 0.3, draws: draws(2) };
    let resample = PatchKind::Resample { draws: draws(2) };
    vec![PatchKind::Source, PatchKind::Zero, PatchKind::Mean, noise, resample, PatchKind::Scale(-0.5)]
}

/// Waves of one item, of some, of all there are; and pairs one by one or together.
fn limits() -> impl Strategy<Value = Limits> {
    let rows = prop::sample::select(vec![1, 17, 60, 2048]);
    (rows, prop::sample::select(vec![1, 128 << 20]))
        .prop_map(|(max_rows, cache_bytes)| Limits { max_rows, cache_bytes })
}

fn run_with<B: Backend>(sweep: &Sweep<'_, B>, more: &[Model<B>]) -> Outcome {
    sweep.run_with(more, &HashMap::new(), &mut |_, _| ControlFlow::Continue(())).expect("the sweep runs")
}

#[track_caller]
fn same_bits(a: &Outcome, b: &Outcome, direction: Direction) {
    assert_eq!((bits(&a.metric), &a.prefers), (bits(&b.metric), &b.prefers));
    let effect = |o: &Outcome| bits(&effects(&o.metric, &o.clean, &o.corrupted, direction, 0.0).effect);
    assert_eq!(effect(a), effect(b));
}

/// A sweep of all sites on the first device alone, and the same on all of them with waves and groups cut to `limits`.
fn shared_equals_alone<B: Backend>(
    models: &[Model<B>],
    seed: u64,
    (by, direction, patch): (By, Direction, PatchKind<'_>),
    limits: Limits,
) {
    let pairs = equal_pairs(seed, models[0].spec.d_vocab);
    let mut sweep = sweep(&models[0], &pairs, by);
    sweep.sites.retain(|s| patch.check_site(s.site).is_ok());
    (sweep.patch, sweep.direction) = (patch, direction);
    let alone = run(&sweep);
    sweep.limits = limits;
    let shared = run_with(&sweep, &models[1..]);
    same_bits(&shared, &alone, direction);
    let (s, a) = (shared.stats, alone.stats);
    assert_eq!((s.run, s.unchanged, s.naive_rows), (a.run, a.unchanged, a.naive_rows));
    models.iter().for_each(|m| m.backend.check().expect("nothing failed"));
}

/// Sweeps until `waves` waves are seen, or to the end, and gives what was seen.
fn seen<B: Backend>(
    sweep: &Sweep<'_, B>,
    more: &[Model<B>],
    waves: usize,
) -> (Result<Outcome, SweepError>, HashMap<Item, f32>) {
    let (mut known, mut left) = (HashMap::new(), waves);
    let result = sweep.run_with(more, &HashMap::new(), &mut |block, _| {
        known.extend(block.items.iter().copied());
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (result, known)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Random models over every knob, all their sites, every patch.
    #[test]
    fn two_and_three_give_the_bits_of_one(
        seed in any::<u64>(),
        by in prop::sample::select(vec![By::Head, By::HeadPos, By::Pos, By::Layer]),
        direction in prop::sample::select(vec![Direction::Denoise, Direction::Noise]),
        patch in prop::sample::select(patches()),
        limits in limits(),
        devices in 2usize..4,
    ) {
        shared_equals_alone(&load_on(vec![Cpu; devices], seed), seed, (by, direction, patch), limits);
    }

    /// A sweep that is stopped leaves what it has shown, and another number of devices can go on from there.
    #[test]
    fn an_interrupted_sweep_goes_on_from_what_was_seen(seed in any::<u64>(), waves in 1usize..9, devices in 1usize..4) {
        let models = load_on(vec![Cpu; 3], seed);
        let pairs = random_pairs(seed, 3, models[0].spec.d_vocab);
        let mut sweep = sweep(&models[0], &pairs, By::Head);
        let alone = run(&sweep);
        sweep.limits.max_rows = 10;
        let (stopped, known) = seen(&sweep, &models[1..], waves);
        prop_assume!(!known.is_empty());
        match stopped {
            Err(SweepError::Interrupted) => {}
            Err(e) => panic!("{e}"),
            Ok(all) => prop_assert_eq!(all.stats.run, known.len() as u64, "there were fewer waves"),
        }
        let n = pairs.len();
        prop_assert!(known.iter().all(|(item, m)| alone.metric[*item as usize].to_bits() == m.to_bits()), "{} pairs", n);
        let rest = sweep.run_with(&models[1..devices], &known, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
        prop_assert_eq!(rest.stats.run + known.len() as u64, alone.stats.run);
        same_bits(&rest, &alone, sweep.direction);
    }
}

/// Waves, and with them progress, are told on the thread that asked for the sweep, each item once.
#[test]
fn waves_are_observed_on_the_calling_thread_and_add_up() {
    let models = load_on(vec![Cpu; 3], 5);
    let pairs = random_pairs(5, 3, models[0].spec.d_vocab);
    let mut sweep = sweep(&models[0], &pairs, By::HeadPos);
    sweep.limits.max_rows = 20;
    let (here, mut items, mut done) = (std::thread::current().id(), HashMap::new(), Vec::new());
    let outcome = sweep.run_with(&models[1..], &HashMap::new(), &mut |block, progress| {
        assert_eq!(std::thread::current().id(), here);
        block.items.iter().for_each(|(item, _)| *items.entry(*item).or_insert(0) += 1);
        done.push((progress.done, progress.total, progress.row_layers));
        ControlFlow::Continue(())
    });
    let stats = outcome.expect("it runs").stats;
    assert!(done.len() as u64 == stats.waves && stats.waves > 20, "{stats:?}");
    assert!(items.len() as u64 == stats.run && items.values().all(|n| *n == 1));
    assert!(done.windows(2).all(|w| w[0].0 < w[1].0 && w[0].2 <= w[1].2), "{done:?}");
    assert_eq!(done.last().map(|d| d.0), done.last().map(|d| d.1));
}

/// A wave that would fit on one device becomes one for each; what every device computes by itself is counted.
#[test]
fn a_single_wave_is_shared_out_and_every_run_is_counted() {
    let models = load_on(vec![Cpu; 4], 3);
    let pairs = random_pairs(3, 4, models[0].spec.d_vocab);
    let mut sweep = sweep(&models[0], &pairs, By::HeadPos);
    sweep.limits = Limits { max_rows: 1 << 20, cache_bytes: 1 << 30 };
    let alone = run(&sweep);
    assert_eq!(alone.stats.waves, 1);
    let all_known = |outcome: &Outcome| (0..).zip(outcome.metric.iter().copied()).collect::<HashMap<Item, f32>>();
    let known = sweep.run(&all_known(&alone), &mut |_, _| ControlFlow::Continue(())).expect("it runs");
    let unpatched = known.stats.rows;
    assert!(known.stats.run == 0 && unpatched.attn > 0);
    for n in 2..=4 {
        let shared = run_with(&sweep, &models[1..n]).stats;
        assert_eq!(shared.waves, n as u64);
        assert_eq!(shared.rows.attn, alone.stats.rows.attn + (n as u64 - 1) * unpatched.attn);
        assert_eq!(shared.rows.mlp, alone.stats.rows.mlp + (n as u64 - 1) * unpatched.mlp);
    }
}

#[test]
fn devices_that_do_not_agree_on_the_unpatched_runs_are_refused() {
    let mut models = load_on(vec![Cpu; 2], 3);
    let spec = models[0].spec.clone();
    let others = RandomParams { spec: spec.clone(), seed: 4 };
    models.push(Model::load(spec, &others, Cpu, &|_| ()).expect("it loads"));
    let pairs = random_pairs(3, 2, models[0].spec.d_vocab);
    let (result, seen) = seen(&sweep(&models[0], &pairs, By::Head), &models[1..], 1000);
    assert!(matches!(result, Err(SweepError::DevicesDiffer { .. })) && seen.is_empty());
}

/// What goes wrong on the calling thread while others work ends the sweep, too.
#[test]
fn a_patch_that_overflows_and_an_observer_that_panics_end_the_sweep() {
    let models = load_on(vec![Cpu; 3], 3);
    let pairs = random_pairs(3, 3, models[0].spec.d_vocab);
    let mut sweep = sweep(&models[0], &pairs, By::Layer);
    sweep.sites.retain(|s| s.site.name() == "attn_out");
    sweep.limits.max_rows = 1;
    let panicking = || sweep.run_with(&models[1..], &HashMap::new(), &mut |_, _| panic!("the observer")).is_ok();
    assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
    sweep.patch = PatchKind::Scale(f32::MAX);
    let (result, _) = seen(&sweep, &models[1..], 1000);
    assert!(matches!(result, Err(SweepError::PatchNotFinite { .. })), "{:?}", result.err());
}

#[cfg(feature = "emulator")]
mod emulated {
    use super::watched::{Watch, Watched};
    use super::*;
    use patchwave::backend::cuda::driver::{Driver, DriverError};
    use patchwave::backend::cuda::emulated::{AsyncCopies, Emulated, Schedule};
    use patchwave::backend::cuda::{Cuda, Precision};
    use patchwave::backend::{BackendError, cuda};
    use std::path::Path;
    use std::process::{Command, Output};
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    fn on<D: Driver>(devices: Vec<D>, precision: Precision) -> Vec<Cuda<D>> {
        devices.into_iter().map(|d| Cuda::new(d, precision).expect("every kernel is there")).collect()
    }

    fn gpus(n: usize) -> Vec<Emulated> {
        (0..n).map(|_| Emulated::default()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

        #[test]
        fn two_and_three_gpus_give_the_bits_of_one(
            seed in any::<u64>(),
            by in prop::sample::select(vec![By::Head, By::HeadPos]),
            direction in prop::sample::select(vec![Direction::Denoise, Direction::Noise]),
            patch in prop::sample::select(patches()),
            limits in limits(),
            devices in 2usize..4,
            hopper in any::<bool>(),
            precision in prop::sample::select(vec![Precision::Float32, Precision::Bf16x3, Precision::Bfloat16]),
        ) {
            let devices = gpus(devices).into_iter().map(|d| if hopper { d.hopper() } else { d }).collect();
            shared_equals_alone(&load_on(on(devices, precision), seed), seed, (by, direction, patch), limits);
        }
    }

    /// One of the devices has too little memory for whole waves: it gives back halves, and the bits stay.
    #[test]
    fn a_device_that_runs_out_of_memory_gives_back_halves() {
        let pairs = random_pairs(7, 3, 37);
        let with = |devices: Vec<Emulated>| {
            let models = load_on(on(devices, Precision::Float32), 7);
            let mut sweep = sweep(&models[0], &pairs, By::HeadPos);
            sweep.sites.retain(|s| s.site.name() == "z");
            let result = run_with(&sweep, &models[1..]);
            (result, models[0].backend.driver().memory_used())
        };
        let (whole, used) = with(gpus(1));
        assert_eq!(with(gpus(2)).0.stats.waves, 2);
        for share in [60, 70, 80] {
            let bounded = |i: usize, n: usize| {
                let limited = |d: Emulated, at| if at == i { d.with_memory(used * share / 100) } else { d };
                gpus(n).into_iter().zip(0..).map(|(d, at)| limited(d, at)).collect::<Vec<_>>()
            };
            for devices in [bounded(0, 2), bounded(1, 2), bounded(1, 3)] {
                same_bits(&with(devices).0, &whole, Direction::Denoise);
            }
            let both = gpus(2).into_iter().map(|d| d.with_memory(used * share / 100)).collect();
            let (cut, _) = with(both);
            assert!(cut.stats.waves > 2, "with {share} % of {used} bytes on both");
            same_bits(&cut, &whole, Direction::Denoise);
        }
    }

    /// Under the checker, which knows whose memory is whose: no device reads or writes another's.
    #[test]
    fn two_devices_under_the_checker_have_nothing_to_report() {
        let pairs = random_pairs(1, 1, 37);
        let plain = load_on(on(gpus(1), Precision::Float32), 1);
        let checked = (0..2).map(|i| Emulated::new(Schedule::Random(i), AsyncCopies::Random, true)).collect();
        let checked = load_on(on(checked, Precision::Float32), 1);
        let shared = run_with(&sweep(&checked[0], &pairs, By::Head), &checked[1..]);
        checked.iter().for_each(|m| m.backend.check().expect("nothing failed"));
        same_bits(&shared, &run(&sweep(&plain[0], &pairs, By::Head)), Direction::Denoise);
    }

    /// Where launches of several devices meet, and how often one of them may still launch.
    #[derive(Default)]
    struct Script {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        /// Devices that are to meet, once that is set.
        expected: usize,
        met: Vec<usize>,
        /// Device and launches that are left to it.
        fails: Option<(usize, usize)>,
    }

    impl Script {
        fn change(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.state.lock().unwrap());
            self.changed.notify_all();
        }

        fn launched_by(&self, device: usize) -> Result<(), DriverError> {
            let mut state = self.state.lock().unwrap();
            if let Some((failing, left)) = &mut state.fails
                && *failing == device
            {
                *left = left.checked_sub(1).ok_or(DriverError::Launch { message: "the card is gone".into() })?;
            }
            if state.expected > 0 && !state.met.contains(&device) {
                state.met.push(device);
                self.changed.notify_all();
                let alone = |s: &mut State| s.met.len() < s.expected;
                let (state, waited) = self.changed.wait_timeout_while(state, Duration::from_secs(60), alone).unwrap();
                assert!(!waited.timed_out(), "only {:?} work", state.met);
            }
            Ok(())
        }
    }

    /// A device whose launches follow a script.
    type Scripted = Watched<Emulated, Follows>;

    struct Follows {
        number: usize,
        script: Arc<Script>,
    }

    impl Watch for Follows {
        fn launches(&self) -> Result<(), DriverError> {
            self.script.launched_by(self.number)
        }
    }

    fn scripted(n: usize, seed: u64) -> (Vec<Model<Cuda<Scripted>>>, Arc<Script>) {
        let script = Arc::new(Script::default());
        let device =
            |number| Scripted { device: Emulated::default(), watch: Follows { number, script: script.clone() } };
        (load_on(on((0..n).map(device).collect(), Precision::Float32), seed), script)
    }

    /// After the first wave, each device waits in a launch until the others are in one.
    #[test]
    fn all_devices_work_at_once() {
        let (models, script) = scripted(3, 5);
        let pairs = random_pairs(5, 2, models[0].spec.d_vocab);
        let mut sweep = sweep(&models[0], &pairs, By::HeadPos);
        sweep.limits.max_rows = 20;
        let result = sweep.run_with(&models[1..], &HashMap::new(), &mut |_, _| {
            script.change(|s| s.expected = 3);
            ControlFlow::Continue(())
        });
        assert!(result.expect("it runs").stats.waves > 20);
        assert_eq!(script.state.lock().unwrap().met.len(), 3);
    }

    /// Whichever device fails, in its unpatched runs or in a wave: the sweep ends with that failure, and what was seen
    /// before is good.
    #[test]
    fn a_device_that_fails_ends_the_sweep_with_its_error() {
        let (models, script) = scripted(3, 5);
        let pairs = random_pairs(5, 2, models[0].spec.d_vocab);
        let mut sweep = sweep(&models[0], &pairs, By::Head);
        let alone = run(&sweep);
        sweep.limits.max_rows = 20;
        for (device, launches) in [(1, 0), (2, 30), (0, 200), (1, 200), (2, 400)] {
            script.change(|s| s.fails = Some((device, launches)));
            let (result, known) = seen(&sweep, &models[1..], usize::MAX);
            let Err(SweepError::Backend(BackendError::Device(cuda::DriverError::Launch { message }))) = result else {
                panic!("device {device}, {launches} launches: {:?}", result.err());
            };
            assert_eq!(message, "the card is gone");
            script.change(|s| s.fails = None);
            assert!(known.len() < alone.stats.run as usize);
            let rest = sweep.run_with(&models[1..], &known, &mut |_, _| ControlFlow::Continue(())).expect("it runs");
            same_bits(&rest, &alone, sweep.direction);
        }
    }

    fn patchwave(folder: &Path, args: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_patchwave"));
        command.current_dir(folder).args(args.split_whitespace()).output().expect("the program starts")
    }

    /// The demo by way of the command line, in few waves and in many, to the same file.
    #[test]
    fn the_command_line_takes_several() {
        let folder = tempfile::tempdir().expect("a folder");
        let effects = |devices: &str, more: &str| {
            let args = format!("sweep --pairs 4 --verify 2 --output run --force --device {devices} {more}");
            let output = patchwave(folder.path(), &args);
            let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
            assert_eq!(output.status.code(), Some(0), "{said}");
            let run = std::fs::read(folder.path().join("run/run.json")).expect("run.json");
            let run: serde_json::Value = serde_json::from_slice(&run).expect("JSON");
            let device = run["device"].as_str().expect("a text").to_owned();
            (std::fs::read(folder.path().join("run/effects.safetensors")).expect("effects"), device, said)
        };
        let (alone, device, said) = effects("emulated", "");
        assert!(device == "emulated GPU 0" && !said.contains("device: "), "{device}");
        for (devices, more) in [("emulated,emulated", ""), ("emulated,emulated,emulated", "--max-memory 80MB")] {
            let (shared, device, said) = effects(devices, more);
            assert!(shared == alone, "{devices} {more}");
            assert!(device.starts_with("emulated GPU 0; emulated GPU 1"), "{device}");
            assert!(said.contains(&format!("device: {device}")), "{said}");
        }
    }
}

//! What a sweep costs the host on a GPU: how often it waits for the device, and its own time for each launch. The GPU is a
//! stand-in for libcuda that does nothing, in no time, so this is all host and not yet run on hardware.
//!
//! The model is of GPT-2 small's shape, the sweep `z` of all 144 heads over 32 pairs of 15 tokens. Its host time:
//! `cargo test --release --test host_cost -- --ignored --nocapture --exact host_time`

mod stand_in;

use patchwave::backend::cuda::nvidia::{Nvidia, Unavailable, probe};
use patchwave::backend::cuda::{Cuda, Precision};
use patchwave::engine::{Model, Site};
use patchwave::model::spec::*;
use patchwave::model::{ModelError, Params};
use patchwave::prompts::Pair;
use patchwave::sweep::{By, Direction, Limits, Metric, PatchKind, Selection, SiteCells, Sweep, SweepStats};
use stand_in::over_the_stand_in;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LAYERS: usize = 12;
const HEADS: usize = 12;
const D_MODEL: usize = 768;
const TOKENS: u32 = 15;

/// GPT-2 small with a short vocabulary.
fn spec() -> ModelSpec {
    let norm = |tensor: String| {
        let (kind, weight, scope) = (NormKind::LayerNorm, NormWeight::Scale, NormScope::Full);
        Some(NormSpec { kind, eps: 1e-5, weight, bias: true, scope, tensor })
    };
    let attn = AttnSpec {
        n_heads: HEADS,
        n_kv_heads: HEADS,
        d_qk: D_MODEL / HEADS,
        d_v: D_MODEL / HEADS,
        scale: 0.125,
        rope: None,
        alibi: None,
        window: None,
        softcap: None,
        sinks: false,
        qkv_clip: None,
        q_norm: None,
        k_norm: None,
        qk_norm_at: QkNormAt::BeforeRope,
        q_temperature: None,
        bias: QkvoBias { q: true, k: true, v: true, o: true },
    };
    let bias = MlpBias { gate: false, up: true, down: true };
    let mlp = MlpSpec { d_mlp: 4 * D_MODEL, gated: false, act: Act::GeluTanh, bias };
    let sub = |op, tensor| SubLayer { op, pre_norm: norm(tensor), post_norm: None, resid_norm: None };
    let block = |l: usize| BlockSpec {
        subs: vec![
            sub(Op::Attn(attn.clone()), format!("blocks.{l}.ln1")),
            sub(Op::Mlp(mlp.clone()), format!("blocks.{l}.ln2")),
        ],
        parallel: false,
        resid_scale: 1.0,
    };
    ModelSpec {
        family: "random".into(),
        d_model: D_MODEL,
        d_vocab: 1000,
        n_ctx: Some(64),
        embed: EmbedSpec {
            projected: None,
            scale: 1.0,
            positions: Some(LearnedPositions { rows: 64, offset: 0 }),
            norm: None,
        },
        ropes: Vec::new(),
        blocks: (0..LAYERS).map(block).collect(),
        final_norm: norm("ln_final".into()),
        unembed: UnembedSpec { tied: true, bias: false, scale: 1.0, softcap: None },
    }
}

/// Numbers do not matter to a device that does nothing.
struct Ones;

impl Params for Ones {
    fn read(&self, _: &str, out: &mut [f32]) -> Result<(), ModelError> {
        out.fill(1.0);
        Ok(())
    }
}

/// Pairs that first differ at the sixth token.
fn pairs(n: u32) -> Vec<Pair> {
    let pair = |i: u32| {
        let clean: Vec<u32> = (0..TOKENS).map(|t| (t * 37 + i * 11) % 1000).collect();
        let mut corrupted = clean.clone();
        corrupted[5] = (clean[5] + 1) % 1000;
        Pair { clean, corrupted, answers: vec![1], wrong: vec![2], ..Pair::default() }
    };
    (0..n).map(pair).collect()
}

/// What the stand-in has been asked for so far.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Counts {
    launches: u64,
    uploads: u64,
    downloads: u64,
    stream_waits: u64,
    event_waits: u64,
    allocations: u64,
}

impl Counts {
    fn now() -> Counts {
        // SAFETY: the stand-in exports it with this type, and is loaded already.
        unsafe {
            let library = libloading::Library::new("libcuda.so").expect("the stand-in");
            let counts: libloading::Symbol<'_, unsafe extern "C" fn(*mut Counts)> =
                library.get(b"stand_in_counts").expect("the stand-in");
            let mut now = Counts::default();
            counts(&mut now);
            now
        }
    }

    fn since(self, before: Counts) -> Counts {
        Counts {
            launches: self.launches - before.launches,
            uploads: self.uploads - before.uploads,
            downloads: self.downloads - before.downloads,
            stream_waits: self.stream_waits - before.stream_waits,
            event_waits: self.event_waits - before.event_waits,
            allocations: self.allocations - before.allocations,
        }
    }
}

/// The model on the stand-in. None without kernels for its card.
fn model() -> Option<Model<Cuda<Nvidia>>> {
    let gpu = match Nvidia::open(&probe().unwrap()[0]) {
        Ok(gpu) => gpu,
        Err(Unavailable::Kernels { error, .. }) => {
            println!("skipped: {error}");
            return None;
        }
        Err(e) => panic!("{e}"),
    };
    let backend = Cuda::new(gpu, Precision::Float32).unwrap();
    Some(Model::load(Arc::new(spec()), &Ones, backend, &|_| ()).unwrap())
}

/// The sweep of `n` pairs, in waves of `max_rows`, several times: what was asked for, and the shortest time.
fn sweep(model: &Model<Cuda<Nvidia>>, n: u32, max_rows: usize, times: usize) -> (Counts, SweepStats, Duration) {
    let pairs = pairs(n);
    let sweep = Sweep {
        model,
        pairs: &pairs,
        sites: vec![SiteCells::new(&model.spec, Site::Z, By::Head, 0, &Selection::default())],
        columns: vec![],
        restricted: false,
        direction: Direction::Denoise,
        patch: PatchKind::Source,
        metric: Metric::LogitDiff,
        align: None,
        limits: Limits { max_rows, cache_bytes: 1 << 40 },
        skip: true,
    };
    let mut best: Option<(Counts, SweepStats, Duration)> = None;
    for _ in 0..times {
        let (before, start) = (Counts::now(), Instant::now());
        let stats = sweep.run(&HashMap::new(), &mut |_, _| ControlFlow::Continue(())).unwrap().stats;
        let (time, counts) = (start.elapsed(), Counts::now().since(before));
        if best.as_ref().is_none_or(|(.., shortest)| time < *shortest) {
            best = Some((counts, stats, time));
        }
    }
    best.expect("at least one")
}

/// Results alone are waited for: what a wave returns, and before the waves what a plan is made from.
#[test]
fn a_wave_waits_for_the_device_once() {
    over_the_stand_in("waits_over_the_stand_in", &[("STAND_IN_IDLE", "1")]);
}

#[test]
#[ignore = "run by the test above, as a process of its own"]
fn waits_over_the_stand_in() {
    let Some(model) = model() else { return };
    let (whole, stats, _) = sweep(&model, 32, 1 << 16, 1);
    assert_eq!((stats.waves, stats.run), (1, 144 * 32));
    // Which activations of a layer differ, both runs' metrics, which answer each pair prefers.
    let before = LAYERS as u64 + 2 + 1;
    assert_eq!((whole.stream_waits, whole.downloads), (before + 1, before + 1), "{whole:?}");
    let (cut, stats, _) = sweep(&model, 32, 4096, 1);
    assert!(stats.waves > 5);
    assert_eq!(cut.stream_waits, before + stats.waves, "{cut:?}");
}

/// Prints the figures of docs/performance.md.
#[test]
#[ignore = "a measurement"]
fn host_time() {
    over_the_stand_in("host_time_over_the_stand_in", &[("STAND_IN_IDLE", "1"), ("RAYON_NUM_THREADS", "1")]);
}

#[test]
#[ignore = "run by the test above, as a process of its own"]
fn host_time_over_the_stand_in() {
    let Some(model) = model() else { return };
    for n in [1, 32] {
        let (counts, stats, time) = sweep(&model, n, 1 << 16, 200);
        let each = time.as_secs_f64() * 1e6 / counts.launches as f64;
        let rows = stats.rows.attn / LAYERS as u64;
        println!("{n} pairs, {rows} rows a layer: {time:.2?} of the host, {each:.1} µs for each launch; {counts:?}");
    }
}

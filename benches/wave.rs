//! The wave and its GEMM shapes on a model of SmolLM2-135M's shape with random weights.
//!
//! `cargo bench --bench wave`; single-threaded with `RAYON_NUM_THREADS=1`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use patchwave::backend::cpu::Cpu;
use patchwave::backend::{Backend, Epilogue, View, ViewMut, WeightSlice};
use patchwave::engine::{Model, Site};
use patchwave::model::spec::*;
use patchwave::model::{ModelError, Params};
use patchwave::prompts::Pair;
use patchwave::sweep::{By, Column, Direction, Limits, Metric, PatchKind, Selection, SiteCells, Sweep};
use std::collections::HashMap;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;

const D_MODEL: usize = 576;
const D_MLP: usize = 1536;

/// SmolLM2-135M with fewer layers and a small vocabulary.
fn spec(n_layers: usize) -> ModelSpec {
    let norm = |tensor: String| {
        Some(NormSpec {
            kind: NormKind::RmsNorm,
            eps: 1e-5,
            weight: NormWeight::Scale,
            bias: false,
            scope: NormScope::Full,
            tensor,
        })
    };
    let attn = AttnSpec {
        n_heads: 9,
        n_kv_heads: 3,
        d_qk: 64,
        d_v: 64,
        scale: 0.125,
        rope: Some(0),
        alibi: None,
        window: None,
        softcap: None,
        sinks: false,
        qkv_clip: None,
        q_norm: None,
        k_norm: None,
        qk_norm_at: QkNormAt::BeforeRope,
        q_temperature: None,
        bias: QkvoBias::default(),
    };
    let mlp = MlpSpec { d_mlp: D_MLP, gated: true, act: Act::Silu, bias: MlpBias::default() };
    let block = |l: usize| BlockSpec {
        subs: vec![
            SubLayer {
                op: Op::Attn(attn.clone()),
                pre_norm: norm(format!("blocks.{l}.ln1")),
                post_norm: None,
                resid_norm: None,
            },
            SubLayer {
                op: Op::Mlp(mlp.clone()),
                pre_norm: norm(format!("blocks.{l}.ln2")),
                post_norm: None,
                resid_norm: None,
            },
        ],
        parallel: false,
        resid_scale: 1.0,
    };
    ModelSpec {
        family: "llama".into(),
        d_model: D_MODEL,
        d_vocab: 1000,
        n_ctx: None,
        embed: EmbedSpec { projected: None, scale: 1.0, positions: None, norm: None },
        ropes: vec![RopeSpec {
            inv_freq: (0..32).map(|i| 1e5f32.powf(-(i as f32) / 32.0)).collect(),
            amplitude: 1.0,
            layout: RopeLayout::HalfSplit,
            by_length: None,
        }],
        blocks: (0..n_layers).map(block).collect(),
        final_norm: norm("ln_final".into()),
        unembed: UnembedSpec { tied: true, bias: false, scale: 1.0, softcap: None },
    }
}

/// Weights of about unit gain, from a linear congruential generator.
struct Random;

impl Params for Random {
    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let mut state = name.bytes().fold(1u64, |h, b| h.wrapping_mul(31).wrapping_add(b as u64));
        for x in out {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *x = ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.1;
        }
        Ok(())
    }
}

/// Pairs of 17 tokens that first differ at the 12th, as IOI pairs do.
fn pairs(n: usize) -> Vec<Pair> {
    (0..n as u32)
        .map(|i| {
            let clean: Vec<u32> = (0..17).map(|t| (t * 37 + i * 11) % 1000).collect();
            let mut corrupted = clean.clone();
            corrupted[11] = (clean[11] + 1) % 1000;
            Pair { clean, corrupted, answers: vec![1], wrong: vec![2], ..Pair::default() }
        })
        .collect()
}

fn sweep<'a>(model: &'a Model<Cpu>, pairs: &'a [Pair], by: By) -> Sweep<'a, Cpu> {
    let columns: Vec<Column> =
        (0..17).map(|i| Column { label: i.to_string(), at: vec![Some(i); pairs.len()] }).collect();
    Sweep {
        model,
        pairs,
        sites: vec![SiteCells::new(&model.spec, Site::Z, by, columns.len(), &Selection::default())],
        columns,
        restricted: false,
        direction: Direction::Denoise,
        patch: PatchKind::Source,
        metric: Metric::LogitDiff,
        align: None,
        limits: Limits::default(),
        skip: true,
    }
}

fn waves(c: &mut Criterion) {
    let mut group = c.benchmark_group("wave");
    group.sample_size(10);
    let layers: usize = std::env::var("PATCHWAVE_BENCH_LAYERS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let model = Model::load(Arc::new(spec(layers)), &Random, Cpu, &|_| ()).expect("random weights load");
    let pairs = pairs(8);
    for by in [By::Head, By::HeadPos] {
        let sweep = sweep(&model, &pairs, by);
        let run = || sweep.run(&HashMap::new(), &mut |_, _| ControlFlow::Continue(())).expect("it runs");
        let rows = run().stats.rows;
        group.throughput(Throughput::Elements((rows.attn + rows.mlp) / 2)); // row-layers
        group.bench_function(format!("z by {}, {layers} layers, 8 pairs", by.name()), |b| b.iter(|| black_box(run())));
    }
    group.finish();
}

fn gemms(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm");
    group.sample_size(20);
    for (name, k, n) in
        [("qkv", D_MODEL, 960), ("o", D_MODEL, D_MODEL), ("gate|up", D_MODEL, 2 * D_MLP), ("down", D_MLP, D_MODEL)]
    {
        let weight = Cpu.pack(k, &[n], &mut |_, out| Random.read(name, out)).expect("random numbers pack");
        for m in [256, 2048] {
            let (x, mut y) = (vec![0.5; m * k], vec![0.0; m * n]);
            group.throughput(Throughput::Elements((2 * m * n * k) as u64)); // FLOP
            group.bench_function(format!("{name} {m}x{k}x{n}"), |b| {
                b.iter(|| {
                    let slice = WeightSlice { k: 0..k, n: 0..n };
                    Cpu.gemm(View::packed(&x, m, k), &weight, slice, Epilogue::none(), ViewMut::packed(&mut y, m, n));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, gemms, waves);
criterion_main!(benches);

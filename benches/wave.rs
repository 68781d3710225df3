//! The wave and its GEMM shapes on a model of SmolLM2-135M's shape with random weights.
//!
//! `cargo bench --bench wave`; single-threaded with `RAYON_NUM_THREADS=1`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use patchwave::backend::cpu::Cpu;
use patchwave::bench::numbers::RandomParams;
use patchwave::bench::{self, Case, WaveShape, like::like, wave};
use patchwave::engine::{Model, Site};
use patchwave::model::ModelSpec;
use patchwave::prompts::Pair;
use patchwave::sweep::{By, Column, Direction, Limits, Metric, PatchKind, Selection, SiteCells, Sweep};
use std::collections::HashMap;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Eight pairs of 17 tokens that first differ at the 12th, as IOI pairs do.
const SHAPE: WaveShape = WaveShape { rows: 0, pairs: 8, len: 17 };

/// SmolLM2-135M with fewer layers and a small vocabulary.
fn spec(n_layers: usize) -> ModelSpec {
    let mut spec = like("smollm2-135m").expect("a published model");
    spec.blocks.truncate(n_layers);
    spec.d_vocab = 1000;
    spec
}

fn sweep<'a>(model: &'a Model<Cpu>, pairs: &'a [Pair], by: By) -> Sweep<'a, Cpu> {
    let columns: Vec<Column> =
        (0..SHAPE.len as u32).map(|i| Column { label: i.to_string(), at: vec![Some(i); pairs.len()] }).collect();
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
    let spec = Arc::new(spec(layers));
    let params = RandomParams::new(&spec);
    let model = Model::load(spec, &params, Cpu, &|_| ()).expect("random weights load");
    let pairs = wave::pairs(&SHAPE, model.spec.d_vocab);
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
    let products = |rows| -> Vec<Case> {
        let all = bench::cases(&spec(1), &WaveShape { rows, ..SHAPE }).expect("a layer");
        all.into_iter().filter(|c| c.op == "gemm").collect()
    };
    for case in [256, 2048].into_iter().flat_map(products) {
        let mut call = bench::prepare(&Cpu, &case).expect("memory");
        group.throughput(Throughput::Elements(case.work(4.0).flops as u64));
        group.bench_function(format!("{} {}", case.name(), case.shape()), |b| b.iter(&mut call));
    }
    group.finish();
}

criterion_group!(benches, gemms, waves);
criterion_main!(benches);

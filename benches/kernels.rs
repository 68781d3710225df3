//! Row-wise operations and attention on the CPU, at the shapes of SmolLM2-135M's head sweep: what `patchwave bench` times,
//! under criterion's statistics. (Products are in benches/wave.rs.)
//!
//! `cargo bench --bench kernels`; single-threaded with `RAYON_NUM_THREADS=1`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use patchwave::backend::cpu::Cpu;
use patchwave::bench::{self, WaveShape, like::like};
use std::time::Duration;

fn rowwise(c: &mut Criterion) {
    let spec = like("smollm2-135m").expect("a published model");
    let shape = WaveShape { rows: 512, pairs: 8, len: 17 };
    let mut group = c.benchmark_group("smollm2-135m");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let cases = bench::cases(&spec, &shape).expect("a model with layers");
    for case in cases.iter().filter(|c| !c.is_product() && !matches!(c.op, "log_sum_exp" | "kl")) {
        let mut call = bench::prepare(&Cpu, case).expect("memory");
        group.throughput(Throughput::Bytes(case.work(4.0).bytes as u64));
        group.bench_function(format!("{} {}", case.name(), case.shape()), |b| b.iter(&mut call));
    }
    group.finish();
}

criterion_group!(benches, rowwise);
criterion_main!(benches);

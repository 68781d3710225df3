//! A whole head sweep on weights by chance, and where its time goes: the report of `patchwave bench sweep`.

use super::BenchError;
use super::ceiling::Ceilings;
use super::device::Benched;
use super::memory::listed;
use super::numbers::RandomParams;
use super::shape::WaveShape;
use super::timed::{Operation, Tally, Timed};
use super::work::Work;
use crate::backend::Backend;
use crate::engine::{Model, Site};
use crate::model::ModelSpec;
use crate::prompts::Pair;
use crate::sweep::{By, Direction, Limits, Metric, Needs, Outcome, PatchKind, Selection, SiteCells, Sweep};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is to be swept.
pub struct Plan {
    pub model: String,
    pub spec: Arc<ModelSpec>,
    pub pairs: usize,
    /// Tokens of a prompt; see [`WaveShape`] for where they differ.
    pub len: usize,
    pub limits: Limits,
    pub precision: &'static str,
    /// Time for each ceiling.
    pub budget: Duration,
    pub max_memory: Option<u64>,
}

/// All figures of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WaveReport {
    pub version: &'static str,
    pub device: String,
    pub model: String,
    pub precision: &'static str,
    pub layers: usize,
    /// Heads that are patched, each in every pair.
    pub heads: usize,
    pub pairs: usize,
    pub len: usize,
    /// Tokens that the prompts of a pair have in common at their beginning.
    pub first: usize,
    /// Weights of one shape have one set of numbers.
    pub shared_weights: bool,
    /// Most rows of a wave.
    pub max_rows: usize,
    pub waves: u64,
    /// Seconds of the whole sweep, base and source runs included, as a user would have it: the median of `runs`.
    pub seconds: f64,
    /// Seconds of each time it ran, in order.
    pub runs: Vec<f64>,
    /// Token rows through one attention and one MLP.
    pub row_layers: f64,
    pub row_layers_per_second: f64,
    /// Of all products by packed weights.
    pub gemm_flops: f64,
    pub gemm_flops_per_second: f64,
    /// Of the measured ceiling of products, over all of the time.
    pub share: f64,
    pub ceilings: Ceilings,
    /// Calls of the backend.
    pub operations: u64,
    /// Seconds that the host was busy in and between the operations that it need not wait for; None where operations have
    /// run when they return.
    pub host_seconds: Option<f64>,
    /// The device waits for the host: a larger wave, or a CUDA graph, could help.
    pub launch_bound: bool,
    /// Seconds of the sweep when each operation is waited for, which `breakdown` adds up to.
    pub timed_seconds: f64,
    pub breakdown: Vec<Part>,
}

/// One operation's part of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    pub operation: String,
    pub calls: u64,
    pub seconds: f64,
    /// Of the timed sweep.
    pub of_time: f64,
    pub flops: f64,
    pub bytes: f64,
    /// The least time that the ceilings leave, over that taken; None for what is neither computing nor moving numbers.
    pub share: Option<f64>,
}

/// Runs of the sweep as it is, and the seconds after which no other begins.
const RUNS: usize = 3;
const LONG: f64 = 20.0;
/// Above this part of the time, the host is what a sweep waits for.
const LAUNCH_BOUND: f64 = 0.8;

/// The sites of the sweep: z of every head.
fn sites(spec: &ModelSpec) -> Vec<SiteCells> {
    vec![SiteCells::new(spec, Site::Z, By::Head, 0, &Selection::default())]
}

/// What a sweep of `plan`'s kind needs, with weights that share their numbers.
pub fn needs(spec: &ModelSpec, len: usize) -> Needs {
    let mut known = HashSet::new();
    let mut parameters = 0u64;
    for p in spec.params() {
        // `blocks.3.attn.q.weight` is one of all layers' `attn.q.weight`.
        let kind = match p.name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((_, kind)) => kind.to_owned(),
            None => p.name,
        };
        let size = p.shape.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64));
        if known.insert((kind, p.shape)) {
            parameters = parameters.saturating_add(size);
        }
    }
    Needs::new(spec, parameters, &sites(spec), PatchKind::Source, len)
}

/// Pairs of the shape, whose prompts differ in one token; answers are tokens 0 and 1.
pub fn pairs(shape: &WaveShape, d_vocab: usize) -> Vec<Pair> {
    let token = |i: usize, t: usize| ((i * 7919 + t * 104_729) % d_vocab) as u32;
    (0..shape.pairs)
        .map(|i| {
            let clean: Vec<u32> = (0..shape.len).map(|t| token(i, t)).collect();
            let mut corrupted = clean.clone();
            let other = &mut corrupted[shape.first()];
            *other = (*other + 1) % d_vocab as u32;
            let wrong = vec![1 % d_vocab as u32];
            Pair { clean, corrupted, answers: vec![0], wrong, ..Pair::default() }
        })
        .collect()
}

/// Sweeps z of every head: once with every operation waited for, which is a warm-up, too, and then as it is, three times
/// unless that takes long.
/// `progress` is told what comes next.
///
/// # Errors
/// The model allows no prompts of this length; the device failed, or has no room.
pub fn run<B: Benched>(mut backend: B, plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<WaveReport, BenchError> {
    let spec = &plan.spec;
    if spec.n_ctx.is_some_and(|most| plan.len > most) {
        return Err(BenchError::TooLong { len: plan.len, most: spec.n_ctx.unwrap_or(0) });
    }
    listed(plan.pairs.saturating_mul(plan.len))?;
    progress("ceilings");
    let ceilings = Ceilings::measure(&mut backend, &[plan.precision], plan.budget, plan.max_memory)?;
    progress("weights by chance");
    backend.set_precision(plan.precision);
    let (device, asynchronous, weight_bytes) = (backend.device(), backend.is_asynchronous(), backend.weight_bytes());
    let params = RandomParams::new(spec);
    let model = Model::load(spec.clone(), &params, Timed::new(backend, weight_bytes), &|_| ())?;
    let shape = WaveShape { rows: 0, pairs: plan.pairs, len: plan.len };
    let pairs = pairs(&shape, spec.d_vocab);
    let sweep = Sweep {
        model: &model,
        pairs: &pairs,
        sites: sites(spec),
        columns: vec![],
        restricted: false,
        direction: Direction::Denoise,
        patch: PatchKind::Source,
        metric: Metric::LogitDiff,
        align: None,
        limits: plan.limits,
        skip: true,
    };
    let timed = |each: bool| -> Result<(Outcome, f64, BTreeMap<Operation, Tally>), BenchError> {
        let backend = &model.backend;
        backend.synchronize()?;
        backend.wait_for_each(each);
        backend.take();
        let start = Instant::now();
        let outcome = sweep.run(&HashMap::new(), &mut |_, _| ControlFlow::Continue(()))?;
        backend.synchronize()?;
        Ok((outcome, start.elapsed().as_secs_f64(), backend.take()))
    };
    progress("the sweep, each operation waited for");
    let (_, timed_seconds, each) = timed(true)?;
    progress("the sweep as it is");
    let mut runs = vec![timed(false)?];
    while runs.len() < RUNS && runs.iter().map(|r| r.1).sum::<f64>() < LONG {
        runs.push(timed(false)?);
    }
    let all_seconds: Vec<f64> = runs.iter().map(|r| r.1).collect();
    runs.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (outcome, seconds, plain) = runs.swap_remove(runs.len() / 2);

    let host_seconds = asynchronous.then(|| host(seconds, &plain));
    let gemm_flops: f64 = each.iter().filter(|(o, _)| o.product.is_some()).map(|(_, t)| t.work.flops).sum();
    let row_layers = (outcome.stats.rows.attn + outcome.stats.rows.mlp) as f64 / 2.0;
    let product = ceilings.product(plan.precision);
    Ok(WaveReport {
        version: env!("CARGO_PKG_VERSION"),
        device,
        model: plan.model.clone(),
        precision: plan.precision,
        layers: spec.n_layers(),
        heads: sweep.sites.iter().flat_map(|s| &s.cells).filter(|c| c.exists).count(),
        pairs: plan.pairs,
        len: plan.len,
        first: shape.first(),
        shared_weights: true,
        max_rows: plan.limits.max_rows,
        waves: outcome.stats.waves,
        seconds,
        runs: all_seconds,
        row_layers,
        row_layers_per_second: row_layers / seconds,
        gemm_flops,
        gemm_flops_per_second: gemm_flops / seconds,
        share: gemm_flops / seconds / product,
        operations: plain.values().map(|t| t.calls).sum(),
        host_seconds,
        launch_bound: host_seconds.is_some_and(|host| host > LAUNCH_BOUND * seconds),
        timed_seconds,
        breakdown: breakdown(&each, timed_seconds, plan.precision, &ceilings),
        ceilings,
    })
}

/// What is left of a sweep's seconds without the operations in which the host waits for the device: the time it takes to
/// plan and issue all the others. (Where a device's queue is full, issuing waits, too, and this is too much.)
fn host(seconds: f64, plain: &BTreeMap<Operation, Tally>) -> f64 {
    let waits: f64 = plain.values().filter(|t| t.waits).map(|t| t.time.as_secs_f64()).sum();
    (seconds - waits).max(0.0)
}

/// The operations, those that took longest first, and last what lies between them.
fn breakdown(each: &BTreeMap<Operation, Tally>, all: f64, precision: &str, ceilings: &Ceilings) -> Vec<Part> {
    let part = |operation: String, calls, seconds: f64, work: Work, share| Part {
        operation,
        calls,
        seconds,
        of_time: seconds / all,
        flops: work.flops,
        bytes: work.bytes,
        share,
    };
    let mut parts: Vec<Part> = each
        .iter()
        .map(|(operation, t)| {
            let seconds = t.time.as_secs_f64();
            let works = t.work != Work::default() && seconds > 0.0;
            let share = works.then(|| ceilings.least_time(precision, &t.work) / seconds);
            part(operation.to_string(), t.calls, seconds, t.work, share)
        })
        .collect();
    parts.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let between = all - parts.iter().map(|p| p.seconds).sum::<f64>();
    parts.push(part("between operations (host)".to_owned(), 0, between.max(0.0), Work::default(), None));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::like::like;

    #[test]
    fn layers_that_share_their_numbers_need_one_layers_memory() {
        let spec = like("llama-3-8b").expect("a spec");
        let layer = 4096 * (6144 + 4096 + 28_672) + 14_336 * 4096 + 2 * 4096u64;
        assert_eq!(needs(&spec, 15).weights, 4 * (layer + 2 * 128_256 * 4096 + 4096));
    }

    #[test]
    fn pairs_differ_in_one_token() {
        for (len, d_vocab) in [(15, 1000), (2, 2)] {
            let shape = WaveShape { rows: 0, pairs: 3, len };
            for pair in pairs(&shape, d_vocab) {
                let differ: Vec<usize> = (0..len).filter(|i| pair.clean[*i] != pair.corrupted[*i]).collect();
                assert_eq!(differ, [shape.first()]);
                assert!(pair.clean.iter().chain(&pair.corrupted).all(|t| (*t as usize) < d_vocab));
                assert_ne!(pair.answers, pair.wrong);
            }
        }
    }

    #[test]
    fn the_host_is_busy_where_it_does_not_wait() {
        let tally = |millis, waits| Tally { time: Duration::from_millis(millis), waits, ..Tally::default() };
        let of = |name| Operation { name, product: None };
        let plain = BTreeMap::from([
            (of("gemm"), tally(100, false)),
            (of("differs"), tally(300, true)),
            (of("download"), tally(500, true)),
        ]);
        assert!((host(1.0, &plain) - 0.2).abs() < 1e-12);
        assert_eq!(host(0.5, &plain), 0.0);
    }

    #[test]
    fn what_is_left_over_is_the_hosts() {
        let product =
            crate::bench::ceiling::ProductCeiling { precision: "float32", size: 1, flops: 10.0, of_rival: false };
        let ceilings = Ceilings { copy: 1.0, copy_bytes: 1, products: vec![product] };
        let tally = |seconds, flops| Tally {
            calls: 1,
            time: Duration::from_secs(seconds),
            work: Work { flops, bytes: 1.0 },
            waits: false,
        };
        let of = |name| Operation { name, product: None };
        let each = BTreeMap::from([(of("a"), tally(1, 5.0)), (of("b"), tally(2, 20.0))]);
        let parts = breakdown(&each, 4.0, "float32", &ceilings);
        let names: Vec<&str> = parts.iter().map(|p| p.operation.as_str()).collect();
        assert_eq!(names, ["b", "a", "between operations (host)"]);
        assert_eq!((parts[0].of_time, parts[0].share, parts[1].share), (0.5, Some(1.0), Some(1.0)));
        assert_eq!((parts[2].seconds, parts[2].share), (1.0, None));
    }
}

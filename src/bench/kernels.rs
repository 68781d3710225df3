//! Every operation of a sweep, timed alone: the report of `patchwave bench kernels`.

use super::ceiling::{Ceilings, rival_time};
use super::device::Benched;
use super::product::{self, ProductError};
use super::timing::{Timing, measure};
use super::{BenchError, Case, WaveShape, case, prepare};
use serde::Serialize;
use std::time::Duration;

/// What is to be timed, and for how long.
pub struct Plan<'a> {
    /// Whose shapes these are.
    pub model: String,
    pub shape: Option<WaveShape>,
    pub cases: Vec<Case>,
    pub precisions: &'a [&'static str],
    /// Time for each operation in each precision.
    pub budget: Duration,
    /// Bytes that may be used.
    pub max_memory: Option<u64>,
}

/// All figures of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelReport {
    pub version: &'static str,
    pub device: String,
    pub model: String,
    pub shape: Option<WaveShape>,
    /// Seconds that each operation was given.
    pub budget: f64,
    pub ceilings: Ceilings,
    /// The vendor's library for products, or why there is no comparison; None on a device that has none.
    pub rival: Option<String>,
    pub kernels: Vec<KernelRow>,
}

/// The figures of one operation in one precision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelRow {
    pub op: &'static str,
    pub part: Option<&'static str>,
    pub shape: String,
    /// Of the product; everything else is float32 in every precision.
    pub precision: &'static str,
    /// Seconds a call.
    pub time: Timing,
    pub flops: f64,
    pub bytes: f64,
    pub flops_per_second: f64,
    pub bytes_per_second: f64,
    /// Told in FLOP/s rather than in bytes a second.
    pub compute: bool,
    /// The least time that the ceilings leave, over the median. Above 1 where caches are faster than memory.
    pub share: f64,
    /// Which ceiling that is.
    pub bound: Bound,
    pub error: Option<ProductError>,
    pub rival: Option<RivalRow>,
}

/// The vendor's bare product of the same shape and precision (ours has its epilogue in it).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RivalRow {
    pub time: Timing,
    pub error: ProductError,
    /// The vendor's median over ours: 0.9 is nine tenths of its speed.
    pub of_rival: f64,
}

/// The ceiling that limits an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    Product,
    Copy,
}

impl KernelRow {
    /// `gemm qkv`
    pub fn name(&self) -> String {
        self.part.map_or_else(|| self.op.to_owned(), |part| format!("{} {part}", self.op))
    }
}

/// Times everything in `plan`; `progress` is told each operation before it begins.
///
/// # Errors
/// The device failed, or has no room.
pub fn run<B: Benched>(
    backend: &mut B,
    plan: &Plan<'_>,
    progress: &mut dyn FnMut(&str),
) -> Result<KernelReport, BenchError> {
    progress("ceilings");
    let ceilings = Ceilings::measure(backend, plan.precisions, plan.budget, plan.max_memory)?;
    let rival = backend.rival().map(|r| match r {
        Ok(rival) => rival.name(),
        Err(reason) => format!("cuBLASLt: not found ({reason})"),
    });
    let mut kernels = Vec::new();
    for case in &plan.cases {
        let precisions = if case.is_product() { plan.precisions } else { &["float32"] };
        for precision in precisions {
            progress(&case.name());
            backend.set_precision(precision);
            kernels.push(row(&*backend, case, precision, plan.budget, &ceilings)?);
        }
    }
    Ok(KernelReport {
        version: env!("CARGO_PKG_VERSION"),
        device: backend.device(),
        model: plan.model.clone(),
        shape: plan.shape,
        budget: plan.budget.as_secs_f64(),
        ceilings,
        rival,
        kernels,
    })
}

fn row<B: Benched>(
    backend: &B,
    case: &Case,
    precision: &'static str,
    budget: Duration,
    ceilings: &Ceilings,
) -> Result<KernelRow, BenchError> {
    let time = measure(backend, budget, backend.yardstick().sample, &mut *prepare(backend, case)?)?;
    let work = case.work(backend.weight_bytes());
    let (mut error, mut rival_row) = (None, None);
    if let case::Kind::Gemm { m, k, n, .. } = case.kind {
        error = Some(product::error(backend, m, n, k)?);
        if let Some(Ok(rival)) = backend.rival() {
            let theirs = rival_time(backend, &*rival, precision, (m, n, k), budget)?;
            rival_row =
                theirs.map(|(theirs, error)| RivalRow { time: theirs, error, of_rival: theirs.median / time.median });
        }
    }
    let product = work.flops / ceilings.product(precision);
    Ok(KernelRow {
        op: case.op,
        part: case.part,
        shape: case.shape(),
        precision,
        time,
        flops: work.flops,
        bytes: work.bytes,
        flops_per_second: work.flops / time.median,
        bytes_per_second: work.bytes / time.median,
        compute: case.is_compute(),
        share: ceilings.least_time(precision, &work) / time.median,
        bound: if product > work.bytes / ceilings.copy { Bound::Product } else { Bound::Copy },
        error,
        rival: rival_row,
    })
}

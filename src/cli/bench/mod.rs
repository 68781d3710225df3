//! `patchwave bench`: how fast the operations of a sweep are, and a whole one, against what the device can do.

mod table;

use super::device::{self, Chosen, DeviceChoice};
use super::terminal::{note, say};
use super::{model, usage};
use crate::Error;
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::Cuda;
use crate::bench::{self, Benched, Case, WaveShape, kernels, like, wave};
use crate::export::ExportError;
use crate::model::ModelSpec;
use crate::sweep::{Limits, Needs, select};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const MORE: &str = "\
kernels times every operation of a sweep alone, at the shapes of a model's head sweep, and compares each with two ceilings
that it measures in the same run: a large copy and a large product. sweep runs a whole head sweep on random weights and tells
where its time goes. No weights are read.

Examples:
  patchwave bench --like gpt2
  patchwave bench kernels --model SmolLM2-135M --json report.json --output roofline.svg
  patchwave bench --shape 4096,4096,4096 --device cuda
  patchwave bench sweep --like llama-3-8b --layers 2";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub struct Args {
    /// kernels: each operation alone; sweep: a whole sweep on random weights
    #[arg(value_enum, default_value = "kernels")]
    what: What,
    /// Shapes of this model: a folder, .gguf file or hub id
    #[arg(long, conflicts_with_all = ["like", "shape"])]
    model: Option<String>,
    /// Shapes of a published model: gpt2, pythia-1.4b, llama-3-8b or smollm2-135m [default: gpt2]
    #[arg(long, conflicts_with = "shape")]
    like: Option<String>,
    /// One product alone: rows, output and input dimensions
    #[arg(long, value_name = "M,N,K")]
    shape: Option<String>,
    /// Rows of the wave [default: the height of the wave of all heads, on a CPU at most 1024]; sweep: the most of a wave
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,
    /// Pairs of prompts
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pairs: u32,
    /// Tokens of a prompt; those of a pair first differ after two thirds of them
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=1 << 16))]
    len: u32,
    /// sweep: only so many of the model's layers
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    layers: Option<u32>,
    /// auto, cpu, cuda, cuda:N or emulated
    #[arg(long, default_value = "auto")]
    device: String,
    /// float32, bf16x3 or bfloat16 [default: kernels: all that the device has; sweep: float32]
    #[arg(long)]
    dtype: Option<String>,
    /// Memory that the run may use: 8GiB [default: what is free]
    #[arg(long)]
    max_memory: Option<String>,
    /// Seconds for each operation and each ceiling
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3, value_parser = seconds)]
    time: f64,
    /// Write the report as JSON to this file, or without FILE to standard output instead of the table
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// kernels: write a roofline picture to this .svg file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Kernels,
    Sweep,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= 3600.0 => Ok(s),
        _ => Err("expected seconds above 0, at most 3600".to_owned()),
    }
}

/// Rows of a wave that keep a CPU's run below about a minute; more would not be faster.
const CPU_ROWS: usize = 1024;

/// The bounds of a sweep, from what it needs and the length of its prompts.
type LimitsOf<'a> = Box<dyn Fn(&Needs, usize) -> Result<Limits, Error> + 'a>;

/// What the devices differ in.
struct Device<'a> {
    /// Bytes that may be used.
    max_memory: Option<u64>,
    /// Rows of a wave, unless the model has fewer.
    rows: usize,
    limits: LimitsOf<'a>,
}

pub fn run(args: Args) -> Result<(), Error> {
    check(&args)?;
    let max_memory = args.max_memory.as_deref().map(select::bytes).transpose().map_err(usage)?;
    let dtype = args.dtype.as_deref().unwrap_or("float32");
    if args.device.parse::<DeviceChoice>().map_err(usage)?.is_several() {
        return Err(usage(format!("--device {}: bench measures a single device", args.device)));
    }
    let limits_of_host: LimitsOf<'_> = Box::new(move |needs, len| {
        let bounded = max_memory.or_else(free_memory).map(|max| needs.limits(max, len)).transpose().map_err(usage)?;
        Ok(bounded.filter(|_| max_memory.is_some()).unwrap_or_default())
    });
    match device::choose(&args.device, dtype)? {
        Chosen::Cpu(reason) => {
            if let Some(reason) = reason {
                note(&format!("device: {}; {}", Cpu.device(), device::short_reason(&reason)));
            }
            let max_memory = max_memory.or_else(free_memory);
            run_on(Cpu, &Device { max_memory, rows: CPU_ROWS, limits: limits_of_host }, &args)
        }
        Chosen::Cuda(mut gpus) => {
            let precision = device::precision(dtype).map_err(usage)?;
            let gpu = gpus.remove(0);
            let free = gpu.free_bytes().map_err(|e| device::not_usable("cuda", &e))?;
            let ordinal = gpu.info().ordinal;
            let limits: LimitsOf<'_> = Box::new(move |needs, len| {
                device::gpu_limits(needs, precision, ordinal, free, max_memory, len)
                    .map_err(|e| usage(format!("--device cuda: {e}")))
            });
            let backend = Cuda::new(gpu, precision).map_err(|e| device::not_usable("cuda", &e))?;
            let rows = device::MAX_ROWS as usize;
            let max_memory = Some(max_memory.unwrap_or(u64::MAX).min(free - free / 20));
            run_on(backend, &Device { max_memory, rows, limits }, &args)
        }
        #[cfg(feature = "emulator")]
        Chosen::Emulated(device::Emulated { hopper, .. }) => {
            let precision = device::precision(dtype).map_err(usage)?;
            use crate::backend::cuda::emulated::Emulated;
            let card = if hopper { Emulated::default().hopper() } else { Emulated::default() };
            let backend = Cuda::new(card, precision).map_err(|e| device::not_usable("emulated", &e))?;
            let max_memory = max_memory.or_else(free_memory);
            run_on(backend, &Device { max_memory, rows: 16, limits: limits_of_host }, &args)
        }
    }
}

/// Options that belong to the other benchmark.
fn check(args: &Args) -> Result<(), Error> {
    let sweep = args.what == What::Sweep;
    if sweep && args.shape.is_some() {
        return Err(usage("--shape is for kernels; sweep takes --like or --model"));
    }
    if sweep && args.output.is_some() {
        return Err(usage("--output: the roofline picture is of kernels; sweep has --json"));
    }
    if !sweep && args.layers.is_some() {
        return Err(usage("--layers is for sweep; kernels times one layer's operations"));
    }
    if args.shape.is_some() && args.rows.is_some() {
        return Err(usage("--rows: --shape has the rows in it, as M"));
    }
    match &args.output {
        Some(path) if path.extension().is_none_or(|e| e != "svg") => {
            Err(usage(format!("--output {}: the roofline picture is SVG; the name must end in .svg", path.display())))
        }
        _ => Ok(()),
    }
}

/// Four fifths of what the system says is free; None where it does not say.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib.saturating_mul(1024) / 5 * 4)
}

/// The model whose shapes are taken, and its name.
fn spec(args: &Args) -> Result<(String, ModelSpec), Error> {
    match &args.model {
        Some(name) => {
            let files = model::open(name, &[])?;
            Ok((model::name(&files), files.spec))
        }
        None => {
            let name = args.like.as_deref().unwrap_or("gpt2");
            Ok((format!("like {name}"), like::like(name)?))
        }
    }
}

fn run_on<B: Benched>(backend: B, device: &Device<'_>, args: &Args) -> Result<(), Error> {
    match args.what {
        What::Kernels => run_kernels(backend, device, args),
        What::Sweep => run_sweep(backend, device, args),
    }
}

/// The precision asked for, as the device names it.
fn precision<B: Benched>(backend: &B, args: &Args) -> Option<&'static str> {
    let asked = args.dtype.as_deref()?;
    backend.precisions().iter().find(|p| **p == asked).copied()
}

fn run_kernels<B: Benched>(mut backend: B, device: &Device<'_>, args: &Args) -> Result<(), Error> {
    let one = precision(&backend, args);
    let precisions = one.as_ref().map_or(backend.precisions(), std::slice::from_ref);
    backend.set_precision(precisions[0]); // the widest, which memory is reckoned with
    let bytes = backend.weight_bytes();
    let (model, shape, cases) = match &args.shape {
        Some(text) => {
            let case = Case::parse(text)?;
            bench::check(std::slice::from_ref(&case), case.rows(), bytes, device.max_memory)?;
            (format!("shape {text}"), None, vec![case])
        }
        None => {
            let (name, spec) = spec(args)?;
            let (pairs, len) = (args.pairs as usize, args.len as usize);
            let usual = WaveShape::peak(&spec, pairs, len).min(device.rows);
            let rows = args.rows.map(|r| r as usize);
            let (shape, cases) = bench::fitting(&spec, (rows, usual), (pairs, len), bytes, device.max_memory)?;
            (name, Some(shape), cases)
        }
    };
    let budget = Duration::from_secs_f64(args.time);
    let plan = kernels::Plan { model, shape, cases, precisions, budget, max_memory: device.max_memory };
    let report = kernels::run(&mut backend, &plan, &mut |what| note(what))?;
    if let Some(path) = &args.output {
        write(path, &table::picture(&report).to_svg()?)?;
    }
    tell(args, &report, || table::kernels(&report))?;
    if let (Some(path), false) = (&args.output, to_stdout(args)) {
        say(&format!("\n{}", path.display()));
    }
    Ok(())
}

fn run_sweep<B: Benched>(backend: B, device: &Device<'_>, args: &Args) -> Result<(), Error> {
    let (model, mut spec) = spec(args)?;
    if let Some(layers) = args.layers {
        spec.blocks.truncate(layers as usize);
    }
    let len = args.len as usize;
    let mut limits = (device.limits)(&wave::needs(&spec, len), len)?;
    if let Some(rows) = args.rows {
        limits.max_rows = rows as usize;
    }
    let plan = wave::Plan {
        model,
        spec: Arc::new(spec),
        pairs: args.pairs as usize,
        len,
        limits,
        precision: precision(&backend, args).unwrap_or(backend.precisions()[0]),
        budget: Duration::from_secs_f64(args.time),
        max_memory: device.max_memory,
    };
    let report = wave::run(backend, &plan, &mut |what| note(what))?;
    tell(args, &report, || table::wave(&report))
}

fn to_stdout(args: &Args) -> bool {
    args.json.as_deref() == Some(Path::new("-"))
}

/// The report as JSON where it is wanted, and as a table unless that took its place.
fn tell(args: &Args, report: &impl serde::Serialize, table: impl FnOnce() -> String) -> Result<(), Error> {
    let json = || serde_json::to_string_pretty(report).map_err(|e| ExportError::Render(e.to_string()));
    match &args.json {
        Some(_) if to_stdout(args) => say(&json()?),
        Some(path) => {
            write(path, &(json()? + "\n"))?;
            say(&format!("{}\n\n{}", table(), path.display()));
        }
        None => say(&table()),
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    Ok(std::fs::write(path, text).map_err(|source| ExportError::Write { path: path.to_owned(), source })?)
}

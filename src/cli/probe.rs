//! `patchwave probe`: what can be read from activations, layer by layer and position by position.

use super::args::{DeviceArgs, Job, ModelArgs, OnDevice, PairArgs};
use super::capture::{RunChoice, Wanted, Work};
use super::terminal::{bar, say, warn};
use super::{interrupt, usage};
use crate::Error;
use crate::backend::Backend;
use crate::capture::{CaptureError, Partial, SafetensorsFile, Store, StoreAs, WhichRun};
use crate::engine::Site;
use crate::export::{folder, node_name};
use crate::probe::{self, Activations, Folds, Kind, Labelled, Options, Penalty, ProbeError, Report, Target};
use crate::prompts;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

const MORE: &str = "\
A probe is a logistic regression for labels that are words, a ridge regression for numbers, with an L2 penalty, fitted at
every layer and position on standardised activations and judged on the held-out fold in turn. It reads what `capture`
wrote (--activations), or captures for itself (--model and --prompts). Besides scores as picture, table and JSON it
writes directions: the second class's minus the first's, long enough that adding one moves the first class's mean to
the second's along it.";

/// Where new folders go.
const RUNS: &str = "runs";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub struct Args {
    /// The field of the prompts' records that is predicted
    #[arg(long, alias = "labels", value_name = "FIELD")]
    label: String,
    /// What `patchwave capture` wrote, as safetensors; labels are in it, or in --prompts
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "allow_config_key", "layers", "positions", "correct_only", "bos", "device", "dtype", "max_memory"])]
    activations: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Sites to probe, comma-separated [default: resid_post, or all that --activations has]
    #[arg(long, value_delimiter = ',')]
    sites: Option<Vec<String>>,
    /// Only these layers: 8-12,15
    #[arg(long)]
    layers: Option<String>,
    /// Only these positions: names from the prompts, `end`, numbers (negative from the end)
    #[arg(long, allow_hyphen_values = true)]
    positions: Option<String>,
    /// Whose activations
    #[arg(long, value_enum, default_value = "clean")]
    run: ProbeRun,
    /// logistic for classes, ridge for numbers [default: by the labels]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Parts that the pairs are cut into; each is held out once
    #[arg(long, default_value_t = 5)]
    folds: usize,
    /// Penalty: 1/C of scikit-learn's LogisticRegression, alpha of its Ridge
    #[arg(long, default_value_t = 1.0)]
    l2: f64,
    /// Take activations as they are, without mean 0 and deviation 1
    #[arg(long)]
    no_standardize: bool,
    /// Folder to write; must not exist [default: a new one, runs/MODEL-probe-N]
    #[arg(long, short)]
    output: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ProbeRun {
    Clean,
    Corrupted,
}

pub fn run(args: Args) -> Result<(), Error> {
    if !(args.l2 > 0.0 && args.l2.is_finite()) {
        return Err(ProbeError::Penalty { l2: args.l2 }.into());
    }
    let had_runs = Path::new(RUNS).exists();
    let done = match &args.activations {
        Some(path) => from_file(&args, path),
        None => args.device.run(ProbeJob { args: &args }),
    };
    if done.is_err() && args.output.is_none() && !had_runs {
        // Fails, rightly, where something else has been put there meanwhile.
        let _ = fs::remove_dir(RUNS);
    }
    done
}

fn from_file(args: &Args, path: &Path) -> Result<(), Error> {
    let activations = Activations::open(path)?;
    let labelled = match &args.pairs.prompts {
        Some(prompts) => labels_of(prompts, activations.n_pairs)?,
        None => activations.labels()?,
    };
    let target = Target::read(&labelled, &args.label, args.kind)?;
    let folds = Folds::new(&target, &args.label, args.folds, args.pairs.seed())?;
    let name = activations.about("model").unwrap_or("model").to_owned();
    let output = output(args, &name)?;
    let folder = open(&output)?;
    probe_and_write(args, &activations, &target, folds, sites(args)?, folder, &output, &name)
}

/// The labels of a file of prompts, which must be as many as the activations are.
fn labels_of(path: &Path, n_pairs: usize) -> Result<Vec<Labelled>, Error> {
    let labels = prompts::load_labels(path)?;
    if labels.len() != n_pairs {
        return Err(usage(format!(
            "{}: {} pairs, but --activations has {n_pairs}; give the prompts that were captured",
            path.display(),
            labels.len()
        )));
    }
    Ok(labels.into_iter().map(|r| Labelled { place: r.at.to_string(), labels: r.labels }).collect())
}

fn sites(args: &Args) -> Result<Option<Vec<Site>>, Error> {
    let parse = |s: &String| s.trim().parse::<Site>().map_err(usage);
    args.sites.as_ref().map(|all| all.iter().map(parse).collect()).transpose()
}

fn output(args: &Args, name: &str) -> Result<PathBuf, Error> {
    match &args.output {
        Some(path) => Ok(path.clone()),
        None => {
            // A name from a file may be any text.
            let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
            let stem: String = name.chars().take(80).map(plain).collect();
            let parent = Path::new(RUNS);
            fs::create_dir_all(parent).map_err(|source| ProbeError::Write { path: parent.into(), source })?;
            Ok(folder::next_free(parent, &format!("{stem}-probe")))
        }
    }
}

/// The output folder under its temporary name.
fn open(output: &Path) -> Result<Partial, Error> {
    let folder = Partial::new(output)?;
    fs::create_dir(folder.temporary()).map_err(|e| folder.failed(e))?;
    Ok(folder)
}

struct ProbeJob<'a> {
    args: &'a Args,
}

impl Job for ProbeJob<'_> {
    fn run<B: Backend>(self, on: OnDevice<'_, B>) -> Result<(), Error> {
        let args = self.args;
        let sites = sites(args)?.unwrap_or_else(|| vec![Site::ResidPost]);
        if let Some(site) = sites.iter().find(|s| matches!(s, Site::AttnScores | Site::Pattern)) {
            return Err(usage(format!("--sites {site}: a probe reads rows, and these are matrices")));
        }
        if let Some(path) = args.output.as_ref().filter(|p| p.symlink_metadata().is_ok()) {
            return Err(CaptureError::Exists { path: path.clone() }.into());
        }
        let names: Vec<String> = sites.iter().map(|s| s.name().to_owned()).collect();
        let wanted = Wanted {
            model: &args.model,
            pairs: &args.pairs,
            sites: &names,
            layers: args.layers.as_deref(),
            positions: args.positions.as_deref(),
            run: Some(match args.run {
                ProbeRun::Clean => RunChoice::Clean,
                ProbeRun::Corrupted => RunChoice::Corrupted,
            }),
            store_as: StoreAs::Float32,
            dtype: &args.device.dtype,
        };
        let work = Work::check(&wanted, on)?;
        let name = work.name.clone();
        let longest = work.set.longest();
        if args.positions.is_none() && work.set.pairs.iter().any(|p| p.len() != longest) {
            return Err(usage(
                "prompts of different lengths have no positions in common; choose some: --positions end, or names or numbers",
            ));
        }
        // Labels and folds are looked at again if --correct-only drops pairs.
        let divide = |set: &prompts::PromptSet| -> Result<(Target, Folds), Error> {
            let labelled: Vec<Labelled> = set
                .pairs
                .iter()
                .map(|p| Labelled { place: set.location(p).to_string(), labels: p.labels.clone() })
                .collect();
            let target = Target::read(&labelled, &args.label, args.kind)?;
            let folds = Folds::new(&target, &args.label, args.folds, args.pairs.seed())?;
            Ok((target, folds))
        };
        divide(&work.set)?;
        let output = output(args, &name)?;
        let folder = open(&output)?;
        let captured = folder.temporary().join("activations.safetensors");
        let (_, set) = work.run(|plan| -> Result<Box<dyn Store>, CaptureError> {
            Ok(Box::new(SafetensorsFile::create(&captured, plan)?))
        })?;
        let (target, folds) = divide(&set)?;
        let activations = Activations::open(&captured)?;
        fs::remove_file(&captured).map_err(|e| folder.failed(e))?;
        probe_and_write(args, &activations, &target, folds, Some(sites), folder, &output, &name)
    }
}

#[allow(clippy::too_many_arguments)]
fn probe_and_write(
    args: &Args,
    activations: &Activations,
    target: &Target,
    folds: Folds,
    sites: Option<Vec<Site>>,
    folder: Partial,
    output: &Path,
    name: &str,
) -> Result<(), Error> {
    let run = match args.run {
        ProbeRun::Clean => WhichRun::Clean,
        ProbeRun::Corrupted => WhichRun::Corrupted,
    };
    let penalty = Penalty { l2: args.l2, standardize: !args.no_standardize };
    let options = Options { run, sites, penalty, folds };
    let stop = interrupt::flag()?;
    let found = activations.sites(run, options.sites.as_deref())?;
    let cells: usize = found.iter().map(|s| s.layers.len() * s.positions.len()).sum();
    let progress = bar(cells as u64, "probes");
    let report = probe::run(activations, target, &options, &|| {
        progress.inc(1);
        !stop.load(Ordering::SeqCst)
    });
    progress.finish_and_clear();
    let report = report?;
    if report.unconverged > 0 {
        warn(&format!(
            "{} of {cells} probes stopped before their minimum; a larger --l2, or standardised activations, would help",
            report.unconverged
        ));
    }
    let kind = target.kind();
    let title =
        [name, kind.name(), &args.label, run.name(), kind.score(), &format!("{} pairs", target.len())].join(" · ");
    let about = about(args, activations, target, &options);
    let written = probe::write(folder, output, &report, kind, &title, about)?;
    say(&best(&report, kind, 10));
    say(&format!("{}\n{}", written.heatmap.display(), written.directions.display()));
    Ok(())
}

/// `probe.json` but for the scores.
fn about(args: &Args, activations: &Activations, target: &Target, options: &Options) -> Map<String, Value> {
    let said = |key: &str| activations.about(key);
    let mut all = json!({
        "patchwave_version": env!("CARGO_PKG_VERSION"),
        "model": said("model"), "model_sha256": said("model_sha256"),
        "prompts": said("prompts"), "prompts_sha256": said("prompts_sha256"),
        "activations": args.activations.as_ref().map(|p| p.display().to_string()),
        "run": options.run.name(), "label": args.label,
        "kind": target.kind().name(), "score": target.kind().score(),
        "n_pairs": target.len(), "folds": options.folds.n, "seed": args.pairs.seed(), "fold": options.folds.of,
        "l2": args.l2, "standardize": options.penalty.standardize,
    });
    if let Target::Classes { names, of } = target {
        let count = |class: usize| of.iter().filter(|c| **c == class).count();
        all["classes"] = json!(names);
        all["pairs_of_class"] = json!((0..names.len()).map(count).collect::<Vec<_>>());
    }
    all.as_object().cloned().unwrap_or_default()
}

/// The `n` cells with the best scores as a table.
fn best(report: &Report, kind: Kind, n: usize) -> String {
    let mut rows: Vec<(String, f64, f64, f64)> = Vec::new();
    for site in &report.sites {
        let columns = site.positions.len();
        for (cell, score) in site.score.iter().enumerate().filter(|(_, s)| !s.is_nan()) {
            let name = node_name(site.site.name(), cell / columns, None, Some(&site.positions[cell % columns]));
            rows.push((name, *score, site.deviation[cell], site.baseline[cell]));
        }
    }
    // Stable: of equals, the earliest layer first.
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    let width = rows.iter().take(n).map(|r| r.0.chars().count()).max().unwrap_or(0).max(4);
    let mut out = format!("{:width$}  {:>8}  {:>9}  {:>8}\n", "node", kind.score(), "deviation", "guessing");
    for (name, score, deviation, baseline) in rows.iter().take(n) {
        let _ = writeln!(out, "{name:width$}  {score:8.4}  {deviation:9.4}  {baseline:8.4}");
    }
    if rows.len() > n {
        let _ = writeln!(out, "and {} more", rows.len() - n);
    }
    out
}

//! `patchwave sweep`: from options to a run folder.

use super::device::{self, Chosen};
use super::model;
use super::terminal::{bar, note, say, thousands, warn};
use super::usage;
use crate::Error;
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{Cuda, Driver};
use crate::demo;
use crate::engine::{Model, Site};
use crate::export::folder::{self, Existing, Opened, RunFolder};
use crate::export::{Axis, RunResult, SiteEffects, run as run_files, top_cells};
use crate::model::{ModelFiles, ModelSpec};
use crate::prompts::{
    self, Align, BosPolicy, Encode, LoadOptions, PositionAxis, PromptSet, Selector, position_labels, resolve_positions,
};
use crate::sweep::effect::effects;
use crate::sweep::{
    Column, Direction, Limits, Metric, Needs, Outcome, PatchKind, Selection, SiteCells, Sweep, SweepError,
    prefers_answer, select,
};
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const MORE: &str = "\
A cell is one patched run: the base run with one activation taken from the other run. --direction denoise patches clean
into corrupted (effect 0: still corrupted, 1: clean again), noise patches corrupted into clean (0: unharmed, -1:
destroyed). Sites: resid_pre resid_mid resid_post attn_out mlp_out z q k v attn_scores pattern result mlp_pre
mlp_post. Without --model and --prompts the bundled demo model is swept.";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub struct Args {
    /// Folder, .gguf file, or hub id (EleutherAI/pythia-70m@step1000) [default: the bundled demo model]
    #[arg(long)]
    model: Option<String>,
    /// Pairs: JSONL, auto-circuit JSON or EAP-IG CSV [default: the demo's]
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Sites to patch, comma-separated: short names (z) or hook names (attn.hook_z)
    #[arg(long, default_value = "z", value_delimiter = ',')]
    sites: Vec<String>,
    /// What a cell is: head, pos, head,pos or layer [default: head where a site has heads, else pos]
    #[arg(long)]
    by: Option<String>,
    /// Only these layers: 8-12,15
    #[arg(long)]
    layers: Option<String>,
    /// Only these heads: a9.h6,a9.h9
    #[arg(long)]
    heads: Option<String>,
    /// Only these positions: names from the prompts, `end`, numbers (negative from the end)
    #[arg(long, allow_hyphen_values = true)]
    positions: Option<String>,
    /// denoise: clean into corrupted; noise: corrupted into clean [default: denoise, noise for zero and mean patches]
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// What is written: the other run's activation, zeros, or the mean over the other runs
    #[arg(long, value_enum, default_value = "source")]
    patch: PatchKind,
    /// logit_diff, prob, prob_diff, logprob or kl
    #[arg(long, default_value = "logit_diff")]
    metric: String,
    /// Leave out pairs whose clean run does not prefer the answer
    #[arg(long)]
    correct_only: bool,
    /// Whether a BOS token goes before prompts that are text
    #[arg(long, value_enum, default_value = "auto")]
    bos: BosPolicy,
    /// How positions of prompts of different lengths correspond [default: start, and not at all for means]
    #[arg(long, value_enum)]
    align: Option<Align>,
    /// auto, cpu, cuda, cuda:N or emulated
    #[arg(long, default_value = "auto")]
    device: String,
    /// float32, bf16x3 or bfloat16
    #[arg(long, default_value = "float32")]
    dtype: String,
    /// Memory that the sweep may use, weights included: 8GiB
    #[arg(long)]
    max_memory: Option<String>,
    /// (cell, pair) items to run again on the slow reference path; 0 for none
    #[arg(long, default_value_t = 8)]
    verify: usize,
    /// Run folder to write [default: a new one, runs/MODEL-SITES-N]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Finish the run in --output
    #[arg(long, conflicts_with = "force", requires = "output")]
    resume: bool,
    /// Replace the run in --output
    #[arg(long)]
    force: bool,
    /// Accept this unknown key of config.json (may be given several times)
    #[arg(long, value_name = "KEY")]
    allow_config_key: Vec<String>,
}

/// Options after they have been checked against the model.
struct Plan {
    sites: Vec<SiteCells>,
    columns: Vec<Column>,
    restricted: bool,
    direction: Direction,
    metric: Metric,
}

pub fn run(args: Args) -> Result<(), Error> {
    let started = Instant::now();
    match device::choose(args.device.parse().map_err(usage)?, &args.dtype)? {
        Chosen::Cpu(reason) => {
            let about = reason.map(|r| format!("device: {}; {}", Cpu.device(), device::short_reason(&r)));
            run_on(Cpu, about, &args, started, &|needs, max, longest| match max {
                Some(max) => needs.limits(max, longest).map_err(usage),
                None => Ok(Limits::default()),
            })
        }
        Chosen::Cuda(gpu) => {
            let (free, ordinal) = (gpu.free_bytes().map_err(|e| device::not_usable("cuda", &e))?, gpu.info().ordinal);
            let precision = device::precision(&args.dtype).map_err(usage)?;
            let about = format!("device: {}", gpu.device());
            let backend = Cuda::new(*gpu, precision).map_err(|e| device::not_usable("cuda", &e))?;
            run_on(backend, Some(about), &args, started, &|needs, max, longest| {
                device::gpu_limits(needs, precision, ordinal, free, max, longest)
                    .map_err(|e| usage(format!("--device {}: {e}", args.device)))
            })
        }
        #[cfg(feature = "emulator")]
        Chosen::Emulated => {
            let precision = device::precision(&args.dtype).map_err(usage)?;
            let emulated = crate::backend::cuda::emulated::Emulated::default();
            let backend = Cuda::new(emulated, precision).map_err(|e| device::not_usable("emulated", &e))?;
            run_on(backend, None, &args, started, &|needs, max, longest| match max {
                Some(max) => needs.limits(max, longest).map_err(usage),
                None => Ok(Limits::default()),
            })
        }
    }
}

/// The bounds of a sweep on some device, from what it needs, `--max-memory` and the longest prompt.
type LimitsOf<'a> = &'a dyn Fn(&Needs, Option<u64>, usize) -> Result<Limits, Error>;

/// `about` tells which device was taken and why, once nothing speaks against the run any more.
fn run_on<B: Backend>(
    backend: B,
    about: Option<String>,
    args: &Args,
    started: Instant,
    limits_of: LimitsOf<'_>,
) -> Result<(), Error> {
    let metric: Metric = args.metric.parse().map_err(usage)?;
    let sites: Vec<Site> = args.sites.iter().map(|s| s.trim().parse().map_err(usage)).collect::<Result<_, _>>()?;
    if let Some(twice) = (1..sites.len()).find(|i| sites[..*i].contains(&sites[*i])) {
        return Err(usage(format!("--sites names {} twice", sites[twice])));
    }
    let max_memory = args.max_memory.as_deref().map(select::bytes).transpose().map_err(usage)?;

    // Everything that can be wrong is found before weights are read.
    let (files, name) = match &args.model {
        Some(m) => {
            let files = model::open(m, &args.allow_config_key)?;
            let name = model::name(&files);
            (files, name)
        }
        None => (demo::model()?, "demo".to_owned()),
    };
    let spec = Arc::new(files.spec.clone());
    let set = load_prompts(args, &files, metric)?;
    let plan = check(args, &spec, &set, &sites, metric, files.tokenizer.as_ref().map(|t| t as &dyn Encode))?;
    let longest = set.longest();
    let needs = Needs::new(&spec, files.n_parameters, &plan.sites, args.patch, longest);
    let limits = limits_of(&needs, max_memory, longest)?;
    let model_hash = files.sha256()?;
    let identity = identity(args, &plan, &sites, &set, &model_hash);
    let path = args.output.clone().unwrap_or_else(|| {
        folder::next_free(
            Path::new("runs"),
            &format!("{name}-{}", sites.iter().map(|s| s.name()).collect::<Vec<_>>().join("-")),
        )
    });
    let existing = match (args.resume, args.force) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::Replace,
        _ => Existing::Refuse,
    };
    let folder = match folder::open(&path, existing, &identity)? {
        Opened::Ready(folder) => folder,
        Opened::Complete(result, path) => {
            say(&format!("{}: this run is complete\n", path.display()));
            say(&top_cells(&result, 10));
            return Ok(());
        }
    };
    let device = backend.device();
    if let Some(about) = &about {
        note(about);
    }
    match run_in(args, backend, folder, &files, spec, set, plan, limits, started) {
        Ok((result, path, notes)) => {
            let mut meta = result.meta.clone();
            meta.insert("model".into(), json!({
                "name": name, "path": files.path.display().to_string(), "family": files.spec.family, "sha256": model_hash,
                "parameters": files.n_parameters, "stored_as": files.stored_as, "allowed_config_keys": files.allowed_keys_used,
                "hub": files.hub.as_ref().map(|s| json!({"id": s.id.to_string(), "commit": s.commit})),
            }));
            meta.insert("device".into(), json!(device));
            meta.insert("plan".into(), Value::Object(identity));
            let result = RunResult { meta, ..result };
            let written = run_files::write(&path, &result)?;
            let _ = std::fs::remove_file(path.join(crate::export::journal::JOURNAL_FILE));
            say(&top_cells(&result, 10));
            say(&notes);
            if let Some(about) = about {
                say(&about);
            }
            say(&format!("\n{}\n{}", written.heatmap.display(), written.effects.display()));
            Ok(())
        }
        Err(e) => Err(e),
    }
}

fn load_prompts(args: &Args, files: &ModelFiles, metric: Metric) -> Result<PromptSet, Error> {
    let options = LoadOptions {
        bos: args.bos,
        d_vocab: files.spec.d_vocab,
        n_ctx: files.spec.n_ctx,
        needs_wrong: metric.needs_wrong(),
        needs_answer: metric.needs_answers(),
    };
    let tokenizer = files.tokenizer.as_ref().map(|t| t as &dyn Encode);
    match (&args.prompts, &args.model) {
        (Some(path), _) => Ok(prompts::load(path, tokenizer, &options)?),
        (None, None) => Ok(prompts::parse("the demo's pairs", demo::PAIRS.as_bytes(), tokenizer, &options)?),
        (None, Some(_)) => Err(usage("--model needs --prompts: pairs as JSONL, auto-circuit JSON or EAP-IG CSV")),
    }
}

/// Sites, axes and selections against the model and the pairs.
fn check(
    args: &Args,
    spec: &ModelSpec,
    set: &PromptSet,
    sites: &[Site],
    metric: Metric,
    tokenizer: Option<&dyn Encode>,
) -> Result<Plan, Error> {
    for site in sites {
        if !(0..spec.n_layers()).any(|l| site.exists(spec, l)) {
            let has: Vec<&str> = Site::ALL
                .into_iter()
                .filter(|s| (0..spec.n_layers()).any(|l| s.exists(spec, l)))
                .map(Site::name)
                .collect();
            return Err(usage(format!(
                "--sites {site}: no layer of this {} model has it; it has {}",
                spec.family,
                has.join(", ")
            )));
        }
    }
    let by = args.by.as_deref().map(select::by).transpose().map_err(usage)?;
    let cuts = sites.iter().map(|s| select::by_for(*s, by)).collect::<Result<Vec<_>, _>>().map_err(usage)?;
    let layers = args.layers.as_deref().map(|l| select::layers(l, spec.n_layers())).transpose().map_err(usage)?;
    let heads = args.heads.as_deref().map(|h| select::heads(h, spec, sites)).transpose().map_err(usage)?;
    if heads.is_some() && !cuts.iter().all(|b| b.has_heads()) {
        return Err(usage("--heads: some of the sites are not cut by head; use --by head or --by head,pos"));
    }
    let (columns, restricted) = match &args.positions {
        Some(list) => {
            let selectors = Selector::parse_list(list)?;
            let resolved = resolve_positions(set, &selectors)?;
            let column = |(s, at): (&Selector, Vec<Option<usize>>)| Column {
                label: s.to_string(),
                at: at.into_iter().map(|p| p.map(|p| p as u32)).collect(),
            };
            (selectors.iter().zip(resolved).map(column).collect(), true)
        }
        None => {
            let axis = PositionAxis::new(set, args.align.unwrap_or_default());
            let labels = position_labels(set, tokenizer, args.align.unwrap_or_default());
            let at = |c: usize| set.pairs.iter().map(|p| axis.position(c, p.len()).map(|p| p as u32)).collect();
            (labels.into_iter().enumerate().map(|(c, label)| Column { label, at: at(c) }).collect(), false)
        }
    };
    let selection = Selection { layers, heads };
    let n_columns = Vec::<Column>::len(&columns);
    let sites: Vec<SiteCells> =
        sites.iter().zip(cuts).map(|(site, by)| SiteCells::new(spec, *site, by, n_columns, &selection)).collect();
    if !sites.iter().any(|s| s.cells.iter().any(|c| c.exists)) {
        return Err(usage("--layers and --heads leave no cell at the chosen sites"));
    }
    let direction = args.direction.unwrap_or(match args.patch {
        PatchKind::Source => Direction::Denoise,
        _ => Direction::Noise,
    });
    Ok(Plan { sites, columns, restricted, direction, metric })
}

/// What a run must share with one that it resumes.
fn identity(args: &Args, plan: &Plan, sites: &[Site], set: &PromptSet, model: &str) -> Map<String, Value> {
    let names: Vec<&str> = sites.iter().map(|s| s.name()).collect();
    let by: Vec<&str> = plan.sites.iter().map(|s| s.by.name()).collect();
    let value = json!({
        "patchwave": env!("CARGO_PKG_VERSION"),
        "model_sha256": model,
        "prompts_sha256": set.hash,
        "sites": names,
        "by": by,
        "layers": args.layers,
        "heads": args.heads,
        "positions": args.positions,
        "direction": plan.direction.as_str(),
        "patch": args.patch.name(),
        "metric": plan.metric.name(),
        "correct_only": args.correct_only,
        "align": args.align,
        "dtype": args.dtype,
    });
    value.as_object().cloned().unwrap_or_default()
}

/// Loads the weights and runs the sweep; on failure nothing is left behind that holds no result.
#[allow(clippy::too_many_arguments)]
fn run_in<B: Backend>(
    args: &Args,
    backend: B,
    folder: Box<RunFolder>,
    files: &ModelFiles,
    spec: Arc<ModelSpec>,
    mut set: PromptSet,
    mut plan: Plan,
    limits: Limits,
    started: Instant,
) -> Result<(RunResult, PathBuf, String), Error> {
    let mut folder = folder;
    let before_weights = Instant::now();
    let layers = spec.n_layers() as u64;
    let loading = bar(layers, "layers loaded");
    let model =
        match Model::load(spec, &*files.params, backend, &|share| loading.set_position((share * layers as f64) as u64))
        {
            Ok(model) => model,
            Err(e) => {
                loading.finish_and_clear();
                folder.abandon();
                return Err(e.into());
            }
        };
    loading.finish_and_clear();
    let load_seconds = before_weights.elapsed().as_secs_f64();

    let n_given = set.pairs.len();
    if args.correct_only {
        let keep = match prefers_answer(&model, &set.pairs) {
            Ok(keep) => keep,
            Err(e) => {
                folder.abandon();
                return Err(e.into());
            }
        };
        let mut kept = keep.iter();
        set.pairs.retain(|_| *kept.next().unwrap_or(&true));
        for column in &mut plan.columns {
            let mut kept = keep.iter();
            column.at.retain(|_| *kept.next().unwrap_or(&true));
        }
        if set.pairs.is_empty() {
            folder.abandon();
            return Err(usage(format!(
                "--correct-only: the clean run prefers the answer in none of the {n_given} pairs"
            )));
        }
    }

    let sweep = Sweep {
        model: &model,
        pairs: &set.pairs,
        sites: plan.sites,
        columns: plan.columns,
        restricted: plan.restricted,
        direction: plan.direction,
        patch: args.patch,
        metric: plan.metric,
        align: args.align,
        limits,
        skip: true,
    };
    let (outcome, sweep_seconds) = match watch(&sweep, &mut folder) {
        Ok(done) => done,
        Err((e, began)) => {
            let path = folder.path.clone();
            // What is not finite stays so: there is nothing to go on with.
            if matches!(e, Error::Sweep(SweepError::NonFinite { .. } | SweepError::PatchNotFinite { .. })) {
                folder.abandon();
            } else if began || !folder.known.is_empty() {
                if matches!(e, Error::Sweep(SweepError::Interrupted)) {
                    let message =
                        format!("interrupted; the same command with --output {} --resume goes on", path.display());
                    super::terminal::error(&message);
                    std::process::exit(1);
                }
            } else {
                folder.abandon();
            }
            return Err(e);
        }
    };
    let before_verify = Instant::now();
    let verified = sweep.verify(&outcome, args.verify)?;
    model.backend.check()?;
    let verify_seconds = before_verify.elapsed().as_secs_f64();

    // Effects, and whether there are any.
    let largest = outcome.clean.iter().chain(&outcome.corrupted).fold(0.0f32, |a, b| a.max(b.abs()));
    let floor = verified.worst.max(1e-6 * largest);
    let all = effects(&outcome.metric, &outcome.clean, &outcome.corrupted, plan.direction, floor);
    let n_pairs = set.pairs.len();
    let not_preferred = outcome.prefers.iter().filter(|p| !**p).count();
    if !all.defined {
        warn("clean and corrupted metrics are within the noise floor of each other: effects are undefined (NaN)");
    }
    if not_preferred > 0 {
        warn(&format!(
            "the clean run does not prefer the answer in {not_preferred} of {n_pairs} pairs (--correct-only drops them)"
        ));
    }
    let mut at = 0;
    let mut sites = Vec::new();
    for s in &sweep.sites {
        let n = s.cells.len();
        let mut axes = vec![Axis::numbered("layer", model.spec.n_layers())];
        if s.by.has_positions() {
            let labels = sweep.columns.iter().map(|c| c.label.clone()).collect();
            axes.push(Axis { name: "pos".into(), labels });
        }
        if s.by.has_heads() {
            axes.push(Axis::numbered("head", s.n_heads));
        }
        sites.push(SiteEffects {
            site: s.site.name().to_owned(),
            axes,
            effect: all.effect[at..at + n].to_vec(),
            metric: outcome.metric[at * n_pairs..(at + n) * n_pairs].to_vec(),
        });
        at += n;
    }

    let stats = outcome.stats;
    let (rows, naive) = (stats.rows.attn + stats.rows.mlp, stats.naive_rows.attn + stats.naive_rows.mlp);
    let meta = json!({
        "patchwave_version": env!("CARGO_PKG_VERSION"),
        "prompts": {
            "path": set.source, "sha256": set.hash, "pairs_given": n_given, "pairs_dropped": n_given - n_pairs, "bos": set.bos,
        },
        "clean_prefers_answer": n_pairs - not_preferred,
        "dtype": args.dtype,
        "metric": plan.metric.name(),
        "patch": args.patch.name(),
        "noise_floor": verified.worst,
        "verified_items": verified.items,
        "cells": sweep.sites.iter().map(|s| s.cells.iter().filter(|c| c.exists).count()).sum::<usize>(),
        "items": { "run": stats.run, "unchanged": stats.unchanged, "resumed": folder.known.len(), "waves": stats.waves },
        "rows_computed": rows,
        "rows_saved": naive.saturating_sub(rows),
        "rows_of_full_passes": naive,
        "seconds": sweep_seconds,
        "seconds_loading": load_seconds,
        "seconds_verifying": verify_seconds,
        "seconds_total": started.elapsed().as_secs_f64(),
    });
    let times = naive as f64 / rows.max(1) as f64;
    let mut notes = format!(
        "\nrows computed {} of {} ({times:.1} times fewer than one forward pass per cell), {:.1} s",
        thousands(rows),
        thousands(naive),
        sweep_seconds
    );
    if verified.items > 0 {
        let about =
            format!("\nnoise floor {:.1e} over {} items against full forward passes", verified.worst, verified.items);
        notes.push_str(&about);
    }
    let path = folder.path.clone();
    let result = RunResult {
        meta: meta.as_object().cloned().unwrap_or_default(),
        sites,
        metric_clean: outcome.clean,
        metric_corrupted: outcome.corrupted,
        effect_defined: all.defined,
        direction: plan.direction,
    };
    Ok((result, path, notes))
}

/// Runs the sweep with a progress bar, writing every wave to the journal, until it is done or Ctrl-C is pressed. On
/// failure, says whether anything had been written.
fn watch<B: Backend>(sweep: &Sweep<'_, B>, folder: &mut RunFolder) -> Result<(Outcome, f64), (Error, bool)> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // A second Ctrl-C ends the process at once.
    let handler = move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
    };
    ctrlc::set_handler(handler).map_err(|e| (usage(format!("cannot watch for Ctrl-C: {e}")), false))?;
    let started = Instant::now();
    let progress = bar(0, "cells");
    let (mut failed, mut began) = (None, false);
    let known = folder.known.clone();
    let journal = &mut folder.journal;
    let done = sweep.run(&known, &mut |block, state| {
        progress.set_length(state.total);
        progress.set_position(state.done);
        let rate = state.row_layers as f64 / started.elapsed().as_secs_f64().max(1e-3);
        progress.set_message(format!(", {} rows/s", thousands(rate as u64)));
        if let Err(e) = journal.append(block.items) {
            failed = Some(e);
            return ControlFlow::Break(());
        }
        began = true;
        if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    progress.finish_and_clear();
    // From here on everything found is in the journal, so the first Ctrl-C may end the process.
    stop.store(true, Ordering::SeqCst);
    match (done, failed) {
        (_, Some(e)) => Err((e.into(), began)),
        (Err(e), _) => Err((e.into(), began)),
        (Ok(outcome), None) => Ok((outcome, started.elapsed().as_secs_f64())),
    }
}

//! `patchwave sweep`: from options to a run folder.

mod check;
mod report;
mod watch;

use super::args::{self, Answers, DeviceArgs, Job, ModelArgs, OnDevice, PairArgs};
use super::patching::PatchArgs;
use super::terminal::{note, say};
use super::usage;
use crate::Error;
use crate::backend::Backend;
use crate::engine::Site;
use crate::export::folder::{self, Existing, Opened, RunFolder};
use crate::export::{RunResult, run as run_files, top_cells};
use crate::model::{ModelFiles, ModelSpec};
use crate::prompts::{Align, Encode, PromptSet};
use crate::sweep::{Direction, Limits, Metric, Needs, Sweep, SweepError};
pub use check::columns;
use check::{Plan, check, identity};
use report::{Asked, Seconds, report};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use watch::watch;

const MORE: &str = "\
A cell is one patched run: the base run with one activation taken from the other run. --direction denoise patches clean
into corrupted (effect 0: still corrupted, 1: clean again), noise patches corrupted into clean (0: unharmed, -1:
destroyed). Sites: resid_pre resid_mid resid_post attn_out mlp_out z q k v attn_scores pattern result mlp_pre
mlp_post. Without --model and --prompts the bundled demo model is swept. --task makes the pairs: --task ioi.";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Sites to patch, comma-separated: short names (z) or hook names (attn.hook_z) [default: z; attn_scores for knockouts]
    #[arg(long, value_delimiter = ',')]
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
    /// denoise: clean into corrupted; noise: corrupted into clean [default: denoise for source patches, noise for others]
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    #[command(flatten)]
    patch: PatchArgs,
    /// logit_diff, prob, prob_diff, logprob or kl
    #[arg(long, default_value = "logit_diff")]
    metric: String,
    /// How positions of prompts of different lengths correspond [default: start, and not at all for means and resampling]
    #[arg(long, value_enum)]
    align: Option<Align>,
    #[command(flatten)]
    device: DeviceArgs,
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
}

pub fn run(args: Args) -> Result<(), Error> {
    let started = Instant::now();
    args.device.run_on_all(SweepJob { args: &args, started })
}

struct SweepJob<'a> {
    args: &'a Args,
    started: Instant,
}

impl Job for SweepJob<'_> {
    fn run<B: Backend>(self, on: OnDevice<'_, B>) -> Result<(), Error> {
        run_on(on, self.args, self.started)
    }
}

fn run_on<B: Backend>(on: OnDevice<'_, B>, args: &Args, started: Instant) -> Result<(), Error> {
    let metric: Metric = args.metric.parse().map_err(usage)?;
    let sites = match &args.sites[..] {
        [] if args.patch.patch == "knockout" => vec![Site::AttnScores],
        [] => vec![Site::Z],
        sites => sites.iter().map(|s| s.trim().parse().map_err(usage)).collect::<Result<Vec<Site>, _>>()?,
    };
    if let Some(twice) = (1..sites.len()).find(|i| sites[..*i].contains(&sites[*i])) {
        return Err(usage(format!("--sites names {} twice", sites[twice])));
    }

    // Everything that can be wrong is found before weights are read.
    let (files, name) = args.pairs.open(&args.model)?;
    let spec = Arc::new(files.spec.clone());
    let reads = Answers { answer: metric.needs_answers(), wrong: metric.needs_wrong() };
    let set = args.pairs.load(&files, reads)?;
    let plan = check(args, &spec, &set, &sites, metric, files.tokenizer.as_ref().map(|t| t as &dyn Encode))?;
    let longest = set.longest();
    let needs = Needs::new(&spec, files.n_parameters, &plan.sites, plan.patching.kind(), longest);
    let limits = on.limits(&needs, longest)?;
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
    let OnDevice { backend, more, about, .. } = on;
    let device = args::names(&backend, &more);
    let backends: Vec<B> = std::iter::once(backend).chain(more).collect();
    if let Some(about) = &about {
        note(about);
    }
    match run_in(args, backends, folder, &files, spec, set, plan, limits, started) {
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

/// Loads the weights and runs the sweep; on failure nothing is left behind that holds no result.
#[allow(clippy::too_many_arguments)]
fn run_in<B: Backend>(
    args: &Args,
    backends: Vec<B>,
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
    let models = match args::load_weights_on_each(files, &spec, backends) {
        Ok(models) => models,
        Err(e) => {
            folder.abandon();
            return Err(e);
        }
    };
    let (model, more) = (&models[0], &models[1..]);
    let load_seconds = before_weights.elapsed().as_secs_f64();

    let n_given = set.pairs.len();
    match args.pairs.keep_correct(model, &mut set) {
        Ok(keep) => {
            plan.columns.iter_mut().for_each(|column| {
                let mut kept = keep.iter();
                column.at.retain(|_| *kept.next().unwrap_or(&true));
            });
            plan.patching.retain(&keep);
        }
        Err(e) => {
            folder.abandon();
            return Err(e);
        }
    }

    let sweep = Sweep {
        model,
        pairs: &set.pairs,
        sites: plan.sites,
        columns: plan.columns,
        restricted: plan.restricted,
        direction: plan.direction,
        patch: plan.patching.kind(),
        metric: plan.metric,
        align: args.align,
        limits,
        skip: true,
    };
    let (outcome, sweep_seconds) = match watch(&sweep, more, &mut folder) {
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

    let seconds = Seconds {
        loading: load_seconds,
        sweep: sweep_seconds,
        verifying: verify_seconds,
        total: started.elapsed().as_secs_f64(),
    };
    let task = args.pairs.made_by()?;
    let patch = plan.patching.json();
    let asked = Asked { args, set: &set, task, n_given, direction: plan.direction, metric: plan.metric, patch };
    let (result, notes) = report(&asked, &sweep, outcome, verified, folder.known.len(), seconds);
    Ok((result, folder.path.clone(), notes))
}

//! What `capture` and `probe` share: from options to a finished capture in some store.

use crate::Error;
use crate::backend::Backend;
use crate::capture::{Asked, CaptureError, Hook, NamedPosition, Plan, Store, StoreAs, WhichRun, capture};
use crate::cli::args::{ModelArgs, OnDevice, PairArgs, load_weights};
use crate::cli::terminal::{bar, note, thousands};
use crate::cli::{interrupt, usage};
use crate::model::{ModelFiles, ModelSpec};
use crate::prompts::{Align, Encode, PromptSet, Selector, position_labels, resolve_positions};
use crate::sweep::{Limits, select};
use serde_json::json;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RunChoice {
    Clean,
    Corrupted,
    Both,
}

/// The options that say what is captured.
pub struct Wanted<'a> {
    pub model: &'a ModelArgs,
    pub pairs: &'a PairArgs,
    pub sites: &'a [String],
    pub layers: Option<&'a str>,
    pub positions: Option<&'a str>,
    pub run: Option<RunChoice>,
    pub store_as: StoreAs,
    pub dtype: &'a str,
}

/// A capture whose options have been checked, weights unread.
pub struct Work<'a, B> {
    wanted: &'a Wanted<'a>,
    files: ModelFiles,
    /// The model's name, for titles.
    pub name: String,
    spec: Arc<ModelSpec>,
    /// The prompts; `run` may drop some.
    pub set: PromptSet,
    plan: Plan,
    limits: Limits,
    backend: B,
}

impl<'a, B: Backend> Work<'a, B> {
    /// Finds everything that can be wrong before weights are read.
    pub fn check(wanted: &'a Wanted<'a>, on: OnDevice<'_, B>) -> Result<Self, Error> {
        // A name that is wrong is found before the model is opened.
        hooks(wanted.sites)?;
        let (files, name) = wanted.pairs.open(wanted.model)?;
        let set = wanted.pairs.load_prompts(&files)?;
        let spec = Arc::new(files.spec.clone());
        let plan = plan(wanted, &files, &name, &set, &on.backend.device())?;
        let longest = set.longest();
        let limits = on.limits(&plan.needs(&spec, files.n_parameters, longest), longest)?;
        if let Some(about) = &on.about {
            note(about);
        }
        Ok(Work { wanted, files, name, spec, set, plan, limits, backend: on.backend })
    }

    /// Loads the weights and captures into the store that `open` makes for the plan, under a progress bar.
    pub fn run(
        self,
        open: impl FnOnce(&Plan) -> Result<Box<dyn Store>, CaptureError>,
    ) -> Result<(Plan, PromptSet), Error> {
        let Work { wanted, files, name, spec, mut set, mut plan, limits, backend } = self;
        let device = backend.device();
        let model = load_weights(&files, spec, backend)?;
        let n_given = set.pairs.len();
        wanted.pairs.keep_correct(&model, &mut set)?;
        if set.pairs.len() < n_given {
            plan = self::plan(wanted, &files, &name, &set, &device)?;
        }
        let store = open(&plan)?;
        let stop = interrupt::flag()?;
        let started = Instant::now();
        let progress = bar(0, "prompts");
        let done = capture(&model, &set.pairs, &plan, store, limits, &mut |state| {
            progress.set_length(state.total);
            progress.set_position(state.done);
            let rate = state.rows as f64 / started.elapsed().as_secs_f64().max(1e-3);
            progress.set_message(format!(", {} rows/s", thousands(rate as u64)));
            if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        progress.finish_and_clear();
        done?;
        Ok((plan, set))
    }
}

fn hooks(sites: &[String]) -> Result<Vec<Hook>, Error> {
    sites.iter().map(|s| s.trim().parse().map_err(usage)).collect()
}

/// Options against the model and the prompts.
fn plan(wanted: &Wanted, files: &ModelFiles, name: &str, set: &PromptSet, device: &str) -> Result<Plan, Error> {
    let spec = &files.spec;
    let layers = wanted.layers.map(|l| select::layers(l, spec.n_layers())).transpose().map_err(usage)?;
    let positions = wanted.positions.map(|list| positions(set, list)).transpose()?;
    let asked = Asked {
        runs: runs(set, wanted.run)?,
        hooks: hooks(wanted.sites)?,
        layers,
        positions,
        store_as: wanted.store_as,
    };
    let mut about = vec![
        ("model".to_owned(), name.to_owned()),
        ("model_sha256".to_owned(), files.sha256()?),
        ("family".to_owned(), spec.family.clone()),
        ("prompts".to_owned(), set.source.clone()),
        ("prompts_sha256".to_owned(), set.hash.clone()),
        ("bos".to_owned(), json!(set.bos).to_string()),
        ("device".to_owned(), device.to_owned()),
        ("dtype".to_owned(), wanted.dtype.to_owned()),
    ];
    let one_length = set.pairs.iter().all(|p| p.len() == set.longest());
    if wanted.positions.is_none() && one_length {
        let tokenizer = files.tokenizer.as_ref().map(|t| t as &dyn Encode);
        about.push(("position_labels".to_owned(), json!(position_labels(set, tokenizer, Align::Start)).to_string()));
    }
    Ok(Plan::new(spec, &set.pairs, asked, about)?)
}

/// What `--run` says; without it both runs, or the clean one where no record has another.
fn runs(set: &PromptSet, choice: Option<RunChoice>) -> Result<Vec<WhichRun>, Error> {
    let alone = set.pairs.iter().find(|p| p.corrupted.is_empty());
    let both = vec![WhichRun::Clean, WhichRun::Corrupted];
    let runs = match choice {
        Some(RunChoice::Clean) => vec![WhichRun::Clean],
        Some(RunChoice::Corrupted) => vec![WhichRun::Corrupted],
        Some(RunChoice::Both) => both,
        None if set.pairs.iter().all(|p| p.corrupted.is_empty()) => vec![WhichRun::Clean],
        None => both,
    };
    match alone {
        Some(pair) if runs.contains(&WhichRun::Corrupted) => Err(usage(format!(
            "{}: no field `corrupted`, whose run is to be captured; use --run clean",
            set.location(pair)
        ))),
        _ => Ok(runs),
    }
}

/// `--positions`: every pair must have each, so that rows of different pairs mean the same.
fn positions(set: &PromptSet, list: &str) -> Result<Vec<NamedPosition>, Error> {
    let selectors = Selector::parse_list(list)?;
    let resolved = resolve_positions(set, &selectors)?;
    let named = |(selector, at): (&Selector, Vec<Option<usize>>)| {
        let at: Result<Vec<usize>, Error> = at
            .into_iter()
            .zip(&set.pairs)
            .map(|(at, pair)| {
                at.ok_or_else(|| {
                    usage(format!(
                        "--positions {selector}: the pair at {} has {} tokens only; every pair must have the position",
                        set.location(pair),
                        pair.len()
                    ))
                })
            })
            .collect();
        Ok(NamedPosition { label: selector.to_string(), at: at? })
    };
    selectors.iter().zip(resolved).map(named).collect()
}

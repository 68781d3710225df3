//! Options that several commands share: which model, which pairs, which device.

use super::device::{self, Chosen, DeviceChoice};
use super::terminal::{bar, warn};
use super::{model, usage};
use crate::Error;
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::Cuda;
use crate::demo;
use crate::engine::Model;
use crate::model::{ModelFiles, ModelSpec};
use crate::prompts::tasks::TaskChoice;
use crate::prompts::{self, BosPolicy, Encode, LoadOptions, PromptError, PromptSet};
use crate::sweep::{Limits, Needs, prefers_answer, select};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(clap::Args)]
pub struct ModelArgs {
    /// Folder, .gguf file, or hub id (EleutherAI/pythia-70m@step1000) [default: the bundled demo model]
    #[arg(long)]
    pub model: Option<String>,
    /// Accept this unknown key of config.json (may be given several times)
    #[arg(long, value_name = "KEY", display_order = 900)]
    pub allow_config_key: Vec<String>,
}

impl ModelArgs {
    /// Opens the model, weights unread, and tells its name for titles and folders.
    pub fn open(&self) -> Result<(ModelFiles, String), Error> {
        match &self.model {
            Some(m) => {
                let files = model::open(m, &self.allow_config_key)?;
                let name = model::name(&files);
                Ok((files, name))
            }
            None => Ok((demo::model()?, "demo".to_owned())),
        }
    }
}

#[derive(clap::Args)]
pub struct PairArgs {
    /// Pairs: JSONL, auto-circuit JSON, EAP-IG CSV, MIB parquet or JSON [default: the demo's]
    #[arg(long)]
    pub prompts: Option<PathBuf>,
    /// Pairs made by a task instead: ioi, ioi:abc, … (`patchwave task` lists them)
    #[arg(long, value_name = "NAME[:CORRUPTION]", conflicts_with = "prompts")]
    pub task: Option<String>,
    /// How many pairs the task makes, or how many of the file's are used, from its start [default: 64, and all]
    #[arg(long, value_name = "N")]
    pub pairs: Option<usize>,
    /// Of what is random (a task's choices, noise and resample patches, folds): the same seed, the same run [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The counterfactual that is the corrupted prompt, in MIB's data [default: the one that MIB takes]
    #[arg(long, value_name = "NAME", conflicts_with = "task")]
    pub counterfactual: Option<String>,
    /// Whether a BOS token goes before prompts that are text
    #[arg(long, value_enum, default_value = "auto")]
    pub bos: BosPolicy,
    /// Leave out pairs whose clean run does not prefer the answer
    #[arg(long)]
    pub correct_only: bool,
}

impl PairArgs {
    /// Opens the model that the pairs are for; before a model is fetched, it is known that there are some.
    pub fn open(&self, model: &ModelArgs) -> Result<(ModelFiles, String), Error> {
        if model.model.is_some() && self.prompts.is_none() && self.task.is_none() {
            return Err(usage(
                "--model needs --prompts (pairs as JSONL, auto-circuit JSON, EAP-IG CSV or MIB's data) or --task",
            ));
        }
        model.open()
    }

    /// The pairs, checked against the model. Of answers, what `needs` says must be there.
    pub fn load(&self, files: &ModelFiles, needs: Answers) -> Result<PromptSet, Error> {
        self.load_with(files, needs, true).map_err(|e| of_tokenizer(files, e))
    }

    /// The same for what reads activations: a record may have a clean prompt alone, and needs no answer.
    pub fn load_prompts(&self, files: &ModelFiles) -> Result<PromptSet, Error> {
        let needs = Answers { answer: self.correct_only, wrong: false };
        self.load_with(files, needs, false).map_err(|e| of_tokenizer(files, e))
    }

    fn load_with(&self, files: &ModelFiles, needs: Answers, needs_corrupted: bool) -> Result<PromptSet, Error> {
        let options = LoadOptions {
            bos: self.bos,
            d_vocab: files.spec.d_vocab,
            n_ctx: files.spec.n_ctx,
            needs_wrong: needs.wrong,
            needs_answer: needs.answer,
            needs_corrupted,
        };
        let tokenizer = files.tokenizer.as_ref().map(|t| t as &dyn Encode);
        if let Some(task) = &self.task {
            return task_pairs(task, self.pairs, self.seed, tokenizer, &options).map(|(_, set)| set);
        }
        let counterfactual = self.counterfactual.as_deref();
        let mut set = match &self.prompts {
            Some(path) => prompts::load_choosing(path, tokenizer, &options, counterfactual)?,
            None => {
                let demo = demo::PAIRS.as_bytes();
                prompts::parse_choosing("the demo's pairs", demo, tokenizer, &options, counterfactual)?
            }
        };
        if let Some(said) = set.left_out.say() {
            warn(&format!("{}: {said}", set.source));
        }
        match self.pairs {
            Some(n) if n == 0 || n > set.pairs.len() => {
                let (source, has) = (&set.source, set.pairs.len());
                Err(usage(format!("--pairs {n}: of {source} 1 to {has} can be had")))
            }
            Some(n) => {
                set.pairs.truncate(n);
                set.hash = prompts::hash_pairs(&set.pairs);
                Ok(set)
            }
            None => Ok(set),
        }
    }

    /// The seed of everything random.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }

    /// For commands where only a task is random.
    ///
    /// # Errors
    /// There is a seed and no task.
    pub fn no_idle_seed(&self) -> Result<(), Error> {
        match self.seed {
            Some(_) if self.task.is_none() => {
                Err(usage("--seed: nothing here is random: it is for --task, and for noise and resample patches"))
            }
            _ => Ok(()),
        }
    }

    /// The task that made the pairs, for `run.json`; null for pairs of a file.
    pub fn made_by(&self) -> Result<Value, Error> {
        let Some(task) = &self.task else { return Ok(Value::Null) };
        let choice: TaskChoice = task.parse()?;
        Ok(json!({
            "name": choice.task.name,
            "corruption": choice.variant.name,
            "pairs": self.pairs.unwrap_or(TASK_PAIRS),
            "seed": self.seed(),
        }))
    }
}

/// Where text wants a tokenizer and the model's could not be used, why not.
pub fn of_tokenizer(files: &ModelFiles, error: Error) -> Error {
    match (&files.tokenizer_refused, error) {
        (Some(reason), Error::Prompt(PromptError::NoTokenizer { .. } | PromptError::TaskWithoutTokenizer { .. })) => {
            usage(reason)
        }
        (_, error) => error,
    }
}

/// Pairs that a task makes unless it is told how many.
const TASK_PAIRS: usize = 64;

/// The pairs of a task, as JSONL and checked against the model.
pub fn task_pairs(
    task: &str,
    pairs: Option<usize>,
    seed: Option<u64>,
    tokenizer: Option<&dyn Encode>,
    options: &LoadOptions,
) -> Result<(String, PromptSet), Error> {
    let (choice, seed): (TaskChoice, u64) = (task.parse()?, seed.unwrap_or(0));
    let tokenizer = tokenizer.ok_or_else(|| PromptError::TaskWithoutTokenizer { task: choice.to_string() })?;
    let jsonl = choice.generate(pairs.unwrap_or(TASK_PAIRS), seed, tokenizer)?;
    let name = format!("task {choice}, seed {seed}");
    let set = prompts::parse(&name, jsonl.as_bytes(), Some(tokenizer), options)?;
    Ok((jsonl, set))
}

impl PairArgs {
    /// With `--correct-only`, drops the pairs whose clean run does not prefer the answer; tells which stayed.
    ///
    /// # Errors
    /// None stayed.
    pub fn keep_correct<B: Backend>(&self, model: &Model<B>, set: &mut PromptSet) -> Result<Vec<bool>, Error> {
        let n_given = set.pairs.len();
        if !self.correct_only {
            return Ok(vec![true; n_given]);
        }
        let keep = prefers_answer(model, &set.pairs)?;
        let mut kept = keep.iter();
        set.pairs.retain(|_| *kept.next().unwrap_or(&true));
        if set.pairs.is_empty() {
            return Err(usage(format!(
                "--correct-only: the clean run prefers the answer in none of the {n_given} pairs"
            )));
        }
        Ok(keep)
    }
}

/// Loads the weights behind a progress bar.
pub fn load_weights<B: Backend>(files: &ModelFiles, spec: Arc<ModelSpec>, backend: B) -> Result<Model<B>, Error> {
    let (layers, show) = loading_bar(&spec);
    let model = Model::load(spec, &*files.params, backend, &show);
    layers.finish_and_clear();
    Ok(model?)
}

/// Loads the weights to every device, behind one bar.
pub fn load_weights_on_each<B: Backend>(
    files: &ModelFiles,
    spec: &Arc<ModelSpec>,
    backends: Vec<B>,
) -> Result<Vec<Model<B>>, Error> {
    let (layers, show) = loading_bar(spec);
    let models = Model::load_on_each(spec, &*files.params, backends, &show);
    layers.finish_and_clear();
    Ok(models?)
}

/// A bar of layers, and what shows a share of them on it.
fn loading_bar(spec: &ModelSpec) -> (ProgressBar, impl Fn(f64) + Sync + use<>) {
    let layers = spec.n_layers() as u64;
    let loading = bar(layers, "layers loaded");
    let shown = loading.clone();
    (loading, move |share| shown.set_position((share * layers as f64) as u64))
}

/// Which of a pair's answers a command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answers {
    pub answer: bool,
    pub wrong: bool,
}

#[derive(clap::Args)]
pub struct DeviceArgs {
    /// auto, cpu, cuda, cuda:N or emulated; several GPUs share a sweep: cuda:0,cuda:1 or cuda:all
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// float32, bf16x3 or bfloat16
    #[arg(long, default_value = "float32")]
    pub dtype: String,
    /// Memory that the run may use, on each device, weights included: 8GiB
    #[arg(long)]
    pub max_memory: Option<String>,
}

/// What a command does on the device that its options name.
pub trait Job {
    fn run<B: Backend>(self, on: OnDevice<'_, B>) -> Result<(), Error>;
}

/// The bounds of a run on some device, from what it needs, `--max-memory` in bytes and the longest prompt.
type LimitsOf<'a> = Box<dyn Fn(&Needs, Option<u64>, usize) -> Result<Limits, Error> + 'a>;

/// A device, opened.
pub struct OnDevice<'a, B> {
    pub backend: B,
    /// The devices that share the work of a job for several.
    pub more: Vec<B>,
    /// Which device was taken and why, where the user left that open; all of several.
    pub about: Option<String>,
    max_memory: Option<u64>,
    limits_of: LimitsOf<'a>,
}

impl<B> OnDevice<'_, B> {
    /// The bounds of a run on this device.
    pub fn limits(&self, needs: &Needs, longest: usize) -> Result<Limits, Error> {
        (self.limits_of)(needs, self.max_memory, longest)
    }
}

/// Devices as a job takes them; there is one at least.
fn first_and_more<B>(mut all: Vec<B>) -> (B, Vec<B>) {
    let first = all.remove(0);
    (first, all)
}

/// The names of devices, for reports.
pub fn names<B: Backend>(first: &B, more: &[B]) -> String {
    std::iter::once(first).chain(more).map(B::device).collect::<Vec<_>>().join("; ")
}

impl DeviceArgs {
    /// Finds and opens the device and does `job` on it.
    ///
    /// # Errors
    /// Exit code 2: no such device, it cannot be used, or there are several; otherwise what the job says.
    pub fn run(&self, job: impl Job) -> Result<(), Error> {
        if self.device.parse::<DeviceChoice>().map_err(usage)?.is_several() {
            let message =
                format!("--device {}: this command takes a single device; a sweep takes several", self.device);
            return Err(usage(message));
        }
        self.run_on_all(job)
    }

    /// The same with a job that several devices may share.
    pub fn run_on_all(&self, job: impl Job) -> Result<(), Error> {
        let chosen = device::choose(&self.device, &self.dtype)?;
        let max_memory = self.max_memory.as_deref().map(select::bytes).transpose().map_err(usage)?;
        let bounded: LimitsOf<'_> = Box::new(|needs, max, longest| match max {
            Some(max) => needs.limits(max, longest).map_err(usage),
            None => Ok(Limits::default()),
        });
        match chosen {
            Chosen::Cpu(reason) => {
                let about = reason.map(|r| format!("device: {}; {}", Cpu.device(), device::short_reason(&r)));
                job.run(OnDevice { backend: Cpu, more: Vec::new(), about, max_memory, limits_of: bounded })
            }
            Chosen::Cuda(gpus) => {
                let not_usable = |e| device::not_usable(&self.device, &e);
                let room = gpus.iter().map(|gpu| Ok((gpu.free_bytes()?, gpu.info().ordinal)));
                let room = room.collect::<Result<Vec<_>, _>>().map_err(not_usable)?;
                // Any wave may come to any of them.
                let (free, ordinal) = room.into_iter().min().unwrap_or_default();
                let precision = device::precision(&self.dtype).map_err(usage)?;
                let backends = gpus.into_iter().map(|gpu| Cuda::new(gpu, precision)).collect::<Result<Vec<_>, _>>();
                let (backend, more) = first_and_more(backends.map_err(not_usable)?);
                let about = Some(format!("device: {}", names(&backend, &more)));
                let limits_of: LimitsOf<'_> = Box::new(move |needs, max, longest| {
                    device::gpu_limits(needs, precision, ordinal, free, max, longest)
                        .map_err(|e| usage(format!("--device {}: {e}", self.device)))
                });
                job.run(OnDevice { backend, more, about, max_memory, limits_of })
            }
            #[cfg(feature = "emulator")]
            Chosen::Emulated(device::Emulated { devices, hopper }) => {
                let precision = device::precision(&self.dtype).map_err(usage)?;
                use crate::backend::cuda::emulated::Emulated;
                let card = || if hopper { Emulated::default().hopper() } else { Emulated::default() };
                let backends = (0..devices).map(|_| Cuda::new(card(), precision)).collect::<Result<Vec<_>, _>>();
                let (backend, more) = first_and_more(backends.map_err(|e| device::not_usable(&self.device, &e))?);
                let about = (devices > 1).then(|| format!("device: {}", names(&backend, &more)));
                job.run(OnDevice { backend, more, about, max_memory, limits_of: bounded })
            }
        }
    }
}

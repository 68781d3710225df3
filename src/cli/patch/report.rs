//! What `patchwave patch` says of its pairs: a table, JSON or CSV.

use crate::Error;
use crate::export::ExportError;
use crate::model::ModelFiles;
use crate::prompts::PromptSet;
use crate::sweep::effect::effects;
use crate::sweep::{Direction, JointOutcome, Metric, Node};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// Format of a result file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Json,
    Csv,
}

impl Kind {
    /// By the file's extension.
    pub fn of(path: &Path) -> Result<Kind, String> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Ok(Kind::Json),
            Some("csv") => Ok(Kind::Csv),
            _ => Err(format!("--output {}: expected a name that ends in .json or .csv", path.display())),
        }
    }
}

/// A finished run.
pub struct Report<'a> {
    pub nodes: &'a [Node],
    pub except: bool,
    /// Nodes that were patched.
    pub n_targets: usize,
    pub patch: Value,
    pub direction: Direction,
    pub metric: Metric,
    pub set: &'a PromptSet,
    /// Pairs before `--correct-only`.
    pub n_given: usize,
    pub outcome: &'a JointOutcome,
    pub model: (&'a str, &'a ModelFiles),
    pub device: &'a str,
    pub dtype: &'a str,
}

/// Means over pairs, and the effect, `None` where it is undefined.
struct Mean {
    clean: f64,
    corrupted: f64,
    patched: f64,
    effect: Option<f32>,
}

impl Report<'_> {
    fn floor(&self) -> f32 {
        1e-6 * self.outcome.clean.iter().chain(&self.outcome.corrupted).fold(0.0f32, |a, b| a.max(b.abs()))
    }

    fn effect(&self, metric: &[f32], clean: &[f32], corrupted: &[f32]) -> Option<f32> {
        let all = effects(metric, clean, corrupted, self.direction, self.floor());
        all.effect[0].is_finite().then_some(all.effect[0])
    }

    /// The effect in one pair.
    fn effect_of(&self, pair: usize) -> Option<f32> {
        let one = pair..pair + 1;
        let JointOutcome { metric, clean, corrupted, .. } = self.outcome;
        self.effect(&metric[one.clone()], &clean[one.clone()], &corrupted[one])
    }

    fn mean(&self) -> Mean {
        let JointOutcome { metric, clean, corrupted, .. } = self.outcome;
        let mean = |x: &[f32]| x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
        Mean {
            clean: mean(clean),
            corrupted: mean(corrupted),
            patched: mean(metric),
            effect: self.effect(metric, clean, corrupted),
        }
    }

    /// For the terminal.
    pub fn table(&self) -> String {
        let JointOutcome { metric, clean, corrupted, .. } = self.outcome;
        let mut out = format!("{:>5}  {:>9}  {:>9}  {:>9}  {:>8}\n", "pair", "clean", "corrupted", "patched", "effect");
        let mut line = |name: &str, numbers: [f64; 3], effect: Option<f32>| {
            let [a, b, c] = numbers;
            let effect = effect.map_or("-".to_owned(), |e| format!("{e:+.3}"));
            let _ = writeln!(out, "{name:>5}  {a:>9.4}  {b:>9.4}  {c:>9.4}  {effect:>8}");
        };
        for pair in 0..metric.len() {
            let numbers = [clean[pair], corrupted[pair], metric[pair]].map(f64::from);
            line(&pair.to_string(), numbers, self.effect_of(pair));
        }
        let mean = self.mean();
        line("mean", [mean.clean, mean.corrupted, mean.patched], mean.effect);
        let patch = self.patch.as_str().or_else(|| self.patch["name"].as_str()).unwrap_or_default();
        let nodes = if self.n_targets == 1 { "node patched" } else { "nodes patched together" };
        let except = if self.except { ", all but those listed" } else { "" };
        let _ = write!(
            out,
            "\n{} of the {} run with {} {nodes}{except}: {patch}, {}",
            self.metric,
            self.direction.base(),
            self.n_targets,
            self.direction.as_str()
        );
        if mean.effect.is_none() {
            out.push_str(
                "\neffects are undefined: clean and corrupted metrics are within the noise floor of each other",
            );
        }
        out
    }

    /// Writes the result to `path`.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, path: &Path, kind: Kind) -> Result<(), Error> {
        let text = match kind {
            Kind::Json => serde_json::to_string_pretty(&self.json()?).unwrap_or_default() + "\n",
            Kind::Csv => self.csv(),
        };
        let io = |source| ExportError::Write { path: path.to_owned(), source };
        Ok(std::fs::write(path, text).map_err(io)?)
    }

    fn json(&self) -> Result<Value, Error> {
        let JointOutcome { metric, clean, corrupted, .. } = self.outcome;
        let pair = |i: usize| {
            json!({
                "pair": i, "clean": clean[i], "corrupted": corrupted[i], "patched": metric[i], "effect": self.effect_of(i),
            })
        };
        let mean = self.mean();
        let (name, files) = self.model;
        Ok(json!({
            "patchwave_version": env!("CARGO_PKG_VERSION"),
            "nodes": self.nodes.iter().map(Node::to_string).collect::<Vec<_>>(),
            "except": self.except,
            "patch": self.patch,
            "direction": self.direction.as_str(),
            "metric": self.metric.name(),
            "mean": { "clean": mean.clean, "corrupted": mean.corrupted, "patched": mean.patched, "effect": mean.effect },
            "effect_defined": mean.effect.is_some(),
            "pairs": (0..metric.len()).map(pair).collect::<Vec<_>>(),
            "model": { "name": name, "path": files.path.display().to_string(), "family": files.spec.family, "sha256": files.sha256()? },
            "prompts": {
                "path": self.set.source, "sha256": self.set.hash, "pairs_given": self.n_given,
                "pairs_dropped": self.n_given - metric.len(), "bos": self.set.bos,
            },
            "device": self.device,
            "dtype": self.dtype,
        }))
    }

    fn csv(&self) -> String {
        let JointOutcome { metric, clean, corrupted, .. } = self.outcome;
        let mut out = String::from("pair,clean,corrupted,patched,effect\n");
        for i in 0..metric.len() {
            let effect = self.effect_of(i).map(|e| e.to_string()).unwrap_or_default();
            let _ = writeln!(out, "{i},{},{},{},{effect}", clean[i], corrupted[i], metric[i]);
        }
        out
    }
}

//! `--patch` and what belongs to it, which several commands share.

use super::args::PairArgs;
use super::usage;
use crate::Error;
use crate::prompts::PromptSet;
use crate::sweep::{Column, Direction, Directions, Draws, Edges, Intervention, PatchKind};
use serde_json::{Value, json};

#[derive(clap::Args)]
pub struct PatchArgs {
    /// What is written: source (the other run's activation), zero, mean (over the other runs), noise:SIGMA (added),
    /// resample (another pair's), add:FILE[*SCALE] (a direction from safetensors), scale:X, knockout (of --edges)
    #[arg(long, value_name = "KIND", default_value = "source")]
    pub patch: String,
    /// Edges of attention that a knockout takes away: S2->end,IO->end
    #[arg(long, value_name = "EDGES", allow_hyphen_values = true)]
    pub edges: Option<String>,
    /// Draws of noise and resample patches that a metric is averaged over [default: 1]
    #[arg(long, value_name = "N")]
    pub draws: Option<u32>,
}

/// The most draws; their values are in memory together.
const MAX_DRAWS: u32 = 1000;

/// A patch with everything that its kind needs, files read.
pub struct Patching {
    pub kind: Intervention,
    draws: Draws,
    directions: Option<Directions>,
    /// The edges of a knockout, in every pair.
    pub edges: Option<Edges>,
    edges_text: Option<String>,
    /// What a direction's positions stand for.
    axis: Vec<Column>,
}

impl PatchArgs {
    /// Reads the options, the file of directions, and finds the edges. `axis` is the position axis of the run; `pairs` has
    /// the seed.
    ///
    /// # Errors
    /// An option that the kind of patch does not have, or lacks; a file that cannot be read; an edge that is none.
    pub fn read(&self, pairs: &PairArgs, set: &PromptSet, axis: Vec<Column>) -> Result<Patching, Error> {
        let kind: Intervention = self.patch.parse().map_err(usage)?;
        if !kind.is_random() {
            pairs.no_idle_seed()?;
            if self.draws.is_some() {
                return Err(usage(format!("--draws: a {kind} patch is not random; noise and resample are")));
            }
        }
        let n = self.draws.unwrap_or(1);
        if !(1..=MAX_DRAWS).contains(&n) {
            return Err(usage(format!("--draws {n}: expected 1 to {MAX_DRAWS}")));
        }
        let edges = match (&kind, &self.edges) {
            (Intervention::Knockout, Some(edges)) => Some(Edges::resolve(edges, set)?),
            (Intervention::Knockout, None) => {
                return Err(usage("--patch knockout needs --edges: which sources which destinations lose, as S2->end"));
            }
            (_, Some(_)) => return Err(usage(format!("--edges are for --patch knockout, not for {kind}"))),
            (_, None) => None,
        };
        let directions = match &kind {
            Intervention::Add { file, .. } => Some(Directions::open(file).map_err(usage)?),
            _ => None,
        };
        let draws = Draws { seed: pairs.seed(), n };
        Ok(Patching { kind, draws, directions, edges, edges_text: self.edges.clone(), axis })
    }
}

impl Patching {
    /// For the library.
    pub fn kind(&self) -> PatchKind<'_> {
        match (&self.kind, &self.directions, &self.edges) {
            (Intervention::Zero, ..) => PatchKind::Zero,
            (Intervention::Mean, ..) => PatchKind::Mean,
            (Intervention::Noise(sigma), ..) => PatchKind::Noise { sigma: *sigma, draws: self.draws },
            (Intervention::Resample, ..) => PatchKind::Resample { draws: self.draws },
            (Intervention::Scale(factor), ..) => PatchKind::Scale(*factor),
            (Intervention::Add { scale, .. }, Some(directions), _) => {
                PatchKind::Add { directions, scale: *scale, axis: &self.axis }
            }
            (Intervention::Knockout, _, Some(edges)) => PatchKind::Knockout(&edges.sources),
            _ => PatchKind::Source,
        }
    }

    /// Source patches restore, all others destroy, unless the user says otherwise.
    pub fn direction(&self, asked: Option<Direction>) -> Direction {
        asked.unwrap_or(match self.kind {
            Intervention::Source => Direction::Denoise,
            _ => Direction::Noise,
        })
    }

    /// Leaves out the pairs that are not kept.
    pub fn retain(&mut self, keep: &[bool]) {
        for column in &mut self.axis {
            let mut kept = keep.iter();
            column.at.retain(|_| *kept.next().unwrap_or(&true));
        }
        if let Some(edges) = &mut self.edges {
            edges.retain(keep);
        }
    }

    /// As run.json records it: the plain name where that says all, else an object whose `name` is what --patch said.
    pub fn json(&self) -> Value {
        let name = self.kind.to_string();
        match &self.kind {
            Intervention::Source | Intervention::Zero | Intervention::Mean | Intervention::Scale(_) => json!(name),
            Intervention::Noise(_) | Intervention::Resample => {
                json!({ "name": name, "seed": self.draws.seed, "draws": self.draws.n })
            }
            Intervention::Add { .. } => {
                json!({ "name": name, "sha256": self.directions.as_ref().map(|d| &d.sha256) })
            }
            Intervention::Knockout => json!({ "name": name, "edges": self.edges_text }),
        }
    }
}

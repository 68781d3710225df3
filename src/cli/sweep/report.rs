//! What a finished sweep says: effects, `run.json`, the lines under the table.

use super::Args;
use crate::backend::Backend;
use crate::cli::terminal::{thousands, warn};
use crate::export::{Axis, RunResult, SiteEffects};
use crate::prompts::PromptSet;
use crate::sweep::effect::effects;
use crate::sweep::{Direction, Metric, Outcome, Sweep, Verification};
use serde_json::{Value, json};

/// What the user asked for, after it has been checked.
pub struct Asked<'a> {
    pub args: &'a Args,
    pub set: &'a PromptSet,
    /// Name, corruption, number and seed of the task that made the pairs; null for pairs of a file.
    pub task: Value,
    /// Pairs before `--correct-only`.
    pub n_given: usize,
    pub direction: Direction,
    pub metric: Metric,
    /// The patch, as run.json records it.
    pub patch: Value,
}

pub struct Seconds {
    pub loading: f64,
    pub sweep: f64,
    pub verifying: f64,
    pub total: f64,
}

/// The result with everything `run.json` records of the run itself, and the notes that follow the table.
pub fn report<B: Backend>(
    asked: &Asked<'_>,
    sweep: &Sweep<'_, B>,
    outcome: Outcome,
    verified: Verification,
    resumed: usize,
    seconds: Seconds,
) -> (RunResult, String) {
    // Effects, and whether there are any.
    let largest = outcome.clean.iter().chain(&outcome.corrupted).fold(0.0f32, |a, b| a.max(b.abs()));
    let floor = verified.worst.max(1e-6 * largest);
    let all = effects(&outcome.metric, &outcome.clean, &outcome.corrupted, asked.direction, floor);
    let n_pairs = asked.set.pairs.len();
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
        let mut axes = vec![Axis::numbered("layer", sweep.model.spec.n_layers())];
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
            "path": asked.set.source, "task": asked.task, "sha256": asked.set.hash, "pairs_given": asked.n_given, "pairs_dropped": asked.n_given - n_pairs, "bos": asked.set.bos,
            "left_out": asked.set.left_out.total(),
        },
        "clean_prefers_answer": n_pairs - not_preferred,
        "dtype": asked.args.device.dtype,
        "metric": asked.metric.name(),
        "patch": asked.patch,
        "noise_floor": verified.worst,
        "verified_items": verified.items,
        "cells": sweep.sites.iter().map(|s| s.cells.iter().filter(|c| c.exists).count()).sum::<usize>(),
        "items": { "run": stats.run, "unchanged": stats.unchanged, "resumed": resumed, "waves": stats.waves },
        "rows_computed": rows,
        "rows_saved": naive.saturating_sub(rows),
        "rows_of_full_passes": naive,
        "seconds": seconds.sweep,
        "seconds_loading": seconds.loading,
        "seconds_verifying": seconds.verifying,
        "seconds_total": seconds.total,
    });
    let times = naive as f64 / rows.max(1) as f64;
    let mut notes = format!(
        "\nrows computed {} of {} ({times:.1} times fewer than one forward pass per cell), {:.1} s",
        thousands(rows),
        thousands(naive),
        seconds.sweep
    );
    if verified.items > 0 {
        let about =
            format!("\nnoise floor {:.1e} over {} items against full forward passes", verified.worst, verified.items);
        notes.push_str(&about);
    }
    let result = RunResult {
        meta: meta.as_object().cloned().unwrap_or_default(),
        sites,
        metric_clean: outcome.clean,
        metric_corrupted: outcome.corrupted,
        effect_defined: all.defined,
        direction: asked.direction,
    };
    (result, notes)
}

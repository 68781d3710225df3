//! Several nodes patched in one run. With one node and from the embedding on, this is the reference path: the patch is
//! made where the forward pass computes the activation, and nothing is saved.

use super::cells::{By, Cell, Column, Direction, SiteCells};
use super::group::Made;
use super::intervention::{Pairs, PatchKind, delta_cache, keep_of, partners, places, resampled};
use super::limits::Limits;
use super::mean::Means;
use super::metric::Metric;
use super::run::{Sweep, SweepError, first_not_finite, mean_of_draws, prefers};
use crate::backend::Backend;
use crate::engine::{Cache, Keep, Model, PatchPoint, Point, Program, PromptRows, Run, Site, Value};
use crate::prompts::{Align, Pair};
use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

/// A node in the positions of every pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub site: Site,
    pub layer: usize,
    /// `None` is all heads, or a site without.
    pub head: Option<usize>,
    /// Knockouts only: this edge alone, of those whose destination is patched.
    pub column: Option<usize>,
    /// `[pair]`: patched positions in order; destinations, at attn_scores and pattern.
    pub positions: Vec<Vec<usize>>,
}

/// Nodes patched together, ready to run.
pub struct Joint<'a, B: Backend> {
    pub model: &'a Model<B>,
    pub pairs: &'a [Pair],
    pub targets: Vec<Target>,
    /// The destinations of a knockout's edges, one column an edge; otherwise none.
    pub columns: Vec<Column>,
    pub direction: Direction,
    pub patch: PatchKind<'a>,
    pub metric: Metric,
    /// See [`super::Sweep::align`].
    pub align: Option<Align>,
    pub limits: Limits,
}

/// `[pair]` each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JointOutcome {
    /// Of the patched run.
    pub metric: Vec<f32>,
    pub clean: Vec<f32>,
    pub corrupted: Vec<f32>,
    /// The clean run prefers the answer; see [`super::prefers_answer`].
    pub prefers: Vec<bool>,
}

impl<B: Backend> Joint<'_, B> {
    /// Runs all pairs: one node as a cell of a sweep, several from the first patched layer on.
    ///
    /// # Errors
    /// [`SweepError`]: a run that is not finite, a patch without meaning at a node's site, no memory.
    pub fn run(&self) -> Result<JointOutcome, SweepError> {
        match &self.targets[..] {
            [one] => self.cell(one),
            _ => self.run_from(Start::FirstPatch),
        }
    }

    /// One node, as the sweep would.
    fn cell(&self, target: &Target) -> Result<JointOutcome, SweepError> {
        let columns = match self.patch {
            PatchKind::Knockout(_) => self.columns.clone(),
            _ => {
                let most = target.positions.iter().map(Vec::len).max().unwrap_or(0);
                let at = |i: usize| target.positions.iter().map(|p| p.get(i).map(|p| *p as u32)).collect();
                (0..most).map(|i| Column { label: String::new(), at: at(i) }).collect()
            }
        };
        let Target { site, layer, head, column, .. } = *target;
        let (layer, head, column) = (layer as u32, head.map(|h| h as u32), column.map(|c| c as u32));
        let cells = vec![Cell { site, layer, head, column, exists: true }];
        let by = if head.is_some() { By::Head } else { By::Layer };
        let sweep = Sweep {
            model: self.model,
            pairs: self.pairs,
            sites: vec![SiteCells { site, by, n_heads: 1, n_columns: 1, cells }],
            columns,
            restricted: true,
            direction: self.direction,
            patch: self.patch,
            metric: self.metric,
            align: self.align,
            limits: self.limits,
            skip: true,
        };
        let done = sweep.run(&HashMap::new(), &mut |_, _| ControlFlow::Continue(()))?;
        let base = match self.direction {
            Direction::Denoise => &done.corrupted,
            Direction::Noise => &done.clean,
        };
        // A pair in which nothing is patched keeps its metric.
        let metric = done.metric.iter().zip(base).map(|(m, base)| if m.is_nan() { *base } else { *m }).collect();
        Ok(JointOutcome { metric, clean: done.clean, corrupted: done.corrupted, prefers: done.prefers })
    }

    /// The same, several nodes or one, from the embedding on: for tests.
    pub fn reference(&self) -> Result<JointOutcome, SweepError> {
        self.run_from(Start::Embedding)
    }

    fn run_from(&self, start: Start) -> Result<JointOutcome, SweepError> {
        let batches = self.batches();
        let made = self.made(&batches)?;
        let mut all = JointOutcome::default();
        for pairs in batches {
            let from = Pairs { all: self.pairs, first: pairs.start, direction: self.direction, align: self.align };
            let batch = Batch {
                model: self.model,
                from,
                n: pairs.len(),
                targets: &self.targets,
                columns: &self.columns,
                patch: self.patch,
                metric: self.metric,
                made: &made,
            };
            let mut done = batch.unpatched()?;
            done.metric = batch.run(start)?.metric;
            if let (Some(pair), Some(target)) = (done.metric.iter().position(|m| !m.is_finite()), self.targets.first())
            {
                let (site, layer) = (target.site, target.layer);
                return Err(SweepError::PatchNotFinite { site, layer, pair: pairs.start + pair });
            }
            all.metric.extend(done.metric);
            all.clean.extend(done.clean);
            all.corrupted.extend(done.corrupted);
            all.prefers.extend(done.prefers);
        }
        Ok(all)
    }

    /// Consecutive pairs whose rows fit in a wave together.
    fn batches(&self) -> Vec<Range<usize>> {
        let (mut batches, mut from, mut rows) = (Vec::new(), 0, 0);
        for (i, pair) in self.pairs.iter().enumerate() {
            if i > from && rows + pair.len() > self.limits.max_rows {
                batches.push(from..i);
                (from, rows) = (i, 0);
            }
            rows += pair.len();
        }
        batches.push(from..self.pairs.len());
        batches
    }

    fn made(&self, batches: &[Range<usize>]) -> Result<Made, SweepError> {
        self.patch.check(&self.model.spec, self.targets.iter().map(|t| (t.site, t.layer)))?;
        let lengths: Vec<usize> = self.pairs.iter().map(Pair::len).collect();
        match self.patch {
            PatchKind::Resample { draws } => Ok(Made { partners: partners(&lengths, self.align, draws)?, means: None }),
            PatchKind::Mean => {
                let mut means = Means::new(&lengths, self.align);
                let visited = self.targets.iter().map(|t| (t.site, t.layer));
                let keep = keep_of(&places(&self.model.spec, visited, true));
                for batch in batches {
                    let from = Pairs { all: self.pairs, first: batch.start, direction: self.direction, align: None };
                    means.add(self.model, source_prompts(from, batch.len()), &keep)?;
                }
                Ok(Made { means: Some(means), partners: Vec::new() })
            }
            _ => Ok(Made::default()),
        }
    }
}

/// Where a patched run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Embedding,
    /// The last boundary before all patches, with the base run's residual stream.
    FirstPatch,
}

/// Some pairs with nodes patched.
pub(crate) struct Batch<'a, B: Backend> {
    pub model: &'a Model<B>,
    pub from: Pairs<'a>,
    /// Pairs, from the first on.
    pub n: usize,
    pub targets: &'a [Target],
    pub columns: &'a [Column],
    pub patch: PatchKind<'a>,
    pub metric: Metric,
    pub made: &'a Made,
}

fn prompts_of(from: Pairs<'_>, n: usize, ids: impl Fn(&Pair) -> &Vec<u32>) -> PromptRows {
    PromptRows::new(from.all[from.first..from.first + n].iter().map(|p| ids(p).clone()).collect())
}

fn source_prompts(from: Pairs<'_>, n: usize) -> PromptRows {
    match from.direction {
        Direction::Denoise => prompts_of(from, n, |p| &p.clean),
        Direction::Noise => prompts_of(from, n, |p| &p.corrupted),
    }
}

impl<B: Backend> Batch<'_, B> {
    fn pairs(&self) -> Vec<&Pair> {
        self.from.all[self.from.first..self.from.first + self.n].iter().collect()
    }

    fn base_prompts(&self) -> PromptRows {
        match self.from.direction {
            Direction::Denoise => prompts_of(self.from, self.n, |p| &p.corrupted),
            Direction::Noise => prompts_of(self.from, self.n, |p| &p.clean),
        }
    }

    fn evaluate(&self, hidden: &B::Buf, clean: Option<&B::Buf>) -> Vec<f32> {
        let index: Vec<u32> = (0..self.n as u32).collect();
        self.metric.evaluate(self.model, &self.pairs(), &index, hidden, clean)
    }

    fn clean_hidden(&self) -> Result<B::Buf, SweepError> {
        let prompts = prompts_of(self.from, self.n, |p| &p.clean);
        Ok(self.model.run(prompts, &Keep::default(), &[])?.hidden)
    }

    /// Clean and corrupted runs.
    fn unpatched(&self) -> Result<JointOutcome, SweepError> {
        let clean = self.clean_hidden()?;
        let prompts = prompts_of(self.from, self.n, |p| &p.corrupted);
        let corrupted = self.model.run(prompts, &Keep::default(), &[])?.hidden;
        self.model.backend.check()?;
        let done = JointOutcome {
            metric: Vec::new(),
            clean: self.evaluate(&clean, Some(&clean)),
            corrupted: self.evaluate(&corrupted, Some(&clean)),
            prefers: prefers(self.model, &self.pairs(), &clean),
        };
        for (run, metrics) in [("clean", &done.clean), ("corrupted", &done.corrupted)] {
            if let Some(pair) = metrics.iter().position(|m| !m.is_finite()) {
                let at = &self.pairs()[pair];
                let place = first_not_finite(self.model, if run == "clean" { &at.clean } else { &at.corrupted })?;
                return Err(SweepError::NonFinite { run, pair: self.from.first + pair, place });
            }
        }
        Ok(done)
    }

    /// The patched runs, averaged over draws. Only `metric` of the outcome is filled.
    pub fn run(&self, start: Start) -> Result<JointOutcome, SweepError> {
        let (model, spec) = (self.model, &self.model.spec);
        let program = Program::new(spec);
        let places = places(spec, self.targets.iter().map(|t| (t.site, t.layer)), true);
        let mut keep_base = match self.patch {
            PatchKind::Resample { .. } => keep_of(&places),
            _ => Keep::default(),
        };
        // A patch inside a sub-layer begins with that sub-layer's input.
        let begins = |t: &Target| {
            let visible = program.entry_boundary(spec, t.site, t.layer)?;
            Some(if Point::of(t.site).is_some() { visible - 1 } else { visible })
        };
        let first = self.targets.iter().filter_map(begins).min();
        let first = first.filter(|_| start == Start::FirstPatch);
        keep_base.boundaries.extend(first);
        let needs_base = first.is_some() || matches!(self.patch, PatchKind::Resample { .. });
        let base: Option<Run<B>> = needs_base.then(|| model.run(self.base_prompts(), &keep_base, &[])).transpose()?;
        let source = match self.patch {
            PatchKind::Source => Some(model.run(source_prompts(self.from, self.n), &keep_of(&places), &[])?.cache),
            PatchKind::Mean => {
                let means = self.made.means.as_ref().expect("means are made before the runs");
                Some(means.cache(model, &self.base_prompts())?)
            }
            _ => None,
        };
        let clean = match self.metric {
            Metric::Kl => Some(self.clean_hidden()?),
            _ => None,
        };
        let metric = mean_of_draws(self.patch.n_draws(), |draw| {
            let drawn = match (self.patch, &base) {
                (PatchKind::Resample { .. }, Some(base)) => {
                    Some(resampled(model, &places, &base.cache, &self.made.partners[draw], self.from)?)
                }
                (PatchKind::Noise { .. } | PatchKind::Add { .. }, _) => {
                    Some(delta_cache(model, self.patch, draw, &places, &self.base_prompts(), self.from.first)?)
                }
                _ => None,
            };
            let patches = self.patches(source.as_ref().or(drawn.as_ref()));
            let resid = |b: usize| base.as_ref().map(|base| (b, base.cache.resid(b, spec.d_model)));
            let run = model.run_from(self.base_prompts(), first.and_then(resid), &Keep::default(), &patches)?;
            model.backend.check()?;
            Ok(self.evaluate(&run.hidden, clean.as_ref()))
        })?;
        Ok(JointOutcome { metric, ..JointOutcome::default() })
    }

    fn patches<'c>(&self, values: Option<&'c Cache<B>>) -> Vec<PatchPoint<'c, B>> {
        let mut patches: Vec<PatchPoint<'_, B>> = Vec::new();
        for target in self.targets {
            for segment in 0..self.n {
                let pair = self.from.first + segment;
                let mut add = |positions: Range<usize>, value: Value<'c, B>| {
                    let heads = target.head.map(|h| h..h + 1);
                    let (site, layer) = (target.site, target.layer);
                    patches.push(PatchPoint { site, layer, segment, heads, positions, value });
                };
                if let PatchKind::Knockout(sources) = self.patch {
                    for &at in &target.positions[pair] {
                        let meets = |c: &usize| {
                            target.column.is_none_or(|own| own == *c) && self.columns[*c].at[pair] == Some(at as u32)
                        };
                        for source in (0..sources.len()).filter(meets).filter_map(|c| sources[c][pair]) {
                            add(at..at + 1, Value::Knockout(source as usize));
                        }
                    }
                    continue;
                }
                let value = match (self.patch, values) {
                    (PatchKind::Scale(factor), _) => Value::Scale(factor),
                    (PatchKind::Noise { .. } | PatchKind::Add { .. }, Some(cache)) => Value::Add(cache, segment),
                    (_, Some(cache)) => Value::From(cache, segment),
                    (_, None) => Value::Zero,
                };
                for run in runs(&target.positions[pair]) {
                    add(run, value);
                }
            }
        }
        patches
    }
}

/// Consecutive positions together.
fn runs(positions: &[usize]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for &p in positions {
        match runs.last_mut() {
            Some(last) if last.end == p => last.end = p + 1,
            _ => runs.push(p..p + 1),
        }
    }
    runs
}

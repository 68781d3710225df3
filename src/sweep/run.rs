//! A whole sweep: pairs in groups that fit in memory, each group planned, cut into waves and run.

use super::cells::{Cell, Column, Direction, SiteCells};
use super::deal::{Finished, Seat, cut, deal};
use super::group::{Group, Made, keeps, kept_bytes};
use super::intervention::{InterventionError, Pairs, PatchKind, partners};
use super::limits::Limits;
use super::mean::Means;
use super::metric::Metric;
use super::plan::{Fate, PlannedItem, Positions, fate, patched_positions};
use super::wave::{Wave, rows_of};
use crate::backend::{Backend, BackendError, View};
use crate::engine::workspace::bytes_per_row;
use crate::engine::{Keep, Model, Program, PromptRows, RowCount, Site, on_each};
use crate::prompts::{Align, Pair};
use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

/// Why a sweep stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The unpatched run is not finite: nothing can be measured against it.
    #[error(
        "the {run} run of pair {pair} (from 0) is not finite from {place} on; check the weights, or use a wider --dtype"
    )]
    NonFinite { run: &'static str, pair: usize, place: String },
    /// A patch overflowed what the unpatched run did not.
    #[error(
        "the run of pair {pair} (from 0) with {site} of layer {layer} patched is not finite; use a wider --dtype, or leave the site out"
    )]
    PatchNotFinite { site: Site, layer: usize, pair: usize },
    #[error(
        "--patch mean at attn_scores or pattern needs prompts of one length: matrices of different sizes have no mean"
    )]
    MeanOfMatrices,
    /// The same run on two devices: what one has computed may not stand beside the other's.
    #[error("{first} and {other} do not compute the same bits; name devices of one kind, or one alone")]
    DevicesDiffer { first: String, other: String },
    #[error(transparent)]
    Intervention(#[from] InterventionError),
    /// The observer asked to stop; finished waves have been handed out.
    #[error("interrupted")]
    Interrupted,
}

/// (cell, pair) as one number: `cell * n_pairs + pair`.
pub type Item = u64;

/// The metrics of one finished wave.
pub struct Block<'a> {
    pub items: &'a [(Item, f32)],
}

/// Where a sweep stands, told after every wave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// (cell, pair) items finished, skipped ones included, of all that exist.
    pub done: u64,
    pub total: u64,
    /// Token rows through a layer so far.
    pub row_layers: u64,
}

/// What a sweep cost and what it did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepStats {
    /// Items that ran.
    pub run: u64,
    /// Items that are provably the base run.
    pub unchanged: u64,
    pub waves: u64,
    /// Rows through attention and MLP sub-layers, base and source runs included.
    pub rows: RowCount,
    /// What one full forward pass per item would have cost.
    pub naive_rows: RowCount,
}

/// A sweep, ready to run. See [`SiteCells`] for what it visits.
pub struct Sweep<'a, B: Backend> {
    pub model: &'a Model<B>,
    pub pairs: &'a [Pair],
    pub sites: Vec<SiteCells>,
    /// The position axis. Without `restricted`, cells without a position patch every position.
    pub columns: Vec<Column>,
    pub restricted: bool,
    pub direction: Direction,
    pub patch: PatchKind<'a>,
    pub metric: Metric,
    /// How positions of prompts of different lengths correspond, if they do (means).
    pub align: Option<Align>,
    pub limits: Limits,
    /// Leave out items that are provably the base run. Off only in tests.
    pub skip: bool,
}

/// Metrics of a finished sweep.
pub struct Outcome {
    /// `[cells, pairs]`: all cells of all sites, one after the other; NaN where there is no such cell.
    pub metric: Vec<f32>,
    /// `[pairs]`
    pub clean: Vec<f32>,
    pub corrupted: Vec<f32>,
    /// `[pairs]`: the clean run prefers the answer; see [`prefers_answer`].
    pub prefers: Vec<bool>,
    pub stats: SweepStats,
    pub(super) made: Made,
}

impl<B: Backend> Sweep<'_, B> {
    /// All cells, site after site.
    pub fn cells(&self) -> Vec<Cell> {
        self.sites.iter().flat_map(|s| s.cells.iter().copied()).collect()
    }

    pub(super) fn positions(&self) -> Positions<'_> {
        Positions { at: &self.columns, restricted: self.restricted }
    }

    /// Whether the model, the selection and the pair have this item.
    pub(super) fn exists(&self, cell: &Cell, pair: usize) -> bool {
        cell.exists && !patched_positions(cell, &self.positions(), pair, self.pairs[pair].len()).is_empty()
    }

    /// Consecutive pairs whose caches fit in memory together.
    fn groups(&self, keep_base: &Keep, keep_source: &Keep) -> Vec<Range<usize>> {
        let spec = &self.model.spec;
        let (mut groups, mut from, mut bytes) = (Vec::new(), 0, 0);
        for (i, pair) in self.pairs.iter().enumerate() {
            let values = self.patch.n_draws() * kept_bytes(spec, keep_source, pair.len());
            let more = kept_bytes(spec, keep_base, pair.len()) + values;
            let rows = self.pairs[from..=i].iter().map(Pair::len).sum::<usize>();
            if i > from && (bytes + more > self.limits.cache_bytes || rows > self.limits.max_rows) {
                groups.push(from..i);
                (from, bytes) = (i, 0);
            }
            bytes += more;
        }
        groups.push(from..self.pairs.len());
        groups
    }

    /// Room on a device for the base and the source run of a group, where there is so much in one stretch; otherwise their buffers
    /// take what they find.
    fn reserve_for(&self, backend: &B, pairs: &Range<usize>, base: &Keep, source: &Keep) -> Result<(), SweepError> {
        let spec = &self.model.spec;
        let kept = |p: &Pair| kept_bytes(spec, base, p.len()) + kept_bytes(spec, source, p.len());
        let rows: usize = self.pairs[pairs.clone()].iter().map(Pair::len).sum();
        let bytes = self.pairs[pairs.clone()].iter().map(kept).sum::<usize>() + rows * bytes_per_row(spec);
        match backend.reserve(bytes) {
            Ok(()) | Err(BackendError::OutOfMemory { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Runs everything that `known` does not have yet. `observe` sees every wave's metrics as it finishes and may stop
    /// the sweep.
    ///
    /// # Errors
    /// [`SweepError`]; after [`SweepError::Interrupted`] everything observed so far is valid and can be passed as
    /// `known` to a later run.
    pub fn run(
        &self,
        known: &HashMap<Item, f32>,
        observe: &mut dyn FnMut(Block<'_>, Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, SweepError> {
        self.run_with(&[], known, observe)
    }

    /// [`Sweep::run`] with the waves dealt out to the device of `model` and to those of `more`, to which the same weights
    /// have been loaded. The metrics have the bits that one device gives. `observe` is called on this thread; when it stops
    /// the sweep, each device still ends the wave that it is at, and that is lost.
    ///
    /// # Errors
    /// As [`Sweep::run`]; a device that fails stops all. [`SweepError::DevicesDiffer`].
    pub fn run_with(
        &self,
        more: &[Model<B>],
        known: &HashMap<Item, f32>,
        observe: &mut dyn FnMut(Block<'_>, Progress) -> ControlFlow<()>,
    ) -> Result<Outcome, SweepError> {
        let (spec, cells, n_pairs) = (&self.model.spec, self.cells(), self.pairs.len());
        let program = Program::new(spec);
        let (keep_base, keep_source) = keeps(spec, &program, &self.sites, self.patch);
        let groups = self.groups(&keep_base, &keep_source);
        let mut stats = SweepStats::default();
        let made = self.made(&groups, &keep_source, &mut stats)?;
        let mut outcome = Outcome {
            metric: vec![f32::NAN; cells.len() * n_pairs],
            clean: Vec::with_capacity(n_pairs),
            corrupted: Vec::with_capacity(n_pairs),
            prefers: Vec::with_capacity(n_pairs),
            stats: SweepStats::default(),
            made: Made::default(),
        };
        let total = cells.iter().map(|c| (0..n_pairs).filter(|p| self.exists(c, *p)).count() as u64).sum();
        let mut progress = Progress { done: 0, total, row_layers: 0 };
        let models: Vec<&Model<B>> = std::iter::once(self.model).chain(more).collect();
        let mut seats: Vec<Seat<'_, B>> = models.iter().map(|m| Seat::new(m, self.limits.max_rows)).collect();
        for pairs in groups {
            // Every device makes its own: what crossed from one to another would cost more than it saves.
            let on_devices = on_each(models.iter().copied(), |model| {
                self.reserve_for(&model.backend, &pairs, &keep_base, &keep_source)?;
                let group = Group::new(
                    model,
                    (self.from(pairs.start), pairs.len()),
                    (&keep_base, &keep_source),
                    &self.sites,
                    self.patch,
                    self.metric,
                    &made,
                )?;
                model.backend.check()?;
                Ok::<_, SweepError>(group)
            })?;
            let group = &on_devices[0];
            let runs = full_rows(&program, spec, (2 * models.len() * group.base_prompts.n_rows()) as u64);
            stats.rows += runs;
            self.check_finite(group, pairs.start)?;
            self.check_same(&models, &on_devices)?;
            outcome.clean.extend_from_slice(&group.clean_metric);
            outcome.corrupted.extend_from_slice(&group.corrupted_metric);
            outcome.prefers.extend(prefers(self.model, &group.pairs, &group.clean_hidden));

            // Plan.
            let mut items = Vec::new();
            for (index, cell) in cells.iter().enumerate() {
                for (pair, global) in pairs.clone().enumerate() {
                    let at = index * n_pairs + global;
                    let what = (index as u32, cell);
                    let positions = self.positions();
                    let fate = fate(spec, &program, group, &positions, self.patch, self.skip, what, (pair, global));
                    // What an earlier attempt has paid for is neither computed nor saved by this one.
                    if !matches!(fate, Fate::Missing) && !known.contains_key(&(at as Item)) {
                        let len = group.base_prompts.len_of(pair) as u64;
                        stats.naive_rows += full_rows(&program, spec, len * self.patch.n_draws() as u64);
                    }
                    match fate {
                        Fate::Missing => {}
                        Fate::Unchanged => {
                            outcome.metric[at] = group.base_metric[pair];
                            stats.unchanged += 1;
                            progress.done += 1;
                        }
                        Fate::Run(item) => match known.get(&(at as Item)) {
                            Some(value) => {
                                outcome.metric[at] = *value;
                                progress.done += 1;
                            }
                            None => items.push(item),
                        },
                    }
                }
            }
            let key = |i: &PlannedItem| {
                let c = &cells[i.cell as usize];
                (i.boundary, c.site, c.layer, c.head, c.column, i.pair)
            };
            items.sort_by_key(key);

            // Run.
            let on_device = |(model, group)| Wave {
                model,
                program: &program,
                group,
                cells: &cells,
                columns: self.positions(),
                first_pair: pairs.start,
                metric: self.metric,
                knockout: match self.patch {
                    PatchKind::Knockout(sources) => Some(sources),
                    _ => None,
                },
            };
            let waves: Vec<Wave<'_, '_, B>> = models.iter().copied().zip(&on_devices).map(on_device).collect();
            let steps_from = |boundary: u32| (program.n_boundaries() - boundary as usize) as u64;
            let sizes = items.iter().map(|i| (rows_of(group, i), rows_of(group, i) as u64 * steps_from(i.boundary)));
            let cuts = cut(sizes, self.limits.max_rows, models.len());
            deal(&mut seats, &waves, &items, cuts, self.patch.n_draws(), &mut |done: Finished| {
                let items = &items[done.items];
                let mut block = Vec::with_capacity(items.len());
                for (item, value) in items.iter().zip(done.values) {
                    if !value.is_finite() {
                        let Cell { site, layer, .. } = cells[item.cell as usize];
                        let pair = pairs.start + item.pair as usize;
                        return Err(SweepError::PatchNotFinite { site, layer: layer as usize, pair });
                    }
                    let at = item.cell as usize * n_pairs + pairs.start + item.pair as usize;
                    outcome.metric[at] = value;
                    block.push((at as Item, value));
                }
                stats.rows += done.rows;
                stats.waves += 1;
                stats.run += items.len() as u64;
                progress.done += items.len() as u64;
                progress.row_layers += (done.rows.attn + done.rows.mlp) / 2;
                match observe(Block { items: &block }, progress) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(SweepError::Interrupted),
                }
            })?;
        }
        Ok(Outcome { stats, made, ..outcome })
    }

    /// The unpatched runs have the same bits on every device: kernels for one card may sum in another order than those
    /// for the next.
    fn check_same(&self, models: &[&Model<B>], groups: &[Group<'_, B>]) -> Result<(), SweepError> {
        let bits = |g: &Group<'_, B>| -> Vec<u32> {
            g.clean_metric.iter().chain(&g.corrupted_metric).map(|m| m.to_bits()).collect()
        };
        match groups.iter().position(|g| bits(g) != bits(&groups[0])) {
            Some(other) => Err(SweepError::DevicesDiffer {
                first: models[0].backend.device(),
                other: models[other].backend.device(),
            }),
            None => Ok(()),
        }
    }

    /// The pairs from `first` on, for making values.
    pub(super) fn from(&self, first: usize) -> Pairs<'_> {
        Pairs { all: self.pairs, first, direction: self.direction, align: self.align }
    }

    /// What the values of patches are made of.
    fn made(&self, groups: &[Range<usize>], keep: &Keep, stats: &mut SweepStats) -> Result<Made, SweepError> {
        let visited = self.sites.iter().flat_map(|s| s.cells.iter().filter(|c| c.exists));
        self.patch.check(&self.model.spec, visited.map(|c| (c.site, c.layer as usize)))?;
        if let PatchKind::Resample { draws } = self.patch {
            let lengths: Vec<usize> = self.pairs.iter().map(Pair::len).collect();
            return Ok(Made { partners: partners(&lengths, self.align, draws)?, means: None });
        }
        if !matches!(self.patch, PatchKind::Mean) {
            return Ok(Made::default());
        }
        let lengths: Vec<usize> = self.pairs.iter().map(Pair::len).collect();
        let mut means = Means::new(&lengths, self.align);
        let program = Program::new(&self.model.spec);
        for group in groups {
            let source = |p: &Pair| match self.direction {
                Direction::Denoise => p.clean.clone(),
                Direction::Noise => p.corrupted.clone(),
            };
            let prompts = PromptRows::new(self.pairs[group.clone()].iter().map(source).collect());
            stats.rows += full_rows(&program, &self.model.spec, prompts.n_rows() as u64);
            means.add(self.model, prompts, keep)?;
        }
        Ok(Made { means: Some(means), partners: Vec::new() })
    }

    fn check_finite(&self, group: &Group<'_, B>, first_pair: usize) -> Result<(), SweepError> {
        for (run, metrics) in [("clean", &group.clean_metric), ("corrupted", &group.corrupted_metric)] {
            if let Some(pair) = metrics.iter().position(|m| !m.is_finite()) {
                let ids = if run == "clean" { &group.pairs[pair].clean } else { &group.pairs[pair].corrupted };
                let place = first_not_finite(self.model, ids)?;
                return Err(SweepError::NonFinite { run, pair: first_pair + pair, place });
            }
        }
        Ok(())
    }
}

/// The mean over draws of the metrics that `run` gives for each; those of a single draw as they are.
pub(crate) fn mean_of_draws(
    n: usize,
    mut run: impl FnMut(usize) -> Result<Vec<f32>, SweepError>,
) -> Result<Vec<f32>, SweepError> {
    let first = run(0)?;
    if n == 1 {
        return Ok(first);
    }
    let mut sums: Vec<f64> = first.into_iter().map(f64::from).collect();
    for draw in 1..n {
        sums.iter_mut().zip(run(draw)?).for_each(|(sum, x)| *sum += f64::from(x));
    }
    Ok(sums.into_iter().map(|sum| (sum / n as f64) as f32).collect())
}

/// Where a prompt's residual stream first leaves the numbers.
pub(crate) fn first_not_finite<B: Backend>(model: &Model<B>, ids: &[u32]) -> Result<String, SweepError> {
    let program = Program::new(&model.spec);
    let keep = Keep { boundaries: (0..program.n_boundaries()).collect(), ..Keep::default() };
    let run = model.run(PromptRows::new(vec![ids.to_vec()]), &keep, &[])?;
    for b in 0..program.n_boundaries() {
        let rows = model.backend.download(run.cache.resid(b, model.spec.d_model));
        if rows.iter().any(|x| !x.is_finite()) {
            return Ok(match b {
                0 => "the embedding".to_owned(),
                b => format!("layer {}", program.steps[b - 1].layer),
            });
        }
    }
    Ok("the unembedding".to_owned())
}

/// Which pairs' clean run prefers the answer: the mean logit of the answers is above that of the wrong tokens, or, where
/// there are no wrong tokens, an answer is the most likely token. Pairs without answers count as preferred.
pub fn prefers_answer<B: Backend>(model: &Model<B>, pairs: &[Pair]) -> Result<Vec<bool>, SweepError> {
    let mut all = Vec::with_capacity(pairs.len());
    for some in pairs.chunks(64) {
        let prompts = PromptRows::new(some.iter().map(|p| p.clean.clone()).collect());
        let run = model.run(prompts, &Keep::default(), &[])?;
        all.extend(prefers(model, &some.iter().collect::<Vec<_>>(), &run.hidden));
    }
    Ok(all)
}

pub(crate) fn prefers<B: Backend>(model: &Model<B>, pairs: &[&Pair], clean_hidden: &B::Buf) -> Vec<bool> {
    let (h, unembedding) = (View::packed(clean_hidden, pairs.len(), model.spec.d_embed()), model.unembedding());
    // The tokens of all pairs that have wrong ones at once: a device is waited for once.
    let compared: Vec<&[u32]> =
        pairs.iter().flat_map(|p| if p.wrong.is_empty() { [&[][..]; 2] } else { [&p.answers[..], &p.wrong] }).collect();
    let counts: Vec<usize> = compared.chunks(2).map(|of_pair| of_pair.concat().len()).collect();
    let logits = model.backend.token_logits(h, &unembedding, &compared.concat(), &counts);
    let mut rest = &logits[..];
    let prefers = |(i, (pair, count)): (usize, (&&Pair, usize))| {
        let (mine, others) = rest.split_at(count);
        rest = others;
        if pair.answers.is_empty() {
            true
        } else if pair.wrong.is_empty() {
            let logits = model.backend.logits(h.range(i..i + 1), &unembedding);
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            pair.answers.iter().any(|a| logits[*a as usize] == best)
        } else {
            let (answers, wrong) = mine.split_at(pair.answers.len());
            let mean = |x: &[f32]| x.iter().sum::<f32>() / x.len() as f32;
            mean(answers) > mean(wrong)
        }
    };
    pairs.iter().zip(counts).enumerate().map(prefers).collect()
}

/// Rows that `rows` tokens push through all sub-layers.
fn full_rows(program: &Program, spec: &crate::model::ModelSpec, rows: u64) -> RowCount {
    let mut count = RowCount::default();
    for step in &program.steps {
        for sub in &spec.blocks[step.layer].subs[step.subs.clone()] {
            match sub.op {
                crate::model::spec::Op::Attn(_) => count.attn += rows,
                crate::model::spec::Op::Mlp(_) => count.mlp += rows,
            }
        }
    }
    count
}

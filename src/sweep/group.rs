//! The base and the source run of a group of pairs, with everything that the group's cells need of them.

use super::cells::{Direction, SiteCells};
use super::intervention::{Pairs, PatchKind, places, resampled, shifted};
use super::metric::Metric;
use super::run::SweepError;
use crate::backend::{Backend, View};
use crate::engine::weights::QkvWidths;
use crate::engine::{Cache, Keep, Model, Point, Program, PromptRows, RopeTables, Site};
use crate::model::ModelSpec;
use crate::model::spec::{AttnSpec, NormScope};
use crate::prompts::Pair;
use std::collections::HashMap;

/// What values of patches are made of, beyond the pairs themselves: made once for the whole sweep.
#[derive(Default)]
pub(crate) struct Made {
    /// Over all source runs, for mean patches.
    pub means: Option<super::mean::Means>,
    /// `[draw][pair]`: who stands in for whom, for resampling patches.
    pub partners: Vec<Vec<u32>>,
}

pub(crate) struct Group<'a, B: Backend> {
    pub pairs: Vec<&'a Pair>,
    pub base_prompts: PromptRows,
    pub ropes: RopeTables<B>,
    pub base: Cache<B>,
    /// What is patched in, in the rows of `base`, once for every draw: the source run, means over it, or what else a patch
    /// makes of the base run. `None` is zero.
    pub values: Vec<Option<Cache<B>>>,
    /// Hidden rows of the clean run, for kl.
    pub clean_hidden: B::Buf,
    pub base_metric: Vec<f32>,
    pub clean_metric: Vec<f32>,
    pub corrupted_metric: Vec<f32>,
    /// Per pair, the first token that differs.
    pub first_difference: Vec<usize>,
    /// (site, layer) → flags `[rows, heads]`: base and value differ there.
    flags: HashMap<(Site, usize), (Vec<bool>, usize)>,
}

/// Patching one head of q or k changes the others too, because a norm spans them (or is distinct per head, which is
/// run the same way).
pub(crate) fn norm_couples_heads(a: &AttnSpec, site: Site) -> bool {
    let norm = match site {
        Site::Q => &a.q_norm,
        Site::K => &a.k_norm,
        _ => &None,
    };
    norm.as_ref().is_some_and(|n| n.scope != NormScope::PerHead)
}

/// The point whose values a patch of `site` takes: a head's result is linear in its z, so z stands for it.
pub(crate) fn value_point(site: Site) -> Option<Point> {
    Point::of(if site == Site::Result { Site::Z } else { site })
}

/// What the source run must keep for `sites`, and what the base run must.
pub(crate) fn keeps(spec: &ModelSpec, program: &Program, sites: &[SiteCells], patch: PatchKind<'_>) -> (Keep, Keep) {
    let (mut base, mut source) = (Keep::default(), Keep::default());
    for layer in 0..spec.n_layers() {
        if let Some(a) = spec.attn(layer) {
            base.points.extend([(layer, Point::RotK), (layer, Point::attended_v(a))]);
        }
    }
    for s in sites {
        for layer in 0..spec.n_layers() {
            let used = s.cells.iter().any(|c| c.exists && c.layer as usize == layer);
            let Some(boundary) = program.entry_boundary(spec, s.site, layer).filter(|_| used) else { continue };
            base.boundaries.insert(boundary);
            let Some(point) = value_point(s.site) else {
                source.boundaries.insert(boundary);
                continue;
            };
            if let PatchKind::Knockout(_) = patch {
                base.points.insert((layer, Point::RotQ)); // scores are computed again, and none is read from a cache
            } else {
                source.points.insert((layer, point));
                base.points.insert((layer, point));
            }
            if s.site == Site::Result && patch == PatchKind::Mean {
                source.points.insert((layer, Point::Result)); // the reference path writes results themselves
            }
            let step = &program.steps[boundary - 1];
            let sub = &spec.blocks[layer].subs;
            let is_attn = !matches!(s.site, Site::MlpOut | Site::MlpPre | Site::MlpPost);
            let sub = sub.iter().find(|s| matches!(s.op, crate::model::spec::Op::Attn(_)) == is_attn);
            let Some(sub) = sub else { continue };
            let mut keep = |p: Point| {
                base.points.insert((layer, p));
            };
            let at_head = s.site.has_heads();
            let linear = sub.post_norm.is_none() && sub.resid_norm.is_none();
            if at_head {
                keep(Point::Z);
                if !linear {
                    keep(Point::AttnRaw);
                }
                if let (Site::K | Site::V, Some(_)) = (s.site, spec.attn(layer)) {
                    keep(Point::RotQ);
                }
            }
            if s.site == Site::MlpPre && spec.mlp(layer).is_some_and(|m| m.gated) {
                keep(Point::MlpUp);
            }
            if step.parallel && (!at_head || !linear) {
                keep(if is_attn { Point::AttnOut } else { Point::MlpOut });
            }
            if !step.parallel && (!at_head || !linear) {
                base.boundaries.insert(boundary - 1);
            }
        }
    }
    (base, source)
}

/// Width of a row of a point, quadratic points excepted.
pub(crate) fn point_width(spec: &ModelSpec, layer: usize, point: Point) -> usize {
    let d = spec.d_model;
    match point {
        Point::AttnRaw | Point::AttnOut | Point::MlpOut => d,
        Point::MlpPre | Point::MlpUp | Point::MlpPost => spec.mlp(layer).map_or(0, |m| m.d_mlp),
        _ => {
            let a = spec.attn(layer).expect("only attention has the other points");
            let w = QkvWidths::of(a);
            match point {
                Point::Q | Point::RotQ => w.q,
                Point::K | Point::RotK => w.k,
                Point::V | Point::ClippedV => w.v,
                Point::Z => a.n_heads * a.d_v,
                Point::Result => a.n_heads * d,
                _ => 0,
            }
        }
    }
}

/// Numbers of a row of `site` in `layer`; 0 at attn_scores and pattern, whose rows are as long as the prompt.
pub(crate) fn site_width(spec: &ModelSpec, site: Site, layer: usize) -> usize {
    Point::of(site).map_or(spec.d_model, |point| point_width(spec, layer, point))
}

/// Bytes that a run of one prompt of `len` tokens keeps.
pub(crate) fn kept_bytes(spec: &ModelSpec, keep: &Keep, len: usize) -> usize {
    let mut numbers = keep.boundaries.len() * spec.d_model * len;
    for (layer, point) in &keep.points {
        numbers += match point.is_quadratic() {
            true => spec.attn(*layer).map_or(0, |a| a.n_heads) * len * len,
            false => point_width(spec, *layer, *point) * len,
        };
    }
    4 * numbers
}

impl<'a, B: Backend> Group<'a, B> {
    /// Runs both runs of the `n` pairs from `from.first` on.
    pub fn new(
        model: &Model<B>,
        (from, n): (Pairs<'a>, usize),
        (keep_base, keep_source): (&Keep, &Keep),
        sites: &[SiteCells],
        patch: PatchKind<'_>,
        metric: Metric,
        made: &Made,
    ) -> Result<Self, SweepError> {
        let (pairs, direction): (Vec<&'a Pair>, _) =
            (from.all[from.first..from.first + n].iter().collect(), from.direction);
        let clean = PromptRows::new(pairs.iter().map(|p| p.clean.clone()).collect());
        let corrupted = PromptRows::new(pairs.iter().map(|p| p.corrupted.clone()).collect());
        let (base_prompts, source_prompts) = match direction {
            Direction::Denoise => (corrupted, clean),
            Direction::Noise => (clean, corrupted),
        };
        let nothing = Keep::default();
        let keep_source = if matches!(patch, PatchKind::Source) { keep_source } else { &nothing };
        let base = model.run(base_prompts.clone(), keep_base, &[])?;
        let source = model.run(source_prompts, keep_source, &[])?;
        let (clean_hidden, other_hidden) = match direction {
            Direction::Denoise => (source.hidden, base.hidden),
            Direction::Noise => (base.hidden, source.hidden),
        };
        let index: Vec<u32> = (0..pairs.len() as u32).collect();
        let evaluate = |h: &B::Buf| metric.evaluate(model, &pairs, &index, h, Some(&clean_hidden));
        let (clean_metric, corrupted_metric) = (evaluate(&clean_hidden), evaluate(&other_hidden));
        let values = match patch {
            PatchKind::Source => vec![Some(source.cache)],
            PatchKind::Zero | PatchKind::Knockout(_) => vec![None],
            PatchKind::Mean => {
                let means = made.means.as_ref().expect("means are made before the groups");
                vec![Some(means.cache(model, &base_prompts)?)]
            }
            _ => {
                let visited = sites.iter().flat_map(|s| s.cells.iter().filter(|c| c.exists));
                let places = places(&model.spec, visited.map(|c| (c.site, c.layer as usize)), false);
                let value = |draw: usize| match patch {
                    PatchKind::Resample { .. } => resampled(model, &places, &base.cache, &made.partners[draw], from),
                    _ => Ok(shifted(model, patch, draw, &places, &base.cache, from.first)?),
                };
                (0..patch.n_draws()).map(|draw| value(draw).map(Some)).collect::<Result<_, _>>()?
            }
        };
        let base_metric = match direction {
            Direction::Denoise => corrupted_metric.clone(),
            Direction::Noise => clean_metric.clone(),
        };
        let first_difference = pairs.iter().map(|p| p.first_difference()).collect();
        let ropes = RopeTables::new(&model.backend, &model.spec, &base_prompts)?;
        let mut group = Group {
            pairs,
            base_prompts,
            ropes,
            base: base.cache,
            values,
            clean_hidden,
            base_metric,
            clean_metric,
            corrupted_metric,
            first_difference,
            flags: HashMap::new(),
        };
        group.flag(model, sites, matches!(patch, PatchKind::Knockout(_)));
        Ok(group)
    }

    /// Compares base and values, those of every draw, at every site and layer that the sweep visits. A knockout, which
    /// writes no values, always counts as a difference.
    fn flag(&mut self, model: &Model<B>, sites: &[SiteCells], knockout: bool) {
        let (spec, program) = (&model.spec, Program::new(&model.spec));
        for s in sites {
            for layer in 0..spec.n_layers() {
                let used = s.cells.iter().any(|c| c.exists && c.layer as usize == layer);
                let Some(boundary) = program.entry_boundary(spec, s.site, layer).filter(|_| used) else { continue };
                let heads = s.site.heads(spec, layer);
                if knockout {
                    self.flags.insert((s.site, layer), (vec![true; self.base_prompts.n_rows() * heads], heads));
                    continue;
                }
                let compare = |a: View<'_, B::Buf>, b: Option<View<'_, B::Buf>>| model.backend.differs(a, b, heads);
                let of = |values: Option<&Cache<B>>| match value_point(s.site) {
                    None => compare(
                        self.base.resid(boundary, spec.d_model),
                        values.map(|v| v.resid(boundary, spec.d_model)),
                    ),
                    Some(point) if point.is_quadratic() => {
                        let mut flags = Vec::new();
                        for pair in 0..self.pairs.len() {
                            let values = values.map(|v| v.matrix(layer, point, pair, heads));
                            flags.extend(compare(self.base.matrix(layer, point, pair, heads), values));
                        }
                        flags
                    }
                    Some(point) => {
                        let width = point_width(spec, layer, point);
                        compare(self.base.point(layer, point, width), values.map(|v| v.point(layer, point, width)))
                    }
                };
                let mut flags = of(self.values[0].as_ref());
                for values in &self.values[1..] {
                    flags.iter_mut().zip(of(values.as_ref())).for_each(|(a, b)| *a |= b);
                }
                self.flags.insert((s.site, layer), (flags, heads));
            }
        }
    }

    /// Whether the patch of a site at a position (one head of it, or any) would change anything.
    pub fn differs(&self, site: Site, layer: usize, pair: usize, position: usize, head: Option<usize>) -> bool {
        let (flags, heads) = &self.flags[&(site, layer)];
        let row = &flags[(self.base_prompts.offsets[pair] + position) * heads..][..*heads];
        head.map_or_else(|| row.iter().any(|f| *f), |h| row[h])
    }
}

//! One step of the forward pass over packed rows, with its patch points. Written once, over the backend's operations;
//! base runs, reference runs and waves all come through here.

mod attn;
mod mlp;

use super::cache::{Cache, Point, PromptRows};
use super::patch::{PatchPoint, Value};
use super::program::{Program, Step};
use super::recorder::Recorder;
use super::rope::RopeTables;
use super::segment::{Segment, first_row, living_rows, n_rows};
use super::weights::{Model, SubWeights};
use super::workspace::Workspace;
use crate::backend::{
    Backend, BackendError, Combine, Epilogue, PatchEntry, PatchSource, RowIndex, Then, View, ViewMut, WeightSlice,
};
use crate::model::spec::{Op, SubLayer};
use std::ops::Range;

pub(crate) use attn::{attn_params, prefix_of};

/// What surrounds a step: the model, the prompts, and the base run whose keys and values segments continue.
pub struct Forward<'a, B: Backend> {
    pub model: &'a Model<B>,
    pub program: &'a Program,
    pub prompts: &'a PromptRows,
    pub ropes: &'a RopeTables<B>,
    /// Keys and values of the positions before each segment's first.
    pub base: Option<&'a Cache<B>>,
    /// Rows that can no longer reach the metric are dropped. The reference path keeps them all.
    pub drop_dead_rows: bool,
}

/// Token rows that a step pushed through its attention and its MLP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCount {
    pub attn: u64,
    pub mlp: u64,
}

impl std::ops::AddAssign for RowCount {
    fn add_assign(&mut self, other: Self) {
        self.attn += other.attn;
        self.mlp += other.mlp;
    }
}

impl<'a, B: Backend> Forward<'a, B> {
    /// Runs step `index` on the rows of `segments` in `ws.x`. Afterwards `segments` and `ws.x` hold the rows that live on.
    pub fn step(
        &self,
        index: usize,
        segments: &mut Vec<Segment>,
        ws: &mut Workspace<B>,
        patches: &[PatchPoint<'_, B>],
        recorder: &mut Option<Recorder<'_, B>>,
    ) -> Result<RowCount, BackendError> {
        let Step { layer, subs, parallel } = &self.program.steps[index];
        let (layer, backend, d) = (*layer, &self.model.backend, self.model.spec.d_model);
        let block = &self.model.spec.blocks[layer];
        let before = n_rows(segments);
        if self.drop_dead_rows && before == 0 {
            return Ok(RowCount::default());
        }
        let live = if self.drop_dead_rows { self.living(segments, index + 1) } else { segments.clone() };
        let after = n_rows(&live);
        let mut count = RowCount::default();
        let mut trimmed = after == before;
        let ran = &block.subs[subs.clone()];
        for (i, sub) in ran.iter().enumerate() {
            let weights = &self.model.layers[layer][subs.start + i];
            match (&sub.op, weights) {
                (Op::Attn(a), SubWeights::Attn { .. }) => {
                    self.attn(layer, sub, a, weights, (segments, &live), ws, patches, recorder)?;
                    count.attn += before as u64;
                }
                (Op::Mlp(m), SubWeights::Mlp { .. }) => {
                    if !trimmed {
                        self.gather_living(segments, &live, ws);
                        trimmed = true;
                    }
                    self.mlp(layer, sub, m, weights, &live, ws, patches, recorder)?;
                    count.mlp += after as u64;
                }
                _ => unreachable!("weights follow the spec"),
            }
            // Branches that run in parallel are added, in their order, when the last of them has read its input.
            let add = !parallel || i + 1 == ran.len();
            if add && !trimmed {
                self.gather_living(segments, &live, ws);
                trimmed = true;
            }
            for sub in ran[..i].iter().filter(|_| add && *parallel) {
                let out = if matches!(sub.op, Op::Attn(_)) { &ws.attn_out } else { &ws.mlp_out };
                backend.add(ViewMut::packed(&mut ws.x, after, d), View::packed(out, after, d), 1.0);
                self.resid_norm(sub, &mut ws.x, after);
            }
            match &sub.op {
                Op::Attn(a) => self.attn_output(layer, sub, a, weights, &live, ws, patches, recorder, add)?,
                Op::Mlp(m) => self.mlp_output(layer, sub, m, weights, &live, ws, patches, recorder, add)?,
            }
            if add {
                self.resid_norm(sub, &mut ws.x, after);
            }
        }
        *segments = live;
        Ok(count)
    }

    /// The segments without the rows that are dead at `boundary`.
    fn living(&self, segments: &[Segment], boundary: usize) -> Vec<Segment> {
        let trim = |s: &Segment| {
            let first = s.first.max(self.program.live_from(boundary, self.prompts.len_of(s.prompt)));
            Segment { first, len: (s.first + s.len).saturating_sub(first), ..*s }
        };
        segments.iter().map(trim).collect()
    }

    /// Moves the rows of `live` to the front of `ws.x`.
    fn gather_living(&self, segments: &[Segment], live: &[Segment], ws: &mut Workspace<B>) {
        let d = self.model.spec.d_model;
        let (from, n) = (living_rows(segments, live), n_rows(live));
        let to = ViewMut::packed(&mut ws.spare, n, d);
        let x = View::packed(&ws.x, n_rows(segments), d);
        self.model.backend.copy_rows(x, RowIndex::List(&from), to, RowIndex::All, Combine::Set, 1.0);
        std::mem::swap(&mut ws.x, &mut ws.spare);
    }

    /// The pre-norm, if there is one.
    fn branch_input<'b>(&self, sub: &SubLayer, x: &'b B::Buf, h: &'b mut B::Buf, n: usize) -> View<'b, B::Buf> {
        let d = self.model.spec.d_model;
        match &sub.pre_norm {
            Some(norm) => {
                let norm = self.model.norm(norm, 1);
                self.model.backend.norm(View::packed(x, n, d), &norm, ViewMut::packed(h, n, d));
                View::packed(h, n, d)
            }
            None => View::packed(x, n, d),
        }
    }

    /// The norm of the residual stream after a branch's addition, if there is one.
    fn resid_norm(&self, sub: &SubLayer, x: &mut B::Buf, n: usize) {
        if let Some(norm) = &sub.resid_norm {
            let x = ViewMut::packed(x, n, self.model.spec.d_model);
            self.model.backend.norm_in_place(x, &self.model.norm(norm, 1));
        }
    }

    /// A branch's output projection, x · W, straight onto the residual stream: where nothing needs the branch's output
    /// on its own, and no norm stands between. The bits are those of [`Forward::finish_branch`] and an addition.
    fn add_product(
        &self,
        layer: usize,
        input: View<'_, B::Buf>,
        weight: &B::Weight,
        bias: Option<&B::Buf>,
        stream: &mut B::Buf,
        room: &mut B::Buf,
    ) {
        let (d, n) = (self.model.spec.d_model, input.rows);
        let scale = self.model.spec.blocks[layer].resid_scale;
        let then = Then::AddTo { stream: ViewMut::packed(stream, n, d), scale };
        let epilogue = Epilogue { bias: Model::<B>::bias_row(bias, 0..d), then };
        let slice = WeightSlice { k: 0..input.cols, n: 0..d };
        self.model.backend.gemm(input, weight, slice, epilogue, ViewMut::packed(room, n, d));
    }

    /// Post-norm and residual multiplier, in place, on `n` rows of a branch's raw output.
    pub(crate) fn finish_branch(&self, layer: usize, sub: &SubLayer, out: &mut B::Buf, n: usize) {
        let (backend, d) = (&self.model.backend, self.model.spec.d_model);
        if let Some(norm) = &sub.post_norm {
            backend.norm_in_place(ViewMut::packed(out, n, d), &self.model.norm(norm, 1));
        }
        let scale = self.model.spec.blocks[layer].resid_scale;
        if scale != 1.0 {
            backend.scale(ViewMut::packed(out, n, d), scale);
        }
    }

    /// Whether a patch or the recorder needs one of these points, so that it has to be in memory on its own.
    fn is_seen(
        layer: usize,
        points: &[Point],
        patches: &[PatchPoint<'_, B>],
        recorder: &Option<Recorder<'_, B>>,
    ) -> bool {
        points.iter().any(|point| {
            recorder.as_ref().is_some_and(|r| r.wants(layer, *point)) || patches.iter().any(|p| p.is_at(layer, *point))
        })
    }

    /// Applies the patches of one point to its rows. `width` is that of one head.
    fn apply(
        &self,
        patches: &[PatchPoint<'_, B>],
        layer: usize,
        point: Point,
        segments: &[Segment],
        mut x: ViewMut<'_, B::Buf>,
        width: usize,
    ) {
        let all = x.cols;
        let here = patches.iter().filter(|p| p.is_at(layer, point));
        let rectangles = here.map(|p| (p, p.heads.as_ref().map_or(0..all, |h| h.start * width..h.end * width)));
        self.write(rectangles, segments, x.reborrow(), |cache| cache.point(layer, point, all));
    }

    /// Applies the patches of residual sites at a boundary.
    pub(super) fn apply_at_boundary(
        &self,
        boundary: usize,
        patches: &[PatchPoint<'_, B>],
        segments: &[Segment],
        x: &mut B::Buf,
    ) {
        let (d, n) = (self.model.spec.d_model, n_rows(segments));
        let is_here = |p: &&PatchPoint<'_, B>| {
            Point::of(p.site).is_none()
                && self.program.entry_boundary(&self.model.spec, p.site, p.layer) == Some(boundary)
        };
        let rectangles = patches.iter().filter(is_here).map(|p| (p, 0..d));
        self.write(rectangles, segments, ViewMut::packed(x, n, d), |cache| cache.resid(boundary, d));
    }

    /// Writes patches into the columns given, in the rows of their segments, those that take their values from one cache as
    /// one table; `matrix` finds what they are taken from.
    fn write<'p, 'c: 'p>(
        &self,
        patches: impl Iterator<Item = (&'p PatchPoint<'c, B>, Range<usize>)>,
        segments: &[Segment],
        mut x: ViewMut<'_, B::Buf>,
        matrix: impl Fn(&'c Cache<B>) -> View<'c, B::Buf>,
    ) where
        B: 'c,
    {
        let mut table: Vec<PatchEntry> = Vec::new();
        let mut values: Option<&'c Cache<B>> = None;
        for (p, cols) in patches {
            let row = first_row(segments, p.segment) + p.positions.start - segments[p.segment].first;
            let (value, from) = match p.value {
                Value::Zero => (PatchSource::Zero, None),
                Value::From(cache, prompt) => (PatchSource::Row(cache.prompts.offsets[prompt]), Some(cache)),
                Value::Add(cache, prompt) => (PatchSource::AddRow(cache.prompts.offsets[prompt]), Some(cache)),
                Value::Scale(factor) => (PatchSource::Scale(factor), None),
                Value::Knockout(_) => unreachable!("only attention scores are knocked out"),
            };
            let value = match value {
                PatchSource::Row(row) => PatchSource::Row(row + p.positions.start),
                PatchSource::AddRow(row) => PatchSource::AddRow(row + p.positions.start),
                other => other,
            };
            if let (Some(new), Some(old)) = (from, values)
                && !std::ptr::eq(new, old)
            {
                self.model.backend.patch(x.reborrow(), &table, Some(matrix(old)));
                table.clear();
            }
            values = from.or(values);
            table.push(PatchEntry { rows: row..row + p.positions.len(), cols, value });
        }
        if !table.is_empty() {
            self.model.backend.patch(x, &table, values.map(&matrix));
        }
    }
}

//! One step of the forward pass over packed rows, with its patch points. Written once, over the backend's operations;
//! base runs, reference runs and waves all come through here.

use super::cache::{Cache, Keep, Point, PromptRows};
use super::patch::{PatchPoint, Value};
use super::program::{Program, Step};
use super::rope::RopeTables;
use super::weights::{Model, QkvWidths, SubWeights, mlp_width};
use crate::backend::{
    AttnCall, AttnOverride, AttnOverrideKind, AttnParams, AttnSegment, Backend, BackendError, Combine, HeadRows,
    PatchEntry, PatchSource, RowIndex, View, ViewMut, WeightSlice,
};
use crate::model::ModelSpec;
use crate::model::spec::{AttnSpec, MlpSpec, NormScope, NormSpec, Op, QkNormAt, SubLayer};

/// A run of rows: positions `first ..+ len` of one prompt, belonging to one item (a cell of a pair) of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub item: usize,
    pub prompt: usize,
    pub first: usize,
    pub len: usize,
}

/// Rows of all segments together.
pub fn n_rows(segments: &[Segment]) -> usize {
    segments.iter().map(|s| s.len).sum()
}

/// (prompt, position) of every row.
pub fn places(segments: &[Segment]) -> Vec<(usize, usize)> {
    segments.iter().flat_map(|s| (s.first..s.first + s.len).map(|p| (s.prompt, p))).collect()
}

/// Buffers for up to `capacity` rows, allocated once and used by every step.
pub struct Workspace<B: Backend> {
    pub capacity: usize,
    /// The residual stream `[rows, d_model]`.
    pub x: B::Buf,
    /// `[rows, d_model]`
    spare: B::Buf,
    /// Normalised input of a branch `[rows, d_model]`
    h: B::Buf,
    /// `[rows, q | k | v]`, or the MLP's hidden row `[rows, gate | up]`
    wide: B::Buf,
    /// Queries of the rows that live on `[rows, n_heads * d_qk]`
    q: B::Buf,
    /// `[rows, n_heads * d_v]`
    z: B::Buf,
    /// Output of the attention branch `[rows, d_model]`
    attn_out: B::Buf,
    /// Output of the MLP branch `[rows, d_model]`
    mlp_out: B::Buf,
}

/// Widest q, z and hidden rows of any layer: (wide, q, z).
fn widths(spec: &ModelSpec) -> (usize, usize, usize) {
    let mut w = (1, 1, 1);
    for sub in spec.blocks.iter().flat_map(|b| &b.subs) {
        match &sub.op {
            Op::Attn(a) => {
                let qkv = QkvWidths::of(a);
                w = (w.0.max(qkv.total()), w.1.max(qkv.q), w.2.max(a.n_heads * a.d_v));
            }
            Op::Mlp(m) => w.0 = w.0.max(mlp_width(m)),
        }
    }
    w
}

/// Bytes that one row takes in a [`Workspace`].
pub fn bytes_per_row(spec: &ModelSpec) -> usize {
    let (wide, q, z) = widths(spec);
    4 * (5 * spec.d_model + wide + q + z)
}

impl<B: Backend> Workspace<B> {
    pub fn new(model: &Model<B>, capacity: usize) -> Result<Self, BackendError> {
        let (wide, q, z) = widths(&model.spec);
        let rows = |width: usize| model.backend.zeros(capacity * width);
        let d = model.spec.d_model;
        Ok(Workspace {
            capacity,
            x: rows(d)?,
            spare: rows(d)?,
            h: rows(d)?,
            wide: rows(wide)?,
            q: rows(q)?,
            z: rows(z)?,
            attn_out: rows(d)?,
            mlp_out: rows(d)?,
        })
    }
}

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

/// Keeps activations of a run whose rows are exactly the cache's.
pub struct Recorder<'a, B: Backend> {
    pub keep: &'a Keep,
    pub cache: &'a mut Cache<B>,
}

impl<B: Backend> Recorder<'_, B> {
    fn wants(&self, layer: usize, point: Point) -> bool {
        self.keep.points.contains(&(layer, point))
    }

    fn point(&mut self, backend: &B, layer: usize, point: Point, x: View<'_, B::Buf>) -> Result<(), BackendError> {
        if self.wants(layer, point) {
            let copy = copy_of(backend, x)?;
            self.cache.insert_point(layer, point, copy);
        }
        Ok(())
    }
}

/// A packed copy of a view.
pub(crate) fn copy_of<B: Backend>(backend: &B, x: View<'_, B::Buf>) -> Result<B::Buf, BackendError> {
    let mut copy = backend.zeros(x.rows * x.cols)?;
    let to = ViewMut::packed(&mut copy, x.rows, x.cols);
    backend.copy_rows(x, RowIndex::All, to, RowIndex::All, Combine::Set, 1.0);
    Ok(copy)
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
        for (i, sub) in block.subs[subs.clone()].iter().enumerate() {
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
            if !parallel || i + 1 == subs.len() {
                if !trimmed {
                    self.gather_living(segments, &live, ws);
                    trimmed = true;
                }
                let ran = if *parallel { &block.subs[subs.clone()] } else { std::slice::from_ref(sub) };
                for sub in ran {
                    let out = if matches!(sub.op, Op::Attn(_)) { &ws.attn_out } else { &ws.mlp_out };
                    let x = ViewMut::packed(&mut ws.x, after, d);
                    backend.add(x, View::packed(out, after, d), 1.0);
                    if let Some(norm) = &sub.resid_norm {
                        let x = ViewMut::packed(&mut ws.x, after, d);
                        backend.norm_in_place(x, &self.model.norm(norm, 1));
                    }
                }
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

    /// The attention branch: keys and values of all rows, everything else of the rows that live on. Leaves what is to
    /// be added in `ws.attn_out`.
    #[allow(clippy::too_many_arguments)]
    fn attn(
        &self,
        layer: usize,
        sub: &SubLayer,
        a: &AttnSpec,
        weights: &SubWeights<B>,
        (segments, live): (&[Segment], &[Segment]),
        ws: &mut Workspace<B>,
        patches: &[PatchPoint<'_, B>],
        recorder: &mut Option<Recorder<'_, B>>,
    ) -> Result<(), BackendError> {
        let SubWeights::Attn { qkv, qkv_bias, o, o_bias, sinks } = weights else {
            unreachable!("weights follow the spec")
        };
        let (backend, d) = (&self.model.backend, self.model.spec.d_model);
        let (n, n_live) = (n_rows(segments), n_rows(live));
        let w = QkvWidths::of(a);
        let Workspace { x, spare, h, wide, q, z, attn_out, .. } = ws;
        let input = self.branch_input(sub, x, h, n);

        // Projections. Queries of dead rows are not computed.
        let dead_rows = n_live < n;
        let kv = if dead_rows { w.q..w.total() } else { 0..w.total() };
        let bias = Model::<B>::bias_row(qkv_bias.as_ref(), kv.clone());
        let out = ViewMut::packed(wide, n, w.total()).columns(kv.clone());
        backend.gemm(input, qkv, WeightSlice { k: 0..d, n: kv }, bias, out);
        if dead_rows {
            let from = living_rows(segments, live);
            let to = ViewMut::packed(spare, n_live, d);
            backend.copy_rows(input, RowIndex::List(&from), to, RowIndex::All, Combine::Set, 1.0);
            let bias = Model::<B>::bias_row(qkv_bias.as_ref(), 0..w.q);
            let slice = WeightSlice { k: 0..d, n: 0..w.q };
            backend.gemm(View::packed(spare, n_live, d), qkv, slice, bias, ViewMut::packed(q, n_live, w.q));
        } else {
            let from = View::packed(wide, n, w.total()).columns(0..w.q);
            let to = ViewMut::packed(q, n, w.q);
            backend.copy_rows(from, RowIndex::All, to, RowIndex::All, Combine::Set, 1.0);
        }
        let (k_cols, v_cols) = (w.q..w.q + w.k, w.q + w.k..w.total());
        for (point, cols, width) in [
            (Point::Q, None, a.d_qk),
            (Point::K, Some(k_cols.clone()), a.d_qk),
            (Point::V, Some(v_cols.clone()), a.d_v),
        ] {
            let mut view = match cols {
                None => ViewMut::packed(q, n_live, w.q),
                Some(cols) => ViewMut::packed(wide, n, w.total()).columns(cols),
            };
            if let Some(r) = recorder {
                r.point(backend, layer, point, view.read())?;
            }
            self.apply(patches, layer, point, segments, view.reborrow(), width);
        }

        // Norms and positions.
        self.prepare(a, a.q_norm.as_ref(), a.n_heads, ViewMut::packed(q, n_live, w.q), &places(live), true);
        let k = ViewMut::packed(wide, n, w.total()).columns(k_cols.clone());
        self.prepare(a, a.k_norm.as_ref(), a.n_kv_heads, k, &places(segments), false);
        if let Some(clip) = a.qkv_clip {
            backend.clamp(ViewMut::packed(wide, n, w.total()).columns(v_cols.clone()), clip);
        }
        let (k, v) = {
            let all = View::packed(&*wide, n, w.total());
            (all.columns(k_cols), all.columns(v_cols))
        };
        if let Some(r) = recorder {
            r.point(backend, layer, Point::RotQ, View::packed(&*q, n_live, w.q))?;
            r.point(backend, layer, Point::RotK, k)?;
            r.point(backend, layer, Point::ClippedV, v)?;
        }

        // Attention itself.
        let calls = attn_segments(segments, live, self.base.map(|b| &b.prompts), a.n_heads, self.prompts);
        let (overrides, override_values) = self.overrides(patches, layer, segments);
        let capture = |point: Point| -> Result<Option<B::Buf>, BackendError> {
            let wanted = recorder.as_ref().is_some_and(|r| r.wants(layer, point));
            wanted.then(|| backend.zeros(self.prompts.squares(a.n_heads))).transpose()
        };
        let (mut scores, mut pattern) = (capture(Point::AttnScores)?, capture(Point::Pattern)?);
        let call = AttnCall {
            params: attn_params(a, sinks.as_ref()),
            heads: a.n_heads,
            q: Some(View::packed(&*q, n_live, w.q)),
            k: Some(k),
            v: Some(v),
            prefix: self.base.map(|b| prefix_of(b, layer, a)),
            segments: &calls,
            overrides: &overrides,
            override_values,
            capture_scores: scores.as_mut(),
            capture_pattern: pattern.as_mut(),
        };
        let z_width = a.n_heads * a.d_v;
        backend.attention(call, ViewMut::packed(z, n_live, z_width));
        if let Some(r) = recorder {
            for (point, buf) in [(Point::AttnScores, scores), (Point::Pattern, pattern)] {
                if let Some(buf) = buf {
                    r.cache.insert_point(layer, point, buf);
                }
            }
            r.point(backend, layer, Point::Z, View::packed(&*z, n_live, z_width))?;
        }
        self.apply(patches, layer, Point::Z, segments, ViewMut::packed(z, n_live, z_width), a.d_v);

        // Output projection: head by head where the heads' results are read or written, in one GEMM otherwise.
        let by_head = recorder.as_ref().is_some_and(|r| r.wants(layer, Point::Result))
            || patches.iter().any(|p| p.is_at(layer, Point::Result));
        let z = View::packed(&*z, n_live, z_width);
        let bias = Model::<B>::bias_row(o_bias.as_ref(), 0..d);
        if by_head {
            let mut result = backend.zeros(n_live * a.n_heads * d)?;
            for head in 0..a.n_heads {
                let slice = WeightSlice { k: head * a.d_v..(head + 1) * a.d_v, n: 0..d };
                let out = ViewMut::packed(&mut result, n_live, a.n_heads * d).columns(head * d..(head + 1) * d);
                backend.gemm(z.columns(head * a.d_v..(head + 1) * a.d_v), o, slice, None, out);
            }
            if let Some(r) = recorder {
                r.point(backend, layer, Point::Result, View::packed(&result, n_live, a.n_heads * d))?;
            }
            let view = ViewMut::packed(&mut result, n_live, a.n_heads * d);
            self.apply(patches, layer, Point::Result, segments, view, d);
            let result = View::packed(&result, n_live, a.n_heads * d);
            let mut out = ViewMut::packed(attn_out, n_live, d);
            for head in 0..a.n_heads {
                let (part, combine) =
                    (result.columns(head * d..(head + 1) * d), if head == 0 { Combine::Set } else { Combine::Add });
                backend.copy_rows(part, RowIndex::All, out.reborrow(), RowIndex::All, combine, 1.0);
            }
            if let Some(bias) = bias {
                let zeros = vec![0; n_live];
                backend.copy_rows(bias, RowIndex::List(&zeros), out, RowIndex::All, Combine::Add, 1.0);
            }
        } else {
            let slice = WeightSlice { k: 0..z_width, n: 0..d };
            backend.gemm(z, o, slice, bias, ViewMut::packed(attn_out, n_live, d));
        }
        if let Some(r) = recorder {
            r.point(backend, layer, Point::AttnRaw, View::packed(&*attn_out, n_live, d))?;
        }
        self.finish_branch(layer, sub, attn_out, n_live);
        if let Some(r) = recorder {
            r.point(backend, layer, Point::AttnOut, View::packed(&*attn_out, n_live, d))?;
        }
        self.apply(patches, layer, Point::AttnOut, segments, ViewMut::packed(attn_out, n_live, d), d);
        Ok(())
    }

    /// The MLP branch of the rows in `ws.x`. Leaves what is to be added in `ws.mlp_out`.
    #[allow(clippy::too_many_arguments)]
    fn mlp(
        &self,
        layer: usize,
        sub: &SubLayer,
        m: &MlpSpec,
        weights: &SubWeights<B>,
        segments: &[Segment],
        ws: &mut Workspace<B>,
        patches: &[PatchPoint<'_, B>],
        recorder: &mut Option<Recorder<'_, B>>,
    ) -> Result<(), BackendError> {
        let SubWeights::Mlp { up, up_bias, .. } = weights else { unreachable!("weights follow the spec") };
        let (backend, d, n) = (&self.model.backend, self.model.spec.d_model, n_rows(segments));
        let Workspace { x, h, wide, mlp_out, .. } = ws;
        let width = mlp_width(m);
        let input = self.branch_input(sub, x, h, n);
        let bias = Model::<B>::bias_row(up_bias.as_ref(), 0..width);
        let slice = WeightSlice { k: 0..d, n: 0..width };
        backend.gemm(input, up, slice, bias, ViewMut::packed(wide, n, width));
        if let Some(r) = recorder {
            let hidden = View::packed(&*wide, n, width);
            r.point(backend, layer, Point::MlpPre, hidden.columns(0..m.d_mlp))?;
            if m.gated {
                r.point(backend, layer, Point::MlpUp, hidden.columns(m.d_mlp..width))?;
            }
        }
        let pre = ViewMut::packed(wide, n, width).columns(0..m.d_mlp);
        self.apply(patches, layer, Point::MlpPre, segments, pre, m.d_mlp);
        backend.activation(ViewMut::packed(wide, n, width), m.act, m.gated);
        if let Some(r) = recorder {
            r.point(backend, layer, Point::MlpPost, View::packed(&*wide, n, width).columns(0..m.d_mlp))?;
        }
        let post = ViewMut::packed(wide, n, width).columns(0..m.d_mlp);
        self.apply(patches, layer, Point::MlpPost, segments, post, m.d_mlp);
        self.mlp_down(layer, sub, m, weights, View::packed(&*wide, n, width).columns(0..m.d_mlp), mlp_out);
        if let Some(r) = recorder {
            r.point(backend, layer, Point::MlpOut, View::packed(&*mlp_out, n, d))?;
        }
        self.apply(patches, layer, Point::MlpOut, segments, ViewMut::packed(mlp_out, n, d), d);
        Ok(())
    }

    /// From the input of the down projection `[n, d_mlp]` to what the MLP adds.
    pub(crate) fn mlp_down(
        &self,
        layer: usize,
        sub: &SubLayer,
        m: &MlpSpec,
        weights: &SubWeights<B>,
        post: View<'_, B::Buf>,
        out: &mut B::Buf,
    ) {
        let SubWeights::Mlp { down, down_bias, .. } = weights else { unreachable!("weights follow the spec") };
        let (d, n) = (self.model.spec.d_model, post.rows);
        let bias = Model::<B>::bias_row(down_bias.as_ref(), 0..d);
        let slice = WeightSlice { k: 0..m.d_mlp, n: 0..d };
        self.model.backend.gemm(post, down, slice, bias, ViewMut::packed(out, n, d));
        self.finish_branch(layer, sub, out, n);
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

    /// From a raw projection to what the scores are made of: full-width norm, clip, norm per head, rope, temperature.
    /// `x` has `heads` heads of width d_qk.
    pub(crate) fn prepare(
        &self,
        a: &AttnSpec,
        norm: Option<&NormSpec>,
        heads: usize,
        mut x: ViewMut<'_, B::Buf>,
        places: &[(usize, usize)],
        is_query: bool,
    ) {
        let backend = &self.model.backend;
        let full = |n: &&NormSpec| n.scope == NormScope::Full && a.qk_norm_at == QkNormAt::BeforeRope;
        if let Some(norm) = norm.filter(full) {
            backend.norm_in_place(x.reborrow(), &self.model.norm(norm, heads));
        }
        if let Some(clip) = a.qkv_clip {
            backend.clamp(x.reborrow(), clip);
        }
        let rest = norm.filter(|n| !full(n));
        if let Some(norm) = rest.filter(|_| a.qk_norm_at == QkNormAt::BeforeRope) {
            backend.norm_in_place(x.reborrow(), &self.model.norm(norm, heads));
        }
        if let Some(rope) = a.rope {
            backend.rope(x.reborrow(), heads, self.ropes.table(rope), &self.ropes.rows(rope, places));
        }
        if let Some(norm) = rest.filter(|_| a.qk_norm_at == QkNormAt::AfterRope) {
            backend.norm_in_place(x.reborrow(), &self.model.norm(norm, heads));
        }
        if let Some(t) = a.q_temperature.filter(|_| is_query) {
            let factor = |p: usize| 1.0 + t.beta * ((1 + p / t.original) as f32).ln();
            let factors: Vec<f32> = places.iter().map(|(_, position)| factor(*position)).collect();
            backend.scale_rows(x, &factors);
        }
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
        for p in patches.iter().filter(|p| p.is_at(layer, point)) {
            let cols = p.heads.as_ref().map_or(0..x.cols, |h| h.start * width..h.end * width);
            let row = first_row(segments, p.segment) + p.positions.start - segments[p.segment].first;
            let rows = row..row + p.positions.len();
            let (value, values) = match p.value {
                Value::Zero => (PatchSource::Zero, None),
                Value::From(cache, prompt) => {
                    let row = cache.prompts.offsets[prompt] + p.positions.start;
                    (PatchSource::Row(row), Some(cache.point(layer, point, x.cols)))
                }
            };
            self.model.backend.patch(x.reborrow(), &[PatchEntry { rows, cols, value }], values);
        }
    }

    /// Applies the patches of residual sites at a boundary.
    pub(crate) fn apply_at_boundary(
        &self,
        boundary: usize,
        patches: &[PatchPoint<'_, B>],
        segments: &[Segment],
        x: &mut B::Buf,
    ) {
        let (d, n) = (self.model.spec.d_model, n_rows(segments));
        for p in patches.iter().filter(|p| Point::of(p.site).is_none()) {
            if self.program.entry_boundary(&self.model.spec, p.site, p.layer) != Some(boundary) {
                continue;
            }
            let row = first_row(segments, p.segment) + p.positions.start - segments[p.segment].first;
            let rows = row..row + p.positions.len();
            let (value, values) = match p.value {
                Value::Zero => (PatchSource::Zero, None),
                Value::From(cache, prompt) => {
                    let row = cache.prompts.offsets[prompt] + p.positions.start;
                    (PatchSource::Row(row), Some(cache.resid(boundary, d)))
                }
            };
            self.model.backend.patch(ViewMut::packed(x, n, d), &[PatchEntry { rows, cols: 0..d, value }], values);
        }
    }

    /// Replacements of scores and patterns; all of one call come from one cache.
    fn overrides<'p>(
        &self,
        patches: &'p [PatchPoint<'_, B>],
        layer: usize,
        segments: &[Segment],
    ) -> (Vec<AttnOverride>, Option<&'p B::Buf>) {
        let n_heads = self.model.spec.attn(layer).map_or(0, |a| a.n_heads);
        let (mut overrides, mut values) = (Vec::new(), None);
        for p in patches {
            let (kind, point) = if p.is_at(layer, Point::AttnScores) {
                (AttnOverrideKind::Scores, Point::AttnScores)
            } else if p.is_at(layer, Point::Pattern) {
                (AttnOverrideKind::Pattern, Point::Pattern)
            } else {
                continue;
            };
            let mut values_at = None;
            if let Value::From(cache, prompt) = p.value {
                values = Some(cache.buffer(layer, point));
                values_at = Some(cache.prompts.square_at(prompt, n_heads));
            }
            overrides.push(AttnOverride {
                segment: p.segment,
                kind,
                heads: p.heads.clone().unwrap_or(0..n_heads),
                destinations: p.positions.clone(),
                values_at,
                n_positions: self.prompts.len_of(segments[p.segment].prompt),
            });
        }
        (overrides, values)
    }

    /// `hidden[rows] · W_O`-style delta of heads: see [`Backend::head_delta`].
    pub(crate) fn head_delta(
        &self,
        weights: &SubWeights<B>,
        delta: View<'_, B::Buf>,
        groups: &[HeadRows],
        out: ViewMut<'_, B::Buf>,
    ) {
        let SubWeights::Attn { o, .. } = weights else { unreachable!("only attention has heads") };
        self.model.backend.head_delta(delta, groups, o, out);
    }
}

/// What [`Backend::attention`] needs to know of a layer.
pub(crate) fn attn_params<'a, Buf>(a: &'a AttnSpec, sinks: Option<&'a Buf>) -> AttnParams<'a, Buf> {
    AttnParams {
        n_heads: a.n_heads,
        n_kv_heads: a.n_kv_heads,
        d_qk: a.d_qk,
        d_v: a.d_v,
        scale: a.scale,
        window: a.window,
        softcap: a.softcap,
        alibi: a.alibi.as_ref().map(|a| a.slopes.as_slice()),
        sinks,
    }
}

/// Keys and values of the base run in `layer`.
pub(crate) fn prefix_of<'a, B: Backend>(
    base: &'a Cache<B>,
    layer: usize,
    a: &AttnSpec,
) -> (View<'a, B::Buf>, View<'a, B::Buf>) {
    let w = QkvWidths::of(a);
    (base.point(layer, Point::RotK, w.k), base.point(layer, Point::attended_v(a), w.v))
}

fn first_row(segments: &[Segment], index: usize) -> usize {
    n_rows(&segments[..index])
}

/// The rows of `segments` that `live` keeps.
fn living_rows(segments: &[Segment], live: &[Segment]) -> Vec<u32> {
    let mut rows = Vec::with_capacity(n_rows(live));
    let mut at = 0;
    for (s, l) in segments.iter().zip(live) {
        rows.extend((at + s.len - l.len..at + s.len).map(|r| r as u32));
        at += s.len;
    }
    rows
}

/// Queries of the rows of `live`, own keys from the rows of `segments`.
fn attn_segments(
    segments: &[Segment],
    live: &[Segment],
    base: Option<&PromptRows>,
    n_heads: usize,
    prompts: &PromptRows,
) -> Vec<AttnSegment> {
    let (mut q_row, mut own_row) = (0, 0);
    let mut calls = Vec::with_capacity(segments.len());
    for (s, l) in segments.iter().zip(live) {
        calls.push(AttnSegment {
            q_row,
            n_q: l.len,
            q_position: l.first,
            prefix_row: base.map_or(0, |b| b.offsets[s.prompt]),
            prefix_len: s.first,
            own_row,
            own_len: s.len,
            first_head: 0,
            capture_at: prompts.square_at(s.prompt, n_heads),
        });
        q_row += l.len;
        own_row += s.len;
    }
    calls
}

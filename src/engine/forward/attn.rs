//! The attention branch, with its patch points: projections, norms and positions, scores, z, output projection.

use super::Forward;
use crate::backend::{
    AttnCall, AttnOverride, AttnOverrideKind, AttnParams, AttnSegment, Backend, BackendError, Combine, Epilogue,
    HeadRows, RowIndex, View, ViewMut, WeightSlice,
};
use crate::engine::cache::{Cache, Point, PromptRows};
use crate::engine::patch::{PatchPoint, Value};
use crate::engine::recorder::Recorder;
use crate::engine::segment::{Segment, living_rows, n_rows, places};
use crate::engine::weights::{Model, QkvWidths, SubWeights};
use crate::engine::workspace::Workspace;
use crate::model::spec::{AttnSpec, NormScope, NormSpec, QkNormAt, SubLayer};

/// What scores and patterns are replaced with.
enum Values<'a, B: Backend> {
    Cached(&'a B::Buf),
    Joined(B::Buf),
}

impl<B: Backend> Values<'_, B> {
    fn buffer(&self) -> &B::Buf {
        match self {
            Values::Cached(buffer) => buffer,
            Values::Joined(buffer) => buffer,
        }
    }
}

impl<B: Backend> Forward<'_, B> {
    /// The attention branch up to z, which stays in `ws.z`: keys and values of all rows, everything else of the rows
    /// that live on.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attn(
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
        let SubWeights::Attn { qkv, qkv_bias, sinks, .. } = weights else { unreachable!("weights follow the spec") };
        let (backend, d) = (&self.model.backend, self.model.spec.d_model);
        let (n, n_live) = (n_rows(segments), n_rows(live));
        let w = QkvWidths::of(a);
        let Workspace { x, spare, h, wide, q, z, .. } = ws;
        let input = self.branch_input(sub, x, h, n);

        // Projections. Queries of dead rows are not computed.
        let dead_rows = n_live < n;
        let kv = if dead_rows { w.q..w.total() } else { 0..w.total() };
        let bias = Model::<B>::bias_row(qkv_bias.as_ref(), kv.clone());
        let out = ViewMut::packed(wide, n, w.total()).columns(kv.clone());
        backend.gemm(input, qkv, WeightSlice { k: 0..d, n: kv }, Epilogue::bias(bias), out);
        if dead_rows {
            let from = living_rows(segments, live);
            let to = ViewMut::packed(spare, n_live, d);
            backend.copy_rows(input, RowIndex::List(&from), to, RowIndex::All, Combine::Set, 1.0);
            let bias = Model::<B>::bias_row(qkv_bias.as_ref(), 0..w.q);
            let slice = WeightSlice { k: 0..d, n: 0..w.q };
            let (input, out) = (View::packed(&*spare, n_live, d), ViewMut::packed(q, n_live, w.q));
            backend.gemm(input, qkv, slice, Epilogue::bias(bias), out);
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
        let (overrides, override_values) = self.overrides(patches, layer, segments)?;
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
            override_values: override_values.as_ref().map(Values::buffer),
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
        Ok(())
    }

    /// From `ws.z` to what attention adds, in `ws.attn_out`; with `add`, it is added to `ws.x`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attn_output(
        &self,
        layer: usize,
        sub: &SubLayer,
        a: &AttnSpec,
        weights: &SubWeights<B>,
        segments: &[Segment],
        ws: &mut Workspace<B>,
        patches: &[PatchPoint<'_, B>],
        recorder: &mut Option<Recorder<'_, B>>,
        add: bool,
    ) -> Result<(), BackendError> {
        let SubWeights::Attn { o, o_bias, .. } = weights else { unreachable!("weights follow the spec") };
        let (backend, d, n_live) = (&self.model.backend, self.model.spec.d_model, n_rows(segments));
        let Workspace { x, z, attn_out, .. } = ws;
        let z_width = a.n_heads * a.d_v;
        // Head by head where the heads' results are read or written, in one GEMM otherwise.
        let by_head = Self::is_seen(layer, &[Point::Result], patches, recorder);
        let seen = by_head || Self::is_seen(layer, &[Point::AttnRaw, Point::AttnOut], patches, recorder);
        let z = View::packed(&*z, n_live, z_width);
        if add && sub.post_norm.is_none() && !seen {
            self.add_product(layer, z, o, o_bias.as_ref(), x, attn_out);
            return Ok(());
        }
        let bias = Model::<B>::bias_row(o_bias.as_ref(), 0..d);
        if by_head {
            let mut result = backend.zeros(n_live * a.n_heads * d)?;
            for head in 0..a.n_heads {
                let slice = WeightSlice { k: head * a.d_v..(head + 1) * a.d_v, n: 0..d };
                let out = ViewMut::packed(&mut result, n_live, a.n_heads * d).columns(head * d..(head + 1) * d);
                backend.gemm(z.columns(head * a.d_v..(head + 1) * a.d_v), o, slice, Epilogue::none(), out);
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
            backend.gemm(z, o, slice, Epilogue::bias(bias), ViewMut::packed(attn_out, n_live, d));
        }
        if let Some(r) = recorder {
            r.point(backend, layer, Point::AttnRaw, View::packed(&*attn_out, n_live, d))?;
        }
        self.finish_branch(layer, sub, attn_out, n_live);
        if let Some(r) = recorder {
            r.point(backend, layer, Point::AttnOut, View::packed(&*attn_out, n_live, d))?;
        }
        self.apply(patches, layer, Point::AttnOut, segments, ViewMut::packed(attn_out, n_live, d), d);
        if add {
            backend.add(ViewMut::packed(x, n_live, d), View::packed(&*attn_out, n_live, d), 1.0);
        }
        Ok(())
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

    /// Replacements and changes of scores and patterns, and the values for them: one matrix after the other, where both
    /// scores and patterns come from a cache.
    #[allow(clippy::type_complexity)]
    fn overrides<'p>(
        &self,
        patches: &'p [PatchPoint<'_, B>],
        layer: usize,
        segments: &[Segment],
    ) -> Result<(Vec<AttnOverride>, Option<Values<'p, B>>), BackendError> {
        let n_heads = self.model.spec.attn(layer).map_or(0, |a| a.n_heads);
        let mut overrides = Vec::new();
        // (buffer, where it begins among the values, its length)
        let mut parts: Vec<(&'p B::Buf, usize, usize)> = Vec::new();
        for p in patches {
            let point = if p.is_at(layer, Point::AttnScores) {
                Point::AttnScores
            } else if p.is_at(layer, Point::Pattern) {
                Point::Pattern
            } else {
                continue;
            };
            let mut values_at = None;
            if let Value::From(cache, prompt) | Value::Add(cache, prompt) = p.value {
                let buffer = cache.buffer(layer, point);
                let start = match parts.iter().find(|part| std::ptr::eq(part.0, buffer)) {
                    Some(part) => part.1,
                    None => {
                        let start = parts.last().map_or(0, |part| part.1 + part.2);
                        parts.push((buffer, start, cache.prompts.squares(n_heads)));
                        start
                    }
                };
                values_at = Some(start + cache.prompts.square_at(prompt, n_heads));
            }
            let kind = match (point, p.value) {
                (Point::AttnScores, Value::Add(..)) => AttnOverrideKind::ChangeScores { factor: 1.0 },
                (Point::AttnScores, Value::Scale(factor)) => AttnOverrideKind::ChangeScores { factor },
                (Point::AttnScores, Value::Knockout(source)) => {
                    AttnOverrideKind::Knockout { from: source, to: source + 1 }
                }
                (Point::AttnScores, _) => AttnOverrideKind::Scores,
                (_, Value::Zero | Value::From(..)) => AttnOverrideKind::Pattern,
                _ => unreachable!("patterns are replaced or left alone"),
            };
            overrides.push(AttnOverride {
                segment: p.segment,
                kind,
                heads: p.heads.clone().unwrap_or(0..n_heads),
                destinations: p.positions.clone(),
                values_at,
                n_positions: self.prompts.len_of(segments[p.segment].prompt),
            });
        }
        let values = match parts[..] {
            [] => None,
            [(buffer, ..)] => Some(Values::Cached(buffer)),
            _ => {
                let backend = &self.model.backend;
                let total = parts.iter().map(|part| part.2).sum();
                let mut all = backend.zeros(total)?;
                for (buffer, start, len) in parts {
                    let to = ViewMut::packed(&mut all, 1, total).columns(start..start + len);
                    backend.copy_rows(
                        View::packed(buffer, 1, len),
                        RowIndex::All,
                        to,
                        RowIndex::All,
                        Combine::Set,
                        1.0,
                    );
                }
                Some(Values::Joined(all))
            }
        };
        Ok((overrides, values))
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
        alibi: a.alibi.as_ref().map(|a| (a.slopes.as_slice(), a.at)),
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

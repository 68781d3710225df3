//! Patches inside attention: what they change of z, and what that changes of the residual stream.

use super::{Entry, PatchedRow, cache_rows, split_rows, wave_rows};
use crate::backend::{
    AttnCall, AttnOverride, AttnOverrideKind, AttnSegment, Backend, Combine, HeadRows, RowIndex, View, ViewMut,
};
use crate::engine::forward::{attn_params, prefix_of};
use crate::engine::weights::{QkvWidths, SubWeights};
use crate::engine::{Point, Site};
use crate::model::spec::{AttnSpec, Op};
use crate::sweep::group::norm_couples_heads;
use crate::sweep::plan::{PlannedItem, patched_positions};
use crate::sweep::run::SweepError;

/// How z of some rows differs from the base run's: `dz` `[rows, width]`, of the heads from each row's `head` on.
pub(super) struct ZChange<B: Backend> {
    dz: B::Buf,
    width: usize,
    rows: Vec<PatchedRow>,
}

impl<B: Backend> Entry<'_, '_, B> {
    /// A patch of z itself.
    pub(super) fn z_change(
        &self,
        layer: usize,
        a: &AttnSpec,
        items: &[PlannedItem],
        starts: &[usize],
        all_heads: bool,
    ) -> Result<ZChange<B>, SweepError> {
        let rows = self.rows(items, starts, |i| i.first);
        let width = if all_heads { a.n_heads * a.d_v } else { a.d_v };
        let mut dz = self.model().backend.zeros(rows.len() * width)?;
        let values = self.values().map(|v| v.point(layer, Point::Z, a.n_heads * a.d_v).split_rows(width));
        let split = split_rows(&rows, if all_heads { 1 } else { a.n_heads });
        self.set_values(values, &split, ViewMut::packed(&mut dz, rows.len(), width), RowIndex::All)?;
        self.subtract_base_z(layer, a, &split, width, &mut dz);
        Ok(ZChange { dz, width, rows })
    }

    /// dz −= the base run's z; `split` are rows of z cut into rows of `width`.
    fn subtract_base_z(&self, layer: usize, a: &AttnSpec, split: &[u32], width: usize, dz: &mut B::Buf) {
        let base = self.group.base.point(layer, Point::Z, a.n_heads * a.d_v).split_rows(width);
        let to = ViewMut::packed(dz, split.len(), width);
        self.model().backend.copy_rows(base, RowIndex::List(split), to, RowIndex::All, Combine::Subtract, 1.0);
    }

    /// What a patch writes of q, k or v, before clip, norm and rope: `[rows, d_head]` of the patched head, or
    /// `[rows, n_heads * d_head]` where all are patched or where a norm couples them (the others are the base run's then).
    fn raw_projections(
        &self,
        layer: usize,
        point: Point,
        (n_heads, d_head): (usize, usize),
        rows: &[PatchedRow],
        (all_heads, coupled): (bool, bool),
    ) -> Result<B::Buf, SweepError> {
        let (backend, n, full) = (&self.model().backend, rows.len(), n_heads * d_head);
        let patched_width = if all_heads { full } else { d_head };
        let values = self.values().map(|v| v.point(layer, point, full).split_rows(patched_width));
        let split = split_rows(rows, full / patched_width);
        if !coupled || all_heads {
            let mut raw = backend.zeros(n * patched_width)?;
            self.set_values(values, &split, ViewMut::packed(&mut raw, n, patched_width), RowIndex::All)?;
            return Ok(raw);
        }
        let mut raw = backend.zeros(n * full)?;
        let (base, to) = (self.group.base.point(layer, point, full), ViewMut::packed(&mut raw, n, full));
        backend.copy_rows(base, RowIndex::List(&cache_rows(rows)), to, RowIndex::All, Combine::Set, 1.0);
        let own: Vec<u32> = rows.iter().enumerate().map(|(i, r)| (i * n_heads + r.head) as u32).collect();
        let to = ViewMut::packed(&mut raw, n * n_heads, d_head);
        self.set_values(values, &split, to, RowIndex::List(&own))?;
        Ok(raw)
    }

    /// A patch of q re-runs its head's attention at the patched rows (all heads where a norm couples them).
    pub(super) fn q_change(
        &self,
        layer: usize,
        index: usize,
        a: &AttnSpec,
        items: &[PlannedItem],
        starts: &[usize],
        all_heads: bool,
    ) -> Result<ZChange<B>, SweepError> {
        let rows = self.rows(items, starts, |i| i.first);
        let n = rows.len();
        let coupled = norm_couples_heads(a, Site::Q);
        let heads = if all_heads || coupled { a.n_heads } else { 1 };
        let mut q = self.raw_projections(layer, Point::Q, (a.n_heads, a.d_qk), &rows, (all_heads, coupled))?;
        let places: Vec<_> = rows.iter().map(|r| (r.pair, r.position)).collect();
        let q_view = ViewMut::packed(&mut q, n, heads * a.d_qk);
        self.forward.prepare(a, a.q_norm.as_ref(), heads, q_view, &places, true);

        let segments = self.row_segments(&rows, heads);
        let q = View::packed(&q, n, heads * a.d_qk);
        self.rerun(layer, index, a, heads, rows, (Some(q), None, None), &segments, &[])
    }

    /// A patch of k or v re-runs the query heads of its group at every row from the patched one on.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn kv_change(
        &self,
        layer: usize,
        index: usize,
        a: &AttnSpec,
        items: &[PlannedItem],
        starts: &[usize],
        site: Site,
        all_heads: bool,
    ) -> Result<ZChange<B>, SweepError> {
        let backend = &self.model().backend;
        let (w, group_size) = (QkvWidths::of(a), a.n_heads / a.n_kv_heads);
        let coupled = norm_couples_heads(a, site);
        let kv_heads = if all_heads || coupled { a.n_kv_heads } else { 1 };
        let blocks = a.n_kv_heads / kv_heads; // rows of the caches are cut into this many
        let heads = kv_heads * group_size;
        let block_of = |r: usize, head: usize| (r * blocks + if blocks == 1 { 0 } else { head }) as u32;

        // Own keys and values: the base run's, from the first patched position on.
        let (mut own, mut queries, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        let mut own_start = Vec::with_capacity(items.len());
        let mut z_rows = Vec::new();
        for (item, start) in items.iter().zip(starts) {
            let (pair, head) = (item.pair as usize, self.cells[item.cell as usize].head.unwrap_or(0) as usize);
            let (offset, len) = (self.group.base_prompts.offsets[pair], self.group.base_prompts.len_of(pair));
            let (from, first) = (item.patched_from as usize, item.first as usize);
            own_start.push(own.len());
            segments.push(AttnSegment {
                q_row: queries.len(),
                n_q: len - first,
                q_position: first,
                prefix_row: offset,
                prefix_len: from,
                own_row: own.len(),
                own_len: len - from,
                first_head: if blocks == 1 { 0 } else { head * group_size },
                capture_at: 0,
            });
            own.extend((from..len).map(|p| block_of(offset + p, head)));
            queries.extend((first..len).map(|p| block_of(offset + p, head)));
            z_rows.extend((first..len).map(|position| PatchedRow {
                cache: (offset + position) as u32,
                wave: (start + position - first) as u32,
                position,
                pair,
                head: head * group_size,
            }));
        }
        let (kw, vw) = (kv_heads * a.d_qk, kv_heads * a.d_v);
        let gather = |view: View<'_, B::Buf>, width: usize, rows: &[u32]| -> Result<B::Buf, SweepError> {
            let mut buf = backend.zeros(rows.len() * width)?;
            let to = ViewMut::packed(&mut buf, rows.len(), width);
            backend.copy_rows(view.split_rows(width), RowIndex::List(rows), to, RowIndex::All, Combine::Set, 1.0);
            Ok(buf)
        };
        let (base_k, base_v) = prefix_of(&self.group.base, layer, a);
        let (mut k, mut v) = (gather(base_k, kw, &own)?, gather(base_v, vw, &own)?);
        let q = gather(self.group.base.point(layer, Point::RotQ, w.q), heads * a.d_qk, &queries)?;

        // The patched rows, prepared as the forward pass prepares them, take their places among them.
        let patched = self.rows(items, starts, |i| i.patched_from);
        let mut places_in_own = Vec::with_capacity(patched.len());
        for (i, item) in items.iter().enumerate() {
            let cell = &self.cells[item.cell as usize];
            let (pair, from) = (item.pair as usize, item.patched_from as usize);
            let len = self.group.base_prompts.len_of(pair);
            let positions = patched_positions(cell, &self.columns, self.first_pair + pair, len);
            places_in_own
                .extend(positions.into_iter().filter(|p| *p >= from).map(|p| (own_start[i] + p - from) as u32));
        }
        let (point, d_head, width) = match site {
            Site::K => (Point::K, a.d_qk, kw),
            _ => (Point::V, a.d_v, vw),
        };
        let n = patched.len();
        let mut new = self.raw_projections(layer, point, (a.n_kv_heads, d_head), &patched, (all_heads, coupled))?;
        let new_view = ViewMut::packed(&mut new, n, width);
        if site == Site::K {
            let places: Vec<_> = patched.iter().map(|r| (r.pair, r.position)).collect();
            self.forward.prepare(a, a.k_norm.as_ref(), kv_heads, new_view, &places, false);
        } else if let Some(clip) = a.qkv_clip {
            backend.clamp(new_view, clip);
        }
        let target = if site == Site::K { &mut k } else { &mut v };
        let to = ViewMut::packed(target, own.len(), width);
        let new = View::packed(&new, n, width);
        backend.copy_rows(new, RowIndex::All, to, RowIndex::List(&places_in_own), Combine::Set, 1.0);

        let q = View::packed(&q, queries.len(), heads * a.d_qk);
        let own_kv = (Some(q), Some(View::packed(&k, own.len(), kw)), Some(View::packed(&v, own.len(), vw)));
        self.rerun(layer, index, a, heads, z_rows, own_kv, &segments, &[])
    }

    /// A patch of scores or pattern: z from what is written and the base run's values.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn pattern_change(
        &self,
        layer: usize,
        index: usize,
        a: &AttnSpec,
        items: &[PlannedItem],
        starts: &[usize],
        site: Site,
        all_heads: bool,
    ) -> Result<ZChange<B>, SweepError> {
        let rows = self.rows(items, starts, |i| i.first);
        let heads = if all_heads { a.n_heads } else { 1 };
        let kind = if site == Site::Pattern { AttnOverrideKind::Pattern } else { AttnOverrideKind::Scores };
        let segments = self.row_segments(&rows, heads);
        let mut overrides = Vec::with_capacity(rows.len());
        for (i, r) in rows.iter().enumerate() {
            let first_head = segments[i].first_head;
            let len = self.group.base_prompts.len_of(r.pair);
            overrides.push(AttnOverride {
                segment: i,
                kind,
                heads: first_head..first_head + heads,
                destinations: r.position..r.position + 1,
                values_at: self.values().map(|v| v.prompts.square_at(r.pair, a.n_heads)),
                n_positions: len,
            });
        }
        self.rerun(layer, index, a, heads, rows, (None, None, None), &segments, &overrides)
    }

    /// A knockout of edges: the heads' attention again at the destinations, without some of its sources.
    pub(super) fn knockout_change(
        &self,
        layer: usize,
        index: usize,
        a: &AttnSpec,
        items: &[PlannedItem],
        starts: &[usize],
        all_heads: bool,
    ) -> Result<ZChange<B>, SweepError> {
        let (backend, sources) = (&self.model().backend, self.knockout.expect("the patch is a knockout"));
        let rows = self.rows(items, starts, |i| i.first);
        let heads = if all_heads { a.n_heads } else { 1 };
        let segments = self.row_segments(&rows, heads);
        let columns = rows.iter().zip(self.columns_of_rows(items));
        let mut overrides = Vec::new();
        for (i, (r, column)) in columns.enumerate() {
            let (pair, first_head) = (self.first_pair + r.pair, segments[i].first_head);
            let meets = |c: &usize| {
                column.is_none_or(|own| own as usize == *c) && self.columns.at[*c].at[pair] == Some(r.position as u32)
            };
            for source in (0..sources.len()).filter(meets).filter_map(|c| sources[c][pair]) {
                overrides.push(AttnOverride {
                    segment: i,
                    kind: AttnOverrideKind::Knockout { from: source as usize, to: source as usize + 1 },
                    heads: first_head..first_head + heads,
                    destinations: r.position..r.position + 1,
                    values_at: None,
                    n_positions: self.group.base_prompts.len_of(r.pair),
                });
            }
        }
        let width = heads * a.d_qk;
        let mut q = backend.zeros(rows.len() * width)?;
        let base = self.group.base.point(layer, Point::RotQ, a.n_heads * a.d_qk).split_rows(width);
        let split = split_rows(&rows, if all_heads { 1 } else { a.n_heads });
        let to = ViewMut::packed(&mut q, rows.len(), width);
        backend.copy_rows(base, RowIndex::List(&split), to, RowIndex::All, Combine::Set, 1.0);
        let q = View::packed(&q, rows.len(), width);
        self.rerun(layer, index, a, heads, rows, (Some(q), None, None), &segments, &overrides)
    }

    /// The position column of the cell that each of [`Entry::rows`] belongs to.
    fn columns_of_rows(&self, items: &[PlannedItem]) -> Vec<Option<u32>> {
        let mut columns = Vec::new();
        for item in items {
            let (pair, cell) = (item.pair as usize, &self.cells[item.cell as usize]);
            let len = self.group.base_prompts.len_of(pair);
            let positions = patched_positions(cell, &self.columns, self.first_pair + pair, len);
            columns.extend(positions.iter().filter(|p| **p >= item.first as usize).map(|_| cell.column));
        }
        columns
    }

    /// A segment for each row on its own: one query over the base run's keys and values up to its position.
    fn row_segments(&self, rows: &[PatchedRow], heads: usize) -> Vec<AttnSegment> {
        let segment = |(i, r): (usize, &PatchedRow)| AttnSegment {
            q_row: i,
            n_q: 1,
            q_position: r.position,
            prefix_row: self.group.base_prompts.offsets[r.pair],
            prefix_len: r.position + 1,
            own_row: 0,
            own_len: 0,
            first_head: if heads == 1 { r.head } else { 0 },
            capture_at: 0,
        };
        rows.iter().enumerate().map(segment).collect()
    }

    /// Runs attention for `heads` heads of some rows and returns how their z differs from the base run's.
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn rerun(
        &self,
        layer: usize,
        index: usize,
        a: &AttnSpec,
        heads: usize,
        rows: Vec<PatchedRow>,
        (q, k, v): (Option<View<'_, B::Buf>>, Option<View<'_, B::Buf>>, Option<View<'_, B::Buf>>),
        segments: &[AttnSegment],
        overrides: &[AttnOverride],
    ) -> Result<ZChange<B>, SweepError> {
        let SubWeights::Attn { sinks, .. } = &self.model().layers[layer][index] else {
            unreachable!("weights follow the spec")
        };
        let width = heads * a.d_v;
        let override_values = overrides.first().and_then(|o| {
            let point = if o.kind == AttnOverrideKind::Pattern { Point::Pattern } else { Point::AttnScores };
            self.values().map(|v| v.buffer(layer, point))
        });
        let mut z = self.model().backend.zeros(rows.len() * width)?;
        let call = AttnCall {
            params: attn_params(a, sinks.as_ref()),
            heads,
            q,
            k,
            v,
            prefix: Some(prefix_of(&self.group.base, layer, a)),
            segments,
            overrides,
            override_values,
            capture_scores: None,
            capture_pattern: None,
        };
        self.model().backend.attention(call, ViewMut::packed(&mut z, rows.len(), width));
        let blocks = a.n_heads / heads;
        let split: Vec<u32> = rows.iter().map(|r| r.cache * blocks as u32 + (r.head / heads) as u32).collect();
        let split = if blocks == 1 { cache_rows(&rows) } else { split };
        self.subtract_base_z(layer, a, &split, width, &mut z);
        let rows = if blocks == 1 { rows.into_iter().map(|r| PatchedRow { head: 0, ..r }).collect() } else { rows };
        Ok(ZChange { dz: z, width, rows })
    }

    /// Brings a change of z through W_O into the residual rows of the wave.
    pub(super) fn add_z_change(
        &self,
        boundary: usize,
        layer: usize,
        index: usize,
        change: &ZChange<B>,
        mut x: ViewMut<'_, B::Buf>,
    ) -> Result<(), SweepError> {
        let (spec, backend) = (&self.model().spec, &self.model().backend);
        let (d, rows, n) = (spec.d_model, &change.rows, change.rows.len());
        let sub = &spec.blocks[layer].subs[index];
        let Op::Attn(a) = &sub.op else { unreachable!("found as attention") };
        let mut groups: Vec<HeadRows> = Vec::new();
        for (i, r) in rows.iter().enumerate() {
            let k = if change.width == a.n_heads * a.d_v { 0 } else { r.head * a.d_v };
            match groups.last_mut() {
                Some(g) if g.k == k => g.rows.end = i + 1,
                _ => groups.push(HeadRows { rows: i..i + 1, k }),
            }
        }
        let mut delta = backend.zeros(n * d)?;
        let dz = View::packed(&change.dz, n, change.width);
        let out = ViewMut::packed(&mut delta, n, d);
        self.forward.head_delta(&self.model().layers[layer][index], dz, &groups, out);
        if sub.post_norm.is_none() && sub.resid_norm.is_none() {
            let scale = spec.blocks[layer].resid_scale;
            let (delta, to) = (View::packed(&delta, n, d), wave_rows(rows));
            backend.copy_rows(delta, RowIndex::All, x.reborrow(), RowIndex::List(&to), Combine::Add, scale);
            return Ok(());
        }
        let raw = self.group.base.point(layer, Point::AttnRaw, d);
        let out = ViewMut::packed(&mut delta, n, d);
        backend.copy_rows(raw, RowIndex::List(&cache_rows(rows)), out, RowIndex::All, Combine::Add, 1.0);
        self.forward.finish_branch(layer, sub, &mut delta, n);
        self.add_branch(boundary, layer, sub, Point::AttnOut, rows, &delta, x)
    }
}

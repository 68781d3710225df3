//! How a cell enters the wave: the base run's residual rows from its first live position on, with the patched rows
//! changed by exactly what the patch changes.
//!
//! Every formula below gives the base rows back, bit for bit, when the patch writes what is already there.

mod heads;

use super::cells::{Cell, SiteCells};
use super::group::{Group, norm_couples_heads, point_width};
use super::plan::{PlannedItem, Positions, patched_positions};
use super::run::SweepError;
use crate::backend::{Backend, Combine, RowIndex, View, ViewMut};
use crate::engine::weights::{QkvWidths, mlp_width};
use crate::engine::{Cache, Forward, Model, Point, Site};
use crate::model::ModelSpec;
use crate::model::spec::{Op, SubLayer};

/// A row that a patch touches.
#[derive(Debug, Clone, Copy)]
struct PatchedRow {
    /// Row of the pair and position in the caches.
    cache: u32,
    /// Row in the wave.
    wave: u32,
    position: usize,
    pair: usize,
    /// Head of the site, 0 where all heads are patched together.
    head: usize,
}

/// What the entry of one batch of items needs.
pub(crate) struct Entry<'a, 'g, B: Backend> {
    pub forward: &'a Forward<'a, B>,
    pub group: &'a Group<'g, B>,
    pub cells: &'a [Cell],
    pub columns: Positions<'a>,
    /// Index of the group's first pair among all pairs.
    pub first_pair: usize,
    /// Which of the group's values are patched in.
    pub draw: usize,
    /// The sources of knocked-out edges, `[column][pair]`: see [`super::PatchKind::Knockout`].
    pub knockout: Option<&'a [Vec<Option<u32>>]>,
}

impl<B: Backend> Entry<'_, '_, B> {
    fn model(&self) -> &Model<B> {
        self.forward.model
    }

    /// What is patched in; `None` is zero.
    fn values(&self) -> Option<&Cache<B>> {
        self.group.values[self.draw].as_ref()
    }

    /// Brings `items` (all of one boundary, sorted so that equal sites, layers and heads are neighbours) into the wave:
    /// their rows are appended at row `at` of `x`.
    pub fn admit(&self, items: &[PlannedItem], x: &mut B::Buf, capacity: usize, at: usize) -> Result<(), SweepError> {
        let Some(boundary) = items.first().map(|i| i.boundary as usize) else { return Ok(()) };
        let (backend, d) = (&self.model().backend, self.model().spec.d_model);
        let mut base_rows = Vec::new();
        let mut starts = Vec::with_capacity(items.len());
        for item in items {
            starts.push(at + base_rows.len());
            let offset = self.group.base_prompts.offsets[item.pair as usize];
            let len = self.group.base_prompts.len_of(item.pair as usize);
            base_rows.extend((item.first as usize..len).map(|p| (offset + p) as u32));
        }
        let to = ViewMut::packed(x, capacity, d).range(at..at + base_rows.len());
        let base = self.group.base.resid(boundary, d);
        backend.copy_rows(base, RowIndex::List(&base_rows), to, RowIndex::All, Combine::Set, 1.0);

        let key = |i: &PlannedItem| {
            let c = &self.cells[i.cell as usize];
            (c.site, c.layer, c.head.is_some())
        };
        let mut from = 0;
        while from < items.len() {
            let mut to = from + 1;
            while to < items.len() && key(&items[to]) == key(&items[from]) {
                to += 1;
            }
            let x = ViewMut::packed(x, capacity, d);
            self.patch_rows(boundary, &items[from..to], &starts[from..to], x)?;
            from = to;
        }
        Ok(())
    }

    /// The patched rows of items, from position `from(item)` on.
    fn rows(&self, items: &[PlannedItem], starts: &[usize], from: impl Fn(&PlannedItem) -> u32) -> Vec<PatchedRow> {
        let mut rows = Vec::new();
        for (item, start) in items.iter().zip(starts) {
            let (pair, cell) = (item.pair as usize, &self.cells[item.cell as usize]);
            let (offset, len) = (self.group.base_prompts.offsets[pair], self.group.base_prompts.len_of(pair));
            for position in patched_positions(cell, &self.columns, self.first_pair + pair, len) {
                if position >= from(item) as usize {
                    rows.push(PatchedRow {
                        cache: (offset + position) as u32,
                        wave: (start + position).wrapping_sub(item.first as usize) as u32,
                        position,
                        pair,
                        head: cell.head.unwrap_or(0) as usize,
                    });
                }
            }
        }
        rows
    }

    /// Changes the patched rows of items of one site and layer.
    fn patch_rows(
        &self,
        boundary: usize,
        items: &[PlannedItem],
        starts: &[usize],
        x: ViewMut<'_, B::Buf>,
    ) -> Result<(), SweepError> {
        let cell = &self.cells[items[0].cell as usize];
        let (layer, all_heads) = (cell.layer as usize, cell.head.is_none());
        let spec = &self.model().spec;
        let subs = &spec.blocks[layer].subs;
        let index_of = |attn: bool| subs.iter().position(|s| matches!(s.op, Op::Attn(_)) == attn);
        match cell.site {
            Site::ResidPre | Site::ResidMid | Site::ResidPost => {
                let rows = self.rows(items, starts, |i| i.first);
                let values = self.values().map(|v| v.resid(boundary, spec.d_model));
                self.set_values(values, &cache_rows(&rows), x, RowIndex::List(&wave_rows(&rows)))
            }
            Site::AttnOut | Site::MlpOut => {
                let rows = self.rows(items, starts, |i| i.first);
                let attn = cell.site == Site::AttnOut;
                let sub = &subs[index_of(attn).expect("the site exists")];
                let point = if attn { Point::AttnOut } else { Point::MlpOut };
                let mut out = self.model().backend.zeros(rows.len() * spec.d_model)?;
                let to = ViewMut::packed(&mut out, rows.len(), spec.d_model);
                let values = self.values().map(|v| v.point(layer, point, spec.d_model));
                self.set_values(values, &cache_rows(&rows), to, RowIndex::All)?;
                self.add_branch(boundary, layer, sub, point, &rows, &out, x)
            }
            Site::MlpPre | Site::MlpPost => {
                let rows = self.rows(items, starts, |i| i.first);
                let index = index_of(false).expect("the site exists");
                let out = self.mlp_from_hidden(layer, index, cell.site, &rows)?;
                self.add_branch(boundary, layer, &subs[index], Point::MlpOut, &rows, &out, x)
            }
            _ => {
                let index = index_of(true).expect("the site exists");
                let Op::Attn(a) = &subs[index].op else { unreachable!("found as attention") };
                let change = match cell.site {
                    Site::Z | Site::Result => self.z_change(layer, a, items, starts, all_heads)?,
                    Site::Q => self.q_change(layer, index, a, items, starts, all_heads)?,
                    Site::AttnScores if self.knockout.is_some() => {
                        self.knockout_change(layer, index, a, items, starts, all_heads)?
                    }
                    Site::K | Site::V => self.kv_change(layer, index, a, items, starts, cell.site, all_heads)?,
                    _ => self.pattern_change(layer, index, a, items, starts, cell.site, all_heads)?,
                };
                self.add_z_change(boundary, layer, index, &change, x)
            }
        }
    }

    /// Writes values (or zeros) of the listed cache rows.
    fn set_values(
        &self,
        values: Option<View<'_, B::Buf>>,
        from: &[u32],
        to: ViewMut<'_, B::Buf>,
        to_rows: RowIndex<'_>,
    ) -> Result<(), SweepError> {
        let backend = &self.model().backend;
        let to = match to_rows {
            RowIndex::All => to.range(0..from.len()),
            RowIndex::List(_) => to,
        };
        match values {
            Some(values) => backend.copy_rows(values, RowIndex::List(from), to, to_rows, Combine::Set, 1.0),
            None => {
                let zero = backend.zeros(to.cols)?;
                let nowhere = vec![0; from.len()];
                let zeros = View::packed(&zero, 1, to.cols);
                backend.copy_rows(zeros, RowIndex::List(&nowhere), to, to_rows, Combine::Set, 1.0);
            }
        }
        Ok(())
    }

    /// Rows of the wave become what they are when a branch adds `out` `[rows, d_model]` (post-norm and multiplier
    /// included) instead of the base run's output.
    #[allow(clippy::too_many_arguments)]
    fn add_branch(
        &self,
        boundary: usize,
        layer: usize,
        sub: &SubLayer,
        point: Point,
        rows: &[PatchedRow],
        out: &B::Buf,
        mut x: ViewMut<'_, B::Buf>,
    ) -> Result<(), SweepError> {
        let (backend, d, n) = (&self.model().backend, self.model().spec.d_model, rows.len());
        let (from, to) = (cache_rows(rows), wave_rows(rows));
        let out = View::packed(out, n, d);
        if self.forward.program.steps[boundary - 1].parallel {
            // The other branch has been added, too: exchange this one's share. The difference is formed first, so that
            // an unchanged output changes nothing.
            debug_assert_eq!(self.forward.program.steps[boundary - 1].layer, layer);
            let mut change = backend.zeros(n * d)?;
            backend.add(ViewMut::packed(&mut change, n, d), out, 1.0);
            let base = self.group.base.point(layer, point, d);
            let c = ViewMut::packed(&mut change, n, d);
            backend.copy_rows(base, RowIndex::List(&from), c, RowIndex::All, Combine::Subtract, 1.0);
            let c = View::packed(&change, n, d);
            backend.copy_rows(c, RowIndex::All, x.reborrow(), RowIndex::List(&to), Combine::Add, 1.0);
        } else {
            let mut y = backend.zeros(n * d)?;
            let before = self.group.base.resid(boundary - 1, d);
            let y_rows = ViewMut::packed(&mut y, n, d);
            backend.copy_rows(before, RowIndex::List(&from), y_rows, RowIndex::All, Combine::Set, 1.0);
            backend.add(ViewMut::packed(&mut y, n, d), out, 1.0);
            if let Some(norm) = &sub.resid_norm {
                backend.norm_in_place(ViewMut::packed(&mut y, n, d), &self.model().norm(norm, 1));
            }
            let y = View::packed(&y, n, d);
            backend.copy_rows(y, RowIndex::All, x.reborrow(), RowIndex::List(&to), Combine::Set, 1.0);
        }
        Ok(())
    }

    /// The MLP's output from a patched hidden row, before or after its activation.
    fn mlp_from_hidden(
        &self,
        layer: usize,
        index: usize,
        site: Site,
        rows: &[PatchedRow],
    ) -> Result<B::Buf, SweepError> {
        let sub = &self.model().spec.blocks[layer].subs[index];
        let Op::Mlp(m) = &sub.op else { unreachable!("found as an MLP") };
        let (backend, n, width) = (&self.model().backend, rows.len(), mlp_width(m));
        let mut hidden = backend.zeros(n * width)?;
        let point = if site == Site::MlpPre { Point::MlpPre } else { Point::MlpPost };
        let values = self.values().map(|v| v.point(layer, point, m.d_mlp));
        let to = ViewMut::packed(&mut hidden, n, width).columns(0..m.d_mlp);
        let from = cache_rows(rows);
        self.set_values(values, &from, to, RowIndex::All)?;
        if site == Site::MlpPre {
            if m.gated {
                let up = self.group.base.point(layer, Point::MlpUp, m.d_mlp);
                let to = ViewMut::packed(&mut hidden, n, width).columns(m.d_mlp..width);
                backend.copy_rows(up, RowIndex::List(&from), to, RowIndex::All, Combine::Set, 1.0);
            }
            let xielu = self.model().layers[layer][index].xielu();
            backend.activation(ViewMut::packed(&mut hidden, n, width), m.act, xielu, m.gated);
        }
        let mut out = backend.zeros(n * self.model().spec.d_model)?;
        let weights = &self.model().layers[layer][index];
        let post = View::packed(&hidden, n, width).columns(0..m.d_mlp);
        self.forward.mlp_down(layer, sub, m, weights, post, &mut out);
        Ok(out)
    }
}

fn cache_rows(rows: &[PatchedRow]) -> Vec<u32> {
    rows.iter().map(|r| r.cache).collect()
}

fn wave_rows(rows: &[PatchedRow]) -> Vec<u32> {
    rows.iter().map(|r| r.wave).collect()
}

/// The rows' own heads in a matrix whose rows are cut into `heads`.
fn split_rows(rows: &[PatchedRow], heads: usize) -> Vec<u32> {
    rows.iter().map(|r| r.cache * heads as u32 + if heads == 1 { 0 } else { r.head as u32 }).collect()
}

/// Numbers and table entries that one patched row takes for a moment in [`Entry::admit`], in bytes, at most: every buffer
/// that is there, and lists of rows, segments and overrides.
fn moment_bytes_per_row(spec: &ModelSpec, cell: &Cell) -> usize {
    const TABLES: usize = 160;
    let (layer, d) = (cell.layer as usize, spec.d_model);
    let numbers = match (cell.site, spec.attn(layer)) {
        (Site::ResidPre | Site::ResidMid | Site::ResidPost, _) => 0,
        (Site::AttnOut | Site::MlpOut, _) => 2 * d,
        (Site::MlpPre | Site::MlpPost, _) => spec.mlp(layer).map_or(0, mlp_width) + 2 * d,
        (_, Some(a)) => {
            // All heads, or the query heads of one key/value head.
            let alone = cell.head.is_some() && !norm_couples_heads(a, cell.site);
            let (w, share) = (QkvWidths::of(a), if alone { a.n_kv_heads } else { 1 });
            (w.total() + w.k.max(w.v) + a.n_heads * a.d_v).div_ceil(share) + 2 * d
        }
        (_, None) => 0,
    };
    4 * numbers + TABLES
}

/// Bytes of temporary buffers that admitting `items`, sorted as for [`Entry::admit`], takes at most.
pub(crate) fn moment_bytes(
    spec: &ModelSpec,
    cells: &[Cell],
    items: &[PlannedItem],
    len: impl Fn(u32) -> usize,
) -> usize {
    // Pieces of device memory are whole multiples of 256 bytes; there are never more of them than this at a time.
    const PIECES: usize = 64 * 256;
    let key = |i: &PlannedItem| {
        let c = &cells[i.cell as usize];
        (i.boundary, c.site, c.layer, c.head.is_some())
    };
    // The k or v of rows before the first live one may be patched, too: a row per position.
    let rows = |run: &[PlannedItem]| run.iter().map(|i| len(i.pair)).sum::<usize>();
    let bytes = |run: &[PlannedItem]| {
        let cell = &cells[run[0].cell as usize];
        rows(run) * moment_bytes_per_row(spec, cell) + 4 * spec.d_model
    };
    items.chunk_by(|a, b| key(a) == key(b)).map(bytes).max().unwrap_or(0) + PIECES
}

/// Rows of temporary buffers that admitting an item costs at most, relative to its own: see [`Entry::admit`].
pub(crate) fn temporary_bytes_per_row(spec: &ModelSpec, cells: &[SiteCells]) -> usize {
    let mut widest = 2 * spec.d_model;
    for layer in 0..spec.n_layers() {
        for s in cells {
            if matches!(s.site, Site::MlpPre | Site::MlpPost) {
                widest = widest.max(2 * spec.d_model + 2 * point_width(spec, layer, Point::MlpPre));
            } else if let (true, Some(a)) = (s.site.has_heads(), spec.attn(layer)) {
                let w = QkvWidths::of(a);
                let own = if s.by.has_heads() { a.n_kv_heads } else { 1 };
                widest = widest.max(2 * spec.d_model + (w.total() + a.n_heads * a.d_v) / own.max(1));
            }
        }
    }
    4 * widest
}

//! Attention: which segments go through which kernel, and tables of segments and overrides for them.

use super::driver::{Arguments, DevicePtr, Driver, DriverError};
use super::launch::{Stream, at, at_mut, at_option};
use super::memory::Device;
use crate::backend::{AttnCall, AttnOverrideKind, View, ViewMut};
use crate::model::spec::AlibiAt;

/// Warps of a block, keys of a tile, items of a block and floats of a tile, as in `attention.cu`.
const WARPS: usize = 8;
const KEYS: usize = 32;
const ITEMS: usize = 2 * WARPS;
const TILE: usize = KEYS * (64 + 4);
/// Rows of scores lie in shared memory while a block needs no more than this; beyond, those of `attention_segments` lie in
/// device memory, and `attention_fused` computes scores anew.
const SHARED_BYTES: usize = 48 << 10;
/// What a block may have on every card.
const MAX_SHARED_BYTES: usize = 99 << 10;

/// As `Segment` of `attention.cu`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Segment {
    q_row: i32,
    n_q: i32,
    q_position: i32,
    prefix_row: i32,
    prefix_len: i32,
    own_row: i32,
    own_len: i32,
    first_head: i32,
    first_override: i32,
    n_overrides: i32,
    capture_at: i64,
}

/// As `ItemTile` of `attention.cu`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct ItemTile {
    segment: i32,
    first_item: i32,
}

/// As `Override` of `attention.cu`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Override {
    kind: i32,
    first_head: i32,
    end_head: i32,
    first_destination: i32,
    end_destination: i32,
    n_positions: i32,
    first_source: i32,
    end_source: i32,
    factor: f32,
    padding: i32,
    values_at: i64,
}

/// As `Layer` of `attention.cu`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Layer {
    n_heads: i32,
    n_kv_heads: i32,
    d_qk: i32,
    d_v: i32,
    scale: f32,
    window: i32,
    softcap: f32,
    alibi_rounded: i32,
    alibi: DevicePtr,
    sinks: DevicePtr,
}

/// As `Rows` of `attention.cu`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Rows {
    at: DevicePtr,
    stride: i64,
}

fn rows<D: Driver>(view: Option<View<'_, Device<D>>>) -> Rows {
    view.map_or(Rows { at: DevicePtr::NULL, stride: 0 }, |v| Rows { at: at(v), stride: v.stride as i64 })
}

/// Numbers of the tables fit 32 bits: they count rows of matrices that fit in memory.
fn int(value: usize) -> Result<i32, DriverError> {
    i32::try_from(value).map_err(|_| DriverError::TooLarge { what: "a row or position of attention", value })
}

/// The overrides, those of one segment together in their own order, and where each segment's begin.
fn override_table<B>(call: &AttnCall<'_, B>) -> Result<(Vec<Override>, Vec<usize>), DriverError> {
    let mut order: Vec<usize> = (0..call.overrides.len()).collect();
    order.sort_by_key(|i| call.overrides[*i].segment); // stable
    let mut starts = vec![0; call.segments.len() + 1];
    for o in call.overrides {
        starts[o.segment + 1] += 1;
    }
    for i in 0..call.segments.len() {
        starts[i + 1] += starts[i];
    }
    let entry = |i: usize| -> Result<Override, DriverError> {
        let o = &call.overrides[i];
        let (kind, factor, sources) = match o.kind {
            AttnOverrideKind::Scores => (0, 0.0, 0..0),
            AttnOverrideKind::Pattern => (1, 0.0, 0..0),
            AttnOverrideKind::ChangeScores { factor } => (2, factor, 0..0),
            AttnOverrideKind::Knockout { from, to } => (3, 0.0, from..to),
        };
        Ok(Override {
            kind,
            first_head: int(o.heads.start)?,
            end_head: int(o.heads.end)?,
            first_destination: int(o.destinations.start)?,
            end_destination: int(o.destinations.end)?,
            n_positions: int(o.n_positions)?,
            first_source: int(sources.start)?,
            end_source: int(sources.end)?,
            factor,
            padding: 0,
            values_at: o.values_at.map_or(-1, |v| v as i64),
        })
    };
    Ok((order.into_iter().map(entry).collect::<Result<_, _>>()?, starts))
}

/// Segments that go through the same kernel.
#[derive(Default)]
struct Batch {
    segments: Vec<Segment>,
    /// Blocks of the fused kernel.
    item_tiles: Vec<ItemTile>,
    /// Most keys of a segment.
    longest: usize,
    /// Most key/value heads that a segment's query heads read.
    kv_heads: usize,
}

/// Bytes of shared memory that `attention_fused` needs beside its rows of scores.
fn fused_bytes(d_qk: usize) -> usize {
    4 * (2 * TILE + ITEMS * d_qk.next_multiple_of(4))
}

/// Length of the rows of scores that `attention_fused` keeps.
fn fused_row(d_qk: usize, longest: usize) -> usize {
    let room = SHARED_BYTES.saturating_sub(fused_bytes(d_qk)) / (4 * ITEMS);
    longest.next_multiple_of(KEYS).min(room / KEYS * KEYS).max(KEYS)
}

impl<D: Driver> Stream<D> {
    /// See [`crate::backend::Backend::attention`].
    ///
    /// Segments of which nothing is captured or replaced take the fused kernel, where its shared memory holds their
    /// queries; it gives the same bits.
    pub fn attention(&self, mut call: AttnCall<'_, Device<D>>, z: ViewMut<'_, Device<D>>) -> Result<(), DriverError> {
        let p = &call.params;
        let (group, heads) = (p.n_heads / p.n_kv_heads, call.heads);
        assert!(z.cols == heads * p.d_v && call.q.is_none_or(|q| q.cols == heads * p.d_qk));
        let may_fuse = call.q.is_some()
            && call.capture_scores.is_none()
            && call.capture_pattern.is_none()
            && fused_bytes(p.d_qk) + 4 * ITEMS * KEYS <= MAX_SHARED_BYTES;
        let (overrides, starts) = override_table(&call)?;
        let (mut kept, mut fused, mut captured) = (Batch::default(), Batch::default(), 0);
        for (i, s) in call.segments.iter().enumerate() {
            let n_keys = s.prefix_len + s.own_len;
            assert!(s.q_row + s.n_q <= z.rows && s.q_position + s.n_q <= n_keys && s.first_head + heads <= p.n_heads);
            captured = captured.max(s.capture_at + s.n_q * heads * n_keys);
            let plain = starts[i] == starts[i + 1];
            let batch = if may_fuse && plain { &mut fused } else { &mut kept };
            batch.longest = batch.longest.max(n_keys);
            batch.kv_heads = batch.kv_heads.max((s.first_head + heads - 1) / group - s.first_head / group + 1);
            if may_fuse && plain {
                for first_item in (0..s.n_q * group.min(heads)).step_by(ITEMS) {
                    let segment = int(batch.segments.len())?;
                    batch.item_tiles.push(ItemTile { segment, first_item: int(first_item)? });
                }
            }
            batch.segments.push(Segment {
                q_row: int(s.q_row)?,
                n_q: int(s.n_q)?,
                q_position: int(s.q_position)?,
                prefix_row: int(s.prefix_row)?,
                prefix_len: int(s.prefix_len)?,
                own_row: int(s.own_row)?,
                own_len: int(s.own_len)?,
                first_head: int(s.first_head)?,
                first_override: int(starts[i])?,
                n_overrides: int(starts[i + 1] - starts[i])?,
                capture_at: s.capture_at as i64,
            });
        }
        let alibi = p.alibi.map(|(slopes, _)| self.list(slopes)).transpose()?;
        let layer = Layer {
            n_heads: int(p.n_heads)?,
            n_kv_heads: int(p.n_kv_heads)?,
            d_qk: int(p.d_qk)?,
            d_v: int(p.d_v)?,
            scale: p.scale,
            window: int(p.window.unwrap_or(0))?,
            softcap: p.softcap.unwrap_or(0.0),
            alibi_rounded: p.alibi.is_some_and(|(_, at)| at == AlibiAt::BeforeScaleRounded).into(),
            alibi: at_option(alibi.as_ref()),
            sinks: at_option(p.sinks),
        };
        let capture = |buf: Option<&mut Device<D>>| {
            buf.map_or(DevicePtr::NULL, |b| {
                assert!(captured <= b.len(), "a capture lies outside its buffer");
                b.ptr()
            })
        };
        let captures = [capture(call.capture_scores.take()), capture(call.capture_pattern.take())];
        let inputs = || {
            Arguments::new()
                .value(at_mut(&z))
                .value(z.stride as i64)
                .value(layer)
                .int("heads", heads)
                .value(rows(call.q))
                .value(rows(call.k))
                .value(rows(call.v))
                .value(rows(call.prefix.map(|p| p.0)))
                .value(rows(call.prefix.map(|p| p.1)))
        };
        if !fused.segments.is_empty() {
            self.fused(&fused, p.d_qk, inputs())?;
        }
        if !kept.segments.is_empty() {
            let overrides = (self.list(&overrides)?, at_option(call.override_values));
            self.materialising(&kept, p.d_qk, inputs(), overrides, captures)?;
        }
        Ok(())
    }

    /// Segments without captures and overrides.
    fn fused(&self, batch: &Batch, d_qk: usize, inputs: Arguments) -> Result<(), DriverError> {
        let row = fused_row(d_qk, batch.longest);
        let (segments, item_tiles) = (self.list(&batch.segments)?, self.list(&batch.item_tiles)?);
        let arguments = inputs.value(segments.ptr()).value(item_tiles.ptr()).int("a row of scores", row);
        let (grid, shared) = ((batch.item_tiles.len(), batch.kv_heads), fused_bytes(d_qk) + 4 * ITEMS * row);
        // SAFETY: queries and results lie inside their buffers (asserted); keys and values are rows of the views by the
        // contract of `AttnSegment`.
        unsafe { self.launch(&self.kernels.attention_fused, grid, (WARPS * 32) as u32, shared, arguments) }
    }

    /// Segments with scores or patterns to capture or to replace.
    fn materialising(
        &self,
        batch: &Batch,
        d_qk: usize,
        inputs: Arguments,
        (overrides, values): (Device<D>, DevicePtr),
        [scores, patterns]: [DevicePtr; 2],
    ) -> Result<(), DriverError> {
        let grid = (batch.segments.len(), batch.kv_heads);
        let segments = self.list(&batch.segments)?;
        let tile_bytes = 4 * KEYS * (d_qk + 1);
        let rows_bytes = 4 * WARPS * batch.longest;
        let fits = tile_bytes + rows_bytes <= SHARED_BYTES;
        let long_rows =
            if fits { None } else { Some(self.memory.numbers::<f32>(grid.0 * grid.1 * WARPS * batch.longest)?) };
        let arguments = inputs
            .value(segments.ptr())
            .value(overrides.ptr())
            .value(values)
            .value(scores)
            .value(patterns)
            .value(at_option(long_rows.as_ref()))
            .int("a row of scores", batch.longest);
        let shared = tile_bytes + if fits { rows_bytes } else { 0 };
        // SAFETY: as for `fused`, and captures lie inside their buffers (asserted).
        unsafe { self.launch(&self.kernels.attention_segments, grid, (WARPS * 32) as u32, shared, arguments) }
    }
}

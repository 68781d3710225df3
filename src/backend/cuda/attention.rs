//! Attention: tables of segments and overrides for the kernel.

use super::driver::{Arguments, DevicePtr, Driver, DriverError};
use super::launch::{Stream, at, at_mut, at_option};
use super::memory::Device;
use crate::backend::{AttnCall, AttnOverrideKind, View, ViewMut};
use crate::model::spec::AlibiAt;

/// Warps of a block and keys of a tile, as in `attention.cu`.
const WARPS: usize = 8;
const KEYS: usize = 32;
/// Rows of scores lie in shared memory while a block needs no more than this.
const SHARED_BYTES: usize = 48 << 10;

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

/// As `Override` of `attention.cu`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Override {
    pattern: i32,
    first_head: i32,
    end_head: i32,
    first_destination: i32,
    end_destination: i32,
    n_positions: i32,
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
        Ok(Override {
            pattern: i32::from(o.kind == AttnOverrideKind::Pattern),
            first_head: int(o.heads.start)?,
            end_head: int(o.heads.end)?,
            first_destination: int(o.destinations.start)?,
            end_destination: int(o.destinations.end)?,
            n_positions: int(o.n_positions)?,
            values_at: o.values_at.map_or(-1, |v| v as i64),
        })
    };
    Ok((order.into_iter().map(entry).collect::<Result<_, _>>()?, starts))
}

impl<D: Driver> Stream<D> {
    /// See [`crate::backend::Backend::attention`].
    pub fn attention(&self, mut call: AttnCall<'_, Device<D>>, z: ViewMut<'_, Device<D>>) -> Result<(), DriverError> {
        let p = &call.params;
        let (group, heads) = (p.n_heads / p.n_kv_heads, call.heads);
        assert!(z.cols == heads * p.d_v && call.q.is_none_or(|q| q.cols == heads * p.d_qk));
        let (overrides, starts) = override_table(&call)?;
        let mut segments = Vec::with_capacity(call.segments.len());
        let (mut longest, mut kv_heads, mut captured) = (1, 1, 0);
        for (i, s) in call.segments.iter().enumerate() {
            let n_keys = s.prefix_len + s.own_len;
            assert!(s.q_row + s.n_q <= z.rows && s.q_position + s.n_q <= n_keys && s.first_head + heads <= p.n_heads);
            longest = longest.max(n_keys);
            kv_heads = kv_heads.max((s.first_head + heads - 1) / group - s.first_head / group + 1);
            captured = captured.max(s.capture_at + s.n_q * heads * n_keys);
            segments.push(Segment {
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
        if segments.is_empty() {
            return Ok(());
        }
        let capture = |buf: Option<&mut Device<D>>| {
            buf.map_or(DevicePtr::NULL, |b| {
                assert!(captured <= b.len(), "a capture lies outside its buffer");
                b.ptr()
            })
        };
        let (scores, patterns) = (capture(call.capture_scores.take()), capture(call.capture_pattern.take()));
        let grid = (segments.len(), kv_heads);
        let (segments, overrides) = (self.list(&segments)?, self.list(&overrides)?);
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
        let tile_bytes = 4 * KEYS * (p.d_qk + 1);
        let rows_bytes = 4 * WARPS * longest;
        let fits = tile_bytes + rows_bytes <= SHARED_BYTES;
        let long_rows = if fits { None } else { Some(self.memory.numbers::<f32>(grid.0 * grid.1 * WARPS * longest)?) };
        let arguments = Arguments::new()
            .value(at_mut(&z))
            .value(z.stride as i64)
            .value(layer)
            .int("heads", heads)
            .value(rows(call.q))
            .value(rows(call.k))
            .value(rows(call.v))
            .value(rows(call.prefix.map(|p| p.0)))
            .value(rows(call.prefix.map(|p| p.1)))
            .value(segments.ptr())
            .value(overrides.ptr())
            .value(at_option(call.override_values))
            .value(scores)
            .value(patterns)
            .value(at_option(long_rows.as_ref()))
            .int("a row of scores", longest);
        let shared = tile_bytes + if fits { rows_bytes } else { 0 };
        // SAFETY: queries, results and captures lie inside their buffers (asserted); keys and values are rows of the
        // views by the contract of `AttnSegment`.
        unsafe { self.launch(&self.kernels.attention_segments, grid, (WARPS * 32) as u32, shared, arguments) }
    }
}

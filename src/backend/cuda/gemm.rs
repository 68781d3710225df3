//! Weights on the device, and the GEMMs that read them.
//!
//! On a card one kernel file serves a precision, so that the bits of a row never depend on how the wave was cut.

use super::driver::{Arguments, DevicePtr, Driver, DriverError, TensorMap};
use super::gemm_sm90::{self, Groups, Rows};
use super::launch::{Stream, at, at_mut};
use super::memory::Device;
use super::rows::activation_number;
use crate::backend::{BackendError, Epilogue, HeadRows, Then, View, ViewMut, WeightSlice, XIelu};
use crate::model::ModelError;

/// How products are computed. Errors are the largest of |error| / (|A| · |B|) that `docs/kernels.md` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Float32 arithmetic on the ordinary cores: slow, and what the others are measured against.
    Ffma,
    /// Float32-accurate on tensor cores: six products of three bfloat16 planes.
    Float32,
    /// Three products of two bfloat16 planes.
    Bf16x3,
    /// One product of bfloat16.
    Bfloat16,
}

impl Precision {
    /// Planes a weight is split into; 0 where it stays float32.
    pub(super) fn planes(self) -> usize {
        match self {
            Precision::Ffma => 0,
            Precision::Float32 => 3,
            Precision::Bf16x3 => 2,
            Precision::Bfloat16 => 1,
        }
    }
}

/// A weight `[k, n]` on the device.
pub struct Weight<D: Driver> {
    /// `[n, k]` float32, or planes `[planes, k, cols]` of bfloat16.
    buf: Device<D>,
    pub(super) precision: Precision,
    pub(super) k: usize,
    pub(super) n: usize,
    /// n rounded up to 8 where there are planes.
    cols: usize,
    /// Of its planes, on Hopper.
    pub(super) map: Option<TensorMap>,
}

/// As `RowTile` of `gpu.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct RowTile {
    first_row: i32,
    n_rows: i32,
    k0: i32,
}

/// As `Epilogue` of `gpu.cuh`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Finish {
    bias: DevicePtr,
    scale: f32,
    add: i32,
    activation: i32,
    pub(super) up: i32,
}

impl Finish {
    const WRITE: Finish = Finish { bias: DevicePtr::NULL, scale: 1.0, add: 0, activation: -1, up: 0 };
}

/// Groups of rows as tiles of at most `height` rows.
fn row_tiles(groups: &[HeadRows], height: usize) -> Vec<RowTile> {
    let mut tiles = Vec::new();
    for g in groups {
        for first in g.rows.clone().step_by(height) {
            let n_rows = height.min(g.rows.end - first) as i32;
            tiles.push(RowTile { first_row: first as i32, n_rows, k0: g.k as i32 });
        }
    }
    tiles
}

fn int(columns: usize) -> Result<i32, DriverError> {
    i32::try_from(columns).map_err(|_| DriverError::TooLarge { what: "the width of a weight", value: columns })
}

/// Rows and columns of a block, as in the kernels.
const F32_TILE: (usize, usize) = (64, 64);
const SM80_TILE: (usize, usize) = (128, 64);
/// Stages of the tensor-core kernel, as in `Pipeline` of `gemm_sm80.cu`.
const fn sm80_shared_bytes(planes: usize) -> usize {
    let stages = if planes == 3 { 2 } else { 3 };
    stages * (128 * 40 * 4 + planes * 32 * 72 * 2)
}

impl<D: Driver> Stream<D> {
    /// See [`crate::backend::Backend::pack`].
    #[allow(clippy::type_complexity)]
    pub fn pack(
        &self,
        precision: Precision,
        k: usize,
        outs: &[usize],
        read: &mut dyn FnMut(usize, &mut [f32]) -> Result<(), ModelError>,
    ) -> Result<Weight<D>, BackendError> {
        self.check()?;
        let n: usize = outs.iter().sum();
        let planes = precision.planes();
        let cols = if planes == 0 { n } else { n.next_multiple_of(8) };
        let too_large = || DriverError::TooLarge { what: "a weight", value: usize::MAX };
        let size = cols.checked_mul(k).ok_or_else(too_large)?;
        let buf = if planes == 0 {
            self.memory.numbers::<f32>(size)?
        } else {
            let buf = self.memory.numbers::<u16>(size.checked_mul(planes).ok_or_else(too_large)?)?;
            // SAFETY: the allocation has that many bytes.
            unsafe { self.driver().fill_zero(buf.ptr(), 2 * size * planes)? }
            buf
        };
        let mut first = 0;
        for (i, n_out) in outs.iter().enumerate() {
            let mut part = vec![0.0; n_out * k];
            read(i, &mut part)?;
            if planes == 0 {
                // SAFETY: rows first ..+ n_out of [n, k].
                unsafe { self.driver().copy_to_device(buf.ptr().offset(4 * first * k), bytemuck::cast_slice(&part))? }
            } else {
                let staged = self.list(&part)?;
                let arguments = Arguments::new()
                    .value(buf.ptr())
                    .int("the width of a weight", cols)
                    .value(size as i64)
                    .int("planes", planes)
                    .int("a column", first)
                    .value(staged.ptr())
                    .int("the width of a weight", *n_out)
                    .int("the input width of a weight", k);
                let grid = (k.div_ceil(32), n_out.div_ceil(32));
                // SAFETY: `staged` is [n_out, k]; its columns lie inside the planes.
                unsafe { self.launch(&self.kernels.split_planes, grid, 256, 0, arguments)? }
            }
            first += n_out;
        }
        let on_hopper = self.hopper.is_some() && size > 0 && planes > 0;
        let map = on_hopper.then(|| gemm_sm90::weight_map(self.driver(), buf.ptr(), (planes, k, cols))).transpose()?;
        Ok(Weight { buf, precision, k, n, cols, map })
    }

    /// See [`crate::backend::Backend::gemm`]. With `groups`, the weight's input dimensions differ from group to group:
    /// [`crate::backend::Backend::head_delta`].
    pub fn gemm<'a>(
        &self,
        x: View<'_, Device<D>>,
        w: &Weight<D>,
        slice: WeightSlice,
        groups: Option<&[HeadRows]>,
        epilogue: Epilogue<'a, Device<D>>,
        mut out: ViewMut<'a, Device<D>>,
    ) -> Result<(), DriverError> {
        let Epilogue { bias, then } = epilogue;
        assert!(slice.k.end <= w.k && slice.n.end <= w.n && bias.is_none_or(|b| b.cols == slice.n.len()));
        assert!(x.cols == slice.k.len() && out.cols == slice.n.len() && x.rows == out.rows);
        let rows = Rows { at: at(x), rows: x.rows, stride: x.stride };
        let hopper = self.hopper.as_ref().zip(w.map).filter(|_| x.cols > 0 && rows.can_be_mapped());
        let mut finish = Finish { bias: bias.map_or(DevicePtr::NULL, at), ..Finish::WRITE };
        match then {
            Then::Write => {}
            Then::Activate(act) => finish.activation = activation_number(act),
            Then::Gate(act) => {
                let up = out.cols / 2;
                if w.precision != Precision::Ffma && !up.is_multiple_of(8) && hopper.is_none() {
                    // gemm_sm80.cu loads eight columns of the planes at a time; here those of gate and up lie askew.
                    self.gemm(x, w, slice, groups, Epilogue::bias(bias), out.reborrow())?;
                    return self.activation(out, act, XIelu::default(), true);
                }
                (finish.activation, finish.up) = (activation_number(act), int(up)?);
                out = out.columns(0..up);
            }
            Then::AddTo { stream, scale } => {
                assert!(stream.rows == x.rows && stream.cols == out.cols);
                (finish.add, finish.scale) = (1, scale);
                out = stream;
            }
        }
        let tile = if w.precision == Precision::Ffma { F32_TILE } else { SM80_TILE };
        const { assert!(SM80_TILE.0 == gemm_sm90::TILE_ROWS) };
        let tiles = match groups {
            None => None,
            Some(groups) => {
                assert!(groups.iter().all(|g| g.rows.end <= x.rows && g.k + x.cols <= w.k));
                Some(row_tiles(groups, tile.0))
            }
        };
        // With a gate, half of a tile's columns are gates and half are their ups.
        let tile_columns = if finish.up != 0 { tile.1 / 2 } else { tile.1 };
        let blocks = tiles.as_ref().map_or(x.rows.div_ceil(tile.0), Vec::len);
        if blocks == 0 {
            return Ok(());
        }
        let tiles = tiles.map(|t| self.list(&t)).transpose()?;
        let row_tiles = tiles.as_ref().map_or(DevicePtr::NULL, Device::ptr);
        let (from, to) = (rows.at, at_mut(&out));
        if let Some(on_hopper) = hopper {
            let groups = tiles.as_ref().map(|_| Groups { tiles: row_tiles, n_tiles: blocks });
            let out = (to, out.stride, out.cols);
            // SAFETY: the views, the slice and the groups lie inside their buffers (asserted above and in `at`).
            return unsafe { self.gemm_sm90(on_hopper, rows, w, &slice, groups, finish, out) };
        }
        let arguments = Arguments::new()
            .value(to)
            .int("a row of a matrix", out.stride)
            .value(from)
            .int("a row of a matrix", x.stride);
        if w.precision == Precision::Ffma {
            let arguments = arguments
                .value(w.buf.ptr().offset(4 * (slice.n.start * w.k + slice.k.start)))
                .int("the input width of a weight", w.k)
                .value(finish)
                .int("the rows of a matrix", x.rows)
                .int("the width of a weight", out.cols)
                .int("the input width of a weight", x.cols)
                .value(row_tiles);
            let grid = (blocks, out.cols.div_ceil(tile_columns));
            // SAFETY: the views and the slice lie inside their buffers (asserted above and in `at`).
            return unsafe { self.launch(&self.kernels.gemm_f32, grid, 128, 0, arguments) };
        }
        let planes = w.precision.planes();
        let arguments = arguments
            .value(w.buf.ptr().offset(2 * slice.k.start * w.cols))
            .int("the width of a weight", w.cols)
            .value((w.k * w.cols) as i64)
            .value(finish)
            .int("the rows of a matrix", x.rows)
            .int("a column", slice.n.start)
            .int("the width of a weight", out.cols)
            .int("the input width of a weight", x.cols)
            .value(row_tiles);
        let aligned = from.0 % 16 == 0 && x.stride.is_multiple_of(4);
        let k = &self.kernels;
        let function = match (planes, aligned) {
            (1, false) => &k.gemm_sm80_bf16,
            (2, false) => &k.gemm_sm80_bf16x3,
            (_, false) => &k.gemm_sm80_bf16x6,
            (1, true) => &k.gemm_sm80_bf16_a16,
            (2, true) => &k.gemm_sm80_bf16x3_a16,
            (_, true) => &k.gemm_sm80_bf16x6_a16,
        };
        let columns = slice.n.start % 8 + out.cols;
        let grid = (blocks, columns.div_ceil(tile_columns));
        // SAFETY: as above; a plane is [k, cols] and slice.k and slice.n lie inside it.
        unsafe { self.launch(function, grid, 256, sm80_shared_bytes(planes), arguments) }
    }

    /// out `[m, n]` = x `[m, k]` · wᵀ with w `[n, k]` float32, rows `n` of it: the unembedding, always in float32.
    pub fn gemm_unpacked(
        &self,
        x: View<'_, Device<D>>,
        w: DevicePtr,
        out: ViewMut<'_, Device<D>>,
    ) -> Result<(), DriverError> {
        let arguments = Arguments::new()
            .value(at_mut(&out))
            .int("a row of a matrix", out.stride)
            .value(at(x))
            .int("a row of a matrix", x.stride)
            .value(w)
            .int("the input width of a weight", x.cols)
            .value(Finish::WRITE)
            .int("the rows of a matrix", x.rows)
            .int("the width of a weight", out.cols)
            .int("the input width of a weight", x.cols)
            .value(DevicePtr::NULL);
        let grid = (x.rows.div_ceil(F32_TILE.0), out.cols.div_ceil(F32_TILE.1));
        // SAFETY: the views lie inside their buffers; callers pass rows of the unembedding that exist.
        unsafe { self.launch(&self.kernels.gemm_f32, grid, 128, 0, arguments) }
    }
}

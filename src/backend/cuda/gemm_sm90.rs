//! Launches of `gemm_sm90.cu`: which GEMMs it takes, how wide its tiles are, and its tensor maps.

use super::driver::{Arguments, DevicePtr, Driver, DriverError, MapNumbers, MatrixMap, TensorMap};
use super::gemm::{Finish, Weight};
use super::launch::{HopperKernels, Stream};
use crate::backend::WeightSlice;

/// Rows of a tile, and of k in a stage, as in the kernel.
pub(super) const TILE_ROWS: usize = 128;
const TILE_K: usize = 64;
const THREADS: u32 = 384;
/// Of a block: all that a multiprocessor of Hopper has, and in it the two tiles of sums and the mbarriers.
const SHARED_BYTES: usize = 227 << 10;
const SUMS_BYTES: usize = 2 * 64 * 68 * 4;
const MBARRIER_BYTES: usize = 128;

/// Bytes of one stage: A as float32, W as planes.
const fn stage_bytes(planes: usize, width: usize) -> usize {
    TILE_ROWS * TILE_K * 4 + width * TILE_K * 2 * planes
}

/// Dynamic shared memory of a block: as many stages as fit, at most four.
const fn shared_bytes(planes: usize, width: usize) -> usize {
    let fit = (SHARED_BYTES - SUMS_BYTES - MBARRIER_BYTES) / stage_bytes(planes, width);
    let stages = if fit < 4 { fit } else { 4 };
    stages * stage_bytes(planes, width) + SUMS_BYTES + MBARRIER_BYTES
}

/// Cycles that a tile takes for 64 of k, computed, not measured: the larger of what the tensor cores need (4,096
/// multiplications and additions of bf16 a cycle) and of what bringing the stage from the L2 cache costs (34 bytes a
/// cycle, from published throughputs of kernels that are bound by it).
fn stage_cycles(planes: usize, width: usize) -> usize {
    let products = planes * (planes + 1) / 2;
    let multiply = products * 2 * TILE_ROWS * TILE_K * width / 4096;
    multiply.max(stage_bytes(planes, width) / 34)
}

/// How wide the tiles of a GEMM are: 64, 128 or, for one plane, 256 columns of W. Every multiprocessor works on one tile at a
/// time, so the last round may leave many idle; the width is chosen whose rounds take least together, the widest of equals.
/// `columns` are those of C, of which a gated GEMM has half as many in a tile. The choice changes no bit of the result.
pub(super) fn tile_width(
    planes: usize,
    row_tiles: usize,
    columns: usize,
    gated: bool,
    multiprocessors: usize,
) -> usize {
    let widths: &[usize] = match (planes, gated) {
        (1, false) => &[256, 128, 64],
        (1, true) => &[256, 128],
        (_, false) => &[128, 64],
        (_, true) => &[128],
    };
    let cycles = |width: usize| {
        let tiles = row_tiles * columns.div_ceil(if gated { width / 2 } else { width });
        tiles.div_ceil(multiprocessors.max(1)) * stage_cycles(planes, width)
    };
    // The first of equals.
    widths.iter().copied().min_by_key(|w| cycles(*w)).unwrap_or(128)
}

/// The rows that a GEMM reads: where A is, and how far its rows lie apart in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub at: DevicePtr,
    pub rows: usize,
    pub stride: usize,
}

impl Rows {
    /// Whether the copy engine can read them: there are any, and they are aligned to 16 bytes. What it cannot read goes through `gemm_sm80.cu`, which
    /// reads the same planes; a matrix of the forward pass lies the same way in every batch, so a row's bits do not depend
    /// on it.
    pub fn can_be_mapped(&self) -> bool {
        self.rows > 0 && self.stride > 0 && self.at.0.is_multiple_of(16) && self.stride.is_multiple_of(4)
    }
}

/// The map of a weight's planes `[planes, k, cols]` at `base`, made once when it is packed.
pub(super) fn weight_map<D: Driver>(
    driver: &D,
    base: DevicePtr,
    (planes, k, cols): (usize, usize, usize),
) -> Result<TensorMap, DriverError> {
    let (numbers, box_height) = (MapNumbers::Bf16, TILE_K as u32);
    driver.tensor_map(&MatrixMap { base, width: cols, height: planes * k, row_bytes: 2 * cols, numbers, box_height })
}

/// The grouped GEMM's row tiles on the device.
pub(super) struct Groups {
    pub tiles: DevicePtr,
    pub n_tiles: usize,
}

impl<D: Driver> HopperKernels<D> {
    fn gemm(&self, planes: usize, width: usize) -> &D::Function {
        match (planes, width) {
            (1, 64) => &self.gemm_sm90_bf16_64,
            (1, 256) => &self.gemm_sm90_bf16_256,
            (1, _) => &self.gemm_sm90_bf16_128,
            (2, 64) => &self.gemm_sm90_bf16x3_64,
            (2, _) => &self.gemm_sm90_bf16x3_128,
            (_, 64) => &self.gemm_sm90_bf16x6_64,
            (..) => &self.gemm_sm90_bf16x6_128,
        }
    }
}

impl<D: Driver> Stream<D> {
    /// C `[rows, columns]` at `out` = A · W(slice) through the epilogue, on Hopper.
    ///
    /// # Safety
    /// `x` has `x.rows` rows of `slice.k.len()` numbers and `out` as many of `columns`, `out_stride` apart; the slice and
    /// the groups lie inside both.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn gemm_sm90(
        &self,
        (kernels, planes_of_w): (&HopperKernels<D>, TensorMap),
        x: Rows,
        w: &Weight<D>,
        slice: &WeightSlice,
        groups: Option<Groups>,
        finish: Finish,
        (out, out_stride, columns): (DevicePtr, usize, usize),
    ) -> Result<(), DriverError> {
        let planes = w.precision.planes();
        let n_row_tiles = groups.as_ref().map_or(x.rows.div_ceil(TILE_ROWS), |g| g.n_tiles);
        if n_row_tiles == 0 || columns == 0 {
            return Ok(());
        }
        let gated = finish.up != 0;
        let multiprocessors = self.driver().multiprocessors();
        let width = tile_width(planes, n_row_tiles, columns, gated, multiprocessors);
        let n_col_tiles = columns.div_ceil(if gated { width / 2 } else { width });
        let a = MatrixMap {
            base: x.at,
            width: slice.k.len(),
            height: x.rows,
            row_bytes: 4 * x.stride,
            numbers: MapNumbers::F32,
            box_height: TILE_ROWS as u32,
        };
        let arguments = Arguments::new()
            .value(self.driver().tensor_map(&a)?)
            .value(planes_of_w)
            .value(out)
            .int("a row of a matrix", out_stride)
            .value(finish)
            .int("the rows of a matrix", x.rows)
            .int("the input width of a weight", slice.k.start)
            .int("a column", slice.n.start)
            .int("the width of a weight", columns)
            .int("the input width of a weight", slice.k.len())
            .int("the input width of a weight", w.k)
            .value(groups.map_or(DevicePtr::NULL, |g| g.tiles))
            .int("the rows of a matrix", n_row_tiles)
            .int("the width of a weight", n_col_tiles);
        // The kernel counts its tiles, and rows of all planes, in 32 bits.
        let tiles = n_row_tiles.saturating_mul(n_col_tiles);
        for (what, value) in [("the number of tiles", tiles), ("the input width of a weight", planes * w.k)] {
            i32::try_from(value).map_err(|_| DriverError::TooLarge { what, value })?;
        }
        let grid = (tiles.min(multiprocessors), 1);
        let function = kernels.gemm(planes, width);
        // SAFETY: the caller's; what boxes have outside their matrices is never touched.
        unsafe { self.launch(function, grid, THREADS, shared_bytes(planes, width), arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_wide_where_the_card_is_full() {
        assert_eq!(tile_width(3, 160, 4096, false, 132), 128);
        assert_eq!(tile_width(2, 160, 4096, false, 132), 128);
        assert_eq!(tile_width(1, 160, 4096, false, 132), 256);
        assert_eq!(tile_width(1, 160, 14_336, true, 132), 256);
    }

    /// GPT-2's W_O at 2,880 rows: 23 x 6 tiles of 128 are two rounds of 132 multiprocessors, the second nearly empty.
    #[test]
    fn tiles_are_narrow_where_a_round_would_be_nearly_empty() {
        assert_eq!(tile_width(3, 23, 768, false, 132), 64);
        assert_eq!(tile_width(3, 23, 768, true, 132), 128, "gate and up need two boxes of 64 columns");
        assert_eq!(tile_width(1, 1, 768, false, 132), 64);
    }

    #[test]
    fn a_choice_is_never_slower_than_another_would_be() {
        for (row_tiles, columns) in [(1, 64), (5, 300), (23, 2304), (40, 768), (80, 6144), (3, 50_257)] {
            for (planes, gated) in [(1, false), (1, true), (2, false), (3, false), (3, true)] {
                let chosen = tile_width(planes, row_tiles, columns, gated, 132);
                let cycles = |w: usize| {
                    let per_tile = if gated { w / 2 } else { w };
                    (row_tiles * columns.div_ceil(per_tile)).div_ceil(132) * stage_cycles(planes, w)
                };
                let others: &[usize] = if planes == 1 { &[128, 256] } else { &[128] };
                assert!(others.iter().all(|w| cycles(chosen) <= cycles(*w)), "{planes} {row_tiles} {columns} {gated}");
            }
        }
    }

    #[test]
    fn stages_fill_a_multiprocessors_shared_memory() {
        for (planes, width, stages) in
            [(1, 64, 4), (1, 128, 4), (1, 256, 3), (2, 64, 4), (2, 128, 3), (3, 64, 3), (3, 128, 2)]
        {
            let bytes = shared_bytes(planes, width);
            assert_eq!((bytes - SUMS_BYTES - MBARRIER_BYTES) / stage_bytes(planes, width), stages);
            assert!(bytes <= SHARED_BYTES && stages * 16 <= MBARRIER_BYTES, "{planes} planes, {width} wide");
        }
    }

    #[test]
    fn what_the_copy_engine_cannot_read() {
        let rows = |at, stride| Rows { at: DevicePtr(at), rows: 3, stride };
        assert!(rows(1 << 20, 64).can_be_mapped());
        assert!(!rows((1 << 20) + 4, 64).can_be_mapped());
        assert!(!rows(1 << 20, 66).can_be_mapped());
    }
}

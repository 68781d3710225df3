//! Operations that treat each row on its own: norms, rope, activations, copies, patches.

use super::driver::{Arguments, DevicePtr, Driver, DriverError};
use super::launch::{Stream, at, at_mut, at_option, threads_for};
use super::memory::Device;
use crate::backend::{Combine, Norm, PatchEntry, PatchSource, RopeTable, RowIndex, View, ViewMut, XIelu};
use crate::model::spec::{Act, NormKind, NormWeight, RopeLayout};

/// As `PatchEntry` of `patch.cu`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Rectangle {
    first_row: i32,
    end_row: i32,
    first_col: i32,
    end_col: i32,
    source_row: i32,
    factor: f32,
}

/// As `Activation` of `gpu.cuh`.
pub(super) fn activation_number(act: Act) -> i32 {
    match act {
        Act::Relu => 0,
        Act::Relu2 => 1,
        Act::Silu => 2,
        Act::GeluErf => 3,
        Act::GeluTanh => 4,
        Act::QuickGelu => 5,
        Act::XIelu => 6,
    }
}

/// Slices that a block of eight warps works on.
const WARPS: usize = 8;

impl<D: Driver> Stream<D> {
    pub fn zeros(&self, len: usize) -> Result<Device<D>, DriverError> {
        let buf = self.memory.numbers::<f32>(len)?;
        if len > 0 {
            // SAFETY: the allocation holds len numbers.
            unsafe { self.driver().fill_zero(buf.ptr(), 4 * len)? }
        }
        Ok(buf)
    }

    /// Rows of a matrix, packed.
    pub fn gather(&self, from: View<'_, Device<D>>, rows: &[u32]) -> Result<Device<D>, DriverError> {
        let mut packed = self.memory.numbers::<f32>(rows.len() * from.cols)?;
        let to = ViewMut::packed(&mut packed, rows.len(), from.cols);
        self.copy_rows(from, RowIndex::List(rows), to, RowIndex::All, Combine::Set, 1.0)?;
        Ok(packed)
    }

    pub fn download(&self, view: View<'_, Device<D>>) -> Result<Vec<f32>, DriverError> {
        self.check()?;
        let len = view.rows * view.cols;
        if view.rows <= 1 || view.stride == view.cols {
            return self.fetch(at(view), len);
        }
        let mut packed = self.memory.numbers::<f32>(len)?;
        let to = ViewMut::packed(&mut packed, view.rows, view.cols);
        self.copy_rows(view, RowIndex::All, to, RowIndex::All, Combine::Set, 1.0)?;
        self.fetch(packed.ptr(), len)
    }

    pub fn norm(
        &self,
        x: View<'_, Device<D>>,
        norm: &Norm<'_, Device<D>>,
        out: ViewMut<'_, Device<D>>,
    ) -> Result<(), DriverError> {
        assert!(x.rows == out.rows && x.cols == out.cols);
        self.norm_between((at(x), x.stride), norm, (at_mut(&out), out.stride), (out.rows, out.cols))
    }

    pub fn norm_in_place(&self, x: ViewMut<'_, Device<D>>, norm: &Norm<'_, Device<D>>) -> Result<(), DriverError> {
        let place = (at_mut(&x), x.stride);
        self.norm_between(place, norm, place, (x.rows, x.cols))
    }

    fn norm_between(
        &self,
        from: (DevicePtr, usize),
        norm: &Norm<'_, Device<D>>,
        to: (DevicePtr, usize),
        (rows, cols): (usize, usize),
    ) -> Result<(), DriverError> {
        let width = cols / norm.heads;
        let params = if norm.distinct { cols } else { width };
        assert!(norm.weight.is_none_or(|w| w.len() >= params) && norm.bias.is_none_or(|b| b.len() >= params));
        let arguments = Arguments::new()
            .value(to.0)
            .int("a row of a matrix", to.1)
            .value(from.0)
            .int("a row of a matrix", from.1)
            .int("the rows of a matrix", rows)
            .int("heads", norm.heads)
            .int("the width of a head", width)
            .value(at_option(norm.weight))
            .value(at_option(norm.bias))
            .value(norm.eps)
            .flag(norm.kind == NormKind::LayerNorm)
            .flag(norm.weight_kind == NormWeight::OnePlusScale)
            .flag(norm.distinct);
        let grid = ((rows * norm.heads).div_ceil(WARPS), 1);
        // SAFETY: views lie inside their buffers (asserted in `at`), parameters are long enough.
        unsafe { self.launch(&self.kernels.norm_rows, grid, 256, 0, arguments) }
    }

    pub fn scale_rows(
        &self,
        x: ViewMut<'_, Device<D>>,
        factor: f32,
        factors: Option<&[f32]>,
    ) -> Result<(), DriverError> {
        assert!(factors.is_none_or(|f| f.len() >= x.rows));
        let factors = factors.map(|f| self.list(f)).transpose()?;
        let arguments = Arguments::new()
            .value(at_mut(&x))
            .int("a row of a matrix", x.stride)
            .int("the width of a matrix", x.cols)
            .value(factor)
            .value(at_option(factors.as_ref()));
        // SAFETY: the view lies inside its buffer, a factor per row.
        unsafe { self.launch(&self.kernels.scale_rows, (x.rows, 1), threads_for(x.cols), 0, arguments) }
    }

    pub fn clamp(&self, x: ViewMut<'_, Device<D>>, limit: f32) -> Result<(), DriverError> {
        let arguments = Arguments::new()
            .value(at_mut(&x))
            .int("a row of a matrix", x.stride)
            .int("the width of a matrix", x.cols)
            .value(limit);
        // SAFETY: the view lies inside its buffer.
        unsafe { self.launch(&self.kernels.clamp_rows, (x.rows, 1), threads_for(x.cols), 0, arguments) }
    }

    pub fn rope(
        &self,
        x: ViewMut<'_, Device<D>>,
        heads: usize,
        table: &RopeTable<Device<D>>,
        index: &[u32],
    ) -> Result<(), DriverError> {
        let d_head = x.cols / heads;
        assert!(index.len() >= x.rows && table.n_rot <= d_head);
        let table_rows = table.table.len() / table.n_rot;
        let (index, index_at) = self.rows(RowIndex::List(&index[..x.rows]), table_rows)?;
        let arguments = Arguments::new()
            .value(at_mut(&x))
            .int("a row of a matrix", x.stride)
            .int("heads", heads)
            .int("the width of a head", d_head)
            .value(table.table.ptr())
            .int("rotated dimensions", table.n_rot)
            .value(index_at)
            .flag(table.layout == RopeLayout::Interleaved);
        let threads = threads_for(heads * table.n_rot / 2);
        // SAFETY: the view lies inside its buffer; indices are rows of the table (asserted).
        unsafe { self.launch(&self.kernels.rope_rows, (x.rows, 1), threads, 0, arguments)? }
        drop(index);
        Ok(())
    }

    pub fn activation(
        &self,
        x: ViewMut<'_, Device<D>>,
        act: Act,
        xielu: XIelu,
        gated: bool,
    ) -> Result<(), DriverError> {
        let width = if gated { x.cols / 2 } else { x.cols };
        let arguments = Arguments::new()
            .value(at_mut(&x))
            .int("a row of a matrix", x.stride)
            .int("the width of an MLP", width)
            .value::<i32>(activation_number(act))
            .flag(gated)
            .value(xielu.alpha_p)
            .value(xielu.alpha_n)
            .value(xielu.beta)
            .value(xielu.eps);
        // SAFETY: the view lies inside its buffer.
        unsafe { self.launch(&self.kernels.activation_rows, (x.rows, 1), threads_for(width), 0, arguments) }
    }

    pub fn embed(
        &self,
        table: View<'_, Device<D>>,
        ids: &[u32],
        scale: f32,
        out: ViewMut<'_, Device<D>>,
    ) -> Result<(), DriverError> {
        assert!(ids.len() >= out.rows && table.cols == out.cols);
        let (_ids, ids_at) = self.rows(RowIndex::List(&ids[..out.rows]), table.rows)?;
        let arguments = Arguments::new()
            .value(at_mut(&out))
            .int("a row of a matrix", out.stride)
            .value(at(table))
            .int("a row of a matrix", table.stride)
            .int("the width of a matrix", out.cols)
            .value(ids_at)
            .value(scale);
        // SAFETY: views lie inside their buffers, ids are rows of the table (asserted).
        unsafe { self.launch(&self.kernels.embed_rows, (out.rows, 1), threads_for(out.cols), 0, arguments) }
    }

    pub fn copy_rows(
        &self,
        src: View<'_, Device<D>>,
        from: RowIndex<'_>,
        dst: ViewMut<'_, Device<D>>,
        to: RowIndex<'_>,
        combine: Combine,
        scale: f32,
    ) -> Result<(), DriverError> {
        let rows = match (from, to) {
            (_, RowIndex::List(to)) => to.len(),
            (_, RowIndex::All) => dst.rows,
        };
        let enough = match from {
            RowIndex::All => src.rows,
            RowIndex::List(from) => from.len(),
        };
        assert!(enough >= rows && src.cols >= dst.cols);
        let ((_from, from_at), (_to, to_at)) = (self.rows(from, src.rows)?, self.rows(to, dst.rows)?);
        let combine = match combine {
            Combine::Set => 0,
            Combine::Add => 1,
            Combine::Subtract => 2,
        };
        let arguments = Arguments::new()
            .value(at_mut(&dst))
            .int("a row of a matrix", dst.stride)
            .value(to_at)
            .value(at(src))
            .int("a row of a matrix", src.stride)
            .value(from_at)
            .int("the width of a matrix", dst.cols)
            .value::<i32>(combine)
            .value(scale);
        // SAFETY: views lie inside their buffers, indices are rows of theirs (asserted).
        unsafe { self.launch(&self.kernels.copy_rows, (rows, 1), threads_for(dst.cols), 0, arguments) }
    }

    pub fn patch(
        &self,
        x: ViewMut<'_, Device<D>>,
        table: &[PatchEntry],
        values: Option<View<'_, Device<D>>>,
    ) -> Result<(), DriverError> {
        let int =
            |value: usize| i32::try_from(value).map_err(|_| DriverError::TooLarge { what: "a row of a patch", value });
        let mut rectangles = Vec::with_capacity(table.len());
        let (mut first, mut end) = (usize::MAX, 0);
        for e in table.iter().filter(|e| !e.rows.is_empty() && !e.cols.is_empty()) {
            assert!(e.rows.end <= x.rows && e.cols.end <= x.cols);
            let (row, factor) = match e.value {
                PatchSource::Zero => (None, 0.0),
                PatchSource::Row(row) => (Some(row), 0.0),
                PatchSource::AddRow(row) => (Some(row), 1.0),
                PatchSource::Scale(factor) => (None, factor),
            };
            let source_row = match row {
                None => -1,
                Some(row) => {
                    let fits = values.is_some_and(|v| row + e.rows.len() <= v.rows && e.cols.end <= v.cols);
                    assert!(fits, "a patch from rows that do not exist");
                    int(row)?
                }
            };
            (first, end) = (first.min(e.rows.start), end.max(e.rows.end));
            rectangles.push(Rectangle {
                first_row: int(e.rows.start)?,
                end_row: int(e.rows.end)?,
                first_col: int(e.cols.start)?,
                end_col: int(e.cols.end)?,
                source_row,
                factor,
            });
        }
        if rectangles.is_empty() {
            return Ok(());
        }
        let list = self.list(&rectangles)?;
        let arguments = Arguments::new()
            .value(at_mut(&x))
            .int("a row of a matrix", x.stride)
            .value(values.map_or(DevicePtr::NULL, at))
            .int("a row of a matrix", values.map_or(0, |v| v.stride))
            .value(list.ptr())
            .int("patches", rectangles.len())
            .int("a row of a matrix", first);
        // SAFETY: rectangles lie inside x and their sources inside the values (asserted).
        unsafe { self.launch(&self.kernels.patch_rows, (end - first, 1), threads_for(x.cols), 0, arguments) }
    }

    pub fn differs(
        &self,
        a: View<'_, Device<D>>,
        b: Option<View<'_, Device<D>>>,
        heads: usize,
    ) -> Result<Vec<bool>, DriverError> {
        assert!(b.is_none_or(|b| b.rows >= a.rows && b.cols == a.cols));
        let n = a.rows * heads;
        let flags = self.memory.numbers::<u32>(n)?;
        let arguments = Arguments::new()
            .value(flags.ptr())
            .value(at(a))
            .int("a row of a matrix", a.stride)
            .value(b.map_or(DevicePtr::NULL, at))
            .int("a row of a matrix", b.map_or(0, |b| b.stride))
            .int("the rows of a matrix", a.rows)
            .int("heads", heads)
            .int("the width of a head", a.cols / heads);
        // SAFETY: views lie inside their buffers, a flag per slice.
        unsafe { self.launch(&self.kernels.differs_rows, (n.div_ceil(WARPS), 1), 256, 0, arguments)? }
        Ok(self.fetch::<u32>(flags.ptr(), n)?.into_iter().map(|f| f != 0).collect())
    }
}

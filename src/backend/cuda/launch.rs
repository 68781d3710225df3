//! From operations to launches: kernels by name, and what every launch has in common.

use super::driver::{Arguments, DevicePtr, Driver, DriverError, Launch};
use super::images::Capability;
use super::memory::{Device, Memory};
use crate::backend::{RowIndex, View, ViewMut};
use std::sync::{Arc, Mutex, PoisonError};

macro_rules! kernels {
    ($(#[$about:meta])* pub(super) struct $Kernels:ident; $($module:ident: $($name:ident)+;)+) => {
        $(#[$about])*
        pub(super) struct $Kernels<D: Driver> {
            $($(pub $name: D::Function,)+)+
        }

        impl<D: Driver> $Kernels<D> {
            fn load(driver: &D) -> Result<Self, DriverError> {
                Ok($Kernels { $($($name: driver.function(stringify!($module), stringify!($name))?,)+)+ })
            }
        }
    };
}

kernels! {
    /// Every kernel that the backend launches on every card, looked up once: a device that lacks one is found out at the
    /// start.
    pub(super) struct Kernels;
    norm: norm_rows;
    rope: rope_rows;
    activation: activation_rows scale_rows clamp_rows;
    embed: embed_rows;
    patch: copy_rows patch_rows differs_rows;
    gemm_f32: gemm_f32;
    gemm_sm80: gemm_sm80_bf16 gemm_sm80_bf16x3 gemm_sm80_bf16x6
        gemm_sm80_bf16_a16 gemm_sm80_bf16x3_a16 gemm_sm80_bf16x6_a16 split_planes;
    attention: attention_segments attention_fused;
    metrics: token_logits finish_logits sum_exp_rows log_totals divergence_rows narrow;
}

kernels! {
    /// Those for Hopper alone.
    pub(super) struct HopperKernels;
    gemm_sm90: gemm_sm90_bf16_64 gemm_sm90_bf16_128 gemm_sm90_bf16_256 gemm_sm90_bf16x3_64 gemm_sm90_bf16x3_128
        gemm_sm90_bf16x6_64 gemm_sm90_bf16x6_128;
}

/// The device with its kernels, and the first thing that went wrong on it.
pub(super) struct Stream<D: Driver> {
    pub memory: Arc<Memory<D>>,
    pub kernels: Kernels<D>,
    /// None on other cards.
    pub hopper: Option<HopperKernels<D>>,
    failure: Mutex<Option<DriverError>>,
}

impl<D: Driver> Stream<D> {
    pub fn new(driver: D) -> Result<Self, DriverError> {
        let kernels = Kernels::load(&driver)?;
        let hopper = (driver.capability() == Capability::HOPPER).then(|| HopperKernels::load(&driver)).transpose()?;
        Ok(Stream { memory: Memory::new(driver), kernels, hopper, failure: Mutex::new(None) })
    }

    pub fn driver(&self) -> &D {
        &self.memory.driver
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<DriverError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first failure of an operation that could not report one itself. Until somebody takes it, nothing is launched.
    pub fn take_failure(&self) -> Result<(), DriverError> {
        self.failure().take().map_or(Ok(()), Err)
    }

    /// The failure that nobody has taken yet.
    pub fn check(&self) -> Result<(), DriverError> {
        self.failure().clone().map_or(Ok(()), Err)
    }

    /// Operations that return nothing leave their failure here; the next one that can fail reports it. The numbers a
    /// failed operation returns are NaN (`otherwise`).
    pub fn keep<T>(&self, result: Result<T, DriverError>, otherwise: impl FnOnce() -> T) -> T {
        result.unwrap_or_else(|error| {
            self.failure().get_or_insert(error);
            otherwise()
        })
    }

    /// Launches over `grid` blocks; over none, does nothing.
    ///
    /// # Safety
    /// As for [`Driver::launch`].
    pub unsafe fn launch(
        &self,
        function: &D::Function,
        grid: (usize, usize),
        block: u32,
        shared_bytes: usize,
        arguments: Arguments,
    ) -> Result<(), DriverError> {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        self.check()?;
        let fits = |value: usize, limit: u32| match u32::try_from(value) {
            Ok(v) if v <= limit => Ok(v),
            _ => Err(DriverError::TooLarge { what: "the number of blocks", value }),
        };
        let grid = [fits(grid.0, i32::MAX as u32)?, fits(grid.1, 65_535)?, 1];
        let launch = Launch { grid, block, shared_bytes: fits(shared_bytes, i32::MAX as u32)? };
        // SAFETY: the caller's.
        unsafe { self.driver().launch(function, launch, arguments) }
    }

    /// A list on the device.
    pub fn list<T: bytemuck::NoUninit>(&self, values: &[T]) -> Result<Device<D>, DriverError> {
        let list = self.memory.numbers::<T>(values.len())?;
        if !values.is_empty() {
            // SAFETY: the allocation is as long as the slice.
            unsafe { self.driver().copy_to_device(list.ptr(), bytemuck::cast_slice(values))? }
        }
        Ok(list)
    }

    /// Row numbers on the device, and where they are; nothing and null for all rows.
    ///
    /// # Panics
    /// A number is not a row: a bug of the caller.
    pub fn rows(&self, index: RowIndex<'_>, n_rows: usize) -> Result<(Option<Device<D>>, DevicePtr), DriverError> {
        match index {
            RowIndex::All => Ok((None, DevicePtr::NULL)),
            RowIndex::List(rows) => {
                assert!(rows.iter().all(|r| (*r as usize) < n_rows), "a row index lies outside its matrix");
                let list = self.list(rows)?;
                let ptr = list.ptr();
                Ok((Some(list), ptr))
            }
        }
    }

    /// Numbers from the device.
    pub fn fetch<T: bytemuck::Pod>(&self, from: DevicePtr, len: usize) -> Result<Vec<T>, DriverError> {
        let mut numbers = vec![T::zeroed(); len];
        if len > 0 {
            // SAFETY: callers fetch what they have allocated.
            unsafe { self.driver().copy_from_device(bytemuck::cast_slice_mut(&mut numbers), from)? }
        }
        Ok(numbers)
    }
}

/// Threads of a block that works on one row of `cols` numbers.
pub(super) fn threads_for(cols: usize) -> u32 {
    cols.div_ceil(32).clamp(1, 8) as u32 * 32
}

/// Where a view begins. A view of no rows lies in every buffer, wherever it begins.
///
/// # Panics
/// The view does not lie inside its buffer: a bug of the caller.
pub(super) fn at<D: Driver>(view: View<'_, Device<D>>) -> DevicePtr {
    let end = if view.rows == 0 { 0 } else { view.offset + (view.rows - 1) * view.stride + view.cols };
    assert!(end <= view.buf.len(), "a view lies outside its buffer");
    view.buf.ptr().offset(4 * view.offset)
}

pub(super) fn at_mut<D: Driver>(view: &ViewMut<'_, Device<D>>) -> DevicePtr {
    at(view.read())
}

/// A buffer's address, null where there is none.
pub(super) fn at_option<D: Driver>(buf: Option<&Device<D>>) -> DevicePtr {
    buf.map_or(DevicePtr::NULL, Device::ptr)
}

//! A device that tells somebody what is asked of it before it does it.

use patchwave::backend::cuda::driver::{Arguments, DevicePtr, Driver, DriverError, Launch, MatrixMap, TensorMap};
use patchwave::backend::cuda::images::Capability;
use std::time::Duration;

/// Who is told.
pub trait Watch: Send + Sync + 'static {
    fn allocates(&self) {}

    /// # Errors
    /// The launch fails.
    fn launches(&self) -> Result<(), DriverError> {
        Ok(())
    }
}

pub struct Watched<D, W> {
    pub device: D,
    pub watch: W,
}

impl<D: Driver, W: Watch> Driver for Watched<D, W> {
    type Function = D::Function;
    type Event = D::Event;
    fn device(&self) -> String {
        self.device.device()
    }
    fn capability(&self) -> Capability {
        self.device.capability()
    }
    fn multiprocessors(&self) -> usize {
        self.device.multiprocessors()
    }
    fn tensor_map(&self, of: &MatrixMap) -> Result<TensorMap, DriverError> {
        self.device.tensor_map(of)
    }
    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
        self.watch.allocates();
        self.device.alloc(bytes)
    }
    // SAFETY (of all below): the caller's.
    unsafe fn free(&self, ptr: DevicePtr) {
        unsafe { self.device.free(ptr) }
    }
    unsafe fn copy_to_device(&self, to: DevicePtr, from: &[u8]) -> Result<(), DriverError> {
        unsafe { self.device.copy_to_device(to, from) }
    }
    unsafe fn copy_from_device(&self, to: &mut [u8], from: DevicePtr) -> Result<(), DriverError> {
        unsafe { self.device.copy_from_device(to, from) }
    }
    unsafe fn fill_zero(&self, at: DevicePtr, bytes: usize) -> Result<(), DriverError> {
        unsafe { self.device.fill_zero(at, bytes) }
    }
    fn function(&self, module: &'static str, name: &'static str) -> Result<Self::Function, DriverError> {
        self.device.function(module, name)
    }
    unsafe fn launch(&self, function: &Self::Function, launch: Launch, a: Arguments) -> Result<(), DriverError> {
        self.watch.launches()?;
        unsafe { self.device.launch(function, launch, a) }
    }
    fn synchronize(&self) -> Result<(), DriverError> {
        self.device.synchronize()
    }
    fn record(&self) -> Result<Self::Event, DriverError> {
        self.device.record()
    }
    fn elapsed(&self, from: &Self::Event, to: &Self::Event) -> Result<Duration, DriverError> {
        self.device.elapsed(from, to)
    }
}

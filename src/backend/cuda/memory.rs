//! Device memory of the backend: buffers that give themselves back, and a store of freed ones, so that after the first
//! wave nothing is allocated any more.

use super::driver::{DevicePtr, Driver, DriverError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The driver and the memory that is free to be used again, by its size.
pub(super) struct Memory<D: Driver> {
    pub driver: D,
    idle: Mutex<BTreeMap<usize, Vec<DevicePtr>>>,
}

/// Sizes are rounded up to an eighth of a power of two, so that buffers of nearly equal size take each other's place.
fn rounded(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 16).max(256);
    bytes.div_ceil(step).saturating_mul(step)
}

impl<D: Driver> Memory<D> {
    pub fn new(driver: D) -> Arc<Self> {
        Arc::new(Memory { driver, idle: Mutex::new(BTreeMap::new()) })
    }

    /// `len` numbers with undefined contents.
    pub fn numbers<T>(self: &Arc<Self>, len: usize) -> Result<Device<D>, DriverError> {
        let too_many = DriverError::OutOfMemory { bytes: usize::MAX };
        let wanted = len.checked_mul(size_of::<T>()).filter(|b| *b <= usize::MAX / 2).ok_or(too_many)?.max(4);
        let bytes = if self.driver.may_keep_memory() { rounded(wanted) } else { wanted };
        let ptr = self.take(bytes)?;
        Ok(Device { memory: self.clone(), ptr, len, bytes })
    }

    fn take(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ptr) = idle().get_mut(&bytes).and_then(Vec::pop) {
            return Ok(ptr);
        }
        match self.driver.alloc(bytes) {
            Err(DriverError::OutOfMemory { .. }) => {
                // What is kept for later is the first to go.
                self.release(&mut idle());
                self.driver.alloc(bytes)
            }
            result => result,
        }
    }

    fn release(&self, idle: &mut BTreeMap<usize, Vec<DevicePtr>>) {
        for ptr in std::mem::take(idle).into_values().flatten() {
            // SAFETY: idle memory belongs to nobody.
            unsafe { self.driver.free(ptr) }
        }
    }

    fn give_back(&self, ptr: DevicePtr, bytes: usize) {
        if self.driver.may_keep_memory() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).entry(bytes).or_default().push(ptr);
        } else {
            // SAFETY: the buffer that owned it is being dropped, and launches on the stream have run.
            unsafe { self.driver.free(ptr) }
        }
    }
}

impl<D: Driver> Drop for Memory<D> {
    fn drop(&mut self) {
        let mut idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        self.release(&mut idle);
    }
}

/// A stretch of device memory. The stream runs in order, so it may be dropped, and used again by later launches, while
/// launches that read it are still to run.
pub struct Device<D: Driver> {
    memory: Arc<Memory<D>>,
    ptr: DevicePtr,
    /// Numbers.
    len: usize,
    bytes: usize,
}

impl<D: Driver> Device<D> {
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Numbers it was asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<D: Driver> Drop for Device<D> {
    fn drop(&mut self) {
        self.memory.give_back(self.ptr, self.bytes);
    }
}

impl<D: Driver> std::fmt::Debug for Device<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers at {:#x}", self.len, self.ptr.0)
    }
}

//! What the CUDA backend needs of a device: memory, copies, kernels by name, launches, events. Small enough that a real
//! driver and the emulator both fit behind it, so that every line above it runs without a GPU.

use super::images::Capability;
use std::time::Duration;

/// What a device, or its driver, can fail with.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverError {
    #[error("the device has no room for {bytes} more bytes; a smaller --max-memory cuts the wave")]
    OutOfMemory { bytes: usize },
    #[error("there is no kernel {name} in kernels/{module}.cu for this device")]
    NoSuchKernel { module: &'static str, name: &'static str },
    /// The launch was refused, or the kernel failed while it ran.
    #[error("kernel launch: {message}")]
    Launch { message: String },
    /// The emulator's checker found a race, an access out of bounds, an uninitialised read …; one per line.
    #[error("the checker reports:\n{report}")]
    Checker { report: String },
    #[error("a copy of {bytes} bytes does not lie inside device memory")]
    Copy { bytes: usize },
    #[error("no tensor map of {0:?}")]
    TensorMap(MatrixMap),
    /// A size does not fit what kernels count with (32 bits).
    #[error("{what} is too large for a kernel: {value}")]
    TooLarge { what: &'static str, value: usize },
}

/// An address on the device; 0 is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    pub const NULL: DevicePtr = DevicePtr(0);

    /// The address `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: usize) -> Self {
        DevicePtr(self.0 + bytes as u64)
    }
}

/// How many blocks of how many threads a launch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// A matrix in device memory and the boxes in which Hopper's copy engine brings it to shared memory, swizzled by 128
/// bytes. What a box has outside the matrix arrives as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixMap {
    /// A multiple of 16.
    pub base: DevicePtr,
    /// Numbers of a row, and rows.
    pub width: usize,
    pub height: usize,
    /// Bytes from row to row: a multiple of 16.
    pub row_bytes: usize,
    pub numbers: MapNumbers,
    /// Rows of a box, at most 256; a row of it has 128 bytes.
    pub box_height: u32,
}

/// What a [`MatrixMap`]'s matrix consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapNumbers {
    F32,
    Bf16,
}

impl MapNumbers {
    pub fn bytes(self) -> u32 {
        match self {
            MapNumbers::F32 => 4,
            MapNumbers::Bf16 => 2,
        }
    }
}

/// A [`MatrixMap`] as the device reads it: `TensorMap` of `gpu.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u64; 16]);

/// Room for one argument, as aligned as any can ask for.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Slot([u64; 16]);

/// The arguments of a launch, laid out as `cuLaunchKernel` wants them: one aligned slot each.
#[derive(Debug, Default)]
pub struct Arguments {
    slots: Vec<Slot>,
    bytes: Vec<u32>,
    too_large: Option<DriverError>,
}

impl Arguments {
    pub fn new() -> Self {
        Self::default()
    }

    /// A plain value of at most 128 bytes: `i32` for `int`, `u32`, `i64`, `f32`, [`DevicePtr`] for a pointer, or a
    /// `repr(C)` structure.
    #[must_use]
    pub fn value<T: bytemuck::NoUninit>(mut self, value: T) -> Self {
        const { assert!(size_of::<T>() <= size_of::<Slot>() && align_of::<T>() <= align_of::<Slot>()) }
        let mut slot = Slot([0; 16]);
        bytemuck::bytes_of_mut(&mut slot)[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
        self.slots.push(slot);
        self.bytes.push(size_of::<T>() as u32);
        self
    }

    /// A size as `int`. One that does not fit makes the launch fail.
    #[must_use]
    pub fn int(mut self, what: &'static str, value: usize) -> Self {
        let fits = i32::try_from(value);
        if fits.is_err() {
            self.too_large = Some(DriverError::TooLarge { what, value });
        }
        self.value(fits.unwrap_or(0))
    }

    /// A condition as `int`.
    #[must_use]
    pub fn flag(self, on: bool) -> Self {
        self.value(i32::from(on))
    }

    /// Sizes of the arguments in bytes.
    pub fn sizes(&self) -> &[u32] {
        &self.bytes
    }

    /// A pointer to every argument.
    ///
    /// # Errors
    /// A size did not fit.
    pub fn pointers(&mut self) -> Result<Vec<*mut std::ffi::c_void>, DriverError> {
        match self.too_large.take() {
            Some(error) => Err(error),
            None => Ok(self.slots.iter_mut().map(|s| s.0.as_mut_ptr().cast()).collect()),
        }
    }
}

/// A device with one stream: what is issued runs in the order in which it was issued.
pub trait Driver: Send + Sync + 'static {
    /// A kernel that can be launched.
    type Function: Send + Sync;
    /// A moment on the stream.
    type Event;

    /// The device in words, for reports.
    fn device(&self) -> String;

    /// Which instructions it has. Hopper's (9.0) runs the kernels for Hopper, too.
    fn capability(&self) -> Capability;

    /// How many blocks that take all of a multiprocessor's shared memory run at once.
    fn multiprocessors(&self) -> usize;

    /// For a device of capability 9.0.
    ///
    /// # Errors
    /// [`DriverError::TensorMap`]: the device does not take such a matrix.
    fn tensor_map(&self, of: &MatrixMap) -> Result<TensorMap, DriverError>;

    /// Memory with undefined contents.
    ///
    /// # Errors
    /// [`DriverError::OutOfMemory`].
    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DriverError>;

    /// # Safety
    /// `ptr` came from [`Driver::alloc`] of this driver and nothing uses it any more.
    unsafe fn free(&self, ptr: DevicePtr);

    /// Whether memory may be had in large blocks, kept and handed out in pieces. A checker wants every buffer as an
    /// allocation of its own, exactly as long as it was asked for.
    fn may_keep_memory(&self) -> bool {
        true
    }

    /// # Safety
    /// `to ..+ from.len()` lies inside an allocation of this driver.
    unsafe fn copy_to_device(&self, to: DevicePtr, from: &[u8]) -> Result<(), DriverError>;

    /// Waits for what was issued before.
    ///
    /// # Safety
    /// `from ..+ to.len()` lies inside an allocation of this driver.
    unsafe fn copy_from_device(&self, to: &mut [u8], from: DevicePtr) -> Result<(), DriverError>;

    /// # Safety
    /// `at ..+ bytes` lies inside an allocation of this driver.
    unsafe fn fill_zero(&self, at: DevicePtr, bytes: usize) -> Result<(), DriverError>;

    /// The kernel `name` of `kernels/{module}.cu`.
    ///
    /// # Errors
    /// [`DriverError::NoSuchKernel`].
    fn function(&self, module: &'static str, name: &'static str) -> Result<Self::Function, DriverError>;

    /// # Safety
    /// `arguments` are those of the kernel, and what their pointers reach is alive until the stream has come past here.
    unsafe fn launch(&self, function: &Self::Function, launch: Launch, arguments: Arguments)
    -> Result<(), DriverError>;

    /// Waits until everything issued has run.
    fn synchronize(&self) -> Result<(), DriverError>;

    /// Marks this moment on the stream.
    fn record(&self) -> Result<Self::Event, DriverError>;

    /// Time between two events; waits for the second.
    fn elapsed(&self, from: &Self::Event, to: &Self::Event) -> Result<Duration, DriverError>;
}

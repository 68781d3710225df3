//! The driver that runs the kernels on the CPU: the same `.cu` sources, compiled by the C++ compiler, on the emulator in
//! `kernels/emulator/` (`emulator.h` there tells how it works).

use super::driver::{Arguments, DevicePtr, Driver, DriverError, Launch, MatrixMap, TensorMap};
use super::images::Capability;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// In which order threads and blocks run. A correct kernel gives the same result under every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    Forward,
    Reverse,
    /// Seeded. Asynchronous copies complete early or late at random, too.
    Random(u64),
}

/// When a copy (`cp.async`, TMA) or a wgmma happens, between its issue and its wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncCopies {
    AtOnce,
    /// As late as the wait allows.
    Late,
    Random,
}

/// An emulated device.
#[derive(Debug)]
pub struct Emulated {
    number: u32,
    capability: Capability,
    multiprocessors: usize,
    schedule: Schedule,
    async_copies: AsyncCopies,
    check: bool,
    launches: AtomicU64,
    /// How often each kernel was launched.
    launched: Mutex<HashMap<&'static str, u64>>,
    memory: Mutex<Bounded>,
}

/// How much of a device's memory is taken, and by what.
#[derive(Debug, Default)]
struct Bounded {
    limit: Option<usize>,
    used: usize,
    sizes: HashMap<DevicePtr, usize>,
}

impl Default for Emulated {
    fn default() -> Self {
        Emulated::new(Schedule::Forward, AsyncCopies::AtOnce, false)
    }
}

impl Emulated {
    /// A device with memory of its own. `check` runs every kernel under the checker, some thirty times slower.
    pub fn new(schedule: Schedule, async_copies: AsyncCopies, check: bool) -> Self {
        static DEVICES: AtomicU32 = AtomicU32::new(0);
        let number = DEVICES.fetch_add(1, Ordering::Relaxed);
        let memory = Mutex::default();
        let capability = Capability { major: 8, minor: 0 };
        // Few, so that small tests, too, have blocks with several tiles.
        let multiprocessors = 3;
        let (launches, launched) = (AtomicU64::new(0), Mutex::default());
        Emulated { number, capability, multiprocessors, schedule, async_copies, check, launches, launched, memory }
    }

    /// The same device as one of the Hopper generation, which runs `gemm_sm90.cu`.
    #[must_use]
    pub fn hopper(mut self) -> Self {
        self.capability = Capability::HOPPER;
        self
    }

    /// The same device with another number of multiprocessors: its launches have other tiles.
    #[must_use]
    pub fn with_multiprocessors(mut self, n: usize) -> Self {
        self.multiprocessors = n;
        self
    }

    /// The same device with no more than `bytes` of memory.
    #[must_use]
    pub fn with_memory(mut self, bytes: usize) -> Self {
        self.memory.get_mut().unwrap_or_else(PoisonError::into_inner).limit = Some(bytes);
        self
    }

    /// Bytes that are allocated.
    pub fn memory_used(&self) -> usize {
        self.bounded().used
    }

    /// How often this kernel was launched.
    pub fn launches_of(&self, kernel: &str) -> u64 {
        let launched = self.launched.lock().unwrap_or_else(PoisonError::into_inner);
        launched.get(kernel).copied().unwrap_or(0)
    }

    fn bounded(&self) -> MutexGuard<'_, Bounded> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> Config {
        let launch = self.launches.fetch_add(1, Ordering::Relaxed);
        let (order, seed) = match self.schedule {
            Schedule::Forward => (0, 0),
            Schedule::Reverse => (1, 0),
            Schedule::Random(seed) => (2, seed),
        };
        Config {
            order,
            async_copies: self.async_copies as u32,
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(launch),
            check: self.check.into(),
            device: self.number,
        }
    }
}

/// A kernel of the emulator's registry, which lives as long as the program.
#[derive(Debug, Clone, Copy)]
pub struct EmulatedKernel(*const c_void, &'static str);

// SAFETY: the registry is filled before main and never changed.
unsafe impl Send for EmulatedKernel {}
unsafe impl Sync for EmulatedKernel {}

/// `emu_config` of `kernels/emulator/emulator.h`.
#[repr(C)]
struct Config {
    order: u32,
    async_copies: u32,
    seed: u64,
    check: u32,
    device: u32,
}

unsafe extern "C" {
    fn emu_kernel(name: *const c_char) -> *const c_void;
    fn emu_launch(
        kernel: *const c_void,
        grid: *const u32,
        block: *const u32,
        shared_bytes: u32,
        arguments: *mut *mut c_void,
        argument_bytes: *const u32,
        n_arguments: u32,
        config: *const Config,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
    fn emu_alloc(bytes: usize, device: u32, count_writes: u32) -> *mut c_void;
    fn emu_free(p: *mut c_void);
    fn emu_copy_to_device(to: *mut c_void, from: *const c_void, bytes: usize) -> c_int;
    fn emu_copy_from_device(to: *mut c_void, from: *const c_void, bytes: usize) -> c_int;
    fn emu_fill_zero(to: *mut c_void, bytes: usize) -> c_int;
    fn emu_tensor_map(
        map: *mut c_void,
        base: *const c_void,
        width: u64,
        height: u64,
        row_bytes: u64,
        number_bytes: u32,
        box_width: u32,
        box_height: u32,
    ) -> c_int;
}

const CHECKER_REPORT: c_int = 4;

impl Driver for Emulated {
    type Function = EmulatedKernel;
    type Event = Instant;

    fn device(&self) -> String {
        let generation = if self.capability == Capability::HOPPER { "Hopper GPU" } else { "GPU" };
        format!("emulated {generation} {}{}", self.number, if self.check { ", checked" } else { "" })
    }

    fn capability(&self) -> Capability {
        self.capability
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn tensor_map(&self, of: &MatrixMap) -> Result<TensorMap, DriverError> {
        let mut map = TensorMap([0; 16]);
        let bytes = of.numbers.bytes();
        // SAFETY: the map has 128 bytes; the matrix is looked at by the copies, not here.
        let rc = unsafe {
            emu_tensor_map(
                (&raw mut map).cast(),
                of.base.0 as *const c_void,
                of.width as u64,
                of.height as u64,
                of.row_bytes as u64,
                bytes,
                128 / bytes,
                of.box_height,
            )
        };
        if rc == 0 { Ok(map) } else { Err(DriverError::TensorMap(*of)) }
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
        let mut memory = self.bounded();
        let used = memory.used.saturating_add(bytes);
        if memory.limit.is_some_and(|limit| used > limit) {
            return Err(DriverError::OutOfMemory { bytes });
        }
        // SAFETY: no preconditions.
        let p = unsafe { emu_alloc(bytes, self.number, self.check.into()) };
        if p.is_null() {
            return Err(DriverError::OutOfMemory { bytes });
        }
        memory.used = used;
        memory.sizes.insert(DevicePtr(p as u64), bytes);
        Ok(DevicePtr(p as u64))
    }

    unsafe fn free(&self, ptr: DevicePtr) {
        let mut memory = self.bounded();
        memory.used -= memory.sizes.remove(&ptr).unwrap_or(0);
        // SAFETY: the emulator ignores what it has not allocated.
        unsafe { emu_free(ptr.0 as *mut c_void) }
    }

    fn may_keep_memory(&self) -> bool {
        !self.check
    }

    unsafe fn copy_to_device(&self, to: DevicePtr, from: &[u8]) -> Result<(), DriverError> {
        // SAFETY: `from` is a slice; the emulator checks the device's side.
        let rc = unsafe { emu_copy_to_device(to.0 as *mut c_void, from.as_ptr().cast(), from.len()) };
        if rc == 0 { Ok(()) } else { Err(DriverError::Copy { bytes: from.len() }) }
    }

    unsafe fn copy_from_device(&self, to: &mut [u8], from: DevicePtr) -> Result<(), DriverError> {
        // SAFETY: `to` is a slice; the emulator checks the device's side.
        let rc = unsafe { emu_copy_from_device(to.as_mut_ptr().cast(), from.0 as *const c_void, to.len()) };
        if rc == 0 { Ok(()) } else { Err(DriverError::Copy { bytes: to.len() }) }
    }

    unsafe fn fill_zero(&self, at: DevicePtr, bytes: usize) -> Result<(), DriverError> {
        // SAFETY: the emulator checks the range.
        let rc = unsafe { emu_fill_zero(at.0 as *mut c_void, bytes) };
        if rc == 0 { Ok(()) } else { Err(DriverError::Copy { bytes }) }
    }

    fn function(&self, module: &'static str, name: &'static str) -> Result<EmulatedKernel, DriverError> {
        let missing = DriverError::NoSuchKernel { module, name };
        let c_name = CString::new(name).map_err(|_| missing.clone())?;
        // SAFETY: a zero-terminated string.
        let kernel = unsafe { emu_kernel(c_name.as_ptr()) };
        if kernel.is_null() { Err(missing) } else { Ok(EmulatedKernel(kernel, name)) }
    }

    unsafe fn launch(
        &self,
        function: &EmulatedKernel,
        launch: Launch,
        mut arguments: Arguments,
    ) -> Result<(), DriverError> {
        let mut pointers = arguments.pointers()?;
        *self.launched.lock().unwrap_or_else(PoisonError::into_inner).entry(function.1).or_default() += 1;
        let mut error = [0 as c_char; 8192];
        // SAFETY: the emulator compares the number of arguments and their sizes with the kernel's; the caller answers
        // for what their pointers reach.
        let rc = unsafe {
            emu_launch(
                function.0,
                launch.grid.as_ptr(),
                [launch.block, 1, 1].as_ptr(),
                launch.shared_bytes,
                pointers.as_mut_ptr(),
                arguments.sizes().as_ptr(),
                arguments.sizes().len() as u32,
                &self.config(),
                error.as_mut_ptr(),
                error.len(),
            )
        };
        if rc == 0 {
            return Ok(());
        }
        // SAFETY: the emulator has written a zero-terminated string.
        let text = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned();
        Err(if rc == CHECKER_REPORT {
            DriverError::Checker { report: text }
        } else {
            DriverError::Launch { message: text }
        })
    }

    fn synchronize(&self) -> Result<(), DriverError> {
        Ok(())
    }

    fn record(&self) -> Result<Instant, DriverError> {
        Ok(Instant::now())
    }

    fn elapsed(&self, from: &Instant, to: &Instant) -> Result<Duration, DriverError> {
        Ok(to.saturating_duration_since(*from))
    }
}

//! The device that tests of the kernels run on: the emulator, or the GPU that `PATCHWAVE_TEST_DEVICE` names (`cuda:0`).
//! tools/gpu-check runs the same tests on a card this way.
//!
//! On a GPU there are no schedules and no checker. Memory begins as garbage of two kinds instead, and both must give the
//! same bits: a kernel that reads what nobody has written is found out. With `PATCHWAVE_TEST_MEMORY=exact` every buffer is an
//! allocation of its own, exactly as long as it should be, and begins as it comes: for compute-sanitizer.
//!
//! A test asks for a Hopper device where it wants one. A Hopper card is taken for an older one elsewhere, so that it runs
//! the kernels for every card, too; another card runs those alone.
//!
//! Emulated, not yet run on hardware.
#![allow(dead_code)] // not every test uses all of it

use patchwave::backend::cuda::driver::{Arguments, DevicePtr, Driver, DriverError, Launch, MatrixMap, TensorMap};
use patchwave::backend::cuda::emulated::{AsyncCopies, Emulated, EmulatedKernel, Schedule};
use patchwave::backend::cuda::images::{Capability, Image, Module, Target};
use patchwave::backend::cuda::nvidia::{self, Nvidia, probe, select};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The folder that has the conformance kernels compiled for GPUs and what the emulator made of them.
pub fn conformance_folder() -> Option<PathBuf> {
    std::env::var_os("PATCHWAVE_CONFORMANCE").map(PathBuf::from)
}

/// The GPU that tests run on. One for the whole process: contexts are slow to make, and a failed kernel takes all of
/// them with it.
pub fn gpu() -> Option<&'static Nvidia> {
    static GPU: OnceLock<Option<Nvidia>> = OnceLock::new();
    GPU.get_or_init(|| {
        let name = std::env::var("PATCHWAVE_TEST_DEVICE").ok().filter(|name| name != "emulated")?;
        let ordinal = name.strip_prefix("cuda").and_then(|rest| match rest.strip_prefix(':') {
            None => rest.is_empty().then_some(None),
            Some(number) => number.parse().ok().map(Some),
        });
        let ordinal = ordinal.unwrap_or_else(|| panic!("PATCHWAVE_TEST_DEVICE={name}: expected emulated or cuda:N"));
        let devices = probe().unwrap_or_else(|e| panic!("{e}"));
        let info = select(&devices, ordinal).unwrap_or_else(|e| panic!("{e}"));
        let mut gpu = Nvidia::open(info).unwrap_or_else(|e| panic!("{e}"));
        let modules = conformance_modules();
        for module in modules.iter().filter(|module| module.is_for(info.capability)) {
            gpu.load(module).unwrap_or_else(|e| panic!("{e}"));
        }
        Some(gpu)
    })
    .as_ref()
}

/// Compute capability of the GPU that tests run on; the emulator has every instruction.
pub fn capability() -> Option<Capability> {
    gpu().map(|gpu| gpu.info().capability)
}

/// The kernels of conformance.cu and conformance_sm90.cu as images of [`conformance_folder`], files named `MODULE.TARGET`;
/// for a card that none of them suits NVRTC may compile them, as it may every file of kernels.
fn conformance_modules() -> Vec<Module> {
    let Some(folder) = conformance_folder() else { return Vec::new() };
    let sources = [
        ("conformance", include_str!("../../kernels/emulator/conformance.cu")),
        ("conformance_sm90", include_str!("../../kernels/emulator/conformance_sm90.cu")),
    ];
    let module = |(name, source): (&'static str, &str)| {
        let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut images = Vec::new();
        for file in files {
            let path = file.expect("a folder's entry").path();
            let Some(target) = path.extension().filter(|_| path.file_stem().is_some_and(|stem| stem == name)) else {
                continue;
            };
            let target: &'static str = target.to_string_lossy().into_owned().leak();
            if Target::parse(target).is_some() {
                let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                images.push(Image { target, packed: false, bytes: bytes.leak() });
            }
        }
        let source = source.replace("../gpu.cuh", "gpu.cuh");
        let hash = Sha256::new().chain_update(include_str!("../../kernels/gpu.cuh")).chain_update(&source).finalize();
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Module { name, hash: hash.leak(), source: source.leak(), images: images.leak() }
    };
    sources.into_iter().map(module).collect()
}

/// What a test runs on.
#[derive(Debug)]
pub enum TestDevice {
    Emulated(Emulated),
    Gpu(Shared),
}

/// A test's share of the GPU. New memory is filled with one byte.
#[derive(Debug)]
pub struct Shared {
    garbage: Option<u8>,
    hopper: bool,
    multiprocessors: Option<usize>,
    /// How often each kernel was launched.
    launched: Mutex<HashMap<&'static str, u64>>,
    limit: Option<usize>,
    sizes: Mutex<HashMap<DevicePtr, usize>>,
}

impl Shared {
    fn with_garbage(garbage: u8) -> TestDevice {
        let garbage = (!exact_memory()).then_some(garbage);
        let (launched, sizes) = (Mutex::default(), Mutex::default());
        TestDevice::Gpu(Shared { garbage, hopper: false, multiprocessors: None, launched, limit: None, sizes })
    }

    fn used(&self) -> usize {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    fn gpu(&self) -> &'static Nvidia {
        gpu().expect("opened before")
    }
}

fn exact_memory() -> bool {
    std::env::var("PATCHWAVE_TEST_MEMORY").is_ok_and(|kind| kind == "exact")
}

/// Bytes of NaN, and small numbers that look like any other.
const GARBAGE: [u8; 2] = [0xff, 0x3c];

impl Default for TestDevice {
    fn default() -> Self {
        match gpu() {
            Some(_) => Shared::with_garbage(GARBAGE[0]),
            None => TestDevice::Emulated(Emulated::default()),
        }
    }
}

impl TestDevice {
    /// Devices that must agree to the bit: these schedules and checkers, or a GPU twice, for Hopper if they are.
    pub fn all(emulated: Vec<Emulated>) -> Vec<TestDevice> {
        let hopper = emulated.iter().any(|device| device.capability() == Capability::HOPPER);
        match gpu() {
            Some(_) if hopper => GARBAGE.map(|garbage| Shared::with_garbage(garbage).hopper()).into(),
            Some(_) => GARBAGE.map(Shared::with_garbage).into(),
            None => emulated.into_iter().map(TestDevice::Emulated).collect(),
        }
    }

    /// The strictest that there is, to be compared with the default: a random schedule under the checker, or a GPU with
    /// other garbage in its memory.
    pub fn strict(seed: u64) -> TestDevice {
        match gpu() {
            Some(_) => Shared::with_garbage(GARBAGE[1]),
            None => TestDevice::Emulated(Emulated::new(Schedule::Random(seed), AsyncCopies::Random, true)),
        }
    }

    /// The same device as one of the Hopper generation; a card of another is what it is.
    #[must_use]
    pub fn hopper(self) -> Self {
        match self {
            TestDevice::Emulated(device) => TestDevice::Emulated(device.hopper()),
            TestDevice::Gpu(gpu) => TestDevice::Gpu(Shared { hopper: true, ..gpu }),
        }
    }

    /// The same device as one with another number of multiprocessors: its launches have other tiles.
    #[must_use]
    pub fn with_multiprocessors(self, n: usize) -> Self {
        match self {
            TestDevice::Emulated(device) => TestDevice::Emulated(device.with_multiprocessors(n)),
            TestDevice::Gpu(gpu) => TestDevice::Gpu(Shared { multiprocessors: Some(n), ..gpu }),
        }
    }

    /// How often this kernel was launched.
    pub fn launches_of(&self, kernel: &str) -> u64 {
        match self {
            TestDevice::Emulated(device) => device.launches_of(kernel),
            TestDevice::Gpu(gpu) => {
                gpu.launched.lock().unwrap_or_else(PoisonError::into_inner).get(kernel).copied().unwrap_or(0)
            }
        }
    }

    /// The same device with no more than `bytes` of memory.
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        match self {
            TestDevice::Emulated(device) => TestDevice::Emulated(device.with_memory(bytes)),
            TestDevice::Gpu(gpu) => TestDevice::Gpu(Shared { limit: Some(bytes), ..gpu }),
        }
    }

    /// Bytes that are allocated.
    pub fn memory_used(&self) -> usize {
        match self {
            TestDevice::Emulated(device) => device.memory_used(),
            TestDevice::Gpu(gpu) => gpu.used(),
        }
    }
}

pub enum Function {
    Emulated(EmulatedKernel),
    Gpu(nvidia::Function, &'static str),
}

pub enum Event {
    Emulated(Instant),
    Gpu(nvidia::Event),
}

// SAFETY (of all below): the caller's.
impl Driver for TestDevice {
    type Function = Function;
    type Event = Event;

    fn device(&self) -> String {
        match self {
            TestDevice::Emulated(device) => device.device(),
            TestDevice::Gpu(shared) => shared.gpu().device(),
        }
    }

    fn capability(&self) -> Capability {
        match self {
            TestDevice::Emulated(device) => device.capability(),
            TestDevice::Gpu(Shared { hopper: false, .. }) => Capability { major: 8, minor: 0 },
            TestDevice::Gpu(shared) => shared.gpu().capability(),
        }
    }

    fn multiprocessors(&self) -> usize {
        match self {
            TestDevice::Emulated(device) => device.multiprocessors(),
            TestDevice::Gpu(shared) => shared.multiprocessors.unwrap_or_else(|| shared.gpu().multiprocessors()),
        }
    }

    fn tensor_map(&self, of: &MatrixMap) -> Result<TensorMap, DriverError> {
        match self {
            TestDevice::Emulated(device) => device.tensor_map(of),
            TestDevice::Gpu(shared) => shared.gpu().tensor_map(of),
        }
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
        let shared = match self {
            TestDevice::Emulated(device) => return device.alloc(bytes),
            TestDevice::Gpu(shared) => shared,
        };
        if shared.limit.is_some_and(|limit| shared.used().saturating_add(bytes) > limit) {
            return Err(DriverError::OutOfMemory { bytes });
        }
        let ptr = shared.gpu().alloc(bytes)?;
        if let Some(garbage) = shared.garbage {
            let garbage = vec![garbage; bytes.clamp(1, 1 << 20)];
            for at in (0..bytes).step_by(garbage.len()) {
                let piece = &garbage[..garbage.len().min(bytes - at)];
                unsafe { shared.gpu().copy_to_device(ptr.offset(at), piece)? }
            }
        }
        shared.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(ptr, bytes);
        Ok(ptr)
    }

    unsafe fn free(&self, ptr: DevicePtr) {
        match self {
            TestDevice::Emulated(device) => unsafe { device.free(ptr) },
            TestDevice::Gpu(shared) => {
                shared.sizes.lock().unwrap_or_else(PoisonError::into_inner).remove(&ptr);
                unsafe { shared.gpu().free(ptr) }
            }
        }
    }

    fn may_keep_memory(&self) -> bool {
        match self {
            TestDevice::Emulated(device) => device.may_keep_memory(),
            TestDevice::Gpu(_) => !exact_memory(),
        }
    }

    unsafe fn copy_to_device(&self, to: DevicePtr, from: &[u8]) -> Result<(), DriverError> {
        match self {
            TestDevice::Emulated(device) => unsafe { device.copy_to_device(to, from) },
            TestDevice::Gpu(shared) => unsafe { shared.gpu().copy_to_device(to, from) },
        }
    }

    unsafe fn copy_from_device(&self, to: &mut [u8], from: DevicePtr) -> Result<(), DriverError> {
        match self {
            TestDevice::Emulated(device) => unsafe { device.copy_from_device(to, from) },
            TestDevice::Gpu(shared) => unsafe { shared.gpu().copy_from_device(to, from) },
        }
    }

    unsafe fn fill_zero(&self, at: DevicePtr, bytes: usize) -> Result<(), DriverError> {
        match self {
            TestDevice::Emulated(device) => unsafe { device.fill_zero(at, bytes) },
            TestDevice::Gpu(shared) => unsafe { shared.gpu().fill_zero(at, bytes) },
        }
    }

    fn function(&self, module: &'static str, name: &'static str) -> Result<Function, DriverError> {
        match self {
            TestDevice::Emulated(device) => device.function(module, name).map(Function::Emulated),
            TestDevice::Gpu(shared) => {
                shared.gpu().function(module, name).map(|function| Function::Gpu(function, name))
            }
        }
    }

    unsafe fn launch(&self, function: &Function, launch: Launch, arguments: Arguments) -> Result<(), DriverError> {
        match (self, function) {
            (TestDevice::Emulated(device), Function::Emulated(f)) => unsafe { device.launch(f, launch, arguments) },
            (TestDevice::Gpu(shared), Function::Gpu(f, name)) => {
                *shared.launched.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
                unsafe { shared.gpu().launch(f, launch, arguments) }
            }
            _ => unreachable!("a function of the other kind of device"),
        }
    }

    fn synchronize(&self) -> Result<(), DriverError> {
        match self {
            TestDevice::Emulated(device) => device.synchronize(),
            TestDevice::Gpu(shared) => shared.gpu().synchronize(),
        }
    }

    fn record(&self) -> Result<Event, DriverError> {
        match self {
            TestDevice::Emulated(device) => device.record().map(Event::Emulated),
            TestDevice::Gpu(shared) => shared.gpu().record().map(Event::Gpu),
        }
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<Duration, DriverError> {
        match (self, from, to) {
            (TestDevice::Emulated(device), Event::Emulated(a), Event::Emulated(b)) => device.elapsed(a, b),
            (TestDevice::Gpu(shared), Event::Gpu(a), Event::Gpu(b)) => shared.gpu().elapsed(a, b),
            _ => unreachable!("events of the other kind of device"),
        }
    }
}

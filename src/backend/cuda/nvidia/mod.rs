//! The driver that runs the kernels on an NVIDIA GPU, over CUDA's driver API. The library is found at run time: building
//! needs nothing of CUDA, and a program without a GPU starts as well.
//!
//! Emulated, not yet run on hardware: in tests these calls reach a stand-in for libcuda, or none.

mod api;
pub mod cublas;
pub mod probe;
mod staging;

use super::driver::{Arguments, DevicePtr, Driver, DriverError, Launch, MapNumbers, MatrixMap, TensorMap};
use super::images::{self, Capability, Origin};
use super::nvrtc::{Nvrtc, NvrtcError};
pub use api::SYMBOLS;
use api::{Api, EVENT_DEFAULT, STREAM_NON_BLOCKING, attribute, code, tensor_map};
use cudarc::driver::sys::{CUcontext, CUdevice, CUevent, CUfunction, CUmodule, CUstream};
pub use probe::{CudaVersion, DeviceInfo, Unavailable, probe, select, select_several};
use staging::Staging;
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A GPU with its kernels and one stream.
pub struct Nvidia {
    session: Arc<Session>,
    info: DeviceInfo,
    modules: HashMap<&'static str, LoadedModule>,
    stream: CUstream,
    /// None where there is no pinned memory.
    staging: Mutex<Option<Staging>>,
    /// Most bytes of shared memory that a block can have.
    shared_bytes: c_int,
    multiprocessors: usize,
}

struct LoadedModule {
    handle: CUmodule,
    origin: Origin,
}

/// The device's primary context, held until everything made in it is gone.
struct Session {
    api: &'static Api,
    device: CUdevice,
    context: CUcontext,
}

// SAFETY: the driver API may be called from any thread, and handles belong to no thread. What each call needs, the
// current context, is set before it by `Session::enter`.
unsafe impl Send for Session {}
unsafe impl Sync for Session {}
unsafe impl Send for Nvidia {}
unsafe impl Sync for Nvidia {}

impl Session {
    /// Makes the context this thread's.
    fn enter(&self) -> Result<&'static Api, DriverError> {
        // SAFETY: the context is retained.
        self.api.check(unsafe { (self.api.context_set)(self.context) }, "the GPU's context")?;
        Ok(self.api)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: retained once.
        unsafe { (self.api.context_release)(self.device) };
    }
}

impl Nvidia {
    /// Opens a GPU that [`probe`] has found and loads every kernel.
    ///
    /// # Errors
    /// The card is too old, the driver does not open it, or there is no code for it.
    pub fn open(info: &DeviceInfo) -> Result<Nvidia, Unavailable> {
        info.usable()?;
        let api = Api::get()?;
        let check = |code, what| probe::failure(api, code, what).map_or(Ok(()), Err);
        let mut device = 0;
        let ordinal = c_int::try_from(info.ordinal).unwrap_or(c_int::MAX);
        // SAFETY (of all calls below): handles come from the driver and are alive, pointers are to locals.
        check(unsafe { (api.device_get)(&mut device, ordinal) }, "open the GPU")?;
        let mut context = std::ptr::null_mut();
        check(unsafe { (api.context_retain)(&mut context, device) }, "start a context on the GPU")?;
        let session = Arc::new(Session { api, device, context });
        check(unsafe { (api.context_set)(context) }, "use the GPU's context")?;
        let mut shared_bytes = 0;
        let which = attribute::MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        check(unsafe { (api.device_attribute)(&mut shared_bytes, which, device) }, "describe the GPU")?;
        let mut multiprocessors = 0;
        let which = attribute::MULTIPROCESSOR_COUNT;
        check(unsafe { (api.device_attribute)(&mut multiprocessors, which, device) }, "describe the GPU")?;
        let multiprocessors = usize::try_from(multiprocessors).unwrap_or(1).max(1);
        let mut stream = std::ptr::null_mut();
        check(unsafe { (api.stream_create)(&mut stream, STREAM_NON_BLOCKING) }, "make a stream on the GPU")?;
        let staging = Mutex::new(Staging::new(api));
        let (info, modules) = (info.clone(), HashMap::new());
        let mut nvidia = Nvidia { session, info, modules, stream, staging, shared_bytes, multiprocessors };
        nvidia.load_modules()?;
        Ok(nvidia)
    }

    /// All of them at the start, so that a card without code is found out before anything is computed.
    fn load_modules(&mut self) -> Result<(), Unavailable> {
        let card = self.info.capability;
        let mut nvrtc = None;
        images::MODULES.iter().filter(|m| m.is_for(card)).try_for_each(|module| self.load_with(module, &mut nvrtc))
    }

    /// Loads one more file of kernels, for [`Driver::function`] to find: those that only tests run are not embedded.
    ///
    /// # Errors
    /// There is no code for this card.
    pub fn load(&mut self, module: &images::Module) -> Result<(), Unavailable> {
        self.load_with(module, &mut None)
    }

    fn load_with(
        &mut self,
        module: &images::Module,
        nvrtc: &mut Option<Result<Nvrtc, NvrtcError>>,
    ) -> Result<(), Unavailable> {
        let DeviceInfo { ordinal, capability: card, driver, .. } = self.info;
        let api =
            self.session.enter().map_err(|e| Unavailable::Failed { what: "load kernels", message: e.to_string() })?;
        let mut accept = |image: &[u8]| {
            let mut module = std::ptr::null_mut();
            // SAFETY: the image ends in a zero byte, and machine code tells its own size.
            match unsafe { (api.module_load)(&mut module, image.as_ptr().cast()) } {
                0 => Ok(module),
                code => Err(api.describe(code)),
            }
        };
        let (handle, origin) = images::load(module, card, driver, nvrtc, &mut accept)
            .map_err(|error| Unavailable::Kernels { ordinal, error })?;
        self.modules.insert(module.name, LoadedModule { handle, origin });
        Ok(())
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Bytes of device memory that nobody has taken yet.
    ///
    /// # Errors
    /// The device has failed.
    pub fn free_bytes(&self) -> Result<u64, DriverError> {
        let api = self.session.enter()?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: pointers to two numbers.
        api.check(unsafe { (api.memory_info)(&mut free, &mut total) }, "the GPU's free memory")?;
        Ok(free as u64)
    }

    /// Where the kernels came from, for reports: `embedded sm_90a`, or, of mixed origin, the number of each.
    pub fn kernels(&self) -> String {
        let mut origins: Vec<(String, usize)> = Vec::new();
        for module in self.modules.values() {
            let origin = match module.origin {
                Origin::Embedded(target) => format!("embedded {target}"),
                Origin::Nvrtc(target) => format!("{target} by NVRTC"),
            };
            match origins.iter_mut().find(|(known, _)| *known == origin) {
                Some((_, n)) => *n += 1,
                None => origins.push((origin, 1)),
            }
        }
        origins.sort();
        match &origins[..] {
            [(only, _)] => only.clone(),
            _ => origins.iter().map(|(origin, n)| format!("{n} {origin}")).collect::<Vec<_>>().join(", "),
        }
    }

    fn event(&self) -> Result<Event, DriverError> {
        let api = self.session.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a pointer to a handle.
        api.check(unsafe { (api.event_create)(&mut handle, EVENT_DEFAULT) }, "an event")?;
        Ok(Event { session: self.session.clone(), handle })
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        let Ok(api) = self.session.enter() else { return };
        // SAFETY: made by `open`, and this is the last use of them.
        unsafe {
            (api.stream_synchronize)(self.stream);
            if let Some(staging) = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner) {
                staging.free(api);
            }
            for module in self.modules.values() {
                (api.module_unload)(module.handle);
            }
            (api.stream_destroy)(self.stream);
        }
    }
}

/// A kernel of a loaded module.
#[derive(Debug, Clone, Copy)]
pub struct Function(CUfunction);

// SAFETY: a handle that belongs to no thread.
unsafe impl Send for Function {}
unsafe impl Sync for Function {}

/// A moment on the stream.
pub struct Event {
    session: Arc<Session>,
    handle: CUevent,
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(api) = self.session.enter() {
            // SAFETY: made by `Nvidia::event`, and this is its last use.
            unsafe { (api.event_destroy)(self.handle) };
        }
    }
}

impl Driver for Nvidia {
    type Function = Function;
    type Event = Event;

    fn device(&self) -> String {
        format!("{}, kernels {}", self.info, self.kernels())
    }

    fn capability(&self) -> Capability {
        self.info.capability
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn tensor_map(&self, of: &MatrixMap) -> Result<TensorMap, DriverError> {
        let api = self.session.enter()?;
        let mut map = TensorMap([0; 16]);
        let numbers = match of.numbers {
            MapNumbers::F32 => tensor_map::FLOAT32,
            MapNumbers::Bf16 => tensor_map::BFLOAT16,
        };
        let size = [of.width as u64, of.height as u64];
        let (row_bytes, boxes, every) = ([of.row_bytes as u64], [128 / of.numbers.bytes(), of.box_height], [1, 1]);
        // SAFETY: pointers to locals; the matrix is looked at by the copies, not here.
        let code = unsafe {
            (api.tensor_map)(
                (&raw mut map).cast(),
                numbers,
                2,
                of.base.0 as *mut c_void,
                size.as_ptr(),
                row_bytes.as_ptr(),
                boxes.as_ptr(),
                every.as_ptr(),
                tensor_map::INTERLEAVE_NONE,
                tensor_map::SWIZZLE_128B,
                tensor_map::L2_PROMOTION_256B,
                tensor_map::ZEROS_OUTSIDE,
            )
        };
        if code == 0 { Ok(map) } else { Err(DriverError::TensorMap(*of)) }
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
        let api = self.session.enter()?;
        let mut ptr = 0;
        // SAFETY: a pointer to an address.
        match unsafe { (api.memory_alloc)(&mut ptr, bytes.max(1)) } {
            code::OUT_OF_MEMORY => Err(DriverError::OutOfMemory { bytes }),
            code => api.check(code, "an allocation").map(|()| DevicePtr(ptr)),
        }
    }

    unsafe fn free(&self, ptr: DevicePtr) {
        if let Ok(api) = self.session.enter() {
            // SAFETY: the caller's. The driver waits until nothing on the device uses it any more.
            unsafe { (api.memory_free)(ptr.0) };
        }
    }

    unsafe fn copy_to_device(&self, to: DevicePtr, from: &[u8]) -> Result<(), DriverError> {
        let api = self.session.enter()?;
        if from.is_empty() {
            return Ok(());
        }
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *staging {
            // SAFETY: the caller's.
            Some(staging) => unsafe { staging.upload(api, self.stream, to.0, from) },
            None => {
                // SAFETY: the caller's; `from` outlives the copy.
                let code = unsafe { (api.copy_to_device)(to.0, from.as_ptr().cast(), from.len(), self.stream) };
                api.check(code, "an upload")?;
                self.synchronize()
            }
        }
    }

    unsafe fn copy_from_device(&self, to: &mut [u8], from: DevicePtr) -> Result<(), DriverError> {
        let api = self.session.enter()?;
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller's; `to` outlives the copy, which is waited for whatever comes of it.
        let code = unsafe { (api.copy_from_device)(to.as_mut_ptr().cast(), from.0, to.len(), self.stream) };
        let waited = self.synchronize();
        api.check(code, "a download")?;
        waited
    }

    unsafe fn fill_zero(&self, at: DevicePtr, bytes: usize) -> Result<(), DriverError> {
        let api = self.session.enter()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's.
        api.check(unsafe { (api.fill_bytes)(at.0, 0, bytes, self.stream) }, "filling memory")
    }

    fn function(&self, module: &'static str, name: &'static str) -> Result<Function, DriverError> {
        let missing = DriverError::NoSuchKernel { module, name };
        let loaded = self.modules.get(module).ok_or_else(|| missing.clone())?;
        let symbol = CString::new(name).map_err(|_| missing.clone())?;
        let api = self.session.enter()?;
        let mut function = std::ptr::null_mut();
        // SAFETY (of all calls below): handles are alive, pointers are to locals, the name ends in zero.
        if unsafe { (api.module_function)(&mut function, loaded.handle, symbol.as_ptr()) } != 0 {
            return Err(missing);
        }
        // More than 48 KiB of shared memory must be asked for, once for each kernel.
        let mut fixed = 0;
        let code = unsafe { (api.function_attribute)(&mut fixed, attribute::FUNCTION_SHARED_SIZE_BYTES, function) };
        api.check(code, "a kernel's attributes")?;
        let (which, most) = (attribute::FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES, self.shared_bytes - fixed);
        api.check(unsafe { (api.function_set_attribute)(function, which, most.max(0)) }, "a kernel's attributes")?;
        Ok(Function(function))
    }

    unsafe fn launch(&self, function: &Function, launch: Launch, mut arguments: Arguments) -> Result<(), DriverError> {
        let api = self.session.enter()?;
        let mut pointers: Vec<*mut c_void> = arguments.pointers()?;
        let ([x, y, z], block, shared) = (launch.grid, launch.block, launch.shared_bytes);
        let nothing = std::ptr::null_mut();
        // SAFETY: the caller's; the driver copies the arguments before it returns.
        let code = unsafe {
            (api.launch)(function.0, x, y, z, block, 1, 1, shared, self.stream, pointers.as_mut_ptr(), nothing)
        };
        match code {
            0 => Ok(()),
            _ => {
                let shape = format!("{x}x{y}x{z} blocks of {block} threads with {shared} bytes of shared memory");
                Err(DriverError::Launch { message: format!("{shape}: {}", api.describe(code)) })
            }
        }
    }

    fn synchronize(&self) -> Result<(), DriverError> {
        let api = self.session.enter()?;
        // SAFETY: the stream is alive.
        api.check(unsafe { (api.stream_synchronize)(self.stream) }, "the GPU")
    }

    fn record(&self) -> Result<Event, DriverError> {
        let event = self.event()?;
        let api = self.session.api;
        // SAFETY: both handles are alive, and `event` has entered the context.
        api.check(unsafe { (api.event_record)(event.handle, self.stream) }, "an event")?;
        Ok(event)
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<Duration, DriverError> {
        let api = self.session.enter()?;
        let mut milliseconds = 0f32;
        // SAFETY: both events are alive and recorded.
        unsafe {
            api.check((api.event_synchronize)(to.handle), "an event")?;
            api.check((api.event_elapsed)(&mut milliseconds, from.handle, to.handle), "the time between events")?;
        }
        Ok(Duration::try_from_secs_f32(milliseconds / 1e3).unwrap_or_default())
    }
}

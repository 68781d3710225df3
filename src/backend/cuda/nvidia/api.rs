//! The functions of the CUDA driver that patchwave calls, resolved all at once.
//!
//! cudarc finds the library and names its handles. Its functions are not called: each looks its symbol up at its first
//! call and panics where there is none, and they return an enumeration that is closed at one CUDA version, while a newer
//! driver may answer with codes of its own. Here every symbol is there before anything is called, and codes are numbers.

use super::probe::Unavailable;
use crate::backend::cuda::DriverError;
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// What every function of the driver returns: 0, or an error's number.
pub type Code = c_int;

/// Numbers of `CUresult` that patchwave acts on, and of attributes that it asks for (cuda.h).
pub mod code {
    pub const OUT_OF_MEMORY: i32 = 2;
    pub const STUB_LIBRARY: i32 = 34;
    pub const NO_DEVICE: i32 = 100;
    pub const SYSTEM_DRIVER_MISMATCH: i32 = 803;
}
pub mod attribute {
    /// CU_DEVICE_ATTRIBUTE_*
    pub const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
    pub const COMPUTE_CAPABILITY_MINOR: i32 = 76;
    pub const MULTIPROCESSOR_COUNT: i32 = 16;
    pub const MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: i32 = 97;
    /// CU_FUNC_ATTRIBUTE_*
    pub const FUNCTION_SHARED_SIZE_BYTES: i32 = 1;
    pub const FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES: i32 = 8;
}
/// CU_TENSOR_MAP_*: of numbers, of the swizzle by 128 bytes, and of how much the L2 cache fetches at once.
pub mod tensor_map {
    pub const FLOAT32: i32 = 7;
    pub const BFLOAT16: i32 = 9;
    pub const INTERLEAVE_NONE: i32 = 0;
    pub const SWIZZLE_128B: i32 = 3;
    pub const L2_PROMOTION_256B: i32 = 3;
    pub const ZEROS_OUTSIDE: i32 = 0;
}
pub const STREAM_NON_BLOCKING: c_uint = 1;
pub const EVENT_DEFAULT: c_uint = 0;
pub const EVENT_DISABLE_TIMING: c_uint = 2;

macro_rules! functions {
    ($($field:ident = $symbol:ident($($argument:ty),*);)+) => {
        /// The driver's functions, each by its name without `cu`; see NVIDIA's driver API reference.
        #[derive(Debug)]
        pub struct Api {
            $(pub $field: unsafe extern "C" fn($($argument),*) -> Code,)+
        }

        impl Api {
            /// Every symbol, or the name of the first that is missing.
            fn resolve(library: &'static libloading::Library) -> Result<Api, &'static str> {
                // SAFETY: the types are those of cuda.h.
                Ok(Api { $($field: unsafe {
                    *library.get(concat!(stringify!($symbol), "\0").as_bytes()).map_err(|_| stringify!($symbol))?
                },)+ })
            }
        }

        /// What a library must export to be taken for a driver.
        pub const SYMBOLS: &[&str] = &[$(stringify!($symbol)),+];
    };
}

functions! {
    init = cuInit(c_uint);
    driver_version = cuDriverGetVersion(*mut c_int);
    error_name = cuGetErrorName(Code, *mut *const c_char);
    error_string = cuGetErrorString(Code, *mut *const c_char);
    device_count = cuDeviceGetCount(*mut c_int);
    device_get = cuDeviceGet(*mut CUdevice, c_int);
    device_name = cuDeviceGetName(*mut c_char, c_int, CUdevice);
    device_attribute = cuDeviceGetAttribute(*mut c_int, c_int, CUdevice);
    device_memory = cuDeviceTotalMem_v2(*mut usize, CUdevice);
    context_retain = cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    context_release = cuDevicePrimaryCtxRelease_v2(CUdevice);
    context_set = cuCtxSetCurrent(CUcontext);
    stream_create = cuStreamCreate(*mut CUstream, c_uint);
    stream_destroy = cuStreamDestroy_v2(CUstream);
    stream_synchronize = cuStreamSynchronize(CUstream);
    memory_info = cuMemGetInfo_v2(*mut usize, *mut usize);
    memory_alloc = cuMemAlloc_v2(*mut CUdeviceptr, usize);
    memory_free = cuMemFree_v2(CUdeviceptr);
    host_alloc = cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    host_free = cuMemFreeHost(*mut c_void);
    copy_to_device = cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
    copy_from_device = cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
    fill_bytes = cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
    module_load = cuModuleLoadData(*mut CUmodule, *const c_void);
    module_unload = cuModuleUnload(CUmodule);
    module_function = cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    function_attribute = cuFuncGetAttribute(*mut c_int, c_int, CUfunction);
    function_set_attribute = cuFuncSetAttribute(CUfunction, c_int, c_int);
    launch = cuLaunchKernel(CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream,
        *mut *mut c_void, *mut *mut c_void);
    tensor_map = cuTensorMapEncodeTiled(*mut c_void, c_int, c_uint, *mut c_void, *const u64, *const u64, *const c_uint,
        *const c_uint, c_int, c_int, c_int, c_int);
    event_create = cuEventCreate(*mut CUevent, c_uint);
    event_record = cuEventRecord(CUevent, CUstream);
    event_synchronize = cuEventSynchronize(CUevent);
    event_elapsed = cuEventElapsedTime(*mut f32, CUevent, CUevent);
    event_destroy = cuEventDestroy_v2(CUevent);
}

impl Api {
    /// The driver of this machine.
    ///
    /// # Errors
    /// There is none, or it lacks a function.
    pub fn get() -> Result<&'static Api, Unavailable> {
        static API: OnceLock<Result<Api, Unavailable>> = OnceLock::new();
        let api = API.get_or_init(|| {
            // SAFETY: loads a library as its vendor means it to be loaded.
            if !unsafe { sys::is_culib_present() } {
                return Err(Unavailable::NoDriver);
            }
            // SAFETY: the library is there, so this does not panic.
            Api::resolve(unsafe { sys::culib() }).map_err(|symbol| Unavailable::NotADriver { symbol })
        });
        api.as_ref().map_err(Clone::clone)
    }

    /// An error in words: `CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)`.
    pub fn describe(&self, code: Code) -> String {
        let text = |function: unsafe extern "C" fn(Code, *mut *const c_char) -> Code| {
            let mut text = std::ptr::null();
            // SAFETY: on success the driver has stored a pointer to a string that lives as long as the library.
            let known = unsafe { function(code, &mut text) } == 0 && !text.is_null();
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        match (text(self.error_name), text(self.error_string)) {
            (Some(name), Some(meaning)) => format!("{name} ({meaning})"),
            (Some(name), None) => name,
            _ => format!("CUDA error {code}"),
        }
    }

    /// A failure of `what` as the backend reports it. Errors of a kernel come to light at whatever is asked for next.
    pub fn check(&self, code: Code, what: &str) -> Result<(), DriverError> {
        match code {
            0 => Ok(()),
            _ => Err(DriverError::Launch { message: format!("{what}: {}", self.describe(code)) }),
        }
    }
}

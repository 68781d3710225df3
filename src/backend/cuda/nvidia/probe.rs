//! Which GPUs this machine has, and why one cannot be used. Never panics, and starts no context on any of them.

use super::api::{Api, attribute, code};
use crate::backend::cuda::images::{Capability, LoadError};
use std::ffi::{CStr, c_int};

/// The oldest CUDA version whose drivers are good enough: what the prebuilt kernels and their PTX ask for.
pub const OLDEST_CUDA: CudaVersion = CudaVersion { major: 12, minor: 0 };
/// The oldest cards: `mma.sync` on bfloat16 and `cp.async` came with Ampere.
pub const OLDEST_CARD: Capability = Capability { major: 8, minor: 0 };

/// A CUDA version, as a driver reports the newest that it supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    pub major: u32,
    pub minor: u32,
}

impl CudaVersion {
    /// From CUDA's own number, 12020 for 12.2.
    pub fn from_number(number: i32) -> Self {
        let number = u32::try_from(number).unwrap_or(0);
        CudaVersion { major: number / 1000, minor: number % 1000 / 10 }
    }
}

impl std::fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A GPU of this machine, usable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// N of `cuda:N`, as `CUDA_VISIBLE_DEVICES` numbers them.
    pub ordinal: u32,
    pub name: String,
    pub capability: Capability,
    pub memory_bytes: u64,
    pub driver: CudaVersion,
}

impl std::fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gib = self.memory_bytes as f64 / (1u64 << 30) as f64;
        let DeviceInfo { ordinal, name, capability, driver, .. } = self;
        write!(f, "cuda:{ordinal} ({name}, compute capability {capability}, {gib:.0} GiB, driver for CUDA {driver})")
    }
}

impl DeviceInfo {
    /// # Errors
    /// The card is too old.
    pub fn usable(&self) -> Result<&Self, Unavailable> {
        if self.capability < OLDEST_CARD {
            let DeviceInfo { ordinal, name, capability, .. } = self.clone();
            return Err(Unavailable::CardTooOld { ordinal, name, capability });
        }
        Ok(self)
    }
}

/// Why no GPU can be used, in one line that says what would help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    #[error(
        "no CUDA driver on this machine (libcuda.so.1 is not found); install NVIDIA's driver 525 or later, or use --device cpu"
    )]
    NoDriver,
    #[error("libcuda.so lacks {symbol}, so it is no CUDA driver of version {OLDEST_CUDA} or later (NVIDIA's 525)")]
    NotADriver { symbol: &'static str },
    #[error(
        "libcuda.so is the CUDA toolkit's stub and no CUDA driver; take its folder out of LD_LIBRARY_PATH, or install NVIDIA's driver"
    )]
    Stub,
    #[error(
        "the CUDA driver is too old: it knows CUDA {found}, and {OLDEST_CUDA} (NVIDIA's driver 525) or later is needed"
    )]
    DriverTooOld { found: CudaVersion },
    #[error("no CUDA device: the driver finds no GPU{}", .visible.as_ref().map(|v| format!(" (CUDA_VISIBLE_DEVICES is {v:?})")).unwrap_or_default())]
    NoDevice { visible: Option<String> },
    #[error("cuda:{ordinal} is no CUDA device of this machine; it has cuda:0{}", if *.count > 1 { format!(" to cuda:{}", .count - 1) } else { String::new() })]
    NoSuchDevice { ordinal: u32, count: usize },
    #[error(
        "cuda:{ordinal} ({name}) is too old: its compute capability is {capability}, and {OLDEST_CARD} (Ampere) or later is needed"
    )]
    CardTooOld { ordinal: u32, name: String, capability: Capability },
    /// Ordinal, name and capability of two cards.
    #[error(
        "cuda:{} ({}, compute capability {}) and cuda:{} ({}, compute capability {}) do not compute the same bits; name cards of one kind, or one alone",
        .first.0, .first.1, .first.2, .other.0, .other.1, .other.2
    )]
    Mixed { first: (u32, String, Capability), other: (u32, String, Capability) },
    #[error(
        "cuda:{ordinal} has too little memory: {free} MiB are free and this needs {needed} MiB; shorter prompts or --dtype bfloat16 need less"
    )]
    TooLittleMemory { ordinal: u32, free: u64, needed: u64 },
    #[error(
        "the CUDA driver's library and kernel module are of different versions; a restart of the machine usually helps"
    )]
    DriverMismatch,
    #[error("cuda:{ordinal}: {error}")]
    Kernels { ordinal: u32, error: LoadError },
    #[error("the CUDA driver fails to {what}: {message}")]
    Failed { what: &'static str, message: String },
}

/// All GPUs of this machine, at least one.
///
/// # Errors
/// There is no driver, one that is too old or does not work, or no GPU.
pub fn probe() -> Result<Vec<DeviceInfo>, Unavailable> {
    let api = Api::get()?;
    let check = |code, what| failure(api, code, what).map_or(Ok(()), Err);
    // SAFETY (of all calls below): the functions are resolved with their types; pointers are to locals that outlive them.
    let mut version: c_int = 0;
    check(unsafe { (api.driver_version)(&mut version) }, "tell its version")?;
    let driver = CudaVersion::from_number(version);
    // The stub reports a version of 0 on some releases; cuInit tells it apart from an old driver.
    if driver < OLDEST_CUDA && version != 0 {
        return Err(Unavailable::DriverTooOld { found: driver });
    }
    check(unsafe { (api.init)(0) }, "start")?;
    if driver < OLDEST_CUDA {
        return Err(Unavailable::DriverTooOld { found: driver });
    }
    let mut count: c_int = 0;
    check(unsafe { (api.device_count)(&mut count) }, "count GPUs")?;
    let mut devices = Vec::new();
    for number in 0..count {
        let mut device = 0;
        check(unsafe { (api.device_get)(&mut device, number) }, "open a GPU")?;
        let mut name = [0; 256];
        check(unsafe { (api.device_name)(name.as_mut_ptr(), name.len() as c_int - 1, device) }, "name a GPU")?;
        let attribute = |which| {
            let mut value = 0;
            check(unsafe { (api.device_attribute)(&mut value, which, device) }, "describe a GPU")?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let mut bytes = 0usize;
        check(unsafe { (api.device_memory)(&mut bytes, device) }, "measure a GPU's memory")?;
        devices.push(DeviceInfo {
            ordinal: number.unsigned_abs(),
            // SAFETY: the last byte stays zero.
            name: unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned(),
            capability: Capability {
                major: attribute(attribute::COMPUTE_CAPABILITY_MAJOR)?,
                minor: attribute(attribute::COMPUTE_CAPABILITY_MINOR)?,
            },
            memory_bytes: bytes as u64,
            driver,
        });
    }
    if devices.is_empty() { Err(no_device()) } else { Ok(devices) }
}

/// The GPU to use: the one asked for, or the first that can be used.
///
/// # Errors
/// There is no such GPU, or it (where none is asked for: the first of them) is too old.
pub fn select(devices: &[DeviceInfo], ordinal: Option<u32>) -> Result<&DeviceInfo, Unavailable> {
    match ordinal {
        Some(ordinal) => devices
            .iter()
            .find(|d| d.ordinal == ordinal)
            .ok_or(Unavailable::NoSuchDevice { ordinal, count: devices.len() })?
            .usable(),
        None => match devices.iter().find(|d| d.usable().is_ok()) {
            Some(device) => Ok(device),
            None => devices.first().ok_or_else(no_device)?.usable(),
        },
    }
}

/// The GPUs asked for, or all there are. A row must get the same bits on each of them, so cards whose products are other
/// kernels do not mix: Hopper's (compute capability 9.0) are its own.
///
/// # Errors
/// There is no such GPU, one is too old, or they do not mix.
pub fn select_several<'d>(
    devices: &'d [DeviceInfo],
    ordinals: Option<&[u32]>,
) -> Result<Vec<&'d DeviceInfo>, Unavailable> {
    const HOPPER: Capability = Capability { major: 9, minor: 0 };
    let chosen = match ordinals {
        Some(ordinals) => ordinals.iter().map(|n| select(devices, Some(*n))).collect::<Result<Vec<_>, _>>()?,
        None => devices.iter().map(DeviceInfo::usable).collect::<Result<Vec<_>, _>>()?,
    };
    let first = chosen.first().ok_or_else(no_device)?;
    match chosen.iter().find(|d| (d.capability == HOPPER) != (first.capability == HOPPER)) {
        Some(other) => Err(Unavailable::Mixed {
            first: (first.ordinal, first.name.clone(), first.capability),
            other: (other.ordinal, other.name.clone(), other.capability),
        }),
        None => Ok(chosen),
    }
}

fn no_device() -> Unavailable {
    Unavailable::NoDevice { visible: std::env::var("CUDA_VISIBLE_DEVICES").ok() }
}

/// What a code means for somebody who wants to use a GPU.
pub(super) fn failure(api: &Api, code: i32, what: &'static str) -> Option<Unavailable> {
    match code {
        0 => None,
        code::STUB_LIBRARY => Some(Unavailable::Stub),
        code::NO_DEVICE => Some(no_device()),
        code::SYSTEM_DRIVER_MISMATCH => Some(Unavailable::DriverMismatch),
        _ => Some(Unavailable::Failed { what, message: api.describe(code) }),
    }
}

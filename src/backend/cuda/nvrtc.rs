//! NVRTC, NVIDIA's compiler as a library, where the machine has one: it compiles the embedded sources for a card that no
//! embedded image suits. What it has compiled is kept on disk.
//!
//! It is looked for in `PATCHWAVE_NVRTC` (the library or its folder); without that in the active Python environment,
//! where PyTorch's wheels bring it, in `CUDA_HOME`, `CUDA_PATH` and `/usr/local/cuda`, and where the system finds libraries.

use super::images::{Capability, GPU_CUH, Target};
use super::nvidia::probe::CudaVersion;
use libloading::Library;
use sha2::{Digest, Sha256};
use std::ffi::{CString, OsString, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};

/// Why NVRTC gave no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NvrtcError {
    #[error(
        "NVRTC, which could compile it, is not found (it comes with CUDA toolkits and with PyTorch; PATCHWAVE_NVRTC names its folder)"
    )]
    NotFound,
    #[error("PATCHWAVE_NVRTC={}: no NVRTC there ({reason})", path.display())]
    NotThere { path: PathBuf, reason: String },
    #[error("NVRTC {version} compiles for no card of compute capability {card} or below")]
    UnknownCard { version: CudaVersion, card: Capability },
    #[error("NVRTC {version} does not compile it: {message}")]
    Compile { version: CudaVersion, message: String },
}

type Program = *mut c_void;

/// A loaded NVRTC.
pub struct Nvrtc {
    version: CudaVersion,
    functions: Functions,
    // Last, so that it is unloaded after its functions are gone.
    _library: Library,
}

macro_rules! functions {
    ($($field:ident = $symbol:ident($($argument:ty),*);)+) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> c_int,)+
        }

        impl Functions {
            fn resolve(library: &Library) -> Result<Self, String> {
                // SAFETY: the types are those of nvrtc.h.
                Ok(Functions { $($field: unsafe {
                    *library.get(concat!(stringify!($symbol), "\0").as_bytes()).map_err(|e| e.to_string())?
                },)+ })
            }
        }
    };
}

functions! {
    version = nvrtcVersion(*mut c_int, *mut c_int);
    n_architectures = nvrtcGetNumSupportedArchs(*mut c_int);
    architectures = nvrtcGetSupportedArchs(*mut c_int);
    create = nvrtcCreateProgram(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char,
        *const *const c_char);
    compile = nvrtcCompileProgram(Program, c_int, *const *const c_char);
    log_size = nvrtcGetProgramLogSize(Program, *mut usize);
    log = nvrtcGetProgramLog(Program, *mut c_char);
    cubin_size = nvrtcGetCUBINSize(Program, *mut usize);
    cubin = nvrtcGetCUBIN(Program, *mut c_char);
    ptx_size = nvrtcGetPTXSize(Program, *mut usize);
    ptx = nvrtcGetPTX(Program, *mut c_char);
    destroy = nvrtcDestroyProgram(*mut Program);
}

impl Nvrtc {
    /// The first NVRTC found that is not newer than the driver, which refuses what a newer one makes; else the first.
    ///
    /// # Errors
    /// There is none, or none in `PATCHWAVE_NVRTC`.
    pub fn find(driver: CudaVersion) -> Result<Nvrtc, NvrtcError> {
        if let Some(path) = std::env::var_os("PATCHWAVE_NVRTC").map(PathBuf::from) {
            return Self::open(&path).map_err(|reason| NvrtcError::NotThere { path, reason });
        }
        let mut too_new = None;
        for path in candidates(&|name| std::env::var_os(name)) {
            match Self::open(&path) {
                Ok(found) if found.version.major <= driver.major => return Ok(found),
                Ok(found) => too_new = too_new.or(Some(found)),
                Err(_) => {}
            }
        }
        too_new.ok_or(NvrtcError::NotFound)
    }

    /// The NVRTC at `path`: the library, the folder that it lies in, or a name that the system knows.
    ///
    /// # Errors
    /// There is none, or it does not load; in the system's words.
    pub fn open(path: &Path) -> Result<Nvrtc, String> {
        let path = if path.is_dir() {
            library_names().map(|n| path.join(n)).find(|p| p.is_file()).ok_or("no libnvrtc.so in the folder")?
        } else {
            path.to_owned()
        };
        // NVRTC asks for its builtins by their bare name. Once they are loaded from where they lie, the system knows them.
        if let Some(entries) = path.parent().and_then(|folder| fs::read_dir(folder).ok()) {
            for entry in entries.flatten() {
                if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so") {
                    // SAFETY: NVIDIA's library of tables.
                    if let Ok(builtins) = unsafe { Library::new(entry.path()) } {
                        std::mem::forget(builtins);
                    }
                }
            }
        }
        // SAFETY: loads a library as its vendor means it to be loaded.
        let library = unsafe { Library::new(&path) }.map_err(|e| e.to_string())?;
        let functions = Functions::resolve(&library)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: pointers to two numbers.
        if unsafe { (functions.version)(&mut major, &mut minor) } != 0 {
            return Err("it does not tell its version".to_owned());
        }
        let version = CudaVersion { major: major.unsigned_abs(), minor: minor.unsigned_abs() };
        Ok(Nvrtc { version, functions, _library: library })
    }

    pub fn version(&self) -> CudaVersion {
        self.version
    }

    /// Machine code for `card`; where this NVRTC does not know the card, PTX for the latest that it does. A zero byte
    /// follows either.
    ///
    /// # Errors
    /// It knows no card up to this one, or the source does not compile.
    pub fn compile(&self, name: &str, source: &str, card: Capability) -> Result<(Target, Vec<u8>), NvrtcError> {
        let target = self.target(card)?;
        Ok((target, self.compile_for(name, source, target)?))
    }

    /// As [`Nvrtc::compile`], but kept in the user's cache folder by the source's `hash`, the target and NVRTC's version.
    ///
    /// # Errors
    /// As [`Nvrtc::compile`].
    pub fn compile_once(
        &self,
        name: &str,
        source: &str,
        hash: &str,
        card: Capability,
    ) -> Result<(Target, Vec<u8>), NvrtcError> {
        let target = self.target(card)?;
        let kept = cache_folder(&|name| std::env::var_os(name))
            .map(|folder| folder.join(format!("{name}-{hash:.16}-{target}-nvrtc{}", self.version)));
        if let Some(bytes) = kept.as_deref().and_then(read_kept) {
            return Ok((target, bytes));
        }
        let bytes = self.compile_for(name, source, target)?;
        if let Some(path) = kept {
            keep(&path, &bytes);
        }
        Ok((target, bytes))
    }

    fn target(&self, card: Capability) -> Result<Target, NvrtcError> {
        target_for(card, &self.cards()).ok_or(NvrtcError::UnknownCard { version: self.version, card })
    }

    fn compile_for(&self, name: &str, source: &str, target: Target) -> Result<Vec<u8>, NvrtcError> {
        let failed = |message| NvrtcError::Compile { version: self.version, message };
        self.run(name, source, target).map_err(failed)
    }

    /// The cards that it knows, in ascending order.
    fn cards(&self) -> Vec<Capability> {
        let mut n = 0;
        // SAFETY: a pointer to one number, then to `n` of them.
        if unsafe { (self.functions.n_architectures)(&mut n) } != 0 {
            return Vec::new();
        }
        let mut numbers = vec![0; usize::try_from(n).unwrap_or(0).min(1000)];
        if numbers.len() != n.unsigned_abs() as usize
            || unsafe { (self.functions.architectures)(numbers.as_mut_ptr()) } != 0
        {
            return Vec::new();
        }
        let card = |n: c_int| Capability { major: n.unsigned_abs() / 10, minor: n.unsigned_abs() % 10 };
        let mut cards: Vec<Capability> = numbers.into_iter().map(card).collect();
        cards.sort();
        cards
    }

    fn run(&self, name: &str, source: &str, target: Target) -> Result<Vec<u8>, String> {
        let text = |s: &str| CString::new(s).map_err(|_| "a zero byte in the source".to_owned());
        let (source, file, header, header_name) =
            (text(source)?, text(&format!("{name}.cu"))?, text(GPU_CUH)?, text("gpu.cuh")?);
        let mut program: Program = std::ptr::null_mut();
        // SAFETY (of all calls below): strings end in zero and outlive the program; buffers have the sizes asked for.
        let rc = unsafe {
            (self.functions.create)(
                &mut program,
                source.as_ptr(),
                file.as_ptr(),
                1,
                &header.as_ptr(),
                &header_name.as_ptr(),
            )
        };
        if rc != 0 {
            return Err(format!("NVRTC error {rc}"));
        }
        let options = [text(&format!("--gpu-architecture={target}"))?, text("--std=c++17")?];
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let rc = unsafe { (self.functions.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        let result = if rc == 0 {
            match target {
                Target::MachineCode { .. } => fetch(program, self.functions.cubin_size, self.functions.cubin),
                Target::Ptx { .. } => fetch(program, self.functions.ptx_size, self.functions.ptx),
            }
            .map(|mut bytes| {
                bytes.push(0);
                bytes
            })
        } else {
            let log = fetch(program, self.functions.log_size, self.functions.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let line = log.lines().find(|l| l.contains("error")).unwrap_or("no message");
            Err(line.trim_matches(['\0', ' ']).to_owned())
        };
        unsafe { (self.functions.destroy)(&mut program) };
        result
    }
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NVRTC {}", self.version)
    }
}

type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Fetch = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// One of the program's results: its size first, then the bytes.
fn fetch(program: Program, size: Size, get: Fetch) -> Result<Vec<u8>, String> {
    let mut n = 0;
    // SAFETY: NVRTC writes as many bytes as it has just said.
    let rc = unsafe { size(program, &mut n) };
    if rc != 0 || n > 1 << 30 {
        return Err(format!("NVRTC error {rc} at a result of {n} bytes"));
    }
    let mut bytes = vec![0u8; n];
    match unsafe { get(program, bytes.as_mut_ptr().cast()) } {
        0 => Ok(bytes),
        rc => Err(format!("NVRTC error {rc}")),
    }
}

/// The card itself if it is among `known`, else PTX for the latest known one before it.
fn target_for(card: Capability, known: &[Capability]) -> Option<Target> {
    if known.contains(&card) {
        return Some(Target::of_card(card));
    }
    known.iter().filter(|k| **k <= card).max().map(|k| Target::Ptx { capability: *k })
}

fn library_names() -> impl Iterator<Item = &'static str> {
    ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"].into_iter()
}

/// Where an NVRTC may be, the likeliest to suit first.
fn candidates(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    libraries(variable, "cuda_nvrtc", &library_names().collect::<Vec<_>>())
}

/// Where a library of CUDA's may be: the wheel `wheel` of the active Python environment, that environment, a toolkit, or by
/// its bare name wherever the system looks.
pub(super) fn libraries(variable: &dyn Fn(&str) -> Option<OsString>, wheel: &str, names: &[&str]) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable).map(PathBuf::from) {
        // lib/python3.N/site-packages
        let pythons = fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
        for python in pythons.map(|e| e.path()).filter(|p| p.join("site-packages").is_dir()) {
            let wheels = python.join("site-packages/nvidia");
            folders.extend([wheels.join("cu13/lib"), wheels.join(wheel).join("lib")]);
        }
        folders.push(environment.join("lib"));
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(PathBuf::from);
    for home in homes.chain([PathBuf::from("/usr/local/cuda")]) {
        folders.extend([home.join("lib64"), home.join("lib")]);
    }
    let files = folders.iter().flat_map(|f| names.iter().map(move |n| f.join(n))).filter(|p| p.is_file());
    files.chain(names.iter().map(PathBuf::from)).collect()
}

/// `$XDG_CACHE_HOME/patchwave/kernels` or `~/.cache/patchwave/kernels`.
fn cache_folder(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("patchwave/kernels"))
}

/// What an earlier run has kept: SHA-256, then the bytes. A file that was cut short or altered counts as none.
fn read_kept(path: &Path) -> Option<Vec<u8>> {
    let file = fs::read(path).ok()?;
    let (hash, bytes) = file.split_at_checked(32)?;
    (Sha256::digest(bytes)[..] == *hash).then(|| bytes.to_vec())
}

/// A cache that cannot be written is none: the next run compiles again.
fn keep(path: &Path, bytes: &[u8]) {
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::write(&unfinished, [&Sha256::digest(bytes)[..], bytes].concat())?;
        fs::rename(&unfinished, path)
    };
    if write().is_err() {
        let _ = fs::remove_file(&unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn card(major: u32, minor: u32) -> Capability {
        Capability { major, minor }
    }

    #[test]
    fn a_card_that_it_does_not_know_gets_ptx_of_the_one_before() {
        let known = [card(8, 0), card(8, 6), card(9, 0)];
        let target = |c| target_for(c, &known).map(|t| t.to_string());
        assert_eq!(target(card(8, 6)).as_deref(), Some("sm_86"));
        assert_eq!(target(card(9, 0)).as_deref(), Some("sm_90a"));
        assert_eq!(target(card(8, 9)).as_deref(), Some("compute_86"));
        assert_eq!(target(card(12, 0)).as_deref(), Some("compute_90"));
        assert_eq!(target(card(7, 5)), None);
    }

    #[test]
    fn a_damaged_file_of_the_cache_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/norm");
        assert_eq!(read_kept(&path), None);
        keep(&path, b"code\0");
        assert_eq!(read_kept(&path).as_deref(), Some(&b"code\0"[..]));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() = 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read_kept(&path), None);
        fs::write(&path, &bytes[..20]).unwrap();
        assert_eq!(read_kept(&path), None);
    }

    #[test]
    fn the_cache_lies_where_the_user_wants_it() {
        let with = |vars: &'static [(&str, &str)]| {
            cache_folder(&move |name| vars.iter().find(|v| v.0 == name).map(|v| v.1.into()))
        };
        assert_eq!(with(&[("HOME", "/home/a")]), Some("/home/a/.cache/patchwave/kernels".into()));
        assert_eq!(with(&[("HOME", "/home/a"), ("XDG_CACHE_HOME", "/c")]), Some("/c/patchwave/kernels".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", "relative")]), None);
    }

    #[test]
    fn wheels_of_the_active_environment_come_before_the_toolkit() {
        let folder = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        };
        let wheel = make("venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        let toolkit = make("cuda/lib64/libnvrtc.so.13");
        let root = folder.path().to_owned();
        let found = candidates(&move |name| match name {
            "VIRTUAL_ENV" => Some(root.join("venv").into()),
            "CUDA_HOME" => Some(root.join("cuda").into()),
            _ => None,
        });
        assert_eq!(found[..2], [wheel, toolkit]);
    }

    #[test]
    fn a_folder_without_it_says_so() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Nvrtc::open(folder.path()).unwrap_err().contains("libnvrtc"));
        assert!(Nvrtc::open(&folder.path().join("libnvrtc.so.12")).is_err());
    }
}

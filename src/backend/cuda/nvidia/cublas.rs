//! cuBLASLt, NVIDIA's library of products, where the machine has one: what `patchwave bench` compares its GEMMs with.
//! Nothing else uses it.
//!
//! It is looked for as NVRTC is ([`super::super::nvrtc`]); `PATCHWAVE_CUBLASLT` names the library or its folder. Its
//! functions and numbers are those of cublasLt.h of CUDA 12 and 13, resolved all at once before any is called. cudarc's own
//! bindings are not used: they look only where the system does, not in PyTorch's wheels, and panic where a symbol is
//! missing.
//!
//! Tested over a stand-in; not yet run on hardware.

use super::{Driver, DriverError, Nvidia};
use crate::backend::cuda::driver::DevicePtr;
use crate::backend::cuda::nvrtc::libraries;
use libloading::Library;
use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

type Status = c_int;
type Handle = *mut c_void;

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Heuristic {
    algorithm: [u64; 8],
    workspace_bytes: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// Numbers of cublasLt.h and library_types.h.
mod number {
    pub const CUDA_R_32F: i32 = 0;
    pub const CUDA_R_16BF: i32 = 14;
    /// Float32 sums; of float32 factors in float32 arithmetic, without TF32.
    pub const COMPUTE_32F: i32 = 68;
    pub const DESC_TRANSA: i32 = 3;
    pub const OP_T: i32 = 1;
    pub const PREF_MAX_WORKSPACE_BYTES: i32 = 1;
}

macro_rules! functions {
    ($($field:ident = $symbol:ident($($argument:ty),*) -> $result:ty;)+) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) -> $result,)+
        }

        impl Functions {
            fn resolve(library: &Library) -> Result<Self, String> {
                // SAFETY: the types are those of cublasLt.h.
                Ok(Functions { $($field: unsafe {
                    *library.get(concat!(stringify!($symbol), "\0").as_bytes()).map_err(|e| e.to_string())?
                },)+ })
            }
        }
    };
}

functions! {
    version = cublasLtGetVersion() -> usize;
    create = cublasLtCreate(*mut Handle) -> Status;
    destroy = cublasLtDestroy(Handle) -> Status;
    desc_create = cublasLtMatmulDescCreate(*mut Handle, c_int, c_int) -> Status;
    desc_set = cublasLtMatmulDescSetAttribute(Handle, c_int, *const c_void, usize) -> Status;
    desc_destroy = cublasLtMatmulDescDestroy(Handle) -> Status;
    layout_create = cublasLtMatrixLayoutCreate(*mut Handle, c_int, u64, u64, i64) -> Status;
    layout_destroy = cublasLtMatrixLayoutDestroy(Handle) -> Status;
    preference_create = cublasLtMatmulPreferenceCreate(*mut Handle) -> Status;
    preference_set = cublasLtMatmulPreferenceSetAttribute(Handle, c_int, *const c_void, usize) -> Status;
    preference_destroy = cublasLtMatmulPreferenceDestroy(Handle) -> Status;
    heuristic = cublasLtMatmulAlgoGetHeuristic(Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int,
        *mut Heuristic, *mut c_int) -> Status;
    matmul = cublasLtMatmul(Handle, Handle, *const c_void, *const c_void, Handle, *const c_void, Handle, *const c_void,
        *const c_void, Handle, *mut c_void, Handle, *const [u64; 8], *mut c_void, usize, *mut c_void) -> Status;
}

/// The library of this machine, loaded once and never unloaded.
///
/// # Errors
/// It is not there, in words.
fn library() -> Result<&'static Functions, String> {
    static LIBRARY: OnceLock<Result<Functions, String>> = OnceLock::new();
    LIBRARY.get_or_init(|| find(&|name| std::env::var_os(name))).as_ref().map_err(Clone::clone)
}

const NAMES: [&str; 3] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];

fn find(variable: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Result<Functions, String> {
    if let Some(path) = variable("PATCHWAVE_CUBLASLT").map(PathBuf::from) {
        return load(&path).map_err(|e| format!("PATCHWAVE_CUBLASLT={}: {e}", path.display()));
    }
    let found = libraries(variable, "cublas", &NAMES).iter().find_map(|path| load(path).ok());
    found.ok_or_else(|| "it comes with CUDA toolkits and with PyTorch; PATCHWAVE_CUBLASLT names its folder".to_owned())
}

fn load(path: &Path) -> Result<Functions, String> {
    let path = if path.is_dir() {
        NAMES.map(|n| path.join(n)).into_iter().find(|p| p.is_file()).ok_or("no libcublasLt.so in the folder")?
    } else {
        path.to_owned()
    };
    // SAFETY: loads a library as its vendor means it to be loaded.
    let library = unsafe { Library::new(&path) }.map_err(|e| e.to_string())?;
    let functions = Functions::resolve(&library)?;
    std::mem::forget(library);
    Ok(functions)
}

/// What the factors of a product are made of. Sums and results are float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    Float32,
    Bfloat16,
}

impl Numbers {
    fn bytes(self) -> usize {
        match self {
            Numbers::Float32 => 4,
            Numbers::Bfloat16 => 2,
        }
    }
}

/// A matrix as cuBLAS sees it: column j begins at `j · stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

/// Our product in cuBLAS's words.
///
/// Ours is C `[m, n]` = X `[m, k]` · Wᵀ with W `[n, k]`, all row-major. cuBLAS reads matrices column by column, and a
/// row-major `[r, c]` read column by column is its transpose, c × r with a stride of c. So it is asked for
/// Cᵀ = W · Xᵀ, n × m: its A is W seen as k × n and transposed, its B is X seen as k × m and taken as it is, and what it
/// writes, n × m by columns, is our C by rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnMajor {
    /// W; transposed.
    pub a: Columns,
    /// X.
    pub b: Columns,
    /// C.
    pub c: Columns,
}

impl ColumnMajor {
    pub fn of(m: usize, n: usize, k: usize) -> Self {
        let rows = |r: usize, c: usize| Columns { rows: c, cols: r, stride: c };
        ColumnMajor { a: rows(n, k), b: rows(m, k), c: rows(m, n) }
    }
}

/// Device memory that an algorithm may use, as NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// The library on a GPU's stream.
pub struct CublasLt<'a> {
    gpu: &'a Nvidia,
    functions: &'static Functions,
    handle: Handle,
}

impl Drop for CublasLt<'_> {
    fn drop(&mut self) {
        if self.gpu.session.enter().is_ok() {
            // SAFETY: made by `open`, and this is its last use.
            unsafe { (self.functions.destroy)(self.handle) };
        }
    }
}

fn check(status: Status, what: &str) -> Result<(), DriverError> {
    match status {
        0 => Ok(()),
        _ => Err(DriverError::Launch { message: format!("cuBLASLt: {what}: status {status}") }),
    }
}

impl<'a> CublasLt<'a> {
    /// # Errors
    /// It is not found, or does not start on this GPU, in words.
    pub fn open(gpu: &'a Nvidia) -> Result<Self, String> {
        let functions = library()?;
        gpu.session.enter().map_err(|e| e.to_string())?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a pointer to a handle; the context is this thread's.
        check(unsafe { (functions.create)(&mut handle) }, "start").map_err(|e| e.to_string())?;
        Ok(CublasLt { gpu, functions, handle })
    }

    /// `cuBLASLt 12.8.4`
    pub fn name(&self) -> String {
        // SAFETY: it takes nothing.
        version_name(unsafe { (self.functions.version)() })
    }

    /// A product of X `[m, k]` and W `[n, k]`, ready to be issued: entry i of X is `x_at(i)`, where rows repeat
    /// after `period`; entry i of W is `w_at(i)`; both are rounded to `numbers`.
    ///
    /// # Errors
    /// No memory, or no algorithm for the shape.
    pub fn product(
        &'a self,
        numbers: Numbers,
        (m, n, k): (usize, usize, usize),
        period: usize,
        (x_at, w_at): (impl Fn(usize) -> f32, impl Fn(usize) -> f32),
    ) -> Result<Product<'a>, DriverError> {
        let mapping = ColumnMajor::of(m, n, k);
        let size = |rows: usize, cols: usize, bytes: usize| {
            let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(bytes));
            bytes.ok_or(DriverError::TooLarge { what: "a matrix", value: rows })
        };
        let bytes = numbers.bytes();
        let x = Memory::new(self.gpu, size(m, k, bytes)?)?;
        let w = Memory::new(self.gpu, size(n, k, bytes)?)?;
        let out = Memory::new(self.gpu, size(m, n, 4)?)?;
        let workspace = Memory::new(self.gpu, WORKSPACE)?;
        let some = encode(numbers, (0..m.min(period) * k).map(x_at));
        for first in (0..m).step_by(period) {
            let len = (m - first).min(period) * k * bytes;
            // SAFETY: rows first .. of X.
            unsafe { self.gpu.copy_to_device(x.ptr.offset(first * k * bytes), &some[..len])? };
        }
        const ROWS: usize = 1024;
        for first in (0..n).step_by(ROWS) {
            let end = n.min(first + ROWS);
            let some = encode(numbers, (first * k..end * k).map(&w_at));
            // SAFETY: rows first .. of W.
            unsafe { self.gpu.copy_to_device(w.ptr.offset(first * k * bytes), &some)? };
        }
        self.gpu.synchronize()?;
        let (f, kind) = (
            self.functions,
            match numbers {
                Numbers::Float32 => number::CUDA_R_32F,
                Numbers::Bfloat16 => number::CUDA_R_16BF,
            },
        );
        self.gpu.session.enter()?;
        let layout = |c: Columns, kind: i32| {
            Owned::new(f.layout_destroy, |handle| {
                // SAFETY (of all calls below): handles are alive, pointers are to locals of the sizes given.
                check(
                    unsafe { (f.layout_create)(handle, kind, c.rows as u64, c.cols as u64, c.stride as i64) },
                    "describe a matrix",
                )
            })
        };
        let layouts = [layout(mapping.a, kind)?, layout(mapping.b, kind)?, layout(mapping.c, number::CUDA_R_32F)?];
        let desc = Owned::new(f.desc_destroy, |handle| {
            let created = unsafe { (f.desc_create)(handle, number::COMPUTE_32F, number::CUDA_R_32F) };
            check(created, "describe a product")
        })?;
        let transposed = number::OP_T;
        let set = unsafe { (f.desc_set)(desc.handle, number::DESC_TRANSA, (&raw const transposed).cast(), 4) };
        check(set, "transpose a factor")?;
        let preference = Owned::new(f.preference_destroy, |handle| {
            check(unsafe { (f.preference_create)(handle) }, "choose an algorithm")
        })?;
        let (most, which) = (WORKSPACE as u64, number::PREF_MAX_WORKSPACE_BYTES);
        check(
            unsafe { (f.preference_set)(preference.handle, which, (&raw const most).cast(), 8) },
            "choose an algorithm",
        )?;
        let mut best = Heuristic { algorithm: [0; 8], workspace_bytes: 0, state: 0, waves: 0.0, reserved: [0; 4] };
        let mut found = 0;
        let [a, b, c] = [0, 1, 2].map(|i: usize| layouts[i].handle);
        let chosen =
            unsafe { (f.heuristic)(self.handle, desc.handle, a, b, c, c, preference.handle, 1, &mut best, &mut found) };
        check(chosen, "choose an algorithm")?;
        if found < 1 {
            let message = format!("cuBLASLt has no algorithm for {m} × {k} → {n}");
            return Err(DriverError::Launch { message });
        }
        Ok(Product { lt: self, desc, layouts, algorithm: best.algorithm, memory: [w, x, out, workspace], n })
    }
}

/// From cuBLASLt's number: 120804 is 12.8.4.
fn version_name(number: usize) -> String {
    format!("cuBLASLt {}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
}

fn encode(numbers: Numbers, values: impl Iterator<Item = f32>) -> Vec<u8> {
    match numbers {
        Numbers::Float32 => values.flat_map(f32::to_le_bytes).collect(),
        Numbers::Bfloat16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

/// Device memory that is given back.
struct Memory<'a> {
    gpu: &'a Nvidia,
    ptr: DevicePtr,
}

impl<'a> Memory<'a> {
    fn new(gpu: &'a Nvidia, bytes: usize) -> Result<Self, DriverError> {
        Ok(Memory { gpu, ptr: gpu.alloc(bytes)? })
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, and this is its last use.
        unsafe { self.gpu.free(self.ptr) };
    }
}

/// A description that is given back.
struct Owned {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> Status,
}

impl Owned {
    fn new(
        destroy: unsafe extern "C" fn(Handle) -> Status,
        create: impl FnOnce(*mut Handle) -> Result<(), DriverError>,
    ) -> Result<Self, DriverError> {
        let mut handle = std::ptr::null_mut();
        create(&mut handle)?;
        Ok(Owned { handle, destroy })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and this is its last use.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// A product with its matrices on the GPU.
pub struct Product<'a> {
    lt: &'a CublasLt<'a>,
    desc: Owned,
    layouts: [Owned; 3],
    algorithm: [u64; 8],
    /// W, X, the result, room to work in.
    memory: [Memory<'a>; 4],
    n: usize,
}

impl Product<'_> {
    /// Issues the product on the GPU's stream.
    ///
    /// # Errors
    /// cuBLASLt refuses it.
    pub fn issue(&mut self) -> Result<(), DriverError> {
        let (lt, at) = (self.lt, |i: usize| self.memory[i].ptr.0 as *mut c_void);
        let ([a, b, c], (one, zero)) = ([0, 1, 2].map(|i: usize| self.layouts[i].handle), (1f32, 0f32));
        lt.gpu.session.enter()?;
        // SAFETY: handles and memory are alive, and the layouts describe matrices that lie in the memory.
        let status = unsafe {
            (lt.functions.matmul)(
                lt.handle,
                self.desc.handle,
                (&raw const one).cast(),
                at(0),
                a,
                at(1),
                b,
                (&raw const zero).cast(),
                at(2),
                c,
                at(2),
                c,
                &self.algorithm,
                at(3),
                WORKSPACE,
                lt.gpu.stream.cast(),
            )
        };
        check(status, "a product")
    }

    /// Row `r` of the result, `[n]`.
    ///
    /// # Errors
    /// The GPU failed.
    pub fn row(&self, r: usize) -> Result<Vec<f32>, DriverError> {
        let mut row = vec![0f32; self.n];
        let from = self.memory[2].ptr.offset(4 * r * self.n);
        // SAFETY: callers ask for rows of the result.
        unsafe { self.lt.gpu.copy_from_device(bytemuck::cast_slice_mut(&mut row), from)? };
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cuBLAS does: D = op(A) · B, all by columns.
    fn by_columns(map: &ColumnMajor, a: &[f32], b: &[f32]) -> Vec<f32> {
        let mut d = vec![f32::NAN; map.c.stride * map.c.cols];
        for j in 0..map.c.cols {
            for i in 0..map.c.rows {
                let sum = (0..map.b.rows).map(|l| a[i * map.a.stride + l] * b[j * map.b.stride + l]).sum();
                d[j * map.c.stride + i] = sum;
            }
        }
        d
    }

    #[test]
    fn a_product_by_columns_is_ours_by_rows() {
        let (m, n, k) = (2, 3, 4);
        let x: Vec<f32> = (0..m * k).map(|i| i as f32).collect();
        let w: Vec<f32> = (0..n * k).map(|i| (i * i % 7) as f32).collect();
        let map = ColumnMajor::of(m, n, k);
        assert_eq!((map.a.cols, map.a.rows, map.b.cols, map.b.rows), (n, k, m, k));
        let ours: Vec<f32> = (0..m * n).map(|at| (0..k).map(|l| x[at / n * k + l] * w[at % n * k + l]).sum()).collect();
        assert_eq!(by_columns(&map, &w, &x), ours);
    }

    #[test]
    fn versions_and_bytes() {
        assert_eq!(version_name(120_804), "cuBLASLt 12.8.4");
        assert_eq!(version_name(130_002), "cuBLASLt 13.0.2");
        assert_eq!(encode(Numbers::Bfloat16, [1.0f32].into_iter()), [0x80, 0x3f]);
        assert_eq!(encode(Numbers::Float32, [1.0f32].into_iter()), [0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn what_is_no_cublaslt_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().to_owned();
        let Err(error) = find(&|name| (name == "PATCHWAVE_CUBLASLT").then(|| named.clone().into())) else {
            panic!("an empty folder has no library")
        };
        assert!(error.contains("PATCHWAVE_CUBLASLT=") && error.contains("no libcublasLt.so"), "{error}");
        std::fs::write(folder.path().join("libcublasLt.so"), "not a library").unwrap();
        assert!(load(folder.path()).is_err());
    }
}

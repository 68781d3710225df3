//! [`MappedFile`]: a file of weights by memory map, whatever its format, and its numbers as float32.

use super::ModelError;
use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::Dtype;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A tensor is widened in stripes of so many bytes, and the pages of each are given back before the next.
const STRIPE: usize = 32 << 20;

/// A file that must not change while it is open.
pub(super) struct MappedFile {
    pub path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::Malformed`] for what is no file or has fewer than 8 bytes.
    pub fn open(path: &Path) -> Result<MappedFile, ModelError> {
        let malformed = |reason: &str| ModelError::Malformed { path: path.to_owned(), reason: reason.to_owned() };
        let about = std::fs::metadata(path).map_err(io(path))?;
        if !about.is_file() {
            return Err(malformed("is not a file"));
        }
        if about.len() < 8 {
            return Err(malformed("truncated: shorter than the length of its header"));
        }
        let file = File::open(path).map_err(io(path))?;
        // SAFETY: the file is only read, and the type says that it must not change while open.
        let map = unsafe { Mmap::map(&file) }.map_err(io(path))?;
        Ok(MappedFile { path: path.to_owned(), map })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Widens the little-endian numbers from byte `start` on. The caller has checked that they lie in the file and
    /// that `dtype` is one of [`FLOATS`].
    pub fn read(&self, dtype: Dtype, start: usize, out: &mut [f32]) {
        let (size, mut at) = (dtype.bitsize() / 8, start);
        for stripe in out.chunks_mut(STRIPE / size) {
            let end = at + stripe.len() * size;
            widen(dtype, &self.map[at..end], stripe);
            give_back(&self.map, at, end - at);
            at = end;
        }
    }

    /// The same for numbers that do not lie in a row: number i of the result is number `index(i)` after `start`.
    pub fn gather(&self, dtype: Dtype, start: usize, index: impl Fn(usize) -> usize + Sync, out: &mut [f32]) {
        const CHUNK: usize = 1 << 14;
        let size = dtype.bitsize() / 8;
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            for (i, out) in out.iter_mut().enumerate() {
                let at = start + index(chunk * CHUNK + i) * size;
                widen_some(dtype, &self.map[at..at + size], std::slice::from_mut(out));
            }
        });
    }
}

/// The types that widen to float32, as safetensors spells them.
pub(super) const FLOATS: [Dtype; 4] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];

/// What to say of a tensor that is needed but stored as anything else.
pub(super) fn not_a_float(dtype: &str) -> String {
    format!("stored as {dtype}; supported are F64, F32, F16 and BF16")
}

fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    const CHUNK: usize = 1 << 14;
    let size = dtype.bitsize() / 8;
    let chunks = out.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * size));
    chunks.for_each(|(out, bytes)| widen_some(dtype, bytes, out));
}

fn widen_some(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => {
            let mut halves = [f16::ZERO; 256];
            for (out, bytes) in out.chunks_mut(256).zip(bytes.chunks(512)) {
                let halves = &mut halves[..out.len()];
                each(bytes, halves, f16::from_le_bytes);
                halves.convert_to_f32_slice(out);
            }
        }
        Dtype::BF16 => each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        _ => each(bytes, out, f32::from_le_bytes),
    }
}

fn each<const N: usize, T>(bytes: &[u8], out: &mut [T], decode: impl Fn([u8; N]) -> T) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = decode(*bytes);
    }
}

#[cfg(unix)]
fn give_back(map: &Mmap, start: usize, len: usize) {
    // SAFETY: the map is read-only and backed by a file, so pages that are dropped come back with the same bytes.
    let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
    // Only advice: the tensor has been read whether or not the system takes it.
    drop(advised);
}

#[cfg(not(unix))]
fn give_back(_: &Mmap, _: usize, _: usize) {}

pub(super) fn io(path: &Path) -> impl Fn(std::io::Error) -> ModelError + '_ {
    |source| ModelError::Io { path: path.to_owned(), source }
}

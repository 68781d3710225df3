//! [`SafetensorsFolder`]: one or many `*.safetensors` files in a folder, by memory map.

use super::{Checkpoint, ModelError, TensorInfo};
use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// An index is about a hundred bytes a tensor.
const MAX_INDEX_BYTES: u64 = 256 << 20;
/// A tensor is widened in stripes of so many bytes, and the pages of each are given back before the next.
const STRIPE: usize = 32 << 20;

/// The tensors of a model folder. The files must not change while it is open.
pub struct SafetensorsFolder {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, Place>,
}

struct Shard {
    path: PathBuf,
    map: Mmap,
}

struct Place {
    shard: usize,
    /// Bytes of the file.
    start: usize,
    end: usize,
    dtype: Dtype,
}

impl SafetensorsFolder {
    /// Opens `model.safetensors`, or the shards named by `model.safetensors.index.json`, or the only `*.safetensors`
    /// file of the folder. Symbolic links are followed: the Hugging Face cache is made of them.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] if there are no such files, [`ModelError::Malformed`] naming the file that is
    /// truncated, whose header lies, that has a tensor of another shard, or that the index names but should not.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let index = folder.join(INDEX);
        if !folder.join(SINGLE).exists() && index.exists() {
            return Self::open_sharded(folder, &index);
        }
        let mut this = SafetensorsFolder { shards: vec![], tensors: BTreeMap::new(), places: BTreeMap::new() };
        this.add(&only_file(folder)?)?;
        Ok(this)
    }

    fn open_sharded(folder: &Path, index: &Path) -> Result<Self, ModelError> {
        let malformed = |reason| ModelError::Malformed { path: index.to_owned(), reason };
        let assigned = read_index(index)?;
        let mut this = SafetensorsFolder { shards: vec![], tensors: BTreeMap::new(), places: BTreeMap::new() };
        let mut names: Vec<&String> = assigned.values().collect();
        names.sort();
        names.dedup();
        for name in names {
            check_shard_name(name).map_err(malformed)?;
            let path = folder.join(name);
            if !path.exists() {
                return Err(malformed(format!("names shard {name:?}, which is not in the folder")));
            }
            this.add(&path)?;
        }
        for (tensor, shard) in &assigned {
            let found = this.places.get(tensor).map(|p| &this.shards[p.shard].path);
            if found.and_then(|p| p.file_name()).is_none_or(|f| *f != **shard) {
                return Err(malformed(format!("says that tensor {tensor:?} is in {shard:?}, but it is not")));
            }
        }
        Ok(this)
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> Vec<&Path> {
        self.shards.iter().map(|s| s.path.as_path()).collect()
    }

    /// # Errors
    /// [`ModelError::Tensor`] for the first of `names` that is stored as something that does not widen to float32.
    pub fn require_floats<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Result<(), ModelError> {
        names.into_iter().try_for_each(|name| self.place(name).map(drop))
    }

    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let malformed = |reason: String| ModelError::Malformed { path: path.to_owned(), reason };
        let map = map(path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| malformed(explain(&e, &map)))?;
        let data = header.checked_add(8).ok_or_else(|| malformed("the header is too long".into()))?;
        for (name, info) in metadata.tensors() {
            let (start, end) = (data.checked_add(info.data_offsets.0), data.checked_add(info.data_offsets.1));
            let (Some(start), Some(end)) = (start, end) else {
                return Err(malformed(format!("tensor {name:?} lies outside the file")));
            };
            if start > end || end > map.len() {
                return Err(malformed(format!("tensor {name:?} lies outside the file")));
            }
            let place = Place { shard: self.shards.len(), start, end, dtype: info.dtype };
            if let Some(other) = self.places.insert(name.clone(), place) {
                let other = self.shards[other.shard].path.display();
                return Err(malformed(format!("tensor {name:?} is in {other} as well")));
            }
            let tensor = TensorInfo { shape: info.shape.clone(), dtype: info.dtype.to_string() };
            self.tensors.insert(name, tensor);
        }
        self.shards.push(Shard { path: path.to_owned(), map });
        Ok(())
    }

    fn place(&self, name: &str) -> Result<&Place, ModelError> {
        let error = |reason| ModelError::Tensor { name: name.to_owned(), reason };
        let place = self.places.get(name).ok_or_else(|| error("missing from the checkpoint".into()))?;
        match place.dtype {
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(place),
            other => Err(error(format!("stored as {other}; supported are F64, F32, F16 and BF16"))),
        }
    }
}

impl Checkpoint for SafetensorsFolder {
    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let place = self.place(name)?;
        let (map, size) = (&self.shards[place.shard].map, place.dtype.bitsize() / 8);
        if out.len().checked_mul(size) != Some(place.end - place.start) {
            let reason = format!("read into {} numbers, but it has {}", out.len(), (place.end - place.start) / size);
            return Err(ModelError::Tensor { name: name.to_owned(), reason });
        }
        let mut at = place.start;
        for stripe in out.chunks_mut(STRIPE / size) {
            let end = at + stripe.len() * size;
            widen(place.dtype, &map[at..end], stripe);
            give_back(map, at, end - at);
            at = end;
        }
        Ok(())
    }
}

/// Little-endian numbers to float32.
fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    const CHUNK: usize = 1 << 14;
    let size = dtype.bitsize() / 8;
    out.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * size)).for_each(|(out, bytes)| match dtype {
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
    });
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

fn io(path: &Path) -> impl Fn(std::io::Error) -> ModelError + '_ {
    |source| ModelError::Io { path: path.to_owned(), source }
}

fn map(path: &Path) -> Result<Mmap, ModelError> {
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
    unsafe { Mmap::map(&file) }.map_err(io(path))
}

/// What is wrong with a file, in terms of the file.
fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    let header = bytes.first_chunk().map_or(0, |n| u64::from_le_bytes(*n));
    let file = bytes.len();
    match error {
        SafeTensorError::HeaderTooLarge => format!("the header claims {header} bytes, more than any model's"),
        SafeTensorError::InvalidHeaderLength => {
            format!("truncated or not safetensors: the header claims {header} bytes of a file of {file}")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("truncated or padded: the tensors do not add up to the {file} bytes of the file")
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("tensor {name:?} overlaps another or leaves a gap before it")
        }
        SafeTensorError::TensorInvalidInfo => "a tensor's offsets do not match its shape and type".to_owned(),
        other => other.to_string(),
    }
}

/// tensor → shard, of an index file.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let malformed = |reason: String| ModelError::Malformed { path: path.to_owned(), reason };
    let about = std::fs::metadata(path).map_err(io(path))?;
    if !about.is_file() || about.len() > MAX_INDEX_BYTES {
        return Err(malformed(format!("not a file of less than {MAX_INDEX_BYTES} bytes")));
    }
    #[derive(serde::Deserialize)]
    struct ShardIndex {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = std::fs::read(path).map_err(io(path))?;
    let index: ShardIndex = serde_json::from_slice(&bytes).map_err(|e| malformed(format!("invalid index: {e}")))?;
    Ok(index.weight_map)
}

/// A shard is a plain name in the folder. Judged by the text alone: what the name leads to may be a link.
fn check_shard_name(name: &str) -> Result<(), String> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(p)), None) if p == name);
    if plain && !name.contains(['/', '\\', ':', '\0']) && name.ends_with(".safetensors") {
        return Ok(());
    }
    Err(format!("names shard {name:?}; a shard must be a *.safetensors file of the same folder"))
}

fn only_file(folder: &Path) -> Result<PathBuf, ModelError> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(single);
    }
    let mut found = vec![];
    let mut pickled = false;
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        let name = entry.map_err(io(folder))?.file_name();
        let text = name.to_string_lossy();
        pickled |= text.starts_with("pytorch_model") && text.ends_with(".bin");
        if text.ends_with(".safetensors") {
            found.push(folder.join(&name));
        }
    }
    found.sort();
    let unsupported = |reason: String| ModelError::Unsupported { path: folder.to_owned(), reason };
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 if pickled => Err(unsupported(
            "has only pytorch_model*.bin; save it again with save_pretrained of transformers, which writes safetensors"
                .into(),
        )),
        0 => Err(unsupported("has no *.safetensors file".into())),
        n => Err(unsupported(format!("has {n} *.safetensors files but no {INDEX} that says how they belong together"))),
    }
}

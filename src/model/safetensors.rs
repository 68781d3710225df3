//! [`SafetensorsFolder`]: one or many `*.safetensors` files in a folder, by memory map.

use super::mapped::{FLOATS, MappedFile, io, not_a_float};
use super::shards::{Shards, open_shards};
use super::{Checkpoint, ModelError, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model folder. The files must not change while it is open.
pub struct SafetensorsFolder {
    shards: Vec<MappedFile>,
    tensors: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, Place>,
}

struct Place {
    shard: usize,
    /// Bytes of the file.
    start: usize,
    end: usize,
    dtype: Dtype,
}

impl SafetensorsFolder {
    /// Whether the folder has `model.safetensors` or its index.
    pub fn is(folder: &Path) -> bool {
        folder.join(SINGLE).exists() || folder.join(INDEX).exists()
    }

    /// Opens `model.safetensors`, or the shards named by `model.safetensors.index.json`, or the only `*.safetensors`
    /// file of the folder. Symbolic links are followed: the Hugging Face cache is made of them.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] if there are no such files, [`ModelError::Malformed`] naming the file that is
    /// truncated, whose header lies, that has a tensor of another shard, or that the index names but should not.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let mut this = SafetensorsFolder { shards: vec![], tensors: BTreeMap::new(), places: BTreeMap::new() };
        let index = folder.join(INDEX);
        if !folder.join(SINGLE).exists() && index.exists() {
            return open_shards(this, folder, &index, ".safetensors");
        }
        this.add(&only_file(folder)?)?;
        Ok(this)
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> Vec<&Path> {
        self.shards.iter().map(|s| s.path.as_path()).collect()
    }

    fn place(&self, name: &str) -> Result<&Place, ModelError> {
        let error = |reason| ModelError::Tensor { name: name.to_owned(), reason };
        let place = self.places.get(name).ok_or_else(|| error("missing from the checkpoint".into()))?;
        if !FLOATS.contains(&place.dtype) {
            return Err(error(not_a_float(&place.dtype.to_string())));
        }
        Ok(place)
    }
}

impl Shards for SafetensorsFolder {
    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let malformed = |reason: String| ModelError::Malformed { path: path.to_owned(), reason };
        let file = MappedFile::open(path)?;
        let map = file.bytes();
        let (header, metadata) = SafeTensors::read_metadata(map).map_err(|e| malformed(explain(&e, map)))?;
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
        self.shards.push(file);
        Ok(())
    }

    fn file_of(&self, tensor: &str) -> Option<&Path> {
        self.places.get(tensor).map(|p| self.shards[p.shard].path.as_path())
    }
}

impl Checkpoint for SafetensorsFolder {
    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let place = self.place(name)?;
        let size = place.dtype.bitsize() / 8;
        if out.len().checked_mul(size) != Some(place.end - place.start) {
            let reason = format!("read into {} numbers, but it has {}", out.len(), (place.end - place.start) / size);
            return Err(ModelError::Tensor { name: name.to_owned(), reason });
        }
        self.shards[place.shard].read(place.dtype, place.start, out);
        Ok(())
    }
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

fn only_file(folder: &Path) -> Result<PathBuf, ModelError> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(single);
    }
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).map_err(io(folder))? {
        let name = entry.map_err(io(folder))?.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".safetensors") {
            found.push(folder.join(&name));
        }
    }
    found.sort();
    let unsupported = |reason: String| ModelError::Unsupported { path: folder.to_owned(), reason };
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(unsupported("has neither *.safetensors files nor pytorch_model.bin".into())),
        n => Err(unsupported(format!("has {n} *.safetensors files but no {INDEX} that says how they belong together"))),
    }
}

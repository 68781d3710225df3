//! [`PickledFolder`]: `pytorch_model.bin`, in one or several files, read without running any of it.
//!
//! `torch.save` writes a zip container ([`zip`]) with a pickle that describes tensors ([`machine`]) and one entry of raw
//! numbers for each storage. A pickle is a program; this reader knows the five names that tensors need and refuses
//! everything else by name (`torch.load` with `weights_only` is the same idea with a longer list).

mod error;
mod machine;
mod zip;

pub use error::PickleError;

use super::mapped::{FLOATS, MappedFile, not_a_float};
use super::shards::{Shards, open_shards};
use super::{Checkpoint, ModelError, TensorInfo};
use machine::{Unpickled, View};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

pub(super) const SINGLE: &str = "pytorch_model.bin";
pub(super) const INDEX: &str = "pytorch_model.bin.index.json";
/// What `torch.save` of PyTorch before 1.6 begins with: a pickle of its magic number.
const LEGACY: [u8; 4] = [0x80, 2, 0x8a, 10];
/// Tied weights share a storage; a file whose tensors add up to more than this many times its length is no model.
const MAX_SHARING: usize = 4;

/// The tensors of a folder that has `pytorch_model.bin`, or shards of it. The files must not change while it is open.
pub struct PickledFolder {
    shards: Vec<MappedFile>,
    tensors: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, Place>,
}

struct Place {
    shard: usize,
    /// First byte of the tensor in the file.
    start: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

impl PickledFolder {
    /// Whether the folder has such files.
    pub fn is(folder: &Path) -> bool {
        folder.join(SINGLE).exists() || folder.join(INDEX).exists()
    }

    /// Opens `pytorch_model.bin`, else the shards named by `pytorch_model.bin.index.json`. No numbers are read.
    ///
    /// # Errors
    /// [`ModelError::Pickle`] naming the file and what in it is not a tensor, or is not where it should be;
    /// [`ModelError::Malformed`] for an index that is none or does not fit its shards.
    pub fn open(folder: &Path) -> Result<PickledFolder, ModelError> {
        let mut this = PickledFolder { shards: vec![], tensors: BTreeMap::new(), places: BTreeMap::new() };
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() {
            this.add(&single)?;
            return Ok(this);
        }
        open_shards(this, folder, &index, ".bin")
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> Vec<&Path> {
        self.shards.iter().map(|s| s.path.as_path()).collect()
    }
}

/// The tensors of one file, `shard` still 0.
fn tensors(file: &[u8]) -> Result<Vec<(String, Place)>, PickleError> {
    if file.starts_with(&LEGACY) {
        return Err(PickleError::Legacy);
    }
    let entries = zip::entries(file)?;
    // Everything is in one folder of the container, whose name is of no importance.
    let mut pickles = entries.iter().filter_map(|(name, at)| Some((name.strip_suffix("data.pkl")?, at)));
    let (folder, pickle) = match (pickles.next(), pickles.next()) {
        (Some((folder, at)), None) if folder.is_empty() || folder.ends_with('/') => (folder, at.clone()),
        (None, _) => return Err(PickleError::NoPickle),
        _ => return Err(PickleError::Container("has several data.pkl".to_owned())),
    };
    let entry = |name: &str| entries.get(&format!("{folder}{name}"));
    if entry("byteorder").is_some_and(|at| file[at.clone()].trim_ascii() == b"big") {
        return Err(PickleError::BigEndian);
    }
    let unpickled = Unpickled::read(&file[pickle])?;
    let (mut found, mut total) = (vec![], 0_usize);
    for (name, view) in unpickled.tensors()? {
        let place = place(view, entry(&format!("data/{}", view.storage.key)))
            .map_err(|reason| PickleError::Tensor { name: name.to_owned(), reason })?;
        let numel: usize = view.shape.iter().product();
        total = total.saturating_add(numel.saturating_mul(view.storage.dtype.bitsize() / 8));
        found.push((name.to_owned(), place));
    }
    if total > file.len().saturating_mul(MAX_SHARING) {
        return Err(PickleError::TooLarge("the tensors share the numbers of the file again and again"));
    }
    Ok(found)
}

/// Where a tensor begins, if its storage is in the file and as long as the pickle says.
fn place(view: &View, entry: Option<&Range<usize>>) -> Result<Place, String> {
    let storage = &view.storage;
    let size = storage.dtype.bitsize() / 8;
    let entry = entry.ok_or_else(|| format!("its numbers, data/{}, are missing", storage.key))?;
    if storage.numel.checked_mul(size) != Some(entry.len()) {
        let (claimed, dtype, is) = (storage.numel, storage.dtype, entry.len());
        return Err(format!(
            "the pickle claims {claimed} {dtype} numbers in data/{}, which has {is} bytes",
            storage.key
        ));
    }
    // The view lies within the storage, and the storage within the file.
    let start = entry.start + if view.shape.contains(&0) { 0 } else { view.offset * size };
    Ok(Place { shard: 0, start, dtype: storage.dtype, shape: view.shape.clone(), stride: view.stride.clone() })
}

impl Place {
    /// Whether the elements lie in a row, in the order of the shape.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1_usize;
        self.shape.iter().zip(&self.stride).rev().all(|(n, stride)| {
            let fits = *n == 1 || *stride == expected;
            // Overflows only beside a dimension of 0, where nothing is read.
            expected = expected.saturating_mul(*n);
            fits
        })
    }

    /// Where element `i` of the row-major tensor is, in numbers after the first.
    fn index(&self, mut i: usize) -> usize {
        let mut at = 0;
        for (n, stride) in self.shape.iter().zip(&self.stride).rev() {
            at += i % n * stride;
            i /= n;
        }
        at
    }
}

impl Shards for PickledFolder {
    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let file = MappedFile::open(path)?;
        let found = tensors(file.bytes()).map_err(|source| ModelError::Pickle { path: path.to_owned(), source })?;
        for (name, place) in found {
            let info = TensorInfo { shape: place.shape.clone(), dtype: place.dtype.to_string() };
            let place = Place { shard: self.shards.len(), ..place };
            if let Some(other) = self.places.insert(name.clone(), place) {
                let reason = match self.shards.get(other.shard) {
                    Some(other) => format!("is in {} as well", other.path.display()),
                    None => "is there twice".to_owned(),
                };
                let source = PickleError::Tensor { name, reason };
                return Err(ModelError::Pickle { path: path.to_owned(), source });
            }
            self.tensors.insert(name, info);
        }
        self.shards.push(file);
        Ok(())
    }

    fn file_of(&self, tensor: &str) -> Option<&Path> {
        self.places.get(tensor).map(|p| self.shards[p.shard].path.as_path())
    }
}

impl Checkpoint for PickledFolder {
    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let error = |reason| ModelError::Tensor { name: name.to_owned(), reason };
        let place = self.places.get(name).ok_or_else(|| error("missing from the checkpoint".into()))?;
        if !FLOATS.contains(&place.dtype) {
            return Err(error(not_a_float(&place.dtype.to_string())));
        }
        let numel: usize = place.shape.iter().product();
        if out.len() != numel {
            return Err(error(format!("read into {} numbers, but it has {numel}", out.len())));
        }
        let file = &self.shards[place.shard];
        if place.is_contiguous() {
            file.read(place.dtype, place.start, out);
        } else {
            file.gather(place.dtype, place.start, |i| place.index(i), out);
        }
        Ok(())
    }
}

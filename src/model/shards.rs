//! A model in several files: the `*.index.json` that says which tensor is in which, for safetensors and for pickles.

use super::ModelError;
use super::mapped::io;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// An index is about a hundred bytes a tensor.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// tensor → shard, of an index file; every shard is a plain name that ends in `extension` (with its dot).
///
/// # Errors
/// [`ModelError::Malformed`] for a file that is no index or names a shard outside its folder.
pub(super) fn read_index(path: &Path, extension: &str) -> Result<BTreeMap<String, String>, ModelError> {
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
    index.weight_map.values().try_for_each(|name| check_shard_name(name, extension)).map_err(malformed)?;
    Ok(index.weight_map)
}

/// The files of an index, in the order of their names.
pub(super) fn shard_names(assigned: &BTreeMap<String, String>) -> BTreeSet<&str> {
    assigned.values().map(String::as_str).collect()
}

/// A checkpoint that grows by the files of an index.
pub(super) trait Shards {
    /// Takes one more file.
    fn add(&mut self, path: &Path) -> Result<(), ModelError>;

    /// The file that has `tensor`.
    fn file_of(&self, tensor: &str) -> Option<&Path>;
}

/// Adds the files that `index` names, each tensor in the file that it is said to be in.
///
/// # Errors
/// As [`read_index`], and [`ModelError::Malformed`] for a file or tensor that is not there; what [`Shards::add`] says.
pub(super) fn open_shards<S: Shards>(
    mut this: S,
    folder: &Path,
    index: &Path,
    extension: &str,
) -> Result<S, ModelError> {
    let malformed = |reason| ModelError::Malformed { path: index.to_owned(), reason };
    let assigned = read_index(index, extension)?;
    for name in shard_names(&assigned) {
        let path = folder.join(name);
        if !path.exists() {
            return Err(malformed(format!("names shard {name:?}, which is not in the folder")));
        }
        this.add(&path)?;
    }
    for (tensor, shard) in &assigned {
        if this.file_of(tensor).and_then(Path::file_name).is_none_or(|f| *f != **shard) {
            return Err(malformed(format!("says that tensor {tensor:?} is in {shard:?}, but it is not")));
        }
    }
    Ok(this)
}

/// A shard is a plain name in the folder. Judged by the text alone: what the name leads to may be a link.
fn check_shard_name(name: &str, extension: &str) -> Result<(), String> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(p)), None) if p == name);
    if plain && !name.contains(['/', '\\', ':', '\0']) && name.ends_with(extension) {
        return Ok(());
    }
    Err(format!("names shard {name:?}; a shard must be a *{extension} file of the same folder"))
}

//! [`Store`]: one repository in the cache that `huggingface_hub`, transformers and hf-hub share.
//!
//! ```text
//! models--OWNER--NAME/
//!   refs/main                   the commit that the branch was at
//!   snapshots/COMMIT/FILE       a link to the blob
//!   blobs/ETAG                  the bytes; a link is only made once they are complete and checked
//!   .no_exist/COMMIT/FILE       the commit has no such file
//!   .partial/                   ours: what is being downloaded, in the same layout
//! ```

use super::{HubError, HubId, wanted};
use crate::model::ModelError;
use crate::model::shards::{read_index, shard_names};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use wanted::{CONFIG, OPTIONAL, Weights, weights};

pub(super) struct Store {
    root: PathBuf,
}

/// What a commit lacks in the cache.
pub(super) struct Lacking {
    /// The config and the weights; files that are not known yet are described.
    pub required: Vec<String>,
    /// Of those that a model may lack: neither here nor known not to exist.
    pub optional: Vec<&'static str>,
}

impl Store {
    pub fn new(cache: &Path, id: &HubId) -> Store {
        Store { root: cache.join(format!("models--{}", id.repository.replace('/', "--"))) }
    }

    /// The commit that `revision` was at when it was last asked for. A full hash stands for itself.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|c| is_commit(c))
    }

    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let path = self.root.join("refs").join(revision);
        if is_commit(revision) {
            return Ok(());
        }
        make_parent(&path)?;
        fs::write(&path, commit).map_err(|e| failed(&path, e))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Where downloads are staged: hf-hub takes a file for complete when a connection has ended, and we only when its
    /// length and hash are right.
    pub fn partial(&self) -> PathBuf {
        self.root.join(".partial")
    }

    /// Whether the file is here, whole.
    pub fn has(&self, commit: &str, file: &str) -> bool {
        self.snapshot(commit).join(file).is_file()
    }

    /// # Errors
    /// What is wrong with an index of shards.
    pub fn lacking(&self, commit: &str, id: &HubId) -> Result<Lacking, ModelError> {
        let absent = |file: &str| !self.has(commit, file);
        if let Some(file) = &id.file {
            let required = Some(file.clone()).filter(|f| absent(f)).into_iter().collect();
            return Ok(Lacking { required, optional: vec![] });
        }
        let mut required: Vec<String> = Some(CONFIG.to_owned()).filter(|f| absent(f)).into_iter().collect();
        match weights(&self.names(commit)) {
            None => required.push("the weights".to_owned()),
            Some(Weights::Single(_)) => {}
            Some(Weights::Sharded(index, extension)) => {
                let assigned = read_index(&self.snapshot(commit).join(index), extension)?;
                required.extend(shard_names(&assigned).into_iter().filter(|s| absent(s)).map(str::to_owned));
            }
        }
        let unknown = |file: &&str| absent(file) && !self.absence(commit, file).exists();
        Ok(Lacking { required, optional: OPTIONAL.into_iter().filter(unknown).collect() })
    }

    /// The files at the top of a snapshot; links to blobs that are gone are not among them.
    fn names(&self, commit: &str) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.snapshot(commit)) else { return BTreeSet::new() };
        let whole = entries.flatten().filter(|e| e.path().is_file());
        whole.filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.root.join(".no_exist").join(commit).join(file)
    }

    /// Notes that the commit has no such file, as `huggingface_hub` does, so that nobody need ask again.
    pub fn set_absent(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.absence(commit, file);
        make_parent(&path)?;
        fs::write(&path, "").map_err(|e| failed(&path, e))
    }

    /// Makes `file` of `commit` the blob `etag`, which is whole.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(file);
        make_parent(&pointer)?;
        if fs::symlink_metadata(&pointer).is_ok() {
            // A link that leads nowhere, or this function would not have been called.
            fs::remove_file(&pointer).map_err(|e| failed(&pointer, e))?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        link_or_move(&target, &self.blob(etag), &pointer).map_err(|e| failed(&pointer, e))
    }
}

#[cfg(unix)]
fn link_or_move(relative: &Path, _blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, pointer)
}

/// Links need a privilege on Windows; `huggingface_hub` then keeps the file itself in the snapshot.
#[cfg(not(unix))]
fn link_or_move(_relative: &Path, blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::rename(blob, pointer)
}

/// A full hash of git.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(super) fn make_parent(path: &Path) -> Result<(), HubError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(|e| failed(parent, e))
}

/// An error of the disk at `path`.
pub(super) fn failed(path: &Path, source: io::Error) -> HubError {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match source.kind() {
        StorageFull | QuotaExceeded => HubError::DiskFull { path: path.to_owned(), file },
        _ => HubError::Io { path: path.to_owned(), source },
    }
}

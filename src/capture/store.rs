//! Where captured numbers go.

use super::error::CaptureError;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A place for tensors of known shapes, written piece by piece in any order. It appears under its name when
/// [`finish`](Self::finish) is called, and leaves nothing behind when it is dropped before.
pub trait Store {
    /// Writes `bytes` into tensor number `tensor` of the plan, from its byte `at` on.
    fn write(&mut self, tensor: usize, at: u64, bytes: &[u8]) -> Result<(), CaptureError>;

    /// Flushes to disk and renames into place.
    fn finish(self: Box<Self>) -> Result<(), CaptureError>;
}

/// A file or folder under a temporary name beside its own, `NAME.partial`; removed when dropped.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    partial: PathBuf,
    done: bool,
}

impl Partial {
    /// # Errors
    /// [`CaptureError::Exists`] where `path` is something already.
    pub fn new(path: &Path) -> Result<Partial, CaptureError> {
        if path.symlink_metadata().is_ok() {
            return Err(CaptureError::Exists { path: path.to_owned() });
        }
        let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
        name.push(".partial");
        let partial = path.with_file_name(name);
        // What a killed process left.
        remove(&partial);
        Ok(Partial { path: path.to_owned(), partial, done: false })
    }

    /// Where it is until it is finished.
    pub fn temporary(&self) -> &Path {
        &self.partial
    }

    /// Renames into place.
    pub fn finish(mut self) -> Result<(), CaptureError> {
        fs::rename(&self.partial, &self.path).map_err(|e| self.failed(e))?;
        self.done = true;
        // The rename itself is only safe once the folder is; not every file system can sync one.
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Ok(folder) = fs::File::open(parent) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    /// The error of a failed write, under the name that the user gave.
    pub fn failed(&self, source: io::Error) -> CaptureError {
        CaptureError::Write { path: self.path.clone(), source }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            remove(&self.partial);
        }
    }
}

fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

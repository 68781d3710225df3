//! What can go wrong between a finished sweep and its files.

use std::io;
use std::path::PathBuf;

/// A run folder that cannot be written or read, or a picture that cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A file of the run could not be written; nothing that claims to be a finished run is left behind.
    #[error("{path}: cannot write: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path}: cannot read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: not a run: {reason}")]
    NotARun { path: PathBuf, reason: String },
    /// A sweep was stopped before it wrote `effects.safetensors`.
    #[error(
        "{path}: this run is unfinished (it has no effects.safetensors); finish it with `patchwave sweep … --resume`"
    )]
    Unfinished { path: PathBuf },
    /// The place named by `--output` is in use.
    #[error("{path}: {reason}")]
    Taken { path: PathBuf, reason: String },
    /// A run that is to be resumed was started with other options, prompts or weights.
    #[error("{path}: this run was started with another `{key}`; --resume needs the same, --force starts anew")]
    OtherPlan { path: PathBuf, key: String },
    /// The folder is a run's, but a file in it is not what the format says it should be.
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    /// A [`RunResult`](super::RunResult) whose parts do not fit together.
    #[error("run result: {0}")]
    Inconsistent(String),
    /// Two runs that cannot be compared cell by cell.
    #[error("the runs differ in {0}; diff needs the same sites, axes and direction")]
    OtherCells(String),
    #[error("effects of the {which} run are undefined: its clean and corrupted metrics are within the noise floor")]
    Undefined { which: &'static str },
    #[error("{path}: unknown picture format; the name must end in .svg, .png or .html")]
    UnknownFormat { path: PathBuf },
    #[error("heat map: {0}")]
    Render(String),
}

impl ExportError {
    /// 1 for what fails on the way (a full disk, a lost file system), 2 for a folder that is not a run, a place that
    /// cannot be written to at all, and every other bad input.
    pub fn exit_code(&self) -> u8 {
        match self {
            ExportError::Write { source, .. } => crate::error::exit_code_of_write(source),
            _ => 2,
        }
    }
}

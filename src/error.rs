//! The library's one error type: what went wrong, and which exit code the command line gives it.

use crate::backend::BackendError;
use crate::bench::BenchError;
use crate::capture::CaptureError;
use crate::export::ExportError;
use crate::model::ModelError;
use crate::probe::ProbeError;
use crate::prompts::PromptError;
use crate::sweep::{InterventionError, NodeError, SweepError};
use std::io::{self, ErrorKind};

/// Everything the library can fail with. Each module has a typed error of its own; this is their sum.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Prompt(#[from] PromptError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Intervention(#[from] InterventionError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Options that contradict each other or the model.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// 2 for bad usage or bad input, 1 for a run that failed on the way.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Model(e) | Error::Backend(BackendError::Model(e)) => e.exit_code(),
            Error::Prompt(e) => e.exit_code(),
            Error::Export(e) => e.exit_code(),
            Error::Capture(e) => e.exit_code(),
            Error::Probe(e) => e.exit_code(),
            Error::Bench(e) => e.exit_code(),
            Error::Sweep(SweepError::MeanOfMatrices | SweepError::Intervention(_)) | Error::Usage(_) => 2,
            Error::Intervention(_) | Error::Node(_) => 2,
            Error::Sweep(SweepError::Backend(BackendError::Model(e))) => e.exit_code(),
            Error::Backend(_) | Error::Sweep(_) => 1,
        }
    }
}

/// 2 for a place that cannot be written to at all, 1 for what fails on the way (a full disk, a lost file system).
pub(crate) fn exit_code_of_write(error: &io::Error) -> u8 {
    match error.kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidFilename
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::AlreadyExists => 2,
        _ => 1,
    }
}

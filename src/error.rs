//! The library's one error type: what went wrong, and which exit code the command line gives it.

use crate::export::ExportError;
use crate::model::ModelError;

/// Everything the library can fail with. Each module has a typed error of its own; this is their sum.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Export(#[from] ExportError),
}

impl Error {
    /// 2 for bad usage or bad input, 1 for a run that failed on the way.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Model(e) => e.exit_code(),
            Error::Export(e) => e.exit_code(),
        }
    }
}

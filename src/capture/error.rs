//! Why a capture stopped or could not begin.

use crate::backend::BackendError;
use crate::error::exit_code_of_write;
use std::io;
use std::path::PathBuf;

/// A capture that cannot be made. One line each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Nothing is left of what was written.
    #[error("{path}: cannot write: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path}: is there already; name another --output, or remove it")]
    Exists { path: PathBuf },
    #[error(
        "{tensor}: the activation of pair {pair} (from 0) is not finite; check the weights, or use a wider --dtype"
    )]
    NonFinite { tensor: String, pair: usize },
    /// A finite activation that the storage type cannot hold.
    #[error(
        "{tensor}: {value:e} in pair {pair} (from 0) is beyond {store_as}; use --store-as float32 (or bfloat16 for a wider range)"
    )]
    Overflow { tensor: String, pair: usize, value: f32, store_as: &'static str },
    #[error("this capture would have more bytes than a file can; choose fewer sites, layers or positions")]
    TooLarge,
    /// What was asked for does not fit the model or the prompts.
    #[error("{0}")]
    Asked(String),
    #[error("interrupted; nothing was written")]
    Interrupted,
}

impl CaptureError {
    /// 2 for what can be mended before running, 1 for what fails on the way.
    pub fn exit_code(&self) -> u8 {
        match self {
            CaptureError::Write { source, .. } => exit_code_of_write(source),
            CaptureError::Exists { .. } | CaptureError::Asked(_) | CaptureError::TooLarge => 2,
            CaptureError::Backend(BackendError::Model(e)) => e.exit_code(),
            _ => 1,
        }
    }
}

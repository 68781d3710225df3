//! What can go wrong in a benchmark.

use crate::backend::BackendError;
use crate::model::ModelError;
use crate::sweep::SweepError;

/// Why a benchmark stopped, or did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("--like {name}: expected {}", super::like::NAMES.join(", "))]
    NotLike { name: String },
    #[error("--shape {text}: expected rows, output and input dimensions as M,N,K: 4096,2304,768")]
    Shape { text: String },
    #[error("a benchmark of {rows} rows needs {} MiB for {what}, and --max-memory is {} MiB; --rows makes it smaller", .needed.div_ceil(1 << 20), .max >> 20)]
    TooLittleMemory { rows: usize, what: String, needed: u64, max: u64 },
    /// More than an address can name, or than anybody would time.
    #[error("a benchmark of {rows} rows is too large for {what}")]
    TooLarge { rows: usize, what: String },
    #[error("prompts of {len} tokens: the model's are at most {most} long; --len makes them shorter")]
    TooLong { len: usize, most: usize },
    #[error("the model has no layer with attention and no MLP: there is nothing to time")]
    NoLayer,
}

impl BenchError {
    /// 2 for what the options ask for and cannot be, 1 for what fails on the way.
    pub fn exit_code(&self) -> u8 {
        match self {
            BenchError::Backend(BackendError::Model(e)) | BenchError::Model(e) => e.exit_code(),
            BenchError::Backend(_) | BenchError::Sweep(_) => 1,
            _ => 2,
        }
    }
}

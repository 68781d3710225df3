//! What can be wrong with a model on disk.

use super::hub::HubError;
use super::pickle::PickleError;
use std::path::PathBuf;

/// A model that cannot be used, and why. Messages name the file, the tensor or the key, and what would fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The bytes of `path` are not what the format says they should be.
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    /// A well-formed model that asks for something patchwave does not do (and does not guess).
    #[error("{path}: {reason}")]
    Unsupported { path: PathBuf, reason: String },
    /// A pickled checkpoint that is refused, or is not one.
    #[error("{path}: {source}")]
    Pickle { path: PathBuf, source: PickleError },
    /// A model of the hub that is not here.
    #[error(transparent)]
    Hub(Box<HubError>),
    #[error("config.json: {0}")]
    Config(String),
    /// A tensor that is missing, left over, or of the wrong shape.
    #[error("tensor {name}: {reason}")]
    Tensor { name: String, reason: String },
    /// NaN or infinity among the weights. The run cannot mean anything, so it stops (exit code 1).
    #[error("tensor {name}: element {index} is {value}; the weights must be finite")]
    NonFinite { name: String, index: usize, value: f32 },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

impl From<HubError> for ModelError {
    fn from(error: HubError) -> ModelError {
        ModelError::Hub(Box::new(error))
    }
}

impl ModelError {
    /// 1 for weights that are not finite and downloads that failed on the way, 2 for everything that is the input's shape.
    pub fn exit_code(&self) -> u8 {
        match self {
            ModelError::NonFinite { .. } => 1,
            ModelError::Hub(e) => e.exit_code(),
            _ => 2,
        }
    }
}

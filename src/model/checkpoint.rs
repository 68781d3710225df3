//! The two ways of looking at weights: by the names of the file ([`Checkpoint`]) and by the names of the spec
//! ([`Params`]).

use super::ModelError;
use std::collections::BTreeMap;

/// One tensor of a checkpoint, as its header declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Row-major, in Hugging Face's layout for that name.
    pub shape: Vec<usize>,
    /// The storage type as the file spells it (`F32`, `BF16`, `Q4_1` …), for messages.
    pub dtype: String,
}

impl TensorInfo {
    /// Number of elements. The reader has checked that the product does not overflow.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A set of tensors under **Hugging Face names and layouts**: safetensors files, or a GGUF file seen through its
/// family's names.
pub trait Checkpoint: Send + Sync {
    fn tensors(&self) -> &BTreeMap<String, TensorInfo>;

    /// Widens tensor `name` to float32, row-major; `out` has exactly its number of elements. Pages of the memory map
    /// that were read are given back to the system, so that loading needs no more memory than one tensor.
    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError>;
}

/// The parameters of a model under the names of [`ModelSpec::params`](super::ModelSpec::params), matrices `[out, in]`.
pub trait Params: Send + Sync {
    /// Fills `out` (exactly the parameter's number of elements, row-major) with parameter `name`.
    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError>;
}

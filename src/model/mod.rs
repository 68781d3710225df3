//! A model on disk becomes a [`ModelSpec`] (everything the forward pass branches on) and a set of named parameters.

pub mod checkpoint;
pub mod error;
pub mod gguf;
pub mod spec;
pub mod tokenizer;

pub use checkpoint::{Checkpoint, Params, TensorInfo};
pub use error::ModelError;
pub use gguf::Gguf;
pub use spec::ModelSpec;
pub use tokenizer::Tokenizer;

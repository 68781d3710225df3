//! A model on disk becomes a [`ModelSpec`] (everything the forward pass branches on) and a set of named parameters.

mod binding;
pub mod catalog;
pub mod checkpoint;
mod config;
pub mod error;
mod family;
pub mod gguf;
pub mod hub;
mod inert;
mod mapped;
mod open;
pub mod pickle;
mod resolve;
mod rope;
mod safetensors;
mod shards;
pub mod spec;
pub mod tokenizer;
mod wrapper;

pub use binding::BoundParams;
pub use checkpoint::{Checkpoint, Params, TensorInfo};
pub use error::ModelError;
pub use family::{Stored, model_types};
pub use gguf::Gguf;
pub use hub::{Hub, HubId, Snapshot};
pub use open::ModelFiles;
pub use pickle::PickledFolder;
pub use resolve::{Resolved, resolve, resolve_config};
pub use safetensors::SafetensorsFolder;
pub use spec::ModelSpec;
pub use tokenizer::Tokenizer;

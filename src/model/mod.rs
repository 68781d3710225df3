//! A model on disk becomes a [`ModelSpec`] (everything the forward pass branches on) and a set of named parameters.

pub mod checkpoint;
mod config;
pub mod error;
mod family;
mod inert;
mod resolve;
mod rope;
pub mod spec;

pub use checkpoint::{Checkpoint, Params, TensorInfo};
pub use error::ModelError;
pub use family::{Stored, model_types};
pub use resolve::{Resolved, resolve, resolve_config};
pub use spec::ModelSpec;

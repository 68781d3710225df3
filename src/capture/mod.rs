//! Activations of whole runs, written to a file as they are computed.
//!
//! A [`Plan`] knows every tensor's shape and place before anything runs, so that each batch of prompts is written where
//! it belongs and forgotten: memory never holds more than one batch. The files are described in `docs/formats.md`.

mod batch;
mod error;
mod hook;
mod npy;
mod plan;
mod safetensors_file;
mod store;

pub use batch::{Observer, Progress, capture};
pub use error::CaptureError;
pub use hook::{Hook, StoreAs, UnknownHook, WhichRun};
pub use npy::NpyFolder;
pub use plan::{Asked, Content, Dtype, NamedPosition, Plan, Tensor};
pub use safetensors_file::SafetensorsFile;
pub use store::{Partial, Store};

pub mod backend;
pub mod engine;
pub mod error;
pub mod model;
pub mod prompts;
pub mod sweep;

pub use error::Error;

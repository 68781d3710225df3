pub mod backend;
pub mod cli;
pub mod demo;
pub mod engine;
pub mod error;
pub mod export;
pub mod model;
pub mod prompts;
pub mod sweep;

pub use error::Error;

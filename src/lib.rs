pub mod error;
pub mod model;
pub mod prompts;

pub use error::Error;

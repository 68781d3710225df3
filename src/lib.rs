pub mod error;
pub mod export;
pub mod model;

pub use error::Error;

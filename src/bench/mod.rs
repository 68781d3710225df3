//! Benchmarks: every operation of a sweep at the shapes of a model, and a whole wave, against what the device can do.
//!
//! What a figure is compared with is measured in the same run: the rate of a large copy (bytes read and written a
//! second) and that of a large product (floating-point operations a second, in the same precision). The roofline model
//! (Williams, Waterman, Patterson: Roofline, 2009, doi:10.1145/1498765.1498785) makes one limit of the two: an operation
//! of `i` FLOP per byte can run at `min(product, i · copy)` FLOP/s. [`work`] has the formulas for FLOP and bytes.
//!
//! No weights are read: [`kernels`] and [`wave`] need a [`crate::model::ModelSpec`] and make their own [`numbers`].

pub mod case;
pub mod ceiling;
pub mod device;
pub mod error;
pub mod kernels;
pub mod like;
mod memory;
pub mod numbers;
mod prepare;
pub mod product;
pub mod shape;
pub mod timed;
pub mod timing;
pub mod wave;
pub mod work;

pub use case::{Case, cases};
pub use ceiling::Ceilings;
pub use device::{Benched, Rival};
pub use error::BenchError;
pub use kernels::{KernelReport, KernelRow};
pub use memory::{check, fitting};
pub use prepare::prepare;
pub use shape::WaveShape;
pub use timed::Timed;
pub use timing::Timing;
pub use wave::WaveReport;
pub use work::Work;

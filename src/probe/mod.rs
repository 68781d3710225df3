//! Probes: what can be read from an activation with one linear map, at every layer and position, and along which
//! direction it is read.
//!
//! A probe is a logistic regression (labels that are words) or a ridge regression (labels that are numbers), both with an
//! L2 penalty that leaves the intercept out, judged by cross-validation. Everything is float64, deterministic, and means
//! what scikit-learn's `LogisticRegression(C=1/l2)` and `Ridge(alpha=l2)` mean; `tests/probe.rs` holds it to them.

mod activations;
mod error;
mod fit;
mod folds;
mod labels;
mod matrix;
mod newton;
mod run;
mod scale;
mod write;

pub use activations::Activations;
pub use error::ProbeError;
pub use fit::{Linear, Penalty, cross_validate, directions, fit};
pub use folds::Folds;
pub use labels::{Kind, Labelled, Target};
pub use matrix::Matrix;
pub use run::{Direction, Options, Report, SiteReport, run};
pub use scale::Scaler;
pub use write::{Written, write};

//! Why a probe cannot be fitted.

use crate::capture::CaptureError;
use crate::error::exit_code_of_write;
use std::io;
use std::path::PathBuf;

/// A probe that cannot be made. One line each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    #[error("{path}: cannot read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("{path}: cannot write: {source}")]
    Write { path: PathBuf, source: io::Error },
    /// `place` is a line of a file, or the number of the pair.
    #[error("{place}: no field {field:?}, which --label names; the labels here are {has}")]
    LabelMissing { place: String, field: String, has: String },
    #[error("{place}: {field}: {found}; {wanted}")]
    LabelType { place: String, field: String, found: String, wanted: &'static str },
    #[error("--label {field}: every pair has the same label, {only:?}; there is nothing to tell apart")]
    OneClass { field: String, only: String },
    #[error("--label {field}: every pair has the same number, {only}; there is nothing to predict")]
    OneNumber { field: String, only: f64 },
    #[error(
        "--label {field}: class {class:?} has {examples} pairs, fewer than the {folds} folds; use a smaller --folds, or more pairs"
    )]
    FewerThanFolds { field: String, class: String, examples: usize, folds: usize },
    #[error("{examples} pairs are fewer than the {folds} folds; use a smaller --folds, or more pairs")]
    TooFewPairs { examples: usize, folds: usize },
    #[error("--folds {folds}: cross-validation takes two at least")]
    Folds { folds: usize },
    #[error("--l2 {l2}: the penalty is a positive number")]
    Penalty { l2: f64 },
    #[error("{tensor}: the activation of pair {pair} (from 0) is not finite")]
    NonFinite { tensor: String, pair: usize },
    /// The plan of the captures does not fit what probes read.
    #[error("{0}")]
    Asked(String),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("interrupted; nothing was written")]
    Interrupted,
}

impl ProbeError {
    /// 2 for bad input, 1 for what fails on the way.
    pub fn exit_code(&self) -> u8 {
        match self {
            ProbeError::Write { source, .. } => exit_code_of_write(source),
            ProbeError::Capture(e) => e.exit_code(),
            ProbeError::Interrupted => 1,
            _ => 2,
        }
    }
}

//! Why an intervention cannot be made.

use crate::engine::Site;

/// A patch that makes no sense, here or anywhere.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InterventionError {
    #[error("--patch {text:?}: {why}")]
    Unreadable { text: String, why: &'static str },
    #[error("--patch {patch} has no meaning at {site}: {why}")]
    NoMeaning { patch: &'static str, site: Site, why: &'static str },
    #[error(
        "--patch resample: no other pair has the {len} tokens of pair {pair} (from 0) and could stand in for it; give more pairs of one length, or say with --align how positions of different lengths correspond"
    )]
    NoPartner { pair: usize, len: usize },
    #[error("--patch resample at {site} needs prompts of one length: matrices of different sizes do not correspond")]
    MatricesOfLengths { site: Site },
    /// A file of directions that does not fit.
    #[error("--patch add:{file}: {reason}")]
    Directions { file: String, reason: String },
    #[error("--edges {text:?}: {reason}")]
    Edges { text: String, reason: String },
}

//! What can be captured, of which run, and in which type it is stored.

use crate::engine::Site;
use crate::model::ModelSpec;
use std::fmt;
use std::str::FromStr;

/// One of a pair's two runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WhichRun {
    Clean,
    Corrupted,
}

impl WhichRun {
    /// `clean` or `corrupted`, which is how its tensors' names begin.
    pub fn name(self) -> &'static str {
        match self {
            WhichRun::Clean => "clean",
            WhichRun::Corrupted => "corrupted",
        }
    }
}

/// A site, or the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// After the final norm, the unembedding and its softcap, `[d_vocab]` a row.
    Logits,
    Site(Site),
}

/// A name that is neither a site's nor `logits`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown site {0:?}; what can be captured is logits, {list}", list = Site::ALL.map(Site::name).join(", "))]
pub struct UnknownHook(pub String);

impl FromStr for Hook {
    type Err = UnknownHook;

    /// `logits`, or a site in any of its spellings ([`Site::from_str`]).
    fn from_str(name: &str) -> Result<Self, UnknownHook> {
        if name == "logits" {
            return Ok(Hook::Logits);
        }
        name.parse().map(Hook::Site).map_err(|_| UnknownHook(name.to_owned()))
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hook::Logits => f.write_str("logits"),
            Hook::Site(site) => f.write_str(site.name()),
        }
    }
}

/// `[heads, width]` or `[width]` of one row at `site`; `None` for scores and patterns, whose rows are as long as the
/// prompt, and for a layer without the site.
pub(super) fn row_shape(spec: &ModelSpec, site: Site, layer: usize) -> Option<Vec<usize>> {
    if !site.exists(spec, layer) {
        return None;
    }
    let heads = site.heads(spec, layer);
    Some(match (site, spec.attn(layer), spec.mlp(layer)) {
        (Site::AttnScores | Site::Pattern, ..) => return None,
        (Site::Q | Site::K, Some(a), _) => vec![heads, a.d_qk],
        (Site::V | Site::Z, Some(a), _) => vec![heads, a.d_v],
        (Site::Result, ..) => vec![heads, spec.d_model],
        (Site::MlpPre | Site::MlpPost, _, Some(m)) => vec![m.d_mlp],
        _ => vec![spec.d_model],
    })
}

/// The type that numbers have in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum StoreAs {
    #[default]
    Float32,
    /// Rounded to nearest even; a number beyond ±65504 is an error.
    Float16,
    /// Rounded to nearest even.
    Bfloat16,
}

impl StoreAs {
    pub fn name(self) -> &'static str {
        match self {
            StoreAs::Float32 => "float32",
            StoreAs::Float16 => "float16",
            StoreAs::Bfloat16 => "bfloat16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        if self == StoreAs::Float32 { 4 } else { 2 }
    }

    /// Appends the numbers, little-endian. A finite number that becomes infinite is the error, by its index.
    pub(super) fn encode(self, numbers: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
        out.reserve(numbers.len() * self.bytes());
        match self {
            StoreAs::Float32 => numbers.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
            StoreAs::Float16 => {
                for (i, x) in numbers.iter().enumerate() {
                    let half = half::f16::from_f32(*x);
                    if half.is_infinite() && x.is_finite() {
                        return Err(i);
                    }
                    out.extend_from_slice(&half.to_le_bytes());
                }
            }
            StoreAs::Bfloat16 => {
                for (i, x) in numbers.iter().enumerate() {
                    let half = half::bf16::from_f32(*x);
                    if half.is_infinite() && x.is_finite() {
                        return Err(i);
                    }
                    out.extend_from_slice(&half.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hooks() {
        assert_eq!("logits".parse(), Ok(Hook::Logits));
        assert_eq!("attn.hook_z".parse(), Ok(Hook::Site(Site::Z)));
        let message = "embed".parse::<Hook>().unwrap_err().to_string();
        assert!(message.contains("\"embed\"") && message.contains("logits, resid_pre"), "{message}");
    }

    #[test]
    fn a_number_that_float16_cannot_hold_is_found() {
        let mut out = Vec::new();
        assert_eq!(StoreAs::Float16.encode(&[1.0, f32::NEG_INFINITY, 65504.0], &mut out), Ok(()));
        assert_eq!(out, [0x00, 0x3c, 0x00, 0xfc, 0xff, 0x7b], "1, −∞ and the largest");
        assert_eq!(StoreAs::Float16.encode(&[1.0, 7e4], &mut out), Err(1));
        assert_eq!(StoreAs::Bfloat16.encode(&[7e4], &mut out), Ok(()));
        assert_eq!(StoreAs::Bfloat16.encode(&[f32::MAX], &mut out), Err(0));
    }
}

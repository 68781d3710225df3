//! What a patch writes: the other run's activation, zeros, means, noise, another pair's activation, a steering direction,
//! a multiple of what is there; or which edges of attention it takes away.

mod directions;
mod edges;
mod error;
mod random;
mod values;

pub use directions::Directions;
pub use edges::{EdgeName, Edges};
pub use error::InterventionError;
pub(crate) use random::partners;
pub(crate) use values::{Kept, Pairs, delta_cache, keep_of, places, resampled, shifted};

use super::cells::Column;
use crate::engine::{Point, Program, Site};
use crate::model::ModelSpec;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What becomes of a patched activation of the base run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum PatchKind<'a> {
    /// The source run's activation.
    #[default]
    Source,
    Zero,
    /// The mean over the pairs' source runs: per aligned position, or over all positions where nothing is aligned.
    Mean,
    /// base + sigma · N(0, 1), drawn anew for every number (Meng et al. 2022, arXiv:2202.05262, §2.1 corrupt the embedding
    /// so). The metric is averaged over the draws.
    Noise {
        sigma: f32,
        draws: Draws,
    },
    /// The source run's activation of another pair, dealt out by chance. The metric is averaged over the draws.
    Resample {
        draws: Draws,
    },
    /// base + scale · direction. `axis` is what a direction's positions stand for.
    Add {
        directions: &'a Directions,
        scale: f32,
        axis: &'a [Column],
    },
    /// factor · base.
    Scale(f32),
    /// Attention scores of edges from a source to a destination become −∞ before the softmax (Geva et al. 2023,
    /// arXiv:2304.14767). `[column][pair]`: the source of the edge whose destination is the sweep's position column.
    Knockout(&'a [Vec<Option<u32>>]),
}

/// How random patches are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    pub seed: u64,
    /// At least one.
    pub n: u32,
}

impl PatchKind<'_> {
    /// `source`, `noise` …, without parameters.
    pub fn name(&self) -> &'static str {
        match self {
            PatchKind::Source => "source",
            PatchKind::Zero => "zero",
            PatchKind::Mean => "mean",
            PatchKind::Noise { .. } => "noise",
            PatchKind::Resample { .. } => "resample",
            PatchKind::Add { .. } => "add",
            PatchKind::Scale(_) => "scale",
            PatchKind::Knockout(_) => "knockout",
        }
    }

    /// Runs of each item; its metric is their mean.
    pub fn n_draws(&self) -> usize {
        match self {
            PatchKind::Noise { draws, .. } | PatchKind::Resample { draws } => draws.n.max(1) as usize,
            _ => 1,
        }
    }

    /// # Errors
    /// [`InterventionError::NoMeaning`] where the patch makes no sense at `site`.
    pub fn check_site(&self, site: Site) -> Result<(), InterventionError> {
        let why = match (self, site) {
            (PatchKind::Knockout(_), Site::AttnScores) => return Ok(()),
            (PatchKind::Knockout(_), _) => "edges of attention are knocked out of attn_scores",
            (PatchKind::Noise { .. } | PatchKind::Add { .. } | PatchKind::Scale(_), Site::Pattern) => {
                "a row of it would no longer be a distribution over sources; use attn_scores or z"
            }
            (PatchKind::Noise { .. } | PatchKind::Add { .. }, Site::Result) => {
                "what is added to a head's result is added to attn_out; use that, or z"
            }
            (PatchKind::Add { .. }, Site::AttnScores) => {
                "its width is that of the prompt, so no direction fits it; use scale, noise or another site"
            }
            _ => return Ok(()),
        };
        Err(InterventionError::NoMeaning { patch: self.name(), site, why })
    }

    /// Checks the patch against the sites and layers that it visits.
    ///
    /// # Errors
    /// It makes no sense at one of them, or its directions do not fit.
    pub fn check(
        &self,
        spec: &ModelSpec,
        visited: impl IntoIterator<Item = (Site, usize)>,
    ) -> Result<(), InterventionError> {
        let program = Program::new(spec);
        let mut streams: BTreeMap<usize, (Site, usize)> = BTreeMap::new();
        for (site, layer) in visited {
            self.check_site(site)?;
            let PatchKind::Add { directions, axis, .. } = self else { continue };
            directions.check(site, layer, spec, axis.len())?;
            let boundary = program.entry_boundary(spec, site, layer).filter(|_| Point::of(site).is_none());
            let Some((other, before)) = boundary.and_then(|b| streams.insert(b, (site, layer))) else { continue };
            // A layer that does nothing leaves the stream what it was before it.
            if other != site || (before != layer && directions.differ(site, (before, layer), spec)) {
                let reason = format!(
                    "{other} of layer {before} and {site} of layer {layer} are one residual stream, and their directions may differ; take one of the two"
                );
                return Err(InterventionError::Directions { file: directions.file.clone(), reason });
            }
        }
        Ok(())
    }
}

/// What `--patch` says.
#[derive(Debug, Clone, PartialEq)]
pub enum Intervention {
    Source,
    Zero,
    Mean,
    /// `noise:SIGMA`
    Noise(f32),
    Resample,
    /// `add:FILE*SCALE`
    Add {
        file: PathBuf,
        scale: f32,
    },
    /// `scale:X`
    Scale(f32),
    Knockout,
}

impl Intervention {
    /// The same patch is another one with another seed.
    pub fn is_random(&self) -> bool {
        matches!(self, Intervention::Noise(_) | Intervention::Resample)
    }
}

impl FromStr for Intervention {
    type Err = InterventionError;

    fn from_str(text: &str) -> Result<Self, InterventionError> {
        let bad = |why: &'static str| InterventionError::Unreadable { text: text.to_owned(), why };
        let number = |s: &str, what| s.trim().parse::<f32>().ok().filter(|x| x.is_finite()).ok_or_else(|| bad(what));
        Ok(match (text.split_once(':'), text) {
            (None, "source") => Intervention::Source,
            (None, "zero") => Intervention::Zero,
            (None, "mean") => Intervention::Mean,
            (None, "resample") => Intervention::Resample,
            (None, "knockout") => Intervention::Knockout,
            (None, "noise") => return Err(bad("noise needs its standard deviation: noise:0.1")),
            (None, "add") => {
                return Err(bad("add needs a safetensors file with a direction: add:direction.safetensors"));
            }
            (None, "scale") => return Err(bad("scale needs a factor: scale:0.5")),
            (Some(("noise", sigma)), _) => {
                let sigma = number(sigma, "the standard deviation is a number: noise:0.1")?;
                if sigma.is_sign_negative() && sigma != 0.0 {
                    return Err(bad("a standard deviation is not negative"));
                }
                Intervention::Noise(sigma)
            }
            (Some(("scale", factor)), _) => Intervention::Scale(number(factor, "the factor is a number: scale:0.5")?),
            (Some(("add", rest)), _) => {
                // The file's own name may hold an asterisk; a scale is a number behind the last.
                let (file, scale) = match rest.rsplit_once('*') {
                    Some((file, scale)) => (file, number(scale, "what follows the * is a number: add:FILE*2.5")?),
                    None => (rest, 1.0),
                };
                if file.is_empty() {
                    return Err(bad("add needs a safetensors file with a direction: add:direction.safetensors"));
                }
                Intervention::Add { file: file.into(), scale }
            }
            _ => {
                return Err(bad(
                    "expected source, zero, mean, noise:SIGMA, resample, add:FILE[*SCALE], scale:X or knockout",
                ));
            }
        })
    }
}

impl fmt::Display for Intervention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Intervention::Source => f.write_str("source"),
            Intervention::Zero => f.write_str("zero"),
            Intervention::Mean => f.write_str("mean"),
            Intervention::Noise(sigma) => write!(f, "noise:{sigma}"),
            Intervention::Resample => f.write_str("resample"),
            Intervention::Add { file, scale } if *scale == 1.0 => write!(f, "add:{}", file.display()),
            Intervention::Add { file, scale } => write!(f, "add:{}*{scale}", file.display()),
            Intervention::Scale(factor) => write!(f, "scale:{factor}"),
            Intervention::Knockout => f.write_str("knockout"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_intervention_is_read_as_it_is_written() {
        for text in [
            "source",
            "zero",
            "mean",
            "resample",
            "knockout",
            "noise:0.1",
            "noise:0",
            "scale:-2",
            "add:a:b.safetensors",
            "add:dir/v*2.safetensors*0.5",
        ] {
            assert_eq!(text.parse::<Intervention>().unwrap().to_string(), text);
        }
        assert_eq!("add:v*1".parse(), Ok(Intervention::Add { file: "v".into(), scale: 1.0 }));
    }

    #[test]
    fn what_is_none_says_what_would_be() {
        for (text, why) in [
            ("", "noise:SIGMA"),
            ("ablate", "noise:SIGMA"),
            ("zero:1", "noise:SIGMA"),
            ("noise", "noise:0.1"),
            ("noise:", "noise:0.1"),
            ("noise:-0.1", "not negative"),
            ("noise:inf", "noise:0.1"),
            ("scale:NaN", "scale:0.5"),
            ("scale", "scale:0.5"),
            ("add", "add:direction.safetensors"),
            ("add:", "add:direction.safetensors"),
            ("add:*2", "add:direction.safetensors"),
            ("add:f*two", "add:FILE*2.5"),
        ] {
            let message = text.parse::<Intervention>().unwrap_err().to_string();
            assert!(message.contains(why) && message.contains("--patch"), "{text}: {message}");
        }
    }
}

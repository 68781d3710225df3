//! Every rotary scaling of Hugging Face transformers, resolved to a [`RopeSpec`].
//!
//! The formulas are those of `modeling_rope_utils.py` (transformers 5), which computes them in float32; so does this
//! module, operation by operation, so that tables agree to the last bit or the one before it. Types: `default`,
//! `linear`, `dynamic` (NTK, u/emozilla), `yarn` (arXiv 2309.00071), `longrope` (arXiv 2402.13753; older configs say
//! `su`), `llama3`, `mrope` (which is `default` for text), and `rope_freqs`, the divisors a GGUF file stores instead.

use super::ModelError;
use super::config::{Config, MAX_POSITIONS};
use super::inert;
use super::spec::{RopeByLength, RopeLayout, RopeSpec};
use std::f64::consts::PI;

/// What a family's config class assumes where `config.json` is silent.
#[derive(Debug, Clone, Copy)]
pub struct RopeDefaults {
    /// Keys of the table that the family reads itself.
    pub own_keys: &'static [&'static str],
    pub theta: f64,
    /// The share of a head's dimensions that rotates.
    pub fraction: f64,
    /// Rotated dimensions where a key of the family's own says how many, instead of a share.
    pub n_rot: Option<usize>,
    /// What scalings take for the original length where no key says it; `None`: `max_position_embeddings`.
    pub original: Option<usize>,
    pub max_positions: usize,
    pub layout: RopeLayout,
}

impl Default for RopeDefaults {
    fn default() -> Self {
        RopeDefaults {
            own_keys: &[],
            theta: 10_000.0,
            fraction: 1.0,
            n_rot: None,
            original: None,
            max_positions: 2048,
            layout: RopeLayout::HalfSplit,
        }
    }
}

/// A resolved table and the longest prompt it is meant for.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    pub spec: RopeSpec,
    /// `max_position_embeddings`, stretched by the scalings that are written on top of it.
    pub n_ctx: usize,
}

/// Reads the rotary keys of `cfg` in either spelling: `rope_theta`, `rope_scaling` and `partial_rotary_factor` (or
/// NeoX's `rotary_emb_base` and `rotary_pct`) of transformers 4, or `rope_parameters` of transformers 5.
///
/// # Errors
/// [`ModelError::Config`] for an unknown type (by name), an unknown key, a missing or impossible number, and for two
/// spellings that contradict each other.
pub fn resolve(cfg: &Config, d_head: usize, defaults: RopeDefaults) -> Result<Rope, ModelError> {
    let max_positions = cfg.size(LENGTH, MAX_POSITIONS)?.unwrap_or(defaults.max_positions);
    let original = cfg.size(&["original_max_position_embeddings"], MAX_POSITIONS)?;
    let theta = cfg.positive(&["rope_theta", "rotary_emb_base"])?;
    let fraction = cfg.positive(&["partial_rotary_factor", "rotary_pct"])?;
    let (key, table) = match cfg.one_of(&["rope_scaling", "rope_parameters"])? {
        Some((key, _)) => (key, cfg.table(key)?),
        None => ("rope_parameters", None),
    };

    let inner = |name| table.as_ref().map_or(Ok(None), |t| t.positive(&[name]));
    let theta = agree(cfg, "rope_theta", theta, key, inner("rope_theta")?)?.unwrap_or(defaults.theta);
    let fraction = agree(cfg, "partial_rotary_factor", fraction, key, inner("partial_rotary_factor")?)?
        .unwrap_or(defaults.fraction);
    let n_rot = match defaults.n_rot {
        Some(n_rot) if n_rot == 0 || n_rot % 2 != 0 || n_rot > d_head => {
            return Err(cfg.error("rotary_dim", format!("is not an even, positive number of the {d_head} dimensions")));
        }
        Some(n_rot) => n_rot,
        None => rotated(cfg, d_head, fraction)?,
    };
    let base = Base { theta, n_rot, max_positions, original: original.or(defaults.original) };
    base.checked(cfg, key, table.as_ref(), defaults)
}

const LENGTH: &[&str] = &["max_position_embeddings", "n_positions"];

/// What models with one table for full layers and another for sliding ones assume.
#[derive(Debug, Clone, Copy)]
pub struct TwoRopes {
    pub full: RopeDefaults,
    pub sliding_theta: f64,
    /// The key of transformers 4 for the base of the sliding layers; without it they have that of the full ones.
    pub sliding_key: Option<&'static str>,
}

impl TwoRopes {
    /// The table of the full layers, then that of the sliding ones: `rope_theta` and `rope_scaling`, which is for full
    /// layers alone, of transformers 4, or `rope_parameters` with a table for each kind of layer of transformers 5.
    ///
    /// # Errors
    /// As [`resolve`], and for `rope_parameters` that is one table for all layers.
    pub fn resolve(self, cfg: &Config, d_head: usize) -> Result<[Rope; 2], ModelError> {
        let TwoRopes { full, sliding_theta, sliding_key } = self;
        let max_positions = cfg.size(LENGTH, MAX_POSITIONS)?.unwrap_or(full.max_positions);
        let outer = cfg.positive(&["rope_theta"])?;
        let outer_sliding = match sliding_key {
            Some(key) => cfg.positive(&[key])?,
            None => outer,
        };
        let both = cfg.table("rope_parameters")?;
        let scaling = cfg.table("rope_scaling")?;
        if let (Some(_), Some(_)) = (&both, &scaling) {
            return Err(cfg.error("rope_scaling", "rope_parameters says it, too"));
        }
        let kind = |name: &str| match &both {
            Some(tables) if !tables.contains(name) => Err(tables.error(name, "the table is missing")),
            Some(tables) => tables.table(name),
            None => Ok(None),
        };
        let (of_full, of_sliding) = (kind("full_attention")?, kind("sliding_attention")?);
        if let Some(tables) = &both {
            tables.finish(&[])?;
        }
        let one = |table: Option<Config>, outer: Option<f64>, theta: f64| -> Result<Rope, ModelError> {
            let inner = table.as_ref().map_or(Ok(None), |t| t.positive(&["rope_theta"]))?;
            let theta = agree(cfg, "rope_theta", outer, "rope_parameters", inner)?.unwrap_or(theta);
            let base = Base { theta, n_rot: rotated(cfg, d_head, full.fraction)?, max_positions, original: None };
            // What these models promise already counts their scaling.
            Ok(Rope { n_ctx: max_positions, ..base.checked(cfg, "rope_parameters", table.as_ref(), full)? })
        };
        Ok([one(of_full.or(scaling), outer, full.theta)?, one(of_sliding, outer_sliding, sliding_theta)?])
    }
}

/// Dimensions of a head that rotate.
fn rotated(cfg: &Config, d_head: usize, fraction: f64) -> Result<usize, ModelError> {
    let n_rot = if fraction <= 1.0 { (d_head as f64 * fraction) as usize } else { 0 };
    if n_rot == 0 || n_rot % 2 != 0 {
        let reason = format!("{fraction} of heads of width {d_head} is not an even, positive number of dimensions");
        return Err(cfg.error("partial_rotary_factor", reason));
    }
    Ok(n_rot)
}

/// One number that may stand outside and inside the table.
fn agree(
    cfg: &Config,
    name: &str,
    outer: Option<f64>,
    table: &str,
    inner: Option<f64>,
) -> Result<Option<f64>, ModelError> {
    match (outer, inner) {
        (Some(a), Some(b)) if a != b => Err(cfg.error(name, format!("{a} contradicts {table}.{name}, which is {b}"))),
        (a, b) => Ok(b.or(a)),
    }
}

struct Base {
    theta: f64,
    n_rot: usize,
    max_positions: usize,
    /// Top-level `original_max_position_embeddings`, which takes precedence over the table's (Phi-3).
    original: Option<usize>,
}

impl Base {
    /// Plain, or scaled as `table` (under `key`) says; every key of it is known and every frequency finite.
    fn checked(
        &self,
        cfg: &Config,
        key: &str,
        table: Option<&Config>,
        defaults: RopeDefaults,
    ) -> Result<Rope, ModelError> {
        let rope = match table {
            None => self.plain(defaults.layout),
            Some(table) => {
                let rope = self.scaled(table, defaults.layout)?;
                defaults.own_keys.iter().for_each(|key| _ = table.get(key));
                table.finish(&[inert::ROPE])?;
                rope
            }
        };
        match rope.spec.inv_freq.iter().all(|f| f.is_finite()) && rope.spec.amplitude.is_finite() {
            true => Ok(rope),
            false => Err(cfg.error(key, "the rotary frequencies are not finite")),
        }
    }

    fn rope(&self, layout: RopeLayout, inv_freq: Vec<f32>, amplitude: f64, n_ctx: usize) -> Rope {
        Rope { spec: RopeSpec { inv_freq, amplitude: amplitude as f32, layout, by_length: None }, n_ctx }
    }

    fn plain(&self, layout: RopeLayout) -> Rope {
        self.rope(layout, inv_freq(self.theta as f32, self.n_rot), 1.0, self.max_positions)
    }

    fn scaled(&self, table: &Config, layout: RopeLayout) -> Result<Rope, ModelError> {
        let (key, kind) = kind(table)?;
        let plain = inv_freq(self.theta as f32, self.n_rot);
        Ok(match kind.as_str() {
            "default" => self.plain(layout),
            "linear" => {
                let factor = required(table, "factor")?;
                let scaled = plain.iter().map(|f| f / factor as f32).collect();
                self.rope(layout, scaled, 1.0, stretched(self.max_positions, factor))
            }
            "dynamic" => {
                let factor = required(table, "factor")?;
                if self.n_rot <= 2 {
                    return Err(table.error(key, "dynamic scaling needs more than two rotated dimensions"));
                }
                let mut rope = self.rope(layout, plain, 1.0, stretched(self.max_positions, factor));
                rope.spec.by_length =
                    Some(RopeByLength::DynamicNtk { theta: self.theta, factor, max_positions: self.max_positions });
                rope
            }
            "llama3" => self.rope(layout, self.llama3(table, plain)?, 1.0, self.max_positions),
            "yarn" => self.yarn(table, layout)?,
            "longrope" => self.longrope(table, layout)?,
            "rope_freqs" => {
                let factors = table.positives("factors", plain.len())?;
                let factors = factors.ok_or_else(|| table.error("factors", "the key is missing"))?;
                let divided = plain.iter().zip(&factors).map(|(f, by)| f / *by as f32).collect();
                self.rope(layout, divided, 1.0, self.max_positions)
            }
            other => {
                let known = "default, linear, dynamic, yarn, longrope, llama3, mrope";
                return Err(table.error(key, format!("unknown rope type {other:?}; supported are {known}")));
            }
        })
    }

    fn original(&self, table: &Config) -> Result<usize, ModelError> {
        let inside = table.size(&["original_max_position_embeddings"], MAX_POSITIONS)?;
        Ok(self.original.or(inside).unwrap_or(self.max_positions))
    }

    /// Long wavelengths are divided by `factor`, short ones kept, those between interpolated.
    fn llama3(&self, table: &Config, plain: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        let factor = required(table, "factor")? as f32;
        let (low, high) = (required(table, "low_freq_factor")?, required(table, "high_freq_factor")?);
        let original = self.original(table)? as f64;
        if high <= low {
            return Err(table.error("high_freq_factor", format!("{high} is not above low_freq_factor, which is {low}")));
        }
        let (longest, shortest) = ((original / low) as f32, (original / high) as f32);
        Ok(plain
            .into_iter()
            .map(|f| {
                let wavelength = (2.0 * PI) as f32 / f;
                if wavelength > longest {
                    f / factor
                } else if wavelength < shortest {
                    f
                } else {
                    let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
                    (1.0 - smooth) * f / factor + smooth * f
                }
            })
            .collect())
    }

    fn yarn(&self, table: &Config, layout: RopeLayout) -> Result<Rope, ModelError> {
        let original = self.original(table)?;
        let factor = table.positive(&["factor"])?.unwrap_or(self.max_positions as f64 / original as f64);
        let scale = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
        let (mscale, all_dim) = (not_zero(table, "mscale")?, not_zero(table, "mscale_all_dim")?);
        let amplitude = match (table.positive(&["attention_factor"])?, mscale, all_dim) {
            (Some(given), ..) => given,
            (None, Some(m), Some(a)) => scale(m) / scale(a),
            _ => scale(1.0),
        };
        if self.theta <= 1.0 {
            return Err(table.error("rope_theta", "yarn needs a base above 1"));
        }
        let fast = not_zero(table, "beta_fast")?.unwrap_or(32.0);
        let slow = not_zero(table, "beta_slow")?.unwrap_or(1.0);
        if fast < slow {
            return Err(table.error("beta_fast", format!("{fast} is below beta_slow, which is {slow}")));
        }
        let dim = self.n_rot as f64;
        let turns_to_dim = |turns: f64| (dim * (original as f64 / (turns * 2.0 * PI)).ln()) / (2.0 * self.theta.ln());
        let (mut low, mut high) = (turns_to_dim(fast), turns_to_dim(slow));
        if table.flag("truncate")?.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let mixed = powers(self.theta as f32, self.n_rot)
            .into_iter()
            .enumerate()
            .map(|(i, p)| {
                let (kept, stretched) = (1.0 / p, 1.0 / (factor as f32 * p));
                let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let keep = 1.0 - ramp;
                stretched * (1.0 - keep) + kept * keep
            })
            .collect();
        let n_ctx = stretched(original, factor).max(self.max_positions);
        Ok(self.rope(layout, mixed, amplitude, n_ctx))
    }

    fn longrope(&self, table: &Config, layout: RopeLayout) -> Result<Rope, ModelError> {
        let original = self.original(table)?;
        let factor = table.positive(&["factor"])?.unwrap_or(self.max_positions as f64 / original as f64);
        let amplitude = match table.positive(&["attention_factor"])? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        };
        let divided = |key| -> Result<Vec<f32>, ModelError> {
            let factors = table.positives(key, self.n_rot / 2)?;
            let factors = factors.ok_or_else(|| table.error(key, "the key is missing"))?;
            Ok(powers(self.theta as f32, self.n_rot).iter().zip(factors).map(|(p, f)| 1.0 / (f as f32 * p)).collect())
        };
        let mut rope = self.rope(layout, divided("short_factor")?, amplitude, self.max_positions);
        rope.spec.by_length = Some(RopeByLength::LongFactor { beyond: original, inv_freq: divided("long_factor")? });
        Ok(rope)
    }
}

/// The type and the key it stands under. transformers 5 adds `rope_type` beside an old `type` and renames on the way.
fn kind(table: &Config) -> Result<(&'static str, String), ModelError> {
    let read = |key| -> Result<Option<String>, ModelError> {
        Ok(table.text(&[key])?.map(|(_, name)| match name.as_str() {
            "mrope" => "default".to_owned(),
            "su" => "longrope".to_owned(),
            _ => name,
        }))
    };
    match (read("rope_type")?, read("type")?) {
        (Some(new), Some(old)) if new != old => {
            Err(table.error("rope_type", format!("{new:?} contradicts type {old:?}")))
        }
        (None, Some(old)) => Ok(("type", old)),
        (new, _) => Ok(("rope_type", new.unwrap_or_else(|| "default".to_owned()))),
    }
}

fn required(table: &Config, key: &str) -> Result<f64, ModelError> {
    table.positive(&[key])?.ok_or_else(|| table.error(key, "the key is missing"))
}

/// A number for which 0 means absent, as in the Python (`beta_fast or 32`).
fn not_zero(table: &Config, key: &str) -> Result<Option<f64>, ModelError> {
    match table.get(key).and_then(serde_json::Value::as_f64) {
        Some(0.0) => Ok(None),
        _ => table.positive(&[key]),
    }
}

/// `positions · factor`, never less than `positions`.
fn stretched(positions: usize, factor: f64) -> usize {
    let long = (positions as f64 * factor).min(MAX_POSITIONS as f64) as usize;
    long.max(positions)
}

/// theta^(2i / n_rot), `[n_rot / 2]`: exponent and power are rounded to float32 as PyTorch does.
fn powers(theta: f32, n_rot: usize) -> Vec<f32> {
    let exponent = |i: usize| (2 * i) as f32 / n_rot as f32;
    (0..n_rot / 2).map(|i| f64::from(theta).powf(f64::from(exponent(i))) as f32).collect()
}

fn inv_freq(theta: f32, n_rot: usize) -> Vec<f32> {
    powers(theta, n_rot).into_iter().map(|p| 1.0 / p).collect()
}

/// The table of dynamic NTK scaling for a prompt of `length` tokens, `[n_rot / 2]`. The length is a tensor in the
/// Python, so the new base is computed in float32, too.
pub(super) fn dynamic_ntk(theta: f64, factor: f64, max_positions: usize, n_rot: usize, length: usize) -> Vec<f32> {
    let stretch = factor as f32 * length.max(max_positions) as f32 / max_positions as f32 - (factor - 1.0) as f32;
    let exponent = n_rot as f64 / (n_rot as f64 - 2.0);
    let grown = theta as f32 * f64::from(stretch).powf(exponent) as f32;
    inv_freq(grown, n_rot)
}

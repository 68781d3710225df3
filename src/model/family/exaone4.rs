//! EXAONE-4 (`Exaone4Config`): norms of the branches' outputs instead of their inputs, norms on each head of q and k, and
//! in the 32B model three layers that slide and rotate to one that does neither.

use super::Family;
use super::gemma2::window;
use super::llama::{self, Trunk};
use super::names::Tensors;
use super::olmo2::NAMES;
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_LAYERS};
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "exaone4", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { n_kv_heads: Some(32), eps: 1e-5, ..DimDefaults::LLAMA };
    let trunk = Trunk::read(cfg, dims, RopeDefaults::default())?;
    let (window, eps) = (window(cfg)?, trunk.eps);
    let pattern = pattern(cfg, window)?;
    let windows = windows(cfg, trunk.dims.n_layers, window, |l| (l + 1) % pattern != 0)?;
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |l, attn| {
        attn.window = windows[l];
        attn.rope = attn.rope.filter(|_| window.is_none() || windows[l].is_some());
        qk_norms(l, attn, NormScope::PerHead, |tensor| rms_norm(eps, tensor));
    });
    post_norms(&mut spec, true, |tensor| rms_norm(eps, tensor));
    Ok(spec)
}

/// Every how manieth layer does not slide: a number, or one period of letters, `LLLG`; 0 where there is no window.
fn pattern(cfg: &Config, window: Option<usize>) -> Result<usize, ModelError> {
    let key = "sliding_window_pattern";
    match cfg.get(key) {
        Some(n) if window.is_none() && n.as_u64() == Some(0) => Ok(1),
        Some(serde_json::Value::String(letters)) => match letters.strip_suffix('G') {
            Some(local) if local.chars().all(|c| c == 'L') => Ok(letters.len()),
            _ => Err(cfg.error(key, "the letters are not L … L G")),
        },
        _ => Ok(cfg.size(&[key], MAX_LAYERS)?.unwrap_or(4)),
    }
}

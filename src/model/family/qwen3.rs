//! Qwen3 (`Qwen3Config`): Llama with RMS norms on each head of q and k before the rotation.

use super::Family;
use super::llama::{NAMES, Trunk, qkvo_bias};
use super::names::Tensors;
use super::parts::{DimDefaults, rms_norm};
use super::qwen2::upper_windows;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::{MlpBias, ModelSpec, NormScope, NormSpec};

pub(super) const FAMILY: Family =
    Family { model_type: "qwen3", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { n_kv_heads: Some(32), d_head: Some(128), ..DimDefaults::LLAMA };
    let trunk = Trunk::read(cfg, dims, RopeDefaults { max_positions: 32_768, ..RopeDefaults::default() })?;
    let windows = upper_windows(cfg, trunk.dims.n_layers)?;
    let (bias, eps) = (qkvo_bias(cfg, tensors)?, trunk.eps);
    let per_head = |l, name| NormSpec { scope: NormScope::PerHead, ..rms_norm(eps, format!("blocks.{l}.attn.{name}")) };
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |l, attn| {
        attn.bias = bias;
        attn.window = windows[l];
        attn.q_norm = Some(per_head(l, "q_norm"));
        attn.k_norm = Some(per_head(l, "k_norm"));
    }))
}

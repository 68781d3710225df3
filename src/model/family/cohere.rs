//! Command R (`CohereConfig`): attention and gated MLP side by side behind one layer norm without bias, neighbouring
//! pairs rotated, logits multiplied.

use super::Family;
use super::llama::{NAMES, Trunk, qkvo_bias};
use super::names::Tensors;
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "cohere", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = plain(cfg, tensors, &FAMILY, DimDefaults { eps: 1e-5, ..DimDefaults::LLAMA }, 500_000.0)?;
    if cfg.flag("use_qk_norm")?.unwrap_or(false) {
        let eps = eps(cfg, 1e-5)?;
        each_attn(&mut spec, |l, attn| qk_norms(l, attn, NormScope::PerHeadDistinct, |t| scale_norm(eps, t)));
    }
    Ok(spec)
}

/// What Command R and R7B share.
pub(super) fn plain(
    cfg: &Config,
    tensors: &Tensors<'_>,
    family: &Family,
    dims: DimDefaults,
    theta: f64,
) -> Result<ModelSpec, ModelError> {
    let layout = RopeLayout::Interleaved;
    let rope = RopeDefaults { theta, max_positions: 8192, layout, ..RopeDefaults::default() };
    let (trunk, bias) = (Trunk::read(cfg, dims, rope)?, qkvo_bias(cfg, tensors)?);
    let mut spec = trunk.spec(family, tensors.tied(cfg, true)?, MlpBias::default(), |_, attn| attn.bias = bias);
    each_norm(&mut spec, |norm| norm.kind = NormKind::LayerNorm);
    parallel_behind_one_norm(&mut spec);
    spec.unembed.scale = cfg.positive(&["logit_scale"])?.unwrap_or(0.0625) as f32;
    Ok(spec)
}

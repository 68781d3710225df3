//! Granite (`GraniteConfig`): Llama with multipliers on the embedding, the branches, the scores and the logits.

use super::Family;
use super::llama::{NAMES, Trunk, mlp_bias, qkvo_bias};
use super::names::Tensors;
use super::parts::DimDefaults;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: Family =
    Family { model_type: "granite", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let trunk = Trunk::read(cfg, DimDefaults::LLAMA, RopeDefaults::default())?;
    let multiplier = |key| Ok::<_, ModelError>(cfg.positive(&[key])?.unwrap_or(1.0));
    let (bias, mlp_bias) = (qkvo_bias(cfg, tensors)?, mlp_bias(cfg, tensors)?);
    let scale = multiplier("attention_multiplier")? as f32;
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, false)?, mlp_bias, |_, attn| {
        (attn.bias, attn.scale) = (bias, scale);
    });
    spec.embed.scale = multiplier("embedding_multiplier")? as f32;
    spec.unembed.scale = (1.0 / multiplier("logits_scaling")?) as f32;
    let branches = multiplier("residual_multiplier")? as f32;
    spec.blocks.iter_mut().for_each(|block| block.resid_scale = branches);
    Ok(spec)
}

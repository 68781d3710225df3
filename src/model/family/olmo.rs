//! OLMo (`OlmoConfig`): Llama with layer norms that have no parameters, and q, k and v clamped.

use super::Family;
use super::llama::{NAMES, Trunk, qkvo_bias};
use super::names::Tensors;
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family = Family { model_type: "olmo", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let trunk = Trunk::read(cfg, DimDefaults { eps: 1e-5, ..DimDefaults::LLAMA }, RopeDefaults::default())?;
    let bias = qkvo_bias(cfg, tensors)?;
    let clip = cfg.positive(&["clip_qkv"])?.map(|limit| limit as f32);
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |_, attn| {
        (attn.bias, attn.qkv_clip) = (bias, clip);
    });
    each_norm(&mut spec, |norm| (norm.kind, norm.weight) = (NormKind::LayerNorm, NormWeight::None));
    Ok(spec)
}

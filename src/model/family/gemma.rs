//! Gemma (`GemmaConfig`): Llama with norms that multiply by 1 + w, the embedding multiplied by √d_model, and tanh-GELU.

use super::Family;
use super::llama::{NAMES, Trunk, qkvo_bias};
use super::names::Tensors;
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::inert::Inert;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "gemma", resolve, prefix: "model.", names: &[NAMES], inert: INERT };

pub(super) const INERT: &[Inert] =
    &[Inert::at("use_bidirectional_attention", &["false"], "attention that looks ahead is not supported")];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults {
        n_kv_heads: Some(16),
        d_head: Some(256),
        read_act,
        act: "gelu_pytorch_tanh",
        ..DimDefaults::LLAMA
    };
    let trunk = Trunk::read(cfg, dims, RopeDefaults { max_positions: 8192, ..RopeDefaults::default() })?;
    let bias = qkvo_bias(cfg, tensors)?;
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, true)?, MlpBias::default(), |_, attn| attn.bias = bias);
    finish(&mut spec);
    Ok(spec)
}

/// What all Gemmas share. The multiplier of the embedding is not rounded to the type of the weights: in float32 Hugging
/// Face does not, either.
pub(super) fn finish(spec: &mut ModelSpec) {
    spec.embed.scale = (spec.d_model as f64).sqrt() as f32;
    each_norm(spec, |norm| norm.weight = NormWeight::OnePlusScale);
}

/// `hidden_act: gelu` is what the first configs say, and means the tanh approximation (`GemmaConfig.__post_init__`).
fn read_act(cfg: &Config, default: &str) -> Result<Act, ModelError> {
    match (cfg.text(&["hidden_act"])?, cfg.text(&["hidden_activation"])?) {
        (Some((_, old)), None) if old == "gelu" => Ok(Act::GeluTanh),
        (Some((_, old)), Some((_, new))) if old == "gelu" && new == "gelu_pytorch_tanh" => Ok(Act::GeluTanh),
        _ => activation(cfg, default),
    }
}

//! GLM-4-0414 (`Glm4Config`): GLM with norms of the branches' outputs beside those of their inputs.

use super::Family;
use super::glm::without_post_norms;
use super::llama;
use super::names::{Name, Tensors, direct};
use super::parts::*;
use super::phi3::GATE_UP;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: Family =
    Family { model_type: "glm4", resolve, prefix: "model.", names: &[NAMES, GATE_UP, llama::NAMES], inert: &[] };

/// `post_attention_layernorm` is the norm before the MLP, as in Llama.
const NAMES: &[Name] = &[
    direct("blocks.{l}.ln1_post", "{p}layers.{l}.post_self_attn_layernorm"),
    direct("blocks.{l}.ln2_post", "{p}layers.{l}.post_mlp_layernorm"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = without_post_norms(cfg, tensors, &FAMILY)?;
    let eps = eps(cfg, 1.5625e-7)?;
    post_norms(&mut spec, false, |tensor| rms_norm(eps, tensor));
    Ok(spec)
}

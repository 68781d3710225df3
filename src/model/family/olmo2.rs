//! OLMo-2 (`Olmo2Config`): Llama with norms of the branches' outputs instead of their inputs, and norms over all of q and
//! all of k.

use super::Family;
use super::llama::{self, Trunk, qkvo_bias};
use super::names::{Name, Tensors, direct};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "olmo2", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: &[] };

/// `post_attention_layernorm` is the norm before the MLP in Llama and that of the attention's output here.
pub(super) const NAMES: &[Name] = &[
    direct("blocks.{l}.ln1_post", "{p}layers.{l}.post_attention_layernorm"),
    direct("blocks.{l}.ln2_post", "{p}layers.{l}.post_feedforward_layernorm"),
];

pub(super) const DEFAULTS: DimDefaults = DimDefaults { eps: 1e-5, ..DimDefaults::LLAMA };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let trunk = Trunk::read(cfg, DEFAULTS, RopeDefaults::default())?;
    let (bias, eps) = (qkvo_bias(cfg, tensors)?, trunk.eps);
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |l, attn| {
        attn.bias = bias;
        qk_norms(l, attn, NormScope::Full, |tensor| rms_norm(eps, tensor));
    });
    post_norms(&mut spec, true, |tensor| rms_norm(eps, tensor));
    Ok(spec)
}

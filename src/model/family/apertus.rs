//! Apertus (`ApertusConfig`): Llama with norms on each head of q and k, and an MLP of xIELUs without a gate.

use super::Family;
use super::llama::{self, Trunk, qkvo_bias};
use super::names::{Name, Tensors, direct};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::inert::Inert;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "apertus", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: INERT };

const NAMES: &[Name] = &[
    direct("blocks.{l}.ln1", "{p}layers.{l}.attention_layernorm"),
    direct("blocks.{l}.ln2", "{p}layers.{l}.feedforward_layernorm"),
    direct("blocks.{l}.mlp.act", "{p}layers.{l}.mlp.act_fn"),
];

const FIXED: &str = "what transformers computes has it so";
const INERT: &[Inert] = &[
    Inert::at("mlp_bias", &["false"], FIXED),
    Inert::at("post_norm", &["false"], FIXED),
    Inert::at("qk_norm", &["true"], FIXED),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    if cfg.get("rope_scaling").is_none() && cfg.get("rope_parameters").is_none() {
        return Err(cfg.error("rope_scaling", "the key is missing, and what the class assumes then is no plain rope"));
    }
    let dims = DimDefaults { eps: 1e-5, act: "xielu", ..DimDefaults::LLAMA };
    let rope = RopeDefaults { theta: 12_000_000.0, max_positions: 65_536, ..RopeDefaults::default() };
    let mut trunk = Trunk::read(cfg, dims, rope)?;
    trunk.gated = false;
    let (bias, eps) = (qkvo_bias(cfg, tensors)?, trunk.eps);
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |l, attn| {
        attn.bias = bias;
        qk_norms(l, attn, NormScope::PerHead, |tensor| rms_norm(eps, tensor));
    }))
}

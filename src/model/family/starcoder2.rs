//! StarCoder2 (`Starcoder2Config`): Llama with layer norms, biases everywhere, an MLP without a gate, and a window.

use super::Family;
use super::llama::{self, Trunk};
use super::names::{Name, Tensors, direct};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_POSITIONS};
use crate::model::inert::Inert;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "starcoder2", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: INERT };

const NAMES: &[Name] =
    &[direct("blocks.{l}.mlp.up", "{p}layers.{l}.mlp.c_fc"), direct("blocks.{l}.mlp.down", "{p}layers.{l}.mlp.c_proj")];

const INERT: &[Inert] = &[
    Inert::at("norm_type", &["\"layer_norm\""], "only layer norms are supported"),
    Inert::at("mlp_type", &["\"default\""], "only MLPs without a gate are supported"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { n_kv_heads: Some(2), eps: 1e-5, act: "gelu_pytorch_tanh", ..DimDefaults::LLAMA };
    let mut trunk = Trunk::read(cfg, dims, RopeDefaults { max_positions: 4096, ..RopeDefaults::default() })?;
    trunk.gated = false;
    let bias = tensors.bias(cfg, "use_bias", "attn.q", true)?;
    let window = cfg.size(&["sliding_window"], MAX_POSITIONS)?;
    let mlp_bias = MlpBias { gate: false, up: bias, down: bias };
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, true)?, mlp_bias, |_, attn| {
        (attn.bias, attn.window) = (all_biased(bias), window);
    });
    each_norm(&mut spec, |norm| (norm.kind, norm.bias) = (NormKind::LayerNorm, true));
    Ok(spec)
}

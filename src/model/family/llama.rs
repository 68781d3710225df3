//! Llama (`LlamaConfig`): RMS norms before attention and a gated MLP, rotary positions, grouped KV heads.

use super::Family;
use super::names::{Name, Tensors, direct};
use super::parts::DimDefaults;
pub(super) use super::trunk::{Trunk, mlp_bias, qkvo_bias};
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: Family =
    Family { model_type: "llama", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

/// The names of the whole tree; a family uses those that its spec asks for.
pub(super) const NAMES: &[Name] = &[
    direct("embed", "{p}embed_tokens"),
    direct("blocks.{l}.ln1", "{p}layers.{l}.input_layernorm"),
    direct("blocks.{l}.attn.q", "{p}layers.{l}.self_attn.q_proj"),
    direct("blocks.{l}.attn.k", "{p}layers.{l}.self_attn.k_proj"),
    direct("blocks.{l}.attn.v", "{p}layers.{l}.self_attn.v_proj"),
    direct("blocks.{l}.attn.o", "{p}layers.{l}.self_attn.o_proj"),
    direct("blocks.{l}.attn.q_norm", "{p}layers.{l}.self_attn.q_norm"),
    direct("blocks.{l}.attn.k_norm", "{p}layers.{l}.self_attn.k_norm"),
    direct("blocks.{l}.ln2", "{p}layers.{l}.post_attention_layernorm"),
    direct("blocks.{l}.mlp.gate", "{p}layers.{l}.mlp.gate_proj"),
    direct("blocks.{l}.mlp.up", "{p}layers.{l}.mlp.up_proj"),
    direct("blocks.{l}.mlp.down", "{p}layers.{l}.mlp.down_proj"),
    direct("ln_final", "{p}norm"),
    direct("unembed", "lm_head"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let trunk = Trunk::read(cfg, DimDefaults::LLAMA, RopeDefaults::default())?;
    let bias = qkvo_bias(cfg, tensors)?;
    let mlp_bias = mlp_bias(cfg, tensors)?;
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, false)?, mlp_bias, |_, attn| attn.bias = bias))
}

//! Gemma-2 (`Gemma2Config`): Gemma with norms before and after each branch, softcaps, and a window in every other layer.

use super::Family;
use super::gemma::{INERT, finish};
use super::llama::{self, Trunk, qkvo_bias};
use super::names::{Name, Tensors, direct};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_POSITIONS};
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "gemma2", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: INERT };

/// `post_attention_layernorm` is the norm before the MLP in Llama and that of the attention's output here.
pub(super) const NAMES: &[Name] = &[
    direct("blocks.{l}.ln1_post", "{p}layers.{l}.post_attention_layernorm"),
    direct("blocks.{l}.ln2", "{p}layers.{l}.pre_feedforward_layernorm"),
    direct("blocks.{l}.ln2_post", "{p}layers.{l}.post_feedforward_layernorm"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = with_softcaps(cfg, tensors, &FAMILY)?;
    let eps = eps(cfg, 1e-6)?;
    post_norms(&mut spec, false, |tensor| rms_norm(eps, tensor));
    finish(&mut spec);
    Ok(spec)
}

/// Gemma-2 but for its norms.
pub(super) fn with_softcaps(cfg: &Config, tensors: &Tensors<'_>, family: &Family) -> Result<ModelSpec, ModelError> {
    let trunk = Trunk::read(cfg, DEFAULTS, RopeDefaults { max_positions: 8192, ..RopeDefaults::default() })?;
    let windows = windows(cfg, trunk.dims.n_layers, window(cfg)?, |l| l % 2 == 0)?;
    let (scale, bias, cap) =
        (scale(cfg)?, qkvo_bias(cfg, tensors)?, softcap(cfg, "attn_logit_softcapping", Some(50.0))?);
    let mut spec = trunk.spec(family, tensors.tied(cfg, true)?, MlpBias::default(), |l, attn| {
        (attn.bias, attn.scale, attn.window, attn.softcap) = (bias, scale, windows[l], cap);
    });
    spec.unembed.softcap = softcap(cfg, "final_logit_softcapping", Some(30.0))?;
    Ok(spec)
}

pub(super) const DEFAULTS: DimDefaults =
    DimDefaults { n_kv_heads: Some(4), d_head: Some(256), act: "gelu_pytorch_tanh", ..DimDefaults::LLAMA };

pub(super) fn window(cfg: &Config) -> Result<Option<usize>, ModelError> {
    let absent = !cfg.contains("sliding_window");
    Ok(cfg.size(&["sliding_window"], MAX_POSITIONS)?.or(absent.then_some(4096)))
}

/// Scores are scaled by 1/√`query_pre_attn_scalar`, whatever the width of a head.
pub(super) fn scale(cfg: &Config) -> Result<f32, ModelError> {
    Ok(cfg.positive(&["query_pre_attn_scalar"])?.unwrap_or(256.0).powf(-0.5) as f32)
}

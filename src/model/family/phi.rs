//! Phi-1, Phi-1.5 and Phi-2 (`PhiConfig`): attention and MLP side by side behind one layer norm, half of each head
//! rotated, biases everywhere.

use super::Family;
use super::llama::{self, Trunk};
use super::names::{Name, Tensors, direct};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "phi", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: &[] };

const NAMES: &[Name] = &[
    direct("blocks.{l}.attn.o", "{p}layers.{l}.self_attn.dense"),
    direct("blocks.{l}.attn.q_norm", "{p}layers.{l}.self_attn.q_layernorm"),
    direct("blocks.{l}.attn.k_norm", "{p}layers.{l}.self_attn.k_layernorm"),
    direct("blocks.{l}.mlp.up", "{p}layers.{l}.mlp.fc1"),
    direct("blocks.{l}.mlp.down", "{p}layers.{l}.mlp.fc2"),
    direct("ln_final", "{p}final_layernorm"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { eps: 1e-5, act: "gelu_new", ..DimDefaults::LLAMA };
    let mut trunk = Trunk::read(cfg, dims, RopeDefaults { fraction: 0.5, ..RopeDefaults::default() })?;
    trunk.gated = false;
    let eps = trunk.eps;
    let qk_norm = cfg.flag("qk_layernorm")?.unwrap_or(false);
    let mlp_bias = MlpBias { gate: false, up: true, down: true };
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, false)?, mlp_bias, |l, attn| {
        attn.bias = all_biased(true);
        if qk_norm {
            qk_norms(l, attn, NormScope::PerHead, |tensor| layer_norm(eps, tensor));
        }
    });
    parallel_behind_one_norm(&mut spec);
    each_norm(&mut spec, |norm| (norm.kind, norm.bias) = (NormKind::LayerNorm, true));
    spec.unembed.bias = true;
    Ok(spec)
}

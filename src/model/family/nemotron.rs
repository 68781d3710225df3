//! Nemotron-4 and Minitron (`NemotronConfig`): Llama with layer norms that multiply by 1 + w, half of each head rotated,
//! and an MLP of squared ReLUs without a gate.

use super::Family;
use super::llama::{NAMES, Trunk, qkvo_bias};
use super::names::Tensors;
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "nemotron", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { eps: 1e-5, act: "relu2", ..DimDefaults::LLAMA };
    let rope = RopeDefaults { fraction: 0.5, max_positions: 4096, ..RopeDefaults::default() };
    let mut trunk = Trunk::read(cfg, dims, rope)?;
    trunk.gated = false;
    let bias = qkvo_bias(cfg, tensors)?;
    let mlp = |stem| tensors.bias(cfg, "mlp_bias", stem, false);
    let mlp_bias = MlpBias { gate: false, up: mlp("mlp.up")?, down: mlp("mlp.down")? };
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, false)?, mlp_bias, |_, attn| attn.bias = bias);
    each_norm(&mut spec, |norm| {
        (norm.kind, norm.bias, norm.weight) = (NormKind::LayerNorm, true, NormWeight::OnePlusScale);
    });
    Ok(spec)
}

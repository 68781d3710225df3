//! SmolLM3 (`SmolLM3Config`): Llama in which every fourth layer has no rotary positions.

use super::Family;
use super::llama::{NAMES, Trunk, mlp_bias, qkvo_bias};
use super::names::Tensors;
use super::parts::{DimDefaults, switched_window, windows};
use crate::model::ModelError;
use crate::model::config::{Config, MAX_LAYERS};
use crate::model::inert::Inert;
use crate::model::rope::RopeDefaults;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: Family =
    Family { model_type: "smollm3", resolve, prefix: "model.", names: &[NAMES], inert: INERT };

const INERT: &[Inert] = &[Inert::any("max_window_layers", "left over from Qwen2; this family windows by layer_types")];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { n_kv_heads: Some(4), ..DimDefaults::LLAMA };
    let rope = RopeDefaults { theta: 2_000_000.0, max_positions: 32_768, ..RopeDefaults::default() };
    let trunk = Trunk::read(cfg, dims, rope)?;
    let n_layers = trunk.dims.n_layers;
    let rotates = rotating_layers(cfg, n_layers)?;
    let windows = windows(cfg, n_layers, switched_window(cfg, None)?, |l| !rotates[l])?;
    let bias = qkvo_bias(cfg, tensors)?;
    let mlp_bias = mlp_bias(cfg, tensors)?;
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, true)?, mlp_bias, |l, attn| {
        attn.bias = bias;
        attn.window = windows[l];
        attn.rope = attn.rope.filter(|_| rotates[l]);
    }))
}

/// `no_rope_layers` has a 1 for each layer that *does* rotate; without it, all but every
/// `no_rope_layer_interval`-th do.
fn rotating_layers(cfg: &Config, n_layers: usize) -> Result<Vec<bool>, ModelError> {
    let interval = cfg.size(&["no_rope_layer_interval"], MAX_LAYERS)?.unwrap_or(4);
    let Some(flags) = cfg.per_layer("no_rope_layers", n_layers)? else {
        return Ok((0..n_layers).map(|l| (l + 1) % interval != 0).collect());
    };
    let flag = |v: &serde_json::Value| match (v.as_u64(), v.as_bool()) {
        (Some(1), _) | (_, Some(true)) => Ok(true),
        (Some(0), _) | (_, Some(false)) => Ok(false),
        _ => Err(cfg.error("no_rope_layers", format!("{v} is neither 0 nor 1"))),
    };
    flags.iter().map(flag).collect()
}

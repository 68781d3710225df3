//! Qwen2 and Qwen2.5 (`Qwen2Config`): Llama with biases on q, k and v, and windows in the upper layers if switched on.

use super::Family;
use super::llama::{NAMES, Trunk};
use super::names::Tensors;
use super::parts::{DimDefaults, switched_window, windows};
use crate::model::ModelError;
use crate::model::config::{Config, MAX_LAYERS};
use crate::model::inert::Inert;
use crate::model::rope::RopeDefaults;
use crate::model::spec::{MlpBias, ModelSpec, QkvoBias};

pub(super) const FAMILY: Family =
    Family { model_type: "qwen2", resolve, prefix: "model.", names: &[NAMES], inert: INERT };

const INERT: &[Inert] = &[Inert::any("use_mrope", "text positions are the same on every axis")];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { n_kv_heads: Some(32), ..DimDefaults::LLAMA };
    let trunk = Trunk::read(cfg, dims, RopeDefaults { max_positions: 32_768, ..RopeDefaults::default() })?;
    let windows = upper_windows(cfg, trunk.dims.n_layers)?;
    let bias = QkvoBias { q: true, k: true, v: true, o: false };
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |l, attn| {
        attn.bias = bias;
        attn.window = windows[l];
    }))
}

/// The layers from `max_window_layers` on slide, if `use_sliding_window`.
pub(super) fn upper_windows(cfg: &Config, n_layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let first = match cfg.get("max_window_layers").and_then(serde_json::Value::as_u64) {
        Some(0) => 0,
        _ => cfg.size(&["max_window_layers"], MAX_LAYERS)?.unwrap_or(28),
    };
    windows(cfg, n_layers, switched_window(cfg, Some(4096))?, |l| l >= first)
}

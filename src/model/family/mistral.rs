//! Mistral (`MistralConfig`): Llama with a sliding window in every layer.

use super::Family;
use super::llama::{NAMES, Trunk};
use super::names::Tensors;
use super::parts::DimDefaults;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_POSITIONS};
use crate::model::rope::RopeDefaults;
use crate::model::spec::{MlpBias, ModelSpec};

pub(super) const FAMILY: Family =
    Family { model_type: "mistral", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { n_kv_heads: Some(8), ..DimDefaults::LLAMA };
    let trunk = Trunk::read(cfg, dims, RopeDefaults { max_positions: 131_072, ..RopeDefaults::default() })?;
    // v0.1 relies on the class default; v0.2 and v0.3 write null, which is no window.
    let absent = !cfg.contains("sliding_window");
    let window = cfg.size(&["sliding_window"], MAX_POSITIONS)?.or(absent.then_some(4096));
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |_, attn| attn.window = window))
}

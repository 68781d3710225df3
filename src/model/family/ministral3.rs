//! Ministral 3 (`Ministral3Config`): Mistral with YaRN and queries that grow with the position.

use super::Family;
use super::llama::{NAMES, Trunk};
use super::names::Tensors;
use super::parts::DimDefaults;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_POSITIONS};
use crate::model::rope::RopeDefaults;
use crate::model::spec::{MlpBias, ModelSpec, QTemperature};

pub(super) const FAMILY: Family =
    Family { model_type: "ministral3", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

const BETA: &str = "llama_4_scaling_beta";

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let table = cfg.table("rope_parameters")?.ok_or_else(|| cfg.error("rope_parameters", "the key is missing"))?;
    let original = table.required_size(&["original_max_position_embeddings"], MAX_POSITIONS)?;
    let beta = table.positive(&[BETA])?.ok_or_else(|| table.error(BETA, "the key is missing"))? as f32;
    let dims = DimDefaults { n_kv_heads: Some(8), d_head: Some(128), eps: 1e-5, ..DimDefaults::LLAMA };
    let own_keys = &[BETA, "max_position_embeddings"];
    let rope = RopeDefaults { own_keys, theta: 1e6, max_positions: 262_144, ..RopeDefaults::default() };
    let trunk = Trunk::read(cfg, dims, rope)?;
    let window = cfg.size(&["sliding_window"], MAX_POSITIONS)?;
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |_, attn| {
        attn.window = window;
        attn.q_temperature = Some(QTemperature { beta, original });
    }))
}

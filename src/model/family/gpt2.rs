//! GPT-2 (`GPT2Config`): learned positions, layer norms, a fused and transposed c_attn.

use super::names::{Layout, Name, Part, Tensors, stored};
use super::{Family, learned};
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::inert::Inert;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: Family =
    Family { model_type: "gpt2", resolve, prefix: "transformer.", names: &[NAMES, learned::OUTER], inert: INERT };

const NAMES: &[Name] = &[
    stored("blocks.{l}.attn.q", "{p}h.{l}.attn.c_attn", Layout::QkvTranspose(Part::Q)),
    stored("blocks.{l}.attn.k", "{p}h.{l}.attn.c_attn", Layout::QkvTranspose(Part::K)),
    stored("blocks.{l}.attn.v", "{p}h.{l}.attn.c_attn", Layout::QkvTranspose(Part::V)),
    stored("blocks.{l}.attn.o", "{p}h.{l}.attn.c_proj", Layout::Transpose),
    stored("blocks.{l}.mlp.up", "{p}h.{l}.mlp.c_fc", Layout::Transpose),
    stored("blocks.{l}.mlp.down", "{p}h.{l}.mlp.c_proj", Layout::Transpose),
];

const INERT: &[Inert] = &[
    Inert::any("n_ctx", "an old synonym of n_positions, which is what sizes the table"),
    Inert::any("reorder_and_upcast_attn", "computes the same scores in float32, as is done here anyway"),
    Inert::any("predict_special_tokens", "used only in training"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = learned::dims(cfg)?;
    let scale = learned::scale(cfg, &dims)?;
    let by_layer = cfg.flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
    learned::spec(cfg, tensors, &FAMILY, &dims, ("gelu_new", 1024), |l, attn| {
        attn.scale = if by_layer { scale / (l as f64 + 1.0) } else { scale } as f32;
    })
}

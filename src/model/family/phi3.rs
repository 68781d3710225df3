//! Phi-3, Phi-3.5, Phi-4 and Phi-4-mini (`Phi3Config`): Llama with q, k and v in one matrix, gate and up in another,
//! LongRoPE and a window.

use super::Family;
use super::llama::{self, Trunk};
use super::names::{Layout, Name, Part, Tensors, stored};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_POSITIONS};
use crate::model::inert::Inert;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "phi3", resolve, prefix: "model.", names: &[QKV, GATE_UP, llama::NAMES], inert: INERT };

const QKV: &[Name] = &[
    stored("blocks.{l}.attn.q", "{p}layers.{l}.self_attn.qkv_proj", Layout::Qkv(Part::Q)),
    stored("blocks.{l}.attn.k", "{p}layers.{l}.self_attn.qkv_proj", Layout::Qkv(Part::K)),
    stored("blocks.{l}.attn.v", "{p}layers.{l}.self_attn.qkv_proj", Layout::Qkv(Part::V)),
];

pub(super) const GATE_UP: &[Name] = &[
    stored("blocks.{l}.mlp.gate", "{p}layers.{l}.mlp.gate_up_proj", Layout::Gate),
    stored("blocks.{l}.mlp.up", "{p}layers.{l}.mlp.gate_up_proj", Layout::Up),
];

const BIASED: &str = "this model type has no biases";
const INERT: &[Inert] = &[
    Inert::at("attention_bias", &["false"], BIASED),
    Inert::at("mlp_bias", &["false"], BIASED),
    Inert::at("lm_head_bias", &["false"], BIASED),
    Inert::at("full_attn_mod", &["1"], "only attention of one kind in all layers is supported"),
    Inert::at("interpolate_factor", &["1"], "interpolated positions are spelled rope_scaling"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { eps: 1e-5, ..DimDefaults::LLAMA };
    let rope = RopeDefaults { max_positions: 4096, original: Some(4096), ..RopeDefaults::default() };
    let trunk = Trunk::read(cfg, dims, rope)?;
    let window = cfg.size(&["sliding_window"], MAX_POSITIONS)?;
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |_, attn| attn.window = window))
}

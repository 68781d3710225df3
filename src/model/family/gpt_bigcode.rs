//! GPT-BigCode (`GPTBigCodeConfig`; SantaCoder, StarCoder): GPT-2 with one KV head, and matrices that are not transposed.

use super::names::{Layout, Name, Part, Tensors, direct, stored};
use super::{Family, learned};
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::inert::Inert;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_bigcode",
    resolve,
    prefix: "transformer.",
    names: &[NAMES, learned::MLP, learned::OUTER],
    inert: INERT,
};

const NAMES: &[Name] = &[
    stored("blocks.{l}.attn.q", "{p}h.{l}.attn.c_attn", Layout::PerGroupQkv(Part::Q)),
    stored("blocks.{l}.attn.k", "{p}h.{l}.attn.c_attn", Layout::PerGroupQkv(Part::K)),
    stored("blocks.{l}.attn.v", "{p}h.{l}.attn.c_attn", Layout::PerGroupQkv(Part::V)),
    direct("blocks.{l}.attn.o", "{p}h.{l}.attn.c_proj"),
];

const SOFTMAX: &str = "the softmax is in float32 in any case";
const RUNNER: &str = "a setting of the server that the first models ran on";
const INERT: &[Inert] = &[
    Inert::any("attention_softmax_in_fp32", SOFTMAX),
    Inert::any("scale_attention_softmax_in_fp32", SOFTMAX),
    Inert::any("inference_runner", RUNNER),
    Inert::any("validate_runner_input", RUNNER),
    Inert::any("pre_allocate_kv_cache", RUNNER),
    Inert::any("pad_key_length", RUNNER),
    Inert::any("max_batch_size", RUNNER),
    Inert::any("num_key_value_heads", "multi_query says it"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let mut dims = learned::dims(cfg)?;
    dims.n_kv_heads = if cfg.flag("multi_query")?.unwrap_or(true) { 1 } else { dims.n_heads };
    let scale = learned::scale(cfg, &dims)? as f32;
    learned::spec(cfg, tensors, &FAMILY, &dims, ("gelu_pytorch_tanh", 1024), |_, attn| attn.scale = scale)
}

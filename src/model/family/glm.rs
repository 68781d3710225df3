//! GLM-4-9B (`GlmConfig`): Llama with half of each head rotated in neighbouring pairs, biases on q, k and v, and gate and
//! up in one matrix.

use super::Family;
use super::llama::{self, Trunk};
use super::names::Tensors;
use super::parts::*;
use super::phi3::GATE_UP;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "glm", resolve, prefix: "model.", names: &[GATE_UP, llama::NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    without_post_norms(cfg, tensors, &FAMILY)
}

/// GLM, and GLM-4 but for the norms that it adds.
pub(super) fn without_post_norms(
    cfg: &Config,
    tensors: &Tensors<'_>,
    family: &Family,
) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { n_kv_heads: Some(2), d_head: Some(128), eps: 1.5625e-7, ..DimDefaults::LLAMA };
    let layout = RopeLayout::Interleaved;
    let rope = RopeDefaults { fraction: 0.5, max_positions: 131_072, layout, ..RopeDefaults::default() };
    let trunk = Trunk::read(cfg, dims, rope)?;
    let bias = |stem| tensors.bias(cfg, "attention_bias", stem, true);
    let bias = QkvoBias { q: bias("attn.q")?, k: bias("attn.k")?, v: bias("attn.v")?, o: false };
    Ok(trunk.spec(family, tensors.tied(cfg, false)?, MlpBias::default(), |_, attn| attn.bias = bias))
}

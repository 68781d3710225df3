//! Seed-OSS (`SeedOssConfig`): Llama with biases on q, k and v.

use super::Family;
use super::llama::{NAMES, Trunk, mlp_bias};
use super::names::Tensors;
use super::parts::DimDefaults;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::{ModelSpec, QkvoBias};

pub(super) const FAMILY: Family =
    Family { model_type: "seed_oss", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { n_kv_heads: Some(8), d_head: Some(128), ..DimDefaults::LLAMA };
    let trunk = Trunk::read(cfg, dims, RopeDefaults { max_positions: 524_288, ..RopeDefaults::default() })?;
    let bias = |stem| tensors.bias(cfg, "attention_bias", stem, true);
    let o = tensors.bias(cfg, "attention_out_bias", "attn.o", false)?;
    let bias = QkvoBias { q: bias("attn.q")?, k: bias("attn.k")?, v: bias("attn.v")?, o };
    let mlp_bias = mlp_bias(cfg, tensors)?;
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, false)?, mlp_bias, |_, attn| attn.bias = bias))
}

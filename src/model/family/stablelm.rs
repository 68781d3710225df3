//! StableLM (`StableLmConfig`): Llama with layer norms, a quarter of each head rotated, side by side or in series, and in
//! the 12B model a norm of its own for each head of q and k.

use super::Family;
use super::llama::{self, Trunk};
use super::names::{Layout, Name, Part, Tensors, stored};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "stablelm", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: &[] };

const NAMES: &[Name] = &[
    stored("blocks.{l}.attn.q_norm", "{p}layers.{l}.self_attn.q_layernorm.norms.{h}", Layout::PerHead(Part::Q)),
    stored("blocks.{l}.attn.k_norm", "{p}layers.{l}.self_attn.k_layernorm.norms.{h}", Layout::PerHead(Part::K)),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = DimDefaults { n_kv_heads: Some(32), eps: 1e-5, ..DimDefaults::LLAMA };
    let rope = RopeDefaults { fraction: 0.25, max_positions: 4096, ..RopeDefaults::default() };
    let trunk = Trunk::read(cfg, dims, rope)?;
    let eps = trunk.eps;
    let qk_norm = cfg.flag("qk_layernorm")?.unwrap_or(false);
    let bias = |stem| tensors.bias(cfg, "use_qkv_bias", stem, false);
    let bias = QkvoBias { q: bias("attn.q")?, k: bias("attn.k")?, v: bias("attn.v")?, o: false };
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |_, attn| attn.bias = bias);
    each_norm(&mut spec, |norm| (norm.kind, norm.bias) = (NormKind::LayerNorm, true));
    if cfg.flag("use_parallel_residual")?.unwrap_or(false) {
        parallel_behind_one_norm(&mut spec);
    }
    if qk_norm {
        each_attn(&mut spec, |l, attn| qk_norms(l, attn, NormScope::PerHeadDistinct, |t| scale_norm(eps, t)));
    }
    Ok(spec)
}

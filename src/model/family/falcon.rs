//! Falcon 7B, 40B, 180B, 11B and RW (`FalconConfig`): q, k and v fused by KV head; attention and MLP side by side behind
//! one norm or two, or in series; rotary positions or linear biases.

use super::names::{Layout, Name, Part, Tensors, direct, stored};
use super::parts::*;
use super::{Family, learned};
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::inert::Inert;
use crate::model::rope::{self, RopeDefaults};
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "falcon", resolve, prefix: "transformer.", names: &[NAMES], inert: INERT };

const INERT: &[Inert] = &[Inert::any("ff_factor", "ffn_hidden_size says it")];

/// Bloom's names, too.
pub(super) const NAMES: &[Name] = &[
    direct("embed", "{p}word_embeddings"),
    direct("blocks.{l}.ln1", "{p}h.{l}.input_layernorm"),
    direct("blocks.{l}.ln_attn", "{p}h.{l}.ln_attn"),
    stored("blocks.{l}.attn.q", "{p}h.{l}.self_attention.query_key_value", Layout::PerGroupQkv(Part::Q)),
    stored("blocks.{l}.attn.k", "{p}h.{l}.self_attention.query_key_value", Layout::PerGroupQkv(Part::K)),
    stored("blocks.{l}.attn.v", "{p}h.{l}.self_attention.query_key_value", Layout::PerGroupQkv(Part::V)),
    direct("blocks.{l}.attn.o", "{p}h.{l}.self_attention.dense"),
    direct("blocks.{l}.ln2", "{p}h.{l}.post_attention_layernorm"),
    direct("blocks.{l}.ln_mlp", "{p}h.{l}.ln_mlp"),
    direct("blocks.{l}.mlp.up", "{p}h.{l}.mlp.dense_h_to_4h"),
    direct("blocks.{l}.mlp.down", "{p}h.{l}.mlp.dense_4h_to_h"),
    direct("ln_final", "{p}ln_f"),
    direct("unembed", "lm_head"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let mut dims = learned::dims(cfg)?;
    let flag = |key, default| Ok::<_, ModelError>(cfg.flag(key)?.unwrap_or(default));
    let (grouped, parallel) = (flag("new_decoder_architecture", false)?, flag("parallel_attn", true)?);
    let one_kv_head = flag("multi_query", true)?;
    let of_old = if one_kv_head { 1 } else { dims.n_heads };
    dims.n_kv_heads = if grouped { dims.n_kv_heads } else { of_old };
    let two_norms = cfg.size(&["num_ln_in_parallel_attn"], 2)?.unwrap_or(1 + usize::from(grouped)) == 2;
    if (grouped && !parallel) || (two_norms && !grouped) {
        return Err(cfg.error("new_decoder_architecture", "contradicts parallel_attn or num_ln_in_parallel_attn"));
    }
    let (eps, act, bias) = (eps(cfg, 1e-5)?, activation(cfg, "gelu")?, tensors.bias(cfg, "bias", "attn.q", false)?);
    let alibi = flag("alibi", false)?.then(|| rounded_alibi(dims.n_heads));
    let rope = Some(rope::resolve(cfg, dims.d_head, RopeDefaults::default())?).filter(|_| alibi.is_none());
    let index = rope.as_ref().map(|_| 0);
    let mut spec = layer_norm_spec(&FAMILY, &dims, rope, eps, tensors.tied(cfg, true)?, |l| {
        let attn = AttnSpec { bias: all_biased(bias), alibi: alibi.clone(), ..dims.attn(index) };
        let name = |t: String| if two_norms { t.replace("ln1", "ln_attn").replace("ln2", "ln_mlp") } else { t };
        pre_norm_block(l, attn, plain_mlp(dims.d_mlp, act, bias), |t| layer_norm(eps, name(t)), parallel)
    });
    if parallel && !two_norms {
        parallel_behind_one_norm(&mut spec);
    }
    Ok(spec)
}

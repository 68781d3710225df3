//! MPT (`MptConfig`): linear position biases, layer norms and matrices without biases, q, k and v in one matrix.

use super::names::{Layout, Name, Part, Tensors, direct, stored};
use super::parts::*;
use super::{Family, learned};
use crate::model::ModelError;
use crate::model::config::{Config, MAX_POSITIONS};
use crate::model::inert::{Inert, SHARED};
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "mpt", resolve, prefix: "transformer.", names: &[NAMES], inert: INERT };

const NAMES: &[Name] = &[
    direct("embed", "{p}wte"),
    direct("blocks.{l}.ln1", "{p}blocks.{l}.norm_1"),
    stored("blocks.{l}.attn.q", "{p}blocks.{l}.attn.Wqkv", Layout::Qkv(Part::Q)),
    stored("blocks.{l}.attn.k", "{p}blocks.{l}.attn.Wqkv", Layout::Qkv(Part::K)),
    stored("blocks.{l}.attn.v", "{p}blocks.{l}.attn.Wqkv", Layout::Qkv(Part::V)),
    direct("blocks.{l}.attn.o", "{p}blocks.{l}.attn.out_proj"),
    direct("blocks.{l}.ln2", "{p}blocks.{l}.norm_2"),
    direct("blocks.{l}.mlp.up", "{p}blocks.{l}.ffn.up_proj"),
    direct("blocks.{l}.mlp.down", "{p}blocks.{l}.ffn.down_proj"),
    direct("ln_final", "{p}norm_f"),
    direct("unembed", "lm_head"),
];

const FIXED: &str = "what transformers computes has it so";
const INERT: &[Inert] = &[
    Inert::any("learned_pos_emb", "with linear position biases there are no learned ones"),
    Inert::at("expansion_ratio", &["4"], FIXED),
    Inert::at("no_bias", &["true"], FIXED),
    Inert::at("norm_type", &["\"low_precision_layernorm\"", "\"layernorm\""], FIXED),
];

const IN_ATTN: &[Inert] = &[
    Inert::any("attn_uses_sequence_id", "used only with several documents in one prompt"),
    Inert::at("attn_type", &["\"multihead_attention\""], FIXED),
    Inert::at("alibi", &["true"], FIXED),
    Inert::at("alibi_bias_max", &["8"], FIXED),
    Inert::at("prefix_lm", &["false"], FIXED),
    Inert::at("qk_ln", &["false"], FIXED),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let (dims, eps) = (learned::dims(cfg)?, eps(cfg, 1e-5)?);
    let table = cfg.table("attn_config")?;
    let number = |key| table.as_ref().map_or(Ok(None), |t| t.positive(&[key]));
    let (clip, scale) = (number("clip_qkv")?.map(|x| x as f32), number("softmax_scale")?.map(|x| x as f32));
    table.map_or(Ok(()), |t| t.finish(&[IN_ATTN, SHARED]))?;
    let alibi = Some(mpt_alibi(dims.n_heads));
    let mut spec = layer_norm_spec(&FAMILY, &dims, None, eps, tensors.tied(cfg, true)?, |l| {
        let mut attn = AttnSpec { qkv_clip: clip, alibi: alibi.clone(), ..dims.attn(None) };
        attn.scale = scale.unwrap_or(attn.scale);
        pre_norm_block(l, attn, plain_mlp(dims.d_mlp, Act::GeluErf, false), |t| layer_norm(eps, t), false)
    });
    each_norm(&mut spec, |norm| norm.bias = false);
    spec.n_ctx = Some(cfg.size(&["max_seq_len"], MAX_POSITIONS)?.unwrap_or(2048));
    Ok(spec)
}

//! GPT-NeoX and Pythia (`GPTNeoXConfig`): partial rotary positions, attention and MLP side by side on the same input
//! (or in series), q, k and v fused head by head.

use super::Family;
use super::names::{Layout, Name, Part, Tensors, direct, stored};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::{self, RopeDefaults};
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "gpt_neox", resolve, prefix: "gpt_neox.", names: &[NAMES], inert: &[] };

const NAMES: &[Name] = &[
    direct("embed", "{p}embed_in"),
    direct("blocks.{l}.ln1", "{p}layers.{l}.input_layernorm"),
    stored("blocks.{l}.attn.q", "{p}layers.{l}.attention.query_key_value", Layout::PerGroupQkv(Part::Q)),
    stored("blocks.{l}.attn.k", "{p}layers.{l}.attention.query_key_value", Layout::PerGroupQkv(Part::K)),
    stored("blocks.{l}.attn.v", "{p}layers.{l}.attention.query_key_value", Layout::PerGroupQkv(Part::V)),
    direct("blocks.{l}.attn.o", "{p}layers.{l}.attention.dense"),
    direct("blocks.{l}.ln2", "{p}layers.{l}.post_attention_layernorm"),
    direct("blocks.{l}.mlp.up", "{p}layers.{l}.mlp.dense_h_to_4h"),
    direct("blocks.{l}.mlp.down", "{p}layers.{l}.mlp.dense_4h_to_h"),
    direct("ln_final", "{p}final_layer_norm"),
    direct("unembed", "embed_out"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = Dims::read(cfg, &DimDefaults::LLAMA)?;
    let rope = rope::resolve(cfg, dims.d_head, RopeDefaults { fraction: 0.25, ..RopeDefaults::default() })?;
    let (eps, act) = (eps(cfg, 1e-5)?, activation(cfg, "gelu")?);
    let parallel = cfg.flag("use_parallel_residual")?.unwrap_or(true);
    let qkv = tensors.bias(cfg, "attention_bias", "attn.q", true)?;
    let bias = QkvoBias { q: qkv, k: qkv, v: qkv, o: tensors.bias(cfg, "attention_bias", "attn.o", true)? };
    let block = |l| {
        let mlp_bias = MlpBias { gate: false, up: true, down: true };
        let mlp = MlpSpec { d_mlp: dims.d_mlp, gated: false, act, bias: mlp_bias };
        pre_norm_block(l, AttnSpec { bias, ..dims.attn(Some(0)) }, mlp, |t| layer_norm(eps, t), parallel)
    };
    Ok(ModelSpec {
        family: FAMILY.model_type.into(),
        d_model: dims.d_model,
        d_vocab: dims.d_vocab,
        n_ctx: Some(rope.n_ctx),
        embed: plain_embed(),
        ropes: vec![rope.spec],
        blocks: (0..dims.n_layers).map(block).collect(),
        final_norm: Some(layer_norm(eps, "ln_final")),
        unembed: plain_unembed(tensors.tied(cfg, false)?),
    })
}

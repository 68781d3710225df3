//! Bloom (`BloomConfig`): linear position biases, a norm of the embedding, q, k and v fused head by head.

use super::falcon;
use super::names::{Name, Tensors, direct};
use super::parts::*;
use super::{Family, learned};
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::inert::Inert;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "bloom", resolve, prefix: "transformer.", names: &[NAMES, falcon::NAMES], inert: INERT };

const NAMES: &[Name] = &[direct("embed_norm", "{p}word_embeddings_layernorm")];

const KERNEL: &str = "chooses a fused kernel of the training framework";
const INERT: &[Inert] = &[
    Inert::any("attention_softmax_in_fp32", "the softmax is in float32 in any case"),
    Inert::any("slow_but_exact", "matters only with pretraining_tp, which splits matrix products"),
    Inert::any("seq_length", "the length used in training; linear position biases have no limit"),
    Inert::any("offset_alibi", "used only in training"),
    Inert::any("bias_dropout_fusion", KERNEL),
    Inert::any("masked_softmax_fusion", KERNEL),
    Inert::any("skip_bias_add", KERNEL),
    Inert::any("skip_bias_add_qkv", KERNEL),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = learned::dims(cfg)?;
    let eps = eps(cfg, 1e-5)?;
    let alibi = Some(Alibi { slopes: alibi_slopes(dims.n_heads), at: AlibiAt::AfterScale });
    let mut spec = layer_norm_spec(&FAMILY, &dims, None, eps, tensors.tied(cfg, true)?, |l| {
        let attn = AttnSpec { bias: all_biased(true), alibi: alibi.clone(), ..dims.attn(None) };
        pre_norm_block(l, attn, plain_mlp(dims.d_mlp, Act::GeluTanh, true), |t| layer_norm(eps, t), false)
    });
    spec.embed.norm = Some(layer_norm(eps, "embed_norm"));
    Ok(spec)
}

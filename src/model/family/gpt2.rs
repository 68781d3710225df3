//! GPT-2 (`GPT2Config`): learned positions, layer norms, a fused and transposed c_attn.

use super::Family;
use super::names::{Layout, Name, Part, Tensors, direct, stored};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::inert::Inert;
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "gpt2", resolve, prefix: "transformer.", names: NAMES, inert: INERT };

const NAMES: &[Name] = &[
    direct("embed", "{p}wte"),
    direct("pos", "{p}wpe"),
    direct("blocks.{l}.ln1", "{p}h.{l}.ln_1"),
    stored("blocks.{l}.attn.q", "{p}h.{l}.attn.c_attn", Layout::QkvTranspose(Part::Q)),
    stored("blocks.{l}.attn.k", "{p}h.{l}.attn.c_attn", Layout::QkvTranspose(Part::K)),
    stored("blocks.{l}.attn.v", "{p}h.{l}.attn.c_attn", Layout::QkvTranspose(Part::V)),
    stored("blocks.{l}.attn.o", "{p}h.{l}.attn.c_proj", Layout::Transpose),
    direct("blocks.{l}.ln2", "{p}h.{l}.ln_2"),
    stored("blocks.{l}.mlp.up", "{p}h.{l}.mlp.c_fc", Layout::Transpose),
    stored("blocks.{l}.mlp.down", "{p}h.{l}.mlp.c_proj", Layout::Transpose),
    direct("ln_final", "{p}ln_f"),
    direct("unembed", "lm_head"),
];

const INERT: &[Inert] = &[
    Inert::any("n_ctx", "an old synonym of n_positions, which is what sizes the table"),
    Inert::any("reorder_and_upcast_attn", "computes the same scores in float32, as is done here anyway"),
    Inert::any("predict_special_tokens", "used only in training"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = Dims::read(cfg, DimDefaults { mlp_is_four_wide: true, ..DimDefaults::default() })?;
    let rows = learned_positions(cfg, 1024)?;
    let (eps, act) = (eps(cfg, 1e-5)?, activation(cfg, "gelu_new")?);
    let scaled = cfg.flag("scale_attn_weights")?.unwrap_or(true);
    let by_layer = cfg.flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
    let block = |l: usize| {
        let scale = if scaled { (dims.d_head as f64).powf(-0.5) } else { 1.0 };
        let attn = AttnSpec {
            scale: (if by_layer { scale / (l as f64 + 1.0) } else { scale }) as f32,
            bias: QkvoBias { q: true, k: true, v: true, o: true },
            ..dims.attn(None)
        };
        let bias = MlpBias { gate: false, up: true, down: true };
        let mlp = MlpSpec { d_mlp: dims.d_mlp, gated: false, act, bias };
        pre_norm_block(l, attn, mlp, |tensor| layer_norm(eps, tensor), false)
    };
    Ok(ModelSpec {
        family: FAMILY.model_type.into(),
        d_model: dims.d_model,
        d_vocab: dims.d_vocab,
        n_ctx: Some(rows),
        embed: EmbedSpec { positions: Some(LearnedPositions { rows, offset: 0 }), ..plain_embed() },
        ropes: vec![],
        blocks: (0..dims.n_layers).map(block).collect(),
        final_norm: Some(layer_norm(eps, "ln_final")),
        unembed: plain_unembed(tensors.tied(cfg, true)?),
    })
}

//! Llama (`LlamaConfig`) and the trunk that Mistral, Qwen and SmolLM3 share with it: RMS norms before attention and a
//! gated MLP, rotary positions, grouped KV heads.

use super::Family;
use super::names::{Name, Tensors, direct};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::{self, RopeDefaults};
use crate::model::spec::*;

pub(super) const FAMILY: Family = Family { model_type: "llama", resolve, prefix: "model.", names: NAMES, inert: &[] };

/// The names of the whole tree; a family uses those that its spec asks for.
pub(super) const NAMES: &[Name] = &[
    direct("embed", "{p}embed_tokens"),
    direct("blocks.{l}.ln1", "{p}layers.{l}.input_layernorm"),
    direct("blocks.{l}.attn.q", "{p}layers.{l}.self_attn.q_proj"),
    direct("blocks.{l}.attn.k", "{p}layers.{l}.self_attn.k_proj"),
    direct("blocks.{l}.attn.v", "{p}layers.{l}.self_attn.v_proj"),
    direct("blocks.{l}.attn.o", "{p}layers.{l}.self_attn.o_proj"),
    direct("blocks.{l}.attn.q_norm", "{p}layers.{l}.self_attn.q_norm"),
    direct("blocks.{l}.attn.k_norm", "{p}layers.{l}.self_attn.k_norm"),
    direct("blocks.{l}.ln2", "{p}layers.{l}.post_attention_layernorm"),
    direct("blocks.{l}.mlp.gate", "{p}layers.{l}.mlp.gate_proj"),
    direct("blocks.{l}.mlp.up", "{p}layers.{l}.mlp.up_proj"),
    direct("blocks.{l}.mlp.down", "{p}layers.{l}.mlp.down_proj"),
    direct("ln_final", "{p}norm"),
    direct("unembed", "lm_head"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let trunk = Trunk::read(cfg, DimDefaults::default(), RopeDefaults::default())?;
    let bias = qkvo_bias(cfg, tensors)?;
    let mlp_bias = mlp_bias(cfg, tensors)?;
    Ok(trunk.spec(&FAMILY, tensors.tied(cfg, false)?, mlp_bias, |_, attn| attn.bias = bias))
}

/// What the whole tree reads from a config.
pub(super) struct Trunk {
    pub dims: Dims,
    pub eps: f32,
    act: Act,
    rope: rope::Rope,
}

impl Trunk {
    pub fn read(cfg: &Config, dims: DimDefaults, rope: RopeDefaults) -> Result<Trunk, ModelError> {
        let dims = Dims::read(cfg, dims)?;
        let rope = rope::resolve(cfg, dims.d_head, rope)?;
        Ok(Trunk { dims, eps: eps(cfg, 1e-6)?, act: activation(cfg, "silu")?, rope })
    }

    /// The spec, with `knobs(layer, attention)` setting what the family does otherwise.
    pub fn spec(
        self,
        family: &Family,
        tied: bool,
        mlp_bias: MlpBias,
        knobs: impl Fn(usize, &mut AttnSpec),
    ) -> ModelSpec {
        let Trunk { dims, eps, act, rope } = self;
        let block = |l| {
            let mut attn = dims.attn(Some(0));
            knobs(l, &mut attn);
            let mlp = MlpSpec { d_mlp: dims.d_mlp, gated: true, act, bias: mlp_bias };
            pre_norm_block(l, attn, mlp, |tensor| rms_norm(eps, tensor), false)
        };
        ModelSpec {
            family: family.model_type.into(),
            d_model: dims.d_model,
            d_vocab: dims.d_vocab,
            n_ctx: Some(rope.n_ctx),
            embed: plain_embed(),
            ropes: vec![rope.spec],
            blocks: (0..dims.n_layers).map(block).collect(),
            final_norm: Some(rms_norm(eps, "ln_final")),
            unembed: plain_unembed(tied),
        }
    }
}

/// `attention_bias`: on q, k, v and o.
pub(super) fn qkvo_bias(cfg: &Config, tensors: &Tensors<'_>) -> Result<QkvoBias, ModelError> {
    let bias = |stem| tensors.bias(cfg, "attention_bias", stem, false);
    Ok(QkvoBias { q: bias("attn.q")?, k: bias("attn.k")?, v: bias("attn.v")?, o: bias("attn.o")? })
}

/// `mlp_bias`: on gate, up and down.
pub(super) fn mlp_bias(cfg: &Config, tensors: &Tensors<'_>) -> Result<MlpBias, ModelError> {
    let bias = |stem| tensors.bias(cfg, "mlp_bias", stem, false);
    Ok(MlpBias { gate: bias("mlp.gate")?, up: bias("mlp.up")?, down: bias("mlp.down")? })
}

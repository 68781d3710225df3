//! The trunk of Llama and of everything that grew from it: what the configs share, and a spec of RMS norms before attention
//! and a gated MLP that a family then changes where it is different.

use super::Family;
use super::names::Tensors;
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::{self, RopeDefaults, TwoRopes};
use crate::model::spec::*;

/// What the whole tree reads from a config.
pub(super) struct Trunk {
    pub dims: Dims,
    pub eps: f32,
    pub act: Act,
    pub gated: bool,
    /// One table, or that of the full layers and that of the sliding ones.
    ropes: Vec<rope::Rope>,
}

impl Trunk {
    pub fn read(cfg: &Config, defaults: DimDefaults, rope: RopeDefaults) -> Result<Trunk, ModelError> {
        let dims = Dims::read(cfg, &defaults)?;
        let ropes = vec![rope::resolve(cfg, dims.d_head, rope)?];
        Ok(Trunk {
            dims,
            eps: eps(cfg, defaults.eps)?,
            act: (defaults.read_act)(cfg, defaults.act)?,
            gated: true,
            ropes,
        })
    }

    /// As [`read`](Self::read), with a second table for the sliding layers.
    pub fn with_two_ropes(cfg: &Config, defaults: DimDefaults, ropes: TwoRopes) -> Result<Trunk, ModelError> {
        let dims = Dims::read(cfg, &defaults)?;
        let ropes = ropes.resolve(cfg, dims.d_head)?.into();
        Ok(Trunk {
            dims,
            eps: eps(cfg, defaults.eps)?,
            act: (defaults.read_act)(cfg, defaults.act)?,
            gated: true,
            ropes,
        })
    }

    /// The spec, with `knobs(layer, attention)` setting what the family does otherwise.
    pub fn spec(
        self,
        family: &Family,
        tied: bool,
        mlp_bias: MlpBias,
        knobs: impl Fn(usize, &mut AttnSpec),
    ) -> ModelSpec {
        let Trunk { dims, eps, act, gated, ropes } = self;
        let block = |l| {
            let mut attn = dims.attn(Some(0));
            knobs(l, &mut attn);
            let mlp = MlpSpec { d_mlp: dims.d_mlp, gated, act, bias: mlp_bias };
            pre_norm_block(l, attn, mlp, |tensor| rms_norm(eps, tensor), false)
        };
        ModelSpec {
            family: family.model_type.into(),
            d_model: dims.d_model,
            d_vocab: dims.d_vocab,
            n_ctx: ropes.first().map(|r| r.n_ctx),
            embed: plain_embed(),
            ropes: ropes.into_iter().map(|r| r.spec).collect(),
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

//! What GPT-2 and its kin share: learned positions, layer norms, attention then MLP, biases everywhere, GPT-2's names
//! around the attention.

use super::Family;
use super::names::{Name, Tensors, direct};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::spec::*;

/// Everything but the matrices of the layers.
pub(super) const OUTER: &[Name] = &[
    direct("embed", "{p}wte"),
    direct("pos", "{p}wpe"),
    direct("blocks.{l}.ln1", "{p}h.{l}.ln_1"),
    direct("blocks.{l}.ln2", "{p}h.{l}.ln_2"),
    direct("ln_final", "{p}ln_f"),
    direct("unembed", "lm_head"),
];

/// The MLP's matrices where they are not transposed.
pub(super) const MLP: &[Name] =
    &[direct("blocks.{l}.mlp.up", "{p}h.{l}.mlp.c_fc"), direct("blocks.{l}.mlp.down", "{p}h.{l}.mlp.c_proj")];

/// The sizes; the MLP is four times as wide as the residual stream unless a key says otherwise.
pub(super) fn dims(cfg: &Config) -> Result<Dims, ModelError> {
    Dims::read(cfg, &DimDefaults { mlp_is_four_wide: true, ..DimDefaults::LLAMA })
}

/// The spec, with `knobs(layer, attention)` setting what the family does otherwise.
pub(super) fn spec(
    cfg: &Config,
    tensors: &Tensors<'_>,
    family: &Family,
    dims: &Dims,
    (act, positions): (&str, usize),
    knobs: impl Fn(usize, &mut AttnSpec),
) -> Result<ModelSpec, ModelError> {
    let (eps, act) = (eps(cfg, 1e-5)?, activation(cfg, act)?);
    let mut spec = layer_norm_spec(family, dims, None, eps, tensors.tied(cfg, true)?, |l| {
        let mut attn = AttnSpec { bias: all_biased(true), ..dims.attn(None) };
        knobs(l, &mut attn);
        pre_norm_block(l, attn, plain_mlp(dims.d_mlp, act, true), |tensor| layer_norm(eps, tensor), false)
    });
    learn_positions(&mut spec, learned_positions(cfg, positions)?, 0);
    Ok(spec)
}

/// 1/√d_head, or 1 where `scale_attn_weights` is false.
pub(super) fn scale(cfg: &Config, dims: &Dims) -> Result<f64, ModelError> {
    let scaled = cfg.flag("scale_attn_weights")?.unwrap_or(true);
    Ok(if scaled { (dims.d_head as f64).powf(-0.5) } else { 1.0 })
}

//! OPT (`OPTConfig`): learned positions from row 2 on; the 350M model has its norms after the additions and an embedding
//! narrower than its residual stream.

use super::names::{Name, Tensors, direct};
use super::parts::*;
use super::{Family, learned};
use crate::model::ModelError;
use crate::model::config::{Config, MAX_WIDTH};
use crate::model::spec::*;

pub(super) const FAMILY: Family = Family { model_type: "opt", resolve, prefix: "model.", names: &[NAMES], inert: &[] };

/// `final_layer_norm` of a layer is the norm of its MLP.
const NAMES: &[Name] = &[
    direct("embed", "{p}decoder.embed_tokens"),
    direct("pos", "{p}decoder.embed_positions"),
    direct("proj_in", "{p}decoder.project_in"),
    direct("blocks.{l}.ln1", "{p}decoder.layers.{l}.self_attn_layer_norm"),
    direct("blocks.{l}.attn.q", "{p}decoder.layers.{l}.self_attn.q_proj"),
    direct("blocks.{l}.attn.k", "{p}decoder.layers.{l}.self_attn.k_proj"),
    direct("blocks.{l}.attn.v", "{p}decoder.layers.{l}.self_attn.v_proj"),
    direct("blocks.{l}.attn.o", "{p}decoder.layers.{l}.self_attn.out_proj"),
    direct("blocks.{l}.ln2", "{p}decoder.layers.{l}.final_layer_norm"),
    direct("blocks.{l}.mlp.up", "{p}decoder.layers.{l}.fc1"),
    direct("blocks.{l}.mlp.down", "{p}decoder.layers.{l}.fc2"),
    direct("ln_final", "{p}decoder.final_layer_norm"),
    direct("proj_out", "{p}decoder.project_out"),
    direct("unembed", "lm_head"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let (dims, act) = (learned::dims(cfg)?, activation(cfg, "relu")?);
    let flag = |key, default| Ok::<_, ModelError>(cfg.flag(key)?.unwrap_or(default));
    let (before, bias) = (flag("do_layer_norm_before", true)?, flag("enable_bias", true)?);
    let (affine, last) = (flag("layer_norm_elementwise_affine", true)?, !flag("_remove_final_layer_norm", false)?);
    let mut spec = layer_norm_spec(&FAMILY, &dims, None, 1e-5, tensors.tied(cfg, true)?, |l| {
        let attn = AttnSpec { bias: all_biased(bias), ..dims.attn(None) };
        pre_norm_block(l, attn, plain_mlp(dims.d_mlp, act, bias), |t| layer_norm(1e-5, t), false)
    });
    if !affine {
        each_norm(&mut spec, |norm| (norm.weight, norm.bias) = (NormWeight::None, false));
    }
    spec.final_norm = spec.final_norm.filter(|_| before && last);
    for sub in spec.blocks.iter_mut().flat_map(|b| &mut b.subs).filter(|_| !before) {
        sub.resid_norm = sub.pre_norm.take();
    }
    spec.embed.projected = cfg.size(&["word_embed_proj_dim"], MAX_WIDTH)?.filter(|width| *width != dims.d_model);
    learn_positions(&mut spec, learned_positions(cfg, 2048)?, 2);
    Ok(spec)
}

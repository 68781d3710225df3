//! GPT-J (`GPTJConfig`): attention and MLP side by side behind one norm, the first `rotary_dim` dimensions of each head
//! rotated in neighbouring pairs, a bias on the unembedding.

use super::names::{Name, Tensors, direct};
use super::parts::*;
use super::{Family, learned};
use crate::model::ModelError;
use crate::model::config::{Config, MAX_HEADS};
use crate::model::inert::Inert;
use crate::model::rope::{self, RopeDefaults};
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "gptj", resolve, prefix: "transformer.", names: &[NAMES, learned::OUTER], inert: INERT };

const NAMES: &[Name] = &[
    direct("blocks.{l}.attn.q", "{p}h.{l}.attn.q_proj"),
    direct("blocks.{l}.attn.k", "{p}h.{l}.attn.k_proj"),
    direct("blocks.{l}.attn.v", "{p}h.{l}.attn.v_proj"),
    direct("blocks.{l}.attn.o", "{p}h.{l}.attn.out_proj"),
    direct("blocks.{l}.mlp.up", "{p}h.{l}.mlp.fc_in"),
    direct("blocks.{l}.mlp.down", "{p}h.{l}.mlp.fc_out"),
];

const INERT: &[Inert] = &[
    Inert::any("n_ctx", "an old synonym of n_positions"),
    Inert::at("rotary", &["true"], "a GPT-J without rotary positions is not supported"),
    Inert::at("scale_attn_weights", &["true"], "unscaled scores are not supported"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = learned::dims(cfg)?;
    let absent = !cfg.contains("rotary_dim");
    let n_rot = Some(cfg.size(&["rotary_dim"], MAX_HEADS)?.or(absent.then_some(64)).unwrap_or(0));
    let layout = RopeLayout::Interleaved;
    let rope = rope::resolve(cfg, dims.d_head, RopeDefaults { n_rot, layout, ..RopeDefaults::default() })?;
    let (eps, act) = (eps(cfg, 1e-5)?, activation(cfg, "gelu_new")?);
    let mut spec = layer_norm_spec(&FAMILY, &dims, Some(rope), eps, tensors.tied(cfg, false)?, |l| {
        pre_norm_block(l, dims.attn(Some(0)), plain_mlp(dims.d_mlp, act, true), |t| layer_norm(eps, t), true)
    });
    parallel_behind_one_norm(&mut spec);
    spec.unembed.bias = true;
    Ok(spec)
}

//! Gemma-3, text (`Gemma3TextConfig`): Gemma-2 without softcaps, with norms of q and k, five layers that slide to one that
//! does not, and a rotary table for either kind.

use super::Family;
use super::gemma::{INERT, finish};
use super::gemma2::{DEFAULTS, NAMES, scale, window};
use super::llama::{self, Trunk, qkvo_bias};
use super::names::Tensors;
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_LAYERS};
use crate::model::rope::{RopeDefaults, TwoRopes};
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "gemma3_text", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: INERT };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let full = RopeDefaults { theta: 1_000_000.0, max_positions: 131_072, ..RopeDefaults::default() };
    let ropes = TwoRopes { full, sliding_theta: 10_000.0, sliding_key: Some("rope_local_base_freq") };
    // The 4B model's file says neither, inside its wrapper.
    let dims = DimDefaults { d_vocab: Some(262_208), n_heads: Some(8), ..DEFAULTS };
    let trunk = Trunk::with_two_ropes(cfg, dims, ropes)?;
    let pattern = cfg.size(&["sliding_window_pattern"], MAX_LAYERS)?.unwrap_or(6);
    let windows = windows(cfg, trunk.dims.n_layers, window(cfg)?, |l| (l + 1) % pattern != 0)?;
    let (scale, bias, eps) = (scale(cfg)?, qkvo_bias(cfg, tensors)?, trunk.eps);
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, true)?, MlpBias::default(), |l, attn| {
        (attn.bias, attn.scale, attn.window) = (bias, scale, windows[l]);
        attn.rope = Some(windows[l].is_some().into());
        qk_norms(l, attn, NormScope::PerHead, |tensor| rms_norm(eps, tensor));
    });
    spec.unembed.softcap = softcap(cfg, "final_logit_softcapping", None)?;
    post_norms(&mut spec, false, |tensor| rms_norm(eps, tensor));
    finish(&mut spec);
    Ok(spec)
}

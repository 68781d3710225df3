//! OLMo-3 (`Olmo3Config`): OLMo-2 with three layers that slide to one that does not; a scaled rope is for the latter.

use super::Family;
use super::gemma2::window;
use super::llama::{self, Trunk, qkvo_bias};
use super::names::Tensors;
use super::olmo2::{DEFAULTS, NAMES};
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::rope::{RopeDefaults, TwoRopes};
use crate::model::spec::*;

pub(super) const FAMILY: Family =
    Family { model_type: "olmo3", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: &[] };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let full = RopeDefaults { theta: 500_000.0, ..RopeDefaults::default() };
    // transformers 5.23 takes `rope_theta` for the full layers alone; 4.57, which the models were released with, for all.
    let trunk = Trunk::with_two_ropes(cfg, DEFAULTS, TwoRopes { full, sliding_theta: 500_000.0, sliding_key: None })?;
    let windows = windows(cfg, trunk.dims.n_layers, window(cfg)?, |l| (l + 1) % 4 != 0)?;
    let (bias, eps) = (qkvo_bias(cfg, tensors)?, trunk.eps);
    let mut spec = trunk.spec(&FAMILY, tensors.tied(cfg, false)?, MlpBias::default(), |l, attn| {
        (attn.bias, attn.window, attn.rope) = (bias, windows[l], Some(windows[l].is_some().into()));
        qk_norms(l, attn, NormScope::Full, |tensor| rms_norm(eps, tensor));
    });
    post_norms(&mut spec, true, |tensor| rms_norm(eps, tensor));
    Ok(spec)
}

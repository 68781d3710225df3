//! Command R7B and Command A (`Cohere2Config`): Command R with three layers that slide and rotate to one that does
//! neither.

use super::Family;
use super::cohere::plain;
use super::gemma2::window;
use super::llama::NAMES;
use super::names::Tensors;
use super::parts::*;
use crate::model::ModelError;
use crate::model::config::{Config, MAX_LAYERS};
use crate::model::inert::Inert;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: Family =
    Family { model_type: "cohere2", resolve, prefix: "model.", names: &[NAMES], inert: INERT };

const FIXED: &str = "what transformers computes has it so";
const INERT: &[Inert] = &[
    Inert::any("layer_switch", "layer_types or sliding_window_pattern says it"),
    Inert::at("order_of_interleaved_layers", &["\"local_attn_first\""], FIXED),
    Inert::at("position_embedding_type", &["\"rope_gptj\""], FIXED),
    Inert::at("use_embedding_sharing", &["true"], FIXED),
    Inert::at("use_gated_activation", &["true"], FIXED),
    Inert::at("use_parallel_block", &["true"], FIXED),
    Inert::at("use_parallel_embedding", &["true"], FIXED),
    Inert::at("use_qk_norm", &["false"], FIXED),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = plain(cfg, tensors, &FAMILY, DimDefaults { eps: 1e-5, ..DimDefaults::LLAMA }, 10_000.0)?;
    let pattern = cfg.size(&["sliding_window_pattern"], MAX_LAYERS)?.unwrap_or(4);
    let windows = windows(cfg, spec.n_layers(), window(cfg)?, |l| (l + 1) % pattern != 0)?;
    each_attn(&mut spec, |l, attn| {
        attn.window = windows[l];
        attn.rope = attn.rope.filter(|_| windows[l].is_some());
    });
    Ok(spec)
}

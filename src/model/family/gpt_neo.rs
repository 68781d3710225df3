//! GPT-Neo (`GPTNeoConfig`): GPT-2 with unscaled scores, a window in every other layer, and matrices that are not
//! transposed.

use super::names::{Name, Tensors, direct};
use super::parts::all_biased;
use super::{Family, learned};
use crate::model::ModelError;
use crate::model::config::{Config, MAX_LAYERS, MAX_POSITIONS};
use crate::model::spec::{ModelSpec, QkvoBias};

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neo",
    resolve,
    prefix: "transformer.",
    names: &[NAMES, learned::MLP, learned::OUTER],
    inert: &[],
};

const NAMES: &[Name] = &[
    direct("blocks.{l}.attn.q", "{p}h.{l}.attn.attention.q_proj"),
    direct("blocks.{l}.attn.k", "{p}h.{l}.attn.attention.k_proj"),
    direct("blocks.{l}.attn.v", "{p}h.{l}.attn.attention.v_proj"),
    direct("blocks.{l}.attn.o", "{p}h.{l}.attn.attention.out_proj"),
];

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let dims = learned::dims(cfg)?;
    let window = cfg.size(&["window_size"], MAX_POSITIONS)?.unwrap_or(256);
    let slides = local_layers(cfg, dims.n_layers)?;
    learned::spec(cfg, tensors, &FAMILY, &dims, ("gelu_new", 2048), |l, attn| {
        (attn.scale, attn.window) = (1.0, slides[l].then_some(window));
        attn.bias = QkvoBias { o: true, ..all_biased(false) };
    })
}

/// `attention_types` is a list of [[kinds], how often]; `[[["global", "local"], 12]]` where it is absent.
fn local_layers(cfg: &Config, n_layers: usize) -> Result<Vec<bool>, ModelError> {
    let key = "attention_types";
    let error = || cfg.error(key, format!("is no list of [[\"global\" or \"local\", …], times] for {n_layers} layers"));
    let default = [serde_json::json!([["global", "local"], 12])];
    let mut slides = Vec::new();
    for item in cfg.list(key)?.unwrap_or(&default) {
        let kinds = item.get(0).and_then(|k| k.as_array()).ok_or_else(error)?;
        let times = item.get(1).and_then(|n| n.as_u64()).filter(|n| *n <= MAX_LAYERS as u64).ok_or_else(error)?;
        for kind in (0..times).flat_map(|_| kinds).take(n_layers + 1) {
            let global = kind.as_str() == Some("global");
            slides.push(!global);
            if !global && kind.as_str() != Some("local") {
                return Err(error());
            }
        }
    }
    let same = |kinds: &[serde_json::Value]| kinds.iter().zip(&slides).all(|(k, local)| (k == "local") == *local);
    if !cfg.per_layer("attention_layers", n_layers)?.is_none_or(same) {
        return Err(cfg.error("attention_layers", format!("contradicts {key}")));
    }
    if slides.len() == n_layers { Ok(slides) } else { Err(error()) }
}

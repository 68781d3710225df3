//! Gemma, Gemma-2 and Gemma-3 (text): every norm is stored plus one.
//!
//! `query_pre_attn_scalar` is not recorded. llama.cpp takes the width of a head, but d_model / n_heads in the 27B models,
//! which it knows by their number of layers; so does this, and every published model is right.

use super::llama::TREE;
use super::*;
use crate::model::gguf::config::Trunk;
use serde_json::json;

const NORMS: &[Name] = &[
    ruled("output_norm", "model.norm", Rule::NormPlusOne),
    ruled("blk.attn_norm", "model.layers.{l}.input_layernorm", Rule::NormPlusOne),
    ruled("blk.attn_q_norm", "model.layers.{l}.self_attn.q_norm", Rule::NormPlusOne),
    ruled("blk.attn_k_norm", "model.layers.{l}.self_attn.k_norm", Rule::NormPlusOne),
    ruled("blk.ffn_norm", "model.layers.{l}.post_attention_layernorm", Rule::NormPlusOne),
];

/// Norms of the branches' outputs, too.
const SANDWICH: &[Name] = &[
    ruled("blk.post_attention_norm", "model.layers.{l}.post_attention_layernorm", Rule::NormPlusOne),
    ruled("blk.ffn_norm", "model.layers.{l}.pre_feedforward_layernorm", Rule::NormPlusOne),
    ruled("blk.post_ffw_norm", "model.layers.{l}.post_feedforward_layernorm", Rule::NormPlusOne),
];

const GELU: &str = "gelu_pytorch_tanh";

pub(super) const GEMMA: Architecture = Architecture {
    name: "gemma",
    model_types: &["gemma"],
    needs: None,
    varies: false,
    names: &[NORMS, TREE],
    numbers: &[],
    understood: &[],
    config: |gguf| Ok(trunk(gguf, "gemma")?.config),
};

/// Where they are not recorded, every other layer slides, the first one included.
pub(super) const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    model_types: &["gemma2"],
    needs: None,
    varies: false,
    names: &[SANDWICH, NORMS, TREE],
    numbers: &[],
    understood: &[
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    ],
    config: |gguf| {
        let mut trunk = trunk(gguf, "gemma2")?;
        if gguf.uniform("attention.sliding_window")?.is_none() {
            return Err(
                gguf.malformed("has no gemma2.attention.sliding_window in its metadata: convert the model again")
            );
        }
        gguf.sliding_layers(&mut trunk, 2)?;
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            trunk.set(key, gguf.float_of_family(key)?.filter(|cap| *cap != 0.0));
        }
        scores(&mut trunk, 46);
        Ok(trunk.config)
    },
};

/// Where they are not recorded: every sixth layer is full, and the rope of the sliding ones has the base 10,000. A scaling
/// is for the full layers.
pub(super) const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    model_types: &["gemma3_text"],
    understood: &[
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "final_logit_softcapping",
        "rope.freq_base_swa",
    ],
    config: |gguf| {
        let mut trunk = trunk(gguf, "gemma3_text")?;
        gguf.sliding_layers(&mut trunk, 6)?;
        if gguf.float_of_family("rope.freq_base")?.is_none() {
            trunk.set("rope_theta", 1_000_000.0);
        }
        trunk.set("rope_local_base_freq", gguf.float_of_family("rope.freq_base_swa")?.unwrap_or(10_000.0));
        let key = "final_logit_softcapping";
        trunk.set(key, gguf.float_of_family(key)?.filter(|cap| *cap != 0.0));
        scores(&mut trunk, 62);
        Ok(trunk.config)
    },
    ..GEMMA2
};

fn trunk(gguf: &Gguf, model_type: &str) -> Result<Trunk, ModelError> {
    let mut trunk = gguf.trunk(model_type, GELU)?;
    trunk.config.remove("hidden_act");
    trunk.set("hidden_activation", GELU);
    gguf.rms_eps(&mut trunk)?;
    gguf.whole_rope(&mut trunk)?;
    Ok(trunk)
}

fn scores(trunk: &mut Trunk, layers_of_27b: usize) {
    let of_27b = trunk.sizes.n_layers == layers_of_27b;
    let scalar = if of_27b { trunk.sizes.d_model / trunk.sizes.n_heads } else { trunk.d_head };
    trunk.set("query_pre_attn_scalar", json!(scalar));
}

//! Descendants of Llama with layer norms: Nemotron-4, StableLM and StarCoder2.

use super::llama::TREE;
use super::*;
use crate::model::gguf::config::Trunk;

/// Weights of norms are stored plus one. The activation, squared ReLU, is not recorded.
pub(super) const NEMOTRON: Architecture = Architecture {
    name: "nemotron",
    model_types: &["nemotron"],
    needs: None,
    varies: false,
    names: &[
        &[
            ruled("output_norm", "model.norm", Rule::NormPlusOne),
            ruled("blk.attn_norm", "model.layers.{l}.input_layernorm", Rule::NormPlusOne),
            ruled("blk.ffn_norm", "model.layers.{l}.post_attention_layernorm", Rule::NormPlusOne),
        ],
        TREE,
    ],
    numbers: &[],
    understood: &[],
    config: |gguf| {
        let mut trunk = trunk(gguf, "nemotron", "relu2")?;
        gguf.partial_rope(&mut trunk, "partial_rotary_factor")?;
        Ok(trunk.config)
    },
};

/// Side by side are attention and MLP where there is no norm before the MLP: the files of older models say so by mistake
/// in `use_parallel_residual` (llama.cpp looks at the norm, too).
pub(super) const STABLELM: Architecture = Architecture {
    name: "stablelm",
    model_types: &["stablelm"],
    needs: None,
    varies: false,
    names: &[
        &[
            ruled("blk.attn_q_norm", "model.layers.{l}.self_attn.q_layernorm.norms.{h}", Rule::PerHead),
            ruled("blk.attn_k_norm", "model.layers.{l}.self_attn.k_layernorm.norms.{h}", Rule::PerHead),
        ],
        TREE,
    ],
    numbers: &[],
    understood: &["use_parallel_residual"],
    config: |gguf| {
        let mut trunk = trunk(gguf, "stablelm", "silu")?;
        gguf.partial_rope(&mut trunk, "partial_rotary_factor")?;
        trunk.set("use_parallel_residual", gguf.tensor("blk.0.ffn_norm.weight").is_none());
        trunk.set("qk_layernorm", gguf.tensor("blk.0.attn_q_norm.weight").is_some());
        Ok(trunk.config)
    },
};

/// The window (4096 in the published models) is not recorded; without the key there is none, as in llama.cpp.
pub(super) const STARCODER2: Architecture = Architecture {
    name: "starcoder2",
    model_types: &["starcoder2"],
    needs: None,
    varies: false,
    names: &[
        &[name("blk.ffn_up", "model.layers.{l}.mlp.c_fc"), name("blk.ffn_down", "model.layers.{l}.mlp.c_proj")],
        TREE,
    ],
    numbers: &[],
    understood: &["attention.sliding_window"],
    config: |gguf| {
        let mut trunk = trunk(gguf, "starcoder2", "gelu_pytorch_tanh")?;
        gguf.whole_rope(&mut trunk)?;
        trunk.set("sliding_window", gguf.uniform("attention.sliding_window")?.filter(|w| *w > 0));
        Ok(trunk.config)
    },
};

fn trunk(gguf: &Gguf, model_type: &str, hidden_act: &str) -> Result<Trunk, ModelError> {
    let mut trunk = gguf.trunk(model_type, hidden_act)?;
    gguf.layer_norm_eps(&mut trunk)?;
    Ok(trunk)
}

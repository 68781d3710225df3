//! Phi-2 and its forerunners, Phi-3 and Phi-4.

use super::llama::TREE;
use super::*;

/// The base of the rope is not recorded: 10,000, as published. Files made of the first Phi-2 repository have q, k and v in
/// one tensor.
pub(super) const PHI2: Architecture = Architecture {
    name: "phi2",
    model_types: &["phi"],
    needs: None,
    varies: false,
    names: &[
        &[
            name("output_norm", "model.final_layernorm"),
            name("blk.attn_output", "model.layers.{l}.self_attn.dense"),
            name("blk.ffn_up", "model.layers.{l}.mlp.fc1"),
            name("blk.ffn_down", "model.layers.{l}.mlp.fc2"),
        ],
        TREE,
    ],
    numbers: &[],
    understood: &[],
    config: |gguf| {
        let mut trunk = gguf.trunk("phi", "gelu_new")?;
        gguf.layer_norm_eps(&mut trunk)?;
        gguf.partial_rope(&mut trunk, "partial_rotary_factor")?;
        Ok(trunk.config)
    },
};

/// q, k and v stay in one matrix, and gate and up in another (`ffn_up`), as in Hugging Face. A window of 0 is none; older
/// files do not record it, which means none, too (2047 in Phi-3-mini-4k, which matters only to longer prompts).
pub(super) const PHI3: Architecture = Architecture {
    name: "phi3",
    model_types: &["phi3"],
    needs: None,
    varies: false,
    names: &[
        &[
            name("blk.attn_qkv", "model.layers.{l}.self_attn.qkv_proj"),
            name("blk.ffn_up", "model.layers.{l}.mlp.gate_up_proj"),
        ],
        TREE,
    ],
    numbers: &[],
    understood: &["attention.sliding_window", "rope.scaling.attn_factor"],
    config: |gguf| {
        let mut trunk = gguf.trunk("phi3", "silu")?;
        gguf.rms_eps(&mut trunk)?;
        gguf.partial_rope(&mut trunk, "partial_rotary_factor")?;
        if let Some(original) = gguf.uniform("rope.scaling.original_context_length")?.filter(|n| *n > 0) {
            trunk.set("original_max_position_embeddings", original);
        }
        trunk.set("sliding_window", gguf.uniform("attention.sliding_window")?.filter(|w| *w > 0));
        Ok(trunk.config)
    },
};

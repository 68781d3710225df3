//! GLM-4-0414, and GLM-4-9B with ChatGLM before it. Gate and up stay in one matrix (`ffn_up`), as in Hugging Face.

use super::llama::TREE;
use super::*;
use crate::model::gguf::config::Trunk;

const GATE_UP: &[Name] = &[name("blk.ffn_up", "model.layers.{l}.mlp.gate_up_proj")];

/// Files of the vision models (`rope.dimension_sections`) have other rows of q and k and are refused.
pub(super) const GLM4: Architecture = Architecture {
    name: "glm4",
    model_types: &["glm4"],
    needs: None,
    varies: false,
    names: &[
        &[
            name("blk.post_attention_norm", "model.layers.{l}.post_self_attn_layernorm"),
            name("blk.post_ffw_norm", "model.layers.{l}.post_mlp_layernorm"),
        ],
        GATE_UP,
        TREE,
    ],
    numbers: &[],
    understood: &[],
    config: |gguf| Ok(finish(gguf, gguf.trunk("glm4", "silu")?)?.config),
};

/// Files of the original repositories have q, k and v in one tensor. The width of a head is not recorded: it is what the
/// columns of `attn_output` give each head. Of `GlmForCausalLM` the converter records neither base, epsilon nor length, and
/// writes those of ChatGLM2 (10,000, 1e-5, d_model).
pub(super) const CHATGLM: Architecture = Architecture {
    name: "chatglm",
    model_types: &["glm"],
    needs: None,
    varies: false,
    names: &[GATE_UP, TREE],
    numbers: &[],
    understood: &[],
    config: |gguf| {
        let mut trunk = gguf.trunk("glm", "silu")?;
        let n_heads = trunk.sizes.n_heads;
        if let Some(o) = gguf.tensor("blk.0.attn_output.weight") {
            if o.columns() < n_heads || o.columns() % n_heads != 0 {
                let columns = o.columns();
                return Err(gguf.malformed(format!("has {n_heads} heads for {columns} columns of blk.0.attn_output")));
            }
            trunk.d_head = o.columns() / n_heads;
            let d_head = trunk.d_head;
            trunk.set("head_dim", d_head);
        }
        Ok(finish(gguf, trunk)?.config)
    },
};

fn finish(gguf: &Gguf, mut trunk: Trunk) -> Result<Trunk, ModelError> {
    gguf.rms_eps(&mut trunk)?;
    gguf.partial_rope(&mut trunk, "partial_rotary_factor")?;
    Ok(trunk)
}

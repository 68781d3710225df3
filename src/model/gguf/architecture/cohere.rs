//! Command R and Command R7B. Neighbouring pairs rotate in Hugging Face, too, so nothing is permuted.

use super::llama::{TREE, biased};
use super::*;
use crate::model::gguf::config::Trunk;

pub(super) const COMMAND_R: Architecture = Architecture {
    name: "command-r",
    model_types: &["cohere"],
    needs: None,
    varies: false,
    names: &[TREE],
    numbers: &[],
    understood: &["logit_scale"],
    config: |gguf| {
        let mut trunk = trunk(gguf, "cohere")?;
        trunk.set("use_qk_norm", gguf.tensor("blk.0.attn_q_norm.weight").is_some());
        Ok(trunk.config)
    },
};

/// Every fourth layer is full where nothing else is recorded.
pub(super) const COHERE2: Architecture = Architecture {
    name: "cohere2",
    model_types: &["cohere2"],
    understood: &["logit_scale", "attention.sliding_window", "attention.sliding_window_pattern"],
    config: |gguf| {
        let mut trunk = trunk(gguf, "cohere2")?;
        if gguf.uniform("attention.sliding_window")?.is_none() {
            return Err(gguf.malformed("has no cohere2.attention.sliding_window in its metadata"));
        }
        gguf.sliding_layers(&mut trunk, 4)?;
        Ok(trunk.config)
    },
    ..COMMAND_R
};

fn trunk(gguf: &Gguf, model_type: &str) -> Result<Trunk, ModelError> {
    let mut trunk = gguf.trunk(model_type, "silu")?;
    gguf.layer_norm_eps(&mut trunk)?;
    gguf.whole_rope(&mut trunk)?;
    trunk.set("logit_scale", gguf.required_float("logit_scale")?);
    trunk.set("attention_bias", biased(gguf, "attn_q"));
    Ok(trunk)
}

//! GPT-2, and StarCoder (GPT-BigCode), which is GPT-2 with one KV head.

use super::*;
use crate::model::gguf::config::Config;
use serde_json::json;

const OUTER: &[Name] = &[
    name("token_embd", "transformer.wte"),
    name("position_embd", "transformer.wpe"),
    name("output_norm", "transformer.ln_f"),
    name("output", "lm_head"),
    name("blk.attn_norm", "transformer.h.{l}.ln_1"),
    name("blk.ffn_norm", "transformer.h.{l}.ln_2"),
];

pub(super) const GPT2: Architecture = Architecture {
    name: "gpt2",
    model_types: &["gpt2"],
    needs: None,
    varies: false,
    names: &[
        OUTER,
        &[
            ruled("blk.attn_qkv", "transformer.h.{l}.attn.c_attn", Rule::Transposed),
            ruled("blk.attn_output", "transformer.h.{l}.attn.c_proj", Rule::Transposed),
            ruled("blk.ffn_up", "transformer.h.{l}.mlp.c_fc", Rule::Transposed),
            ruled("blk.ffn_down", "transformer.h.{l}.mlp.c_proj", Rule::Transposed),
        ],
    ],
    numbers: &[],
    understood: &[],
    config: |gguf| config(gguf, "gpt2", "gelu_new"),
};

/// The converter leaves q, k and v as they are and writes one KV head whatever the model has; with more, llama.cpp cannot
/// read the file, and neither can this.
pub(super) const STARCODER: Architecture = Architecture {
    name: "starcoder",
    model_types: &["gpt_bigcode"],
    needs: None,
    varies: false,
    names: &[
        OUTER,
        &[
            name("blk.attn_qkv", "transformer.h.{l}.attn.c_attn"),
            name("blk.attn_output", "transformer.h.{l}.attn.c_proj"),
            name("blk.ffn_up", "transformer.h.{l}.mlp.c_fc"),
            name("blk.ffn_down", "transformer.h.{l}.mlp.c_proj"),
        ],
    ],
    numbers: &[],
    understood: &[],
    config: |gguf| {
        if let Some(n) = gguf.uniform("attention.head_count_kv")?.filter(|n| *n != 1) {
            return Err(gguf.unsupported(format!("has {n} KV heads; a starcoder has one")));
        }
        let mut config = config(gguf, "gpt_bigcode", "gelu_pytorch_tanh")?;
        config.insert("multi_query".into(), json!(true));
        Ok(config)
    },
};

fn config(gguf: &Gguf, model_type: &str, activation: &str) -> Result<Config, ModelError> {
    let sizes = gguf.sizes()?;
    let positions = match gguf.tensor("position_embd.weight") {
        Some(tensor) => tensor.shape[0],
        None => gguf.required("context_length")?,
    };
    let mut config = Config::new();
    config.insert("model_type".into(), json!(model_type));
    config.insert("n_embd".into(), json!(sizes.d_model));
    config.insert("n_layer".into(), json!(sizes.n_layers));
    config.insert("n_head".into(), json!(sizes.n_heads));
    config.insert("n_inner".into(), json!(gguf.required("feed_forward_length")?));
    config.insert("n_positions".into(), json!(positions));
    config.insert("activation_function".into(), json!(activation));
    config.insert("layer_norm_epsilon".into(), json!(gguf.required_float("attention.layer_norm_epsilon")?));
    config.insert("vocab_size".into(), json!(sizes.d_vocab));
    Ok(config)
}

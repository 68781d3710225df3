//! Llama-Nemotron Super and Ultra (DeciLM): Llama in which layers differ in KV heads and width. A layer with no heads has no
//! attention, one of width 0 no MLP.

use super::llama::{LLAMA, PERMUTED, TREE};
use super::*;
use crate::model::gguf::config::Trunk;
use serde_json::{Value, json};

pub(super) const DECI: Architecture = Architecture {
    name: "deci",
    model_types: &["nemotron-nas"],
    varies: true,
    names: &[PERMUTED, TREE],
    understood: &[],
    config: |gguf| {
        let layers = |key| -> Result<Vec<usize>, ModelError> {
            let missing = || gguf.malformed(format!("has no deci.{key} in its metadata"));
            gguf.per_layer(key)?.ok_or_else(missing)
        };
        let heads = layers("attention.head_count")?;
        let n_heads = heads.iter().copied().max().unwrap_or(0);
        let sizes = gguf.sizes_with(|| Ok(n_heads))?;
        let of_each = |key, mut counts: Vec<usize>| {
            if counts.len() == 1 {
                counts.resize(sizes.n_layers, counts[0]);
            }
            let (found, n_layers) = (counts.len(), sizes.n_layers);
            let error = || gguf.malformed(format!("has {found} numbers in deci.{key} for {n_layers} layers"));
            (found == n_layers).then_some(counts).ok_or_else(error)
        };
        let heads = of_each("attention.head_count", heads)?;
        let kv = of_each("attention.head_count_kv", layers("attention.head_count_kv")?)?;
        let widths = of_each("feed_forward_length", layers("feed_forward_length")?)?;

        let mut blocks = Vec::new();
        for (l, ((heads, kv), width)) in heads.into_iter().zip(kv).zip(widths).enumerate() {
            let attention = match (heads, kv) {
                (0, 0) => json!({"no_op": true}),
                (_, 0) => {
                    let what = format!("layer {l} has a linear map in place of attention");
                    return Err(
                        gguf.unsupported(format!("{what} (attention.head_count_kv is 0), which is not supported"))
                    );
                }
                _ if heads != n_heads || heads % kv != 0 => {
                    return Err(gguf.unsupported(format!("layer {l} has {heads} heads on {kv} KV heads of {n_heads}")));
                }
                _ => json!({"no_op": false, "n_heads_in_group": heads / kv}),
            };
            let ffn = if width == 0 { json!({"no_op": true}) } else { json!({"intermediate_size": width}) };
            blocks.push(json!({"attention": attention, "ffn": ffn}));
        }
        let d_head = gguf.uniform("attention.key_length")?.unwrap_or(sizes.d_model / sizes.n_heads);
        let mut trunk = Trunk { config: Config::new(), sizes, d_head };
        trunk.set("model_type", "nemotron-nas");
        trunk.set("hidden_size", sizes.d_model);
        trunk.set("num_hidden_layers", sizes.n_layers);
        trunk.set("num_attention_heads", sizes.n_heads);
        trunk.set("head_dim", d_head);
        trunk.set("hidden_act", "silu");
        trunk.set("vocab_size", sizes.d_vocab);
        trunk.set("rope_theta", gguf.float_of_family("rope.freq_base")?.unwrap_or(10_000.0));
        if let Some(n_ctx) = gguf.uniform("context_length")? {
            trunk.set("max_position_embeddings", n_ctx);
        }
        trunk.set("block_configs", Value::Array(blocks));
        gguf.rms_eps(&mut trunk)?;
        gguf.whole_rope(&mut trunk)?;
        Ok(trunk.config)
    },
    ..LLAMA
};

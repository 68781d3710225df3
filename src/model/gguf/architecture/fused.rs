//! Models with layer norms and q, k and v in one matrix: GPT-NeoX, Falcon, Bloom and MPT.

use super::*;
use crate::model::gguf::config::Config;
use serde_json::json;

/// The activation is not recorded (llama.cpp has one GELU for both): `gelu`, which is right for Pythia and GPT-NeoX.
pub(super) const GPTNEOX: Architecture = Architecture {
    name: "gptneox",
    model_types: &["gpt_neox"],
    needs: None,
    varies: false,
    names: &[&[
        name("token_embd", "gpt_neox.embed_in"),
        name("output_norm", "gpt_neox.final_layer_norm"),
        name("output", "embed_out"),
        name("blk.attn_norm", "gpt_neox.layers.{l}.input_layernorm"),
        ruled("blk.attn_qkv", "gpt_neox.layers.{l}.attention.query_key_value", Rule::QkvByGroup),
        name("blk.attn_output", "gpt_neox.layers.{l}.attention.dense"),
        name("blk.ffn_norm", "gpt_neox.layers.{l}.post_attention_layernorm"),
        name("blk.ffn_up", "gpt_neox.layers.{l}.mlp.dense_h_to_4h"),
        name("blk.ffn_down", "gpt_neox.layers.{l}.mlp.dense_4h_to_h"),
    ]],
    numbers: &[],
    understood: &["use_parallel_residual"],
    config: |gguf| {
        let mut trunk = gguf.trunk("gpt_neox", "gelu")?;
        gguf.layer_norm_eps(&mut trunk)?;
        gguf.partial_rope(&mut trunk, "rotary_pct")?;
        for key in ["num_key_value_heads", "head_dim"] {
            trunk.config.remove(key);
        }
        if let Some(theta) = trunk.config.remove("rope_theta") {
            trunk.set("rotary_emb_base", theta);
        }
        let parallel = gguf.boolean(&gguf.key_of_family("use_parallel_residual")?)?.unwrap_or(true);
        trunk.set("use_parallel_residual", parallel);
        trunk.set("attention_bias", gguf.tensor("blk.0.attn_qkv.bias").is_some());
        Ok(trunk.config)
    },
};

const FALCON_NAMES: &[Name] = &[
    name("token_embd", "transformer.word_embeddings"),
    name("output_norm", "transformer.ln_f"),
    name("output", "lm_head"),
    ruled("blk.attn_qkv", "transformer.h.{l}.self_attention.query_key_value", Rule::QkvByGroup),
    name("blk.attn_output", "transformer.h.{l}.self_attention.dense"),
    name("blk.ffn_norm", "transformer.h.{l}.post_attention_layernorm"),
    name("blk.ffn_up", "transformer.h.{l}.mlp.dense_h_to_4h"),
    name("blk.ffn_down", "transformer.h.{l}.mlp.dense_4h_to_h"),
    name("blk.attn_norm", "transformer.h.{l}.input_layernorm"),
];

/// Falcon with two norms (40B, 180B), where `attn_norm` is the MLP's.
pub(super) const FALCON_40B: Architecture = Architecture {
    names: &[
        &[name("blk.attn_norm", "transformer.h.{l}.ln_mlp"), name("blk.attn_norm_2", "transformer.h.{l}.ln_attn")],
        FALCON_NAMES,
    ],
    needs: Some("blk.0.attn_norm_2.weight"),
    ..FALCON
};

/// Which Falcon it is, the tensors say: two norms (40B, 180B), one norm and one KV head (7B), one norm and several
/// (Falcon2-11B). The converter does not record the base of the rope: it is 10,000, but 500,042 in Falcon2-11B. Falcon-RW,
/// with linear biases, is not written by llama.cpp.
pub(super) const FALCON: Architecture = Architecture {
    name: "falcon",
    model_types: &["falcon"],
    needs: None,
    varies: false,
    names: &[FALCON_NAMES],
    numbers: &[],
    understood: &["tensor_data_layout"], // "jploski": the rows of q, k and v as they are undone here
    config: |gguf| {
        let mut trunk = gguf.trunk("falcon", "gelu")?;
        let two_norms = gguf.tensor("blk.0.attn_norm_2.weight").is_some();
        let one_kv_head = gguf.uniform("attention.head_count_kv")? == Some(1);
        if gguf.float_of_family("rope.freq_base")?.is_none() && !two_norms && !one_kv_head {
            trunk.set("rope_theta", 500_042.0);
        }
        gguf.layer_norm_eps(&mut trunk)?;
        gguf.whole_rope(&mut trunk)?;
        let d_mlp = trunk.config.remove("intermediate_size");
        d_mlp.into_iter().for_each(|d_mlp| trunk.set("ffn_hidden_size", d_mlp));
        trunk.set("new_decoder_architecture", two_norms || !one_kv_head);
        trunk.set("num_ln_in_parallel_attn", if two_norms { 2 } else { 1 });
        trunk.set("multi_query", true);
        trunk.set("parallel_attn", true);
        trunk.set("bias", gguf.tensor("blk.0.attn_qkv.bias").is_some());
        Ok(trunk.config)
    },
};

pub(super) const BLOOM: Architecture = Architecture {
    name: "bloom",
    model_types: &["bloom"],
    needs: None,
    varies: false,
    names: &[&[name("token_embd_norm", "transformer.word_embeddings_layernorm")], FALCON_NAMES],
    numbers: &[],
    understood: &[],
    config: |gguf| {
        let mut config = Config::new();
        let sizes = gguf.sizes()?;
        if let Some(n) = gguf.uniform("attention.head_count_kv")?.filter(|n| *n != sizes.n_heads) {
            return Err(gguf.unsupported(format!("has {n} KV heads for {} heads; a bloom has as many", sizes.n_heads)));
        }
        config.insert("model_type".into(), json!("bloom"));
        config.insert("hidden_size".into(), json!(sizes.d_model));
        config.insert("n_layer".into(), json!(sizes.n_layers));
        config.insert("n_head".into(), json!(sizes.n_heads));
        config.insert("n_inner".into(), json!(gguf.required("feed_forward_length")?));
        config.insert("layer_norm_epsilon".into(), json!(gguf.required_float("attention.layer_norm_epsilon")?));
        config.insert("vocab_size".into(), json!(sizes.d_vocab));
        Ok(config)
    },
};

/// `softmax_scale` is not recorded: 1/√d_head, as in every published model.
pub(super) const MPT: Architecture = Architecture {
    name: "mpt",
    model_types: &["mpt"],
    needs: None,
    varies: false,
    names: &[&[
        name("token_embd", "transformer.wte"),
        name("output_norm", "transformer.norm_f"),
        name("output", "lm_head"),
        name("blk.attn_norm", "transformer.blocks.{l}.norm_1"),
        name("blk.attn_qkv", "transformer.blocks.{l}.attn.Wqkv"),
        name("blk.attn_output", "transformer.blocks.{l}.attn.out_proj"),
        name("blk.ffn_norm", "transformer.blocks.{l}.norm_2"),
        name("blk.ffn_up", "transformer.blocks.{l}.ffn.up_proj"),
        name("blk.ffn_down", "transformer.blocks.{l}.ffn.down_proj"),
    ]],
    numbers: &[],
    understood: &["attention.clamp_kqv", "attention.max_alibi_bias"],
    config: |gguf| {
        let mut config = Config::new();
        let sizes = gguf.sizes()?;
        if let Some(n) = gguf.uniform("attention.head_count_kv")?.filter(|n| *n != sizes.n_heads) {
            return Err(
                gguf.unsupported(format!("has {n} KV heads for {} heads, which transformers lacks", sizes.n_heads))
            );
        }
        let alibi = gguf.required_float("attention.max_alibi_bias")?;
        if alibi <= 0.0 {
            return Err(gguf.unsupported("is an MPT without linear position biases, which transformers lacks"));
        }
        let clip = gguf.float_of_family("attention.clamp_kqv")?.filter(|limit| *limit != 0.0);
        config.insert("model_type".into(), json!("mpt"));
        config.insert("d_model".into(), json!(sizes.d_model));
        config.insert("n_layers".into(), json!(sizes.n_layers));
        config.insert("n_heads".into(), json!(sizes.n_heads));
        config.insert("n_inner".into(), json!(gguf.required("feed_forward_length")?));
        config.insert("layer_norm_epsilon".into(), json!(gguf.required_float("attention.layer_norm_epsilon")?));
        config.insert("max_seq_len".into(), json!(gguf.required("context_length")?));
        config.insert("attn_config".into(), json!({"alibi": true, "alibi_bias_max": alibi, "clip_qkv": clip}));
        config.insert("vocab_size".into(), json!(sizes.d_vocab));
        Ok(config)
    },
};

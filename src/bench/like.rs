//! Shapes of published models, by name and without weights.

use super::BenchError;
use crate::model::{ModelSpec, resolve_config};

/// What `--like` takes.
pub const NAMES: [&str; 4] = ["gpt2", "pythia-1.4b", "llama-3-8b", "smollm2-135m"];

/// The keys of each model's published `config.json` that its spec is made of: openai-community/gpt2,
/// EleutherAI/pythia-1.4b, meta-llama/Meta-Llama-3-8B and HuggingFaceTB/SmolLM2-135M.
const CONFIGS: [&str; 4] = [
    r#"{"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "n_ctx": 1024, "n_embd": 768,
        "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}"#,
    r#"{"model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": 2048, "intermediate_size": 8192,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "num_attention_heads": 16, "num_hidden_layers": 24,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false, "use_parallel_residual": true,
        "vocab_size": 50304}"#,
    r#"{"model_type": "llama", "attention_bias": false, "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 8192, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 500000.0,
        "tie_word_embeddings": false, "vocab_size": 128256}"#,
    r#"{"model_type": "llama", "attention_bias": false, "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536,
        "max_position_embeddings": 8192, "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
        "tie_word_embeddings": true, "vocab_size": 49152}"#,
];

/// The spec of a published model.
///
/// # Errors
/// [`BenchError::NotLike`]: the name is none of [`NAMES`].
pub fn like(name: &str) -> Result<ModelSpec, BenchError> {
    let at = NAMES.iter().position(|n| *n == name).ok_or_else(|| BenchError::NotLike { name: name.to_owned() })?;
    Ok(resolve_config(CONFIGS[at], None)?.spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(file: &str) -> ModelSpec {
        let path = format!("{}/tests/configs/published/{file}.json", env!("CARGO_MANIFEST_DIR"));
        let json = std::fs::read_to_string(path).expect("a published config");
        resolve_config(&json, None).expect("it resolves").spec
    }

    #[test]
    fn the_specs_are_those_of_the_whole_configs() {
        for (name, file) in [("gpt2", "gpt2"), ("pythia-1.4b", "pythia-1.4b"), ("smollm2-135m", "SmolLM2-135M")] {
            assert_eq!(like(name).expect("a spec"), published(file), "{name}");
        }
        // Llama 3.1 is Llama 3 with another rotary table and longer prompts.
        let mut llama = like("llama-3-8b").expect("a spec");
        let later = published("Llama-3.1-8B");
        (llama.ropes, llama.n_ctx) = (later.ropes.clone(), later.n_ctx);
        assert_eq!(llama, later);
    }

    #[test]
    fn another_name_is_refused_with_those_there_are() {
        let error = like("gpt3").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("gpt2, pythia-1.4b, llama-3-8b"), "{error}");
    }
}

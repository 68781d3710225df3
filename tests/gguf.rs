//! GGUF files as checkpoints: blocks widen bit for bit as in gguf-py, tiny models of each family come back as the Hugging
//! Face models they were made of, and metadata becomes their config.json.
//!
//! Fixtures: tests/fixtures/gguf/make_gguf.py.

#[path = "fixtures/gguf/writer.rs"]
mod writer;

use patchwave::model::{Checkpoint, Gguf, ModelError};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use writer::GgufFile;

fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures/gguf").join(name)
}

fn read(checkpoint: &impl Checkpoint, name: &str) -> Vec<f32> {
    let mut out = vec![f32::NAN; checkpoint.tensors()[name].len()];
    checkpoint.read(name, &mut out).unwrap();
    out
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// Every tensor of `tiny-{name}.gguf` is the one of that name in `tiny-{name}.safetensors`, and there are no others.
fn comes_back_as_it_was(name: &str) {
    let gguf = Gguf::open(&fixture(&format!("tiny-{name}.gguf"))).unwrap();
    let bytes = std::fs::read(fixture(&format!("tiny-{name}.safetensors"))).unwrap();
    let original = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = original.names();
    names.sort();
    assert_eq!(gguf.tensors().keys().map(String::as_str).collect::<Vec<_>>(), names);
    for name in names {
        let tensor = original.tensor(name).unwrap();
        assert_eq!(gguf.tensors()[name].shape, tensor.shape(), "{name}");
        assert_eq!(gguf.tensors()[name].dtype, "F32");
        let expected: Vec<u32> = tensor.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        assert_eq!(bits(&read(&gguf, name)), expected, "{name}");
    }
}

fn config(name: &str) -> Value {
    Value::Object(Gguf::open(&fixture(&format!("tiny-{name}.gguf"))).unwrap().config().unwrap())
}

#[test]
fn blocks_of_every_type_widen_bit_for_bit_as_in_gguf_py() {
    let gguf = Gguf::open(&fixture("blocks.gguf")).unwrap();
    let bytes = std::fs::read(fixture("blocks.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let types = ["BF16", "F16", "F32", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"];
    assert_eq!(gguf.tensors().keys().collect::<Vec<_>>(), types);
    for name in types {
        let tensor = expected.tensor(name).unwrap();
        assert_eq!(gguf.tensors()[name].shape, tensor.shape(), "{name}");
        assert_eq!(gguf.tensors()[name].dtype, name);
        let expected: Vec<u32> = tensor.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        assert_eq!(bits(&read(&gguf, name)), expected, "{name}");
    }
}

#[test]
fn a_tensor_that_is_widened_by_many_threads_is_the_same() {
    let rows = 3000u32;
    let block = |i: u32| [&[0, 60, i as u8, (i >> 8) as u8][..], &[i as u8; 30]].concat(); // d = 1
    let mut file = GgufFile::new("other").entry("w", &[64, rows.into()], 8, 0);
    file.data = (0..2 * rows).flat_map(block).collect();
    let gguf = Gguf::open(&file.save().path).unwrap();
    let w = read(&gguf, "w");
    for (i, numbers) in (0u32..).zip(w.chunks(32)) {
        assert_eq!(numbers[..3], [i as i8 as f32, (i >> 8) as i8 as f32, i as i8 as f32], "block {i}");
    }
}

#[test]
fn llama_comes_back_with_its_biases_and_unpermuted_heads() {
    comes_back_as_it_was("llama");
    let expected = json!({
        "model_type": "llama", "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "vocab_size": 11, "max_position_embeddings": 64, "attention_bias": true,
        "mlp_bias": true, "tie_word_embeddings": false,
    });
    assert_eq!(config("llama"), expected);
}

#[test]
fn the_scaling_of_llama3_is_what_rope_freqs_divides_by() {
    comes_back_as_it_was("llama3");
    let config = config("llama3");
    assert_eq!(config["head_dim"], 8);
    assert_eq!(config["num_key_value_heads"], 1);
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!(config["attention_bias"], false);
    assert_eq!(config["rope_theta"], 5000.0);
    assert_eq!(config["rope_scaling"]["rope_type"], "rope_freqs");
    // Wavelengths 2π · 5000^(i/4): up to 2048 nothing changes; beyond, the factor is between 1 and 8.
    let factors: Vec<f64> = serde_json::from_value(config["rope_scaling"]["factors"].clone()).unwrap();
    assert_eq!(factors.len(), 4);
    assert!(factors[..3].iter().all(|f| (f - 1.0).abs() < 1e-6), "{factors:?}");
    assert!(factors[3] > 1.5 && factors[3] < 8.0, "{factors:?}");
}

#[test]
fn smollm3_comes_back_with_every_fourth_layer_unrotated() {
    comes_back_as_it_was("smollm3");
    let config = config("smollm3");
    assert_eq!(config["model_type"], "smollm3");
    assert_eq!(config["no_rope_layers"], json!([1, 1, 1, 0]));
}

#[test]
fn qwen2_comes_back_with_its_biases_and_yarn() {
    comes_back_as_it_was("qwen2");
    let expected = json!({
        "model_type": "qwen2", "hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 20000.0, "vocab_size": 11, "max_position_embeddings": 64,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        "tie_word_embeddings": true,
    });
    assert_eq!(config("qwen2"), expected);
}

#[test]
fn qwen3_comes_back_with_its_norms_of_q_and_k() {
    comes_back_as_it_was("qwen3");
    let config = config("qwen3");
    assert_eq!(config["model_type"], "qwen3");
    assert_eq!(config["head_dim"], 6);
    assert_eq!(config["tie_word_embeddings"], false);
}

#[test]
fn gpt2_comes_back_in_conv1d_layout() {
    comes_back_as_it_was("gpt2");
    let expected = json!({
        "model_type": "gpt2", "n_embd": 12, "n_layer": 1, "n_head": 3, "n_inner": 48, "n_positions": 9,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "vocab_size": 11, "tie_word_embeddings": true,
    });
    assert_eq!(config("gpt2"), expected);
}

#[test]
fn gpt_neox_comes_back_with_q_k_and_v_by_head() {
    comes_back_as_it_was("gptneox");
    let expected = json!({
        "model_type": "gpt_neox", "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 1,
        "num_attention_heads": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_pct": 0.5,
        "rotary_emb_base": 10000.0, "use_parallel_residual": false, "attention_bias": true, "vocab_size": 11,
        "max_position_embeddings": 64, "tie_word_embeddings": false,
    });
    assert_eq!(config("gptneox"), expected);
}

/// A llama with the least metadata that makes a config.
fn llama() -> GgufFile {
    GgufFile::new("llama")
        .u32("llama.block_count", 1)
        .u32("llama.embedding_length", 8)
        .u32("llama.feed_forward_length", 12)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-6)
        .zeros("token_embd.weight", &[8, 5])
}

fn llama_with_heads() -> GgufFile {
    llama().u32("llama.attention.head_count", 2)
}

fn config_of(file: &GgufFile) -> Result<Value, ModelError> {
    Gguf::open(&file.save().path)?.config().map(Value::Object)
}

#[test]
fn a_llama_with_a_sliding_window_is_a_mistral() {
    let config = config_of(&llama_with_heads().u32("llama.attention.sliding_window", 4096)).unwrap();
    assert_eq!(config["model_type"], "mistral");
    assert_eq!(config["sliding_window"], 4096);
}

#[test]
fn head_counts_per_layer_are_fine_while_they_agree() {
    let config = config_of(&llama().i32s("llama.attention.head_count", &[2, 2])).unwrap();
    assert_eq!(config["num_attention_heads"], 2);
}

#[test]
fn linear_rope_scaling_in_both_spellings() {
    let new = llama_with_heads().string("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0);
    let old = llama_with_heads().f32("llama.rope.scale_linear", 4.0);
    for file in [new, old] {
        let config = config_of(&file).unwrap();
        assert_eq!(config["rope_scaling"], json!({"rope_type": "linear", "factor": 4.0}));
    }
}

#[test]
fn metadata_that_is_not_understood_is_left_for_the_config_to_refuse() {
    let file = llama_with_heads()
        .f32("llama.logit_scale", 0.125)
        .u32("llama.expert_count", 0)
        .bool("llama.attention.causal", true);
    let config = config_of(&file).unwrap();
    assert_eq!(config["llama.logit_scale"], 0.125);
    for neutral in ["llama.expert_count", "llama.attention.causal"] {
        assert_eq!(config.get(neutral), None);
    }
}

#[test]
fn tensors_that_the_family_does_not_have_keep_their_names() {
    let gguf = Gguf::open(&llama_with_heads().zeros("blk.0.ffn_gate_inp.weight", &[8, 2]).save().path).unwrap();
    assert!(gguf.tensors().contains_key("blk.0.ffn_gate_inp.weight"));
}

#[test]
fn reading_a_tensor_that_is_not_there_or_into_the_wrong_room_names_it() {
    let gguf = Gguf::open(&fixture("tiny-qwen2.gguf")).unwrap();
    let message = gguf.read("model.nothing", &mut [0.0]).unwrap_err().to_string();
    assert!(message.contains("model.nothing"), "{message}");
    let message = gguf.read("model.norm.weight", &mut [0.0]).unwrap_err().to_string();
    assert!(message.contains("model.norm.weight") && message.contains("8 elements"), "{message}");
}

//! Hostile files of single architectures: what each adds to the metadata can be missing, of the wrong type or absurd. One
//! line that names the file and the place, no panic, no guess.

#[path = "fixtures/gguf/writer.rs"]
mod writer;

use patchwave::model::{Checkpoint, Gguf, ModelError, ModelFiles};
use writer::GgufFile;

/// The least that makes a config: one layer, two heads, d_model 8, five tokens.
fn least(architecture: &str) -> GgufFile {
    let key = |rest: &str| format!("{architecture}.{rest}");
    GgufFile::new(architecture)
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 16)
        .u32(&key("embedding_length"), 8)
        .u32(&key("feed_forward_length"), 12)
        .u32(&key("attention.head_count"), 2)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-6)
        .f32(&key("attention.layer_norm_epsilon"), 1e-5)
        .zeros("token_embd.weight", &[8, 5])
}

fn refused(file: &GgufFile, words: &[&str]) {
    let saved = file.save();
    let error = Gguf::open(&saved.path).and_then(|gguf| gguf.config()).map(|_| ()).unwrap_err();
    assert!(matches!(error, ModelError::Malformed { .. } | ModelError::Unsupported { .. }), "{error:?}");
    let message = error.to_string();
    for word in ["model.gguf: "].iter().chain(words) {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    assert_eq!(error.exit_code(), 2);
    assert_eq!(message.lines().count(), 1, "{message}");
}

/// So that an error below is that of the key it is about.
#[test]
fn the_least_is_enough_where_nothing_else_is_needed() {
    for architecture in ["gemma", "gemma3", "phi2", "phi3", "olmo", "olmo2", "exaone4", "glm4", "chatglm", "nemotron"] {
        let saved = least(architecture).save();
        Gguf::open(&saved.path).unwrap().config().unwrap_or_else(|e| panic!("{architecture}: {e}"));
    }
}

#[test]
fn a_window_pattern_of_no_layers() {
    let file = least("gemma3").u32("gemma3.attention.sliding_window", 4);
    refused(
        &file.clone().u32("gemma3.attention.sliding_window_pattern", 0),
        &["sliding_window_pattern is 0", "at least one layer"],
    );
    let flags = file.array("gemma3.attention.sliding_window_pattern", 7, 0, &[]);
    refused(&flags, &["0 flags", "1 layers"]);
}

#[test]
fn a_window_pattern_longer_than_the_model() {
    let file = least("exaone4").u32("exaone4.attention.sliding_window", 4);
    let flags = file.clone().array("exaone4.attention.sliding_window_pattern", 7, 3, &[1, 1, 0]);
    refused(&flags, &["3 flags", "exaone4.attention.sliding_window_pattern", "1 layers"]);
    // A period longer than the model is one in which every layer slides.
    let saved = file.u32("exaone4.attention.sliding_window_pattern", u32::MAX).save();
    let config = Gguf::open(&saved.path).unwrap().config().unwrap();
    assert_eq!(config["layer_types"], serde_json::json!(["sliding_attention"]));
}

#[test]
fn a_window_pattern_of_another_type() {
    let file = || least("olmo2").u32("olmo2.attention.sliding_window", 4);
    let key = "olmo2.attention.sliding_window_pattern";
    refused(&file().string(key, "LLG"), &[key, "not a number"]);
    refused(&file().i32s(key, &[1]), &[key, "array of booleans"]);
    refused(&file().f32(key, 4.0), &[key]);
    refused(&file().array(key, 7, 1, &[2]), &[key, "array of booleans"]);
}

#[test]
fn a_window_that_is_missing_or_no_number() {
    refused(&least("gemma2"), &["gemma2.attention.sliding_window"]);
    refused(&least("cohere2").f32("cohere2.logit_scale", 1.0), &["cohere2.attention.sliding_window"]);
    let text = least("phi3").string("phi3.attention.sliding_window", "2047");
    refused(&text, &["phi3.attention.sliding_window", "not a number"]);
}

#[test]
fn a_softcap_that_is_no_number() {
    let file = least("gemma2").u32("gemma2.attention.sliding_window", 4);
    for key in ["gemma2.attn_logit_softcapping", "gemma2.final_logit_softcapping"] {
        refused(&file.clone().string(key, "50"), &[key, "finite float"]);
        refused(&file.clone().f32(key, f32::INFINITY), &[key, "finite float"]);
    }
}

#[test]
fn multipliers_of_granite_that_are_missing_or_no_numbers() {
    let keys = ["granite.attention.scale", "granite.embedding_scale", "granite.residual_scale", "granite.logit_scale"];
    for missing in keys {
        let others = keys.iter().filter(|key| **key != missing);
        let file = others.fold(least("granite"), |file, key| file.f32(key, 2.0));
        refused(&file, &["has no", missing]);
        refused(&file.bool(missing, true), &[missing, "finite float"]);
    }
}

#[test]
fn a_logit_scale_that_is_missing() {
    refused(&least("command-r"), &["has no command-r.logit_scale"]);
}

#[test]
fn a_temperature_without_a_yarn() {
    refused(&least("mistral3").f32("mistral3.attention.temperature_scale", 0.1), &["temperature", "rope.scaling"]);
    let multiplier = least("mistral3").f32("mistral3.rope.scaling.yarn_log_multiplier", 1.0);
    refused(&multiplier, &["YaRN multiplier", "rope.scaling"]);
}

#[test]
fn longrope_that_is_half_there() {
    let original = || least("phi3").u32("phi3.rope.scaling.original_context_length", 4);
    refused(&original().zeros("rope_factors_long.weight", &[2]), &["rope_factors_long.weight", "the factor 0"]);
    refused(&original().zeros("rope_factors_long.weight", &[3]), &["[3]", "[2] was expected"]);
    let ones = |name| {
        let mut file = original().zeros(name, &[2]);
        let at = file.data.len() - 32;
        file.data[at..at + 8].copy_from_slice(&[0, 0, 128, 63, 0, 0, 128, 63]);
        file
    };
    for half in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        refused(&ones(half), &["only one of rope_factors_long.weight and rope_factors_short.weight"]);
    }
    let yarn = ones("rope_factors_long.weight").string("phi3.rope.scaling.type", "yarn");
    refused(&yarn, &["twice", "\"yarn\"", "rope_factors_long.weight"]);
    refused(&least("phi3").f32("phi3.rope.scaling.attn_factor", 1.2), &["attention factor 1.2", "rope_factors_long"]);
}

#[test]
fn a_rope_wider_than_a_head() {
    for architecture in ["phi2", "phi3", "glm4", "nemotron", "stablelm"] {
        let file = least(architecture).u32(&format!("{architecture}.rope.dimension_count"), 5);
        refused(&file, &["rotates 5 dimensions", "4"]);
    }
}

#[test]
fn a_rope_of_its_own_for_layers_that_slide() {
    let file = least("olmo2").f32("olmo2.rope.freq_base", 5e5).f32("olmo2.rope.freq_base_swa", 1e4);
    refused(&file, &["rope.freq_base_swa"]);
}

#[test]
fn linear_biases_that_are_missing_or_off() {
    refused(&least("mpt"), &["has no mpt.attention.max_alibi_bias"]);
    refused(&least("mpt").f32("mpt.attention.max_alibi_bias", 0.0), &["without linear position biases"]);
}

#[test]
fn more_kv_heads_than_an_architecture_has() {
    for architecture in ["starcoder", "bloom", "mpt"] {
        let file = least(architecture).u32(&format!("{architecture}.attention.head_count_kv"), 7);
        refused(&file, &["7 KV heads"]);
    }
}

#[test]
fn q_k_and_v_in_one_tensor_that_the_heads_cannot_share() {
    let with = |architecture: &str, kv: u32, rows: u64| {
        let file = least(architecture).u32(&format!("{architecture}.attention.head_count_kv"), kv);
        file.zeros("blk.0.attn_qkv.weight", &[8, rows])
    };
    refused(&with("phi2", 2, 25), &["\"blk.0.attn_qkv.weight\"", "25 rows", "2 heads"]);
    refused(&with("chatglm", u32::MAX, 24), &["24 rows"]);
    refused(&with("falcon", 0, 8), &["8 rows"]);
    refused(&with("falcon", 3, 32), &["32 rows"]);
    refused(&with("bloom", 5, 24), &["24 rows"]);
}

#[test]
fn heads_that_do_not_share_the_columns_of_the_output() {
    let file = least("chatglm").zeros("blk.0.attn_output.weight", &[9, 8]);
    refused(&file, &["2 heads", "9 columns"]);
}

#[test]
fn norms_of_heads_that_are_no_matrix() {
    refused(&least("stablelm").zeros("blk.0.attn_q_norm.weight", &[8]), &["blk.0.attn_q_norm.weight", "a matrix"]);
}

#[test]
fn numbers_of_an_activation_that_are_none_or_too_many() {
    refused(&least("apertus").strings("xielu.beta", &["0.5"]), &["xielu.beta", "array of floats"]);
    refused(&least("apertus").f32("xielu.beta", 0.5), &["xielu.beta", "an array"]);
    refused(&least("apertus").f32s("xielu.eps", &[0.0; 9]), &["9 numbers in xielu.eps"]);
}

#[test]
fn layers_of_deci_that_are_none() {
    let file = |heads: &[i32], kv: &[i32], widths: &[i32]| {
        GgufFile::new("deci")
            .u32("deci.block_count", 2)
            .u32("deci.embedding_length", 8)
            .i32s("deci.attention.head_count", heads)
            .i32s("deci.attention.head_count_kv", kv)
            .i32s("deci.feed_forward_length", widths)
            .f32("deci.attention.layer_norm_rms_epsilon", 1e-6)
            .zeros("token_embd.weight", &[8, 5])
            .zeros("output_norm.weight", &[8])
    };
    refused(&file(&[2, 2], &[2, 0], &[12, 12]), &["layer 1", "linear map in place of attention"]);
    refused(&file(&[2, 2, 2], &[2, 1], &[12, 12]), &["3 numbers", "deci.attention.head_count", "2 layers"]);
    refused(&file(&[2, 2], &[2, 1], &[12, 12, 12]), &["deci.feed_forward_length", "2 layers"]);
    refused(&file(&[4, 2], &[2, 2], &[12, 12]), &["layer 1 has 2 heads on 2 KV heads of 4"]);
    refused(&file(&[2, 2], &[2, 3], &[12, 12]), &["layer 1 has 2 heads on 3 KV heads"]);
    refused(&file(&[0, 0], &[0, 0], &[12, 12]), &["0 heads share 8"]);
    refused(&file(&[2, -2], &[2, 1], &[12, 12]), &["deci.attention.head_count", "negative"]);
    let without_heads = file(&[2, 0], &[2, 0], &[12, 12]).zeros("blk.1.attn_k.weight", &[8, 8]);
    refused(&without_heads, &["\"blk.1.attn_k.weight\"", "0 heads"]);
}

/// From the file to the last parameter, or to an error; never a panic.
#[test]
fn a_file_with_any_byte_of_its_header_changed_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.gguf");
    for (case, step) in [("gemma3", 11), ("stablelm_12b", 13), ("apertus", 11), ("falcon_40b", 7), ("phi3_longrope", 7)]
    {
        let whole = std::fs::read(format!("tests/fixtures/gguf/hf-{case}.gguf")).unwrap();
        let last = b"output_norm.weight";
        let header = whole.windows(last.len()).rposition(|w| w == last).unwrap() + last.len() + 40;
        for at in (0..header).step_by(step) {
            let mut changed = whole.clone();
            changed[at] = if at % 2 == 0 { 0xFF } else { whole[at] ^ 1 };
            std::fs::write(&path, &changed).unwrap();
            if let Ok(model) = ModelFiles::open(&path, &[]) {
                for param in model.spec.params() {
                    let _ = model.params.read(&param.name, &mut vec![0.0; param.shape.iter().product()]);
                }
            }
        }
    }
}

#[test]
fn one_tensor_of_q_k_and_v_becomes_three() {
    // Two heads of 4 and one KV head: 8 rows of q, 4 of k, 4 of v, each number the row it is in.
    let mut file = least("chatglm").u32("chatglm.attention.head_count_kv", 1);
    for (name, dims) in [("blk.0.attn_qkv.weight", &[8, 16][..]), ("blk.0.attn_qkv.bias", &[16])] {
        let at = file.data.len();
        file = file.zeros(name, dims);
        let width = dims.iter().product::<u64>() / 16;
        let numbers = (0..16u64).flat_map(|row| vec![row as f32; width as usize]).flat_map(f32::to_le_bytes);
        file.data[at..].iter_mut().zip(numbers).for_each(|(byte, b)| *byte = b);
    }
    let saved = file.save();
    let gguf = Gguf::open(&saved.path).unwrap();
    for (part, rows) in [("q", 0..8), ("k", 8..12), ("v", 12..16)] {
        let rows: Vec<f32> = rows.map(|row| row as f32).collect();
        let name = |suffix| format!("model.layers.0.self_attn.{part}_proj.{suffix}");
        assert_eq!(gguf.tensors()[&name("weight")].shape, [rows.len(), 8]);
        let mut bias = vec![f32::NAN; rows.len()];
        gguf.read(&name("bias"), &mut bias).unwrap();
        assert_eq!(bias, rows);
        let mut weight = vec![f32::NAN; rows.len() * 8];
        gguf.read(&name("weight"), &mut weight).unwrap();
        assert!(weight.chunks(8).zip(&rows).all(|(row, n)| row.iter().all(|x| x == n)), "{part}: {weight:?}");
    }
}

//! Every way a GGUF file can lie is refused with one line that names the file and the place: no panic, no guess, and no
//! allocation of what a header merely claims.

#[path = "fixtures/gguf/writer.rs"]
mod writer;

use patchwave::model::{Checkpoint, Gguf, ModelError};
use serde_json::Value;
use std::path::{Path, PathBuf};
use writer::{GgufFile, Saved};

fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures/gguf").join(name)
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

/// Opening `bytes` is an error of the user's (exit code 2) whose message has all of `words`.
fn refused_bytes(bytes: &[u8], words: &[&str]) {
    let saved = Saved::new(bytes);
    let error = Gguf::open(&saved.path).map(|_| ()).unwrap_err();
    assert!(matches!(error, ModelError::Malformed { .. } | ModelError::Unsupported { .. }), "{error:?}");
    says(&error, words);
}

fn says(error: &ModelError, words: &[&str]) {
    let message = error.to_string();
    for word in ["model.gguf: "].iter().chain(words) {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    assert_eq!(error.exit_code(), 2);
    assert_eq!(message.lines().count(), 1, "{message}");
}

fn refused(file: &GgufFile, words: &[&str]) {
    refused_bytes(&file.bytes(), words);
}

fn config_refused(file: &GgufFile, words: &[&str]) {
    says(&config_of(file).unwrap_err(), words);
}

#[test]
fn a_file_that_is_not_there() {
    let error = Gguf::open(Path::new("no/such.gguf")).unwrap_err();
    assert!(matches!(error, ModelError::Io { .. }) && error.to_string().contains("no/such.gguf"), "{error}");
}

#[test]
fn a_folder() {
    let error = Gguf::open(Path::new("tests")).unwrap_err();
    assert!(error.to_string().contains("is not a file"), "{error}");
}

#[test]
fn an_empty_file() {
    refused_bytes(b"", &["is empty"]);
}

#[test]
fn a_file_of_another_format() {
    refused_bytes(b"PK\x03\x04 and so on", &["does not begin with the letters GGUF"]);
}

#[test]
fn versions_that_are_not_read() {
    refused(&GgufFile { version: Some(1), ..llama() }, &["version 1", "convert the model again"]);
    refused(&GgufFile { version: Some(4), ..llama() }, &["version 4"]);
    refused(&GgufFile { version: Some(0), ..llama() }, &["version 0"]);
    refused(&GgufFile { version: Some(3u32.swap_bytes()), ..llama() }, &["big-endian"]);
}

#[test]
fn version_2_is_read() {
    assert!(config_of(&GgufFile { version: Some(2), ..llama_with_heads() }).is_ok());
}

#[test]
fn a_file_cut_off_anywhere() {
    let whole = std::fs::read(fixture("tiny-qwen2.gguf")).unwrap();
    for length in (1..whole.len() - 32).step_by(11) {
        refused_bytes(&whole[..length], &[]);
    }
    refused_bytes(&whole[..whole.len() - 33], &["beyond the end of the file", "download it again"]);
}

#[test]
fn a_file_with_any_byte_of_its_header_changed_never_panics() {
    let whole = std::fs::read(fixture("tiny-llama3.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.gguf");
    let tensors = whole.len() - (4 * 736 + 32); // 736 weights, 4 factors and their padding
    for at in 0..tensors {
        let mut changed = whole.clone();
        changed[at] = if at % 2 == 0 { 0xFF } else { whole[at] ^ 1 };
        std::fs::write(&path, &changed).unwrap();
        let Ok(gguf) = Gguf::open(&path) else { continue };
        let _ = gguf.config();
        let _ = gguf.tokenizer();
        for (name, info) in gguf.tensors() {
            gguf.read(name, &mut vec![0.0; info.len()]).unwrap();
        }
    }
}

#[test]
fn a_huge_number_of_keys() {
    refused(&GgufFile { n_keys: u64::MAX, ..llama() }, &["metadata keys"]);
    refused(&GgufFile { n_keys: 60_000, ..llama() }, &["60000 metadata keys", "cannot hold"]);
}

#[test]
fn a_huge_number_of_tensors() {
    refused(&GgufFile { n_tensors: 1 << 40, ..llama() }, &["1099511627776 tensors"]);
    refused(&GgufFile { n_tensors: 1 << 19, ..llama() }, &["524288 tensors", "cannot hold"]);
}

#[test]
fn a_string_longer_than_the_file() {
    refused(&llama().raw(b"a", 8, &u64::MAX.to_le_bytes()), &["\"a\"", "claims 18446744073709551615 bytes"]);
}

#[test]
fn a_key_longer_than_the_format_allows() {
    refused(&llama().string(&"k".repeat(70_000), ""), &["70000 bytes", "65535"]);
}

#[test]
fn an_array_longer_than_the_file() {
    refused(&llama().array("a", 8, 1 << 60, &[]), &["\"a\"", "elements", "cannot hold"]);
    refused(&llama().array("a", 4, u64::MAX / 2, &[]), &["\"a\"", "elements", "cannot hold"]);
}

#[test]
fn an_array_of_arrays() {
    let inner = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    refused(&llama().array("a", 9, 1, &inner.repeat(1000)), &["\"a\"", "array of arrays"]);
}

#[test]
fn an_array_of_an_unknown_type() {
    refused(&llama().array("a", 13, 1, &[0; 8]), &["\"a\"", "unknown type 13"]);
}

#[test]
fn a_value_of_an_unknown_type() {
    refused(&llama().raw(b"a", 13, &[0; 8]), &["\"a\"", "unknown value type 13"]);
}

#[test]
fn a_boolean_that_is_neither() {
    refused(&llama().raw(b"a", 7, &[2]), &["\"a\"", "boolean 2"]);
}

#[test]
fn a_key_that_occurs_twice() {
    refused(&llama().u32("a.b", 1).u32("a.b", 2), &["\"a.b\"", "twice"]);
}

#[test]
fn a_key_that_is_not_utf8() {
    refused(&llama().raw(b"\xFF\xFE", 4, &[0; 4]), &["not UTF-8", "a metadata key"]);
}

#[test]
fn a_string_that_is_not_utf8() {
    refused(&llama().raw(b"a", 8, &[&2u64.to_le_bytes()[..], b"\xC3\x28"].concat()), &["not UTF-8", "\"a\""]);
}

#[test]
fn a_token_that_is_not_utf8() {
    let token = [&1u64.to_le_bytes()[..], b"\xE2"].concat();
    refused(&llama().array("tokenizer.ggml.tokens", 8, 1, &token), &["not UTF-8", "tokenizer.ggml.tokens"]);
}

#[test]
fn a_tensor_that_occurs_twice() {
    refused(&llama().zeros("token_embd.weight", &[8]), &["\"token_embd.weight\"", "twice"]);
}

#[test]
fn two_tensors_of_one_hugging_face_name() {
    let file = llama_with_heads().zeros("output_norm.weight", &[8]).zeros("model.norm.weight", &[8]);
    refused(&file, &["two tensors", "\"model.norm.weight\""]);
}

#[test]
fn a_tensor_name_that_is_too_long() {
    refused(&llama().zeros(&"n".repeat(65), &[8]), &["tensor's name", "65 bytes", "64"]);
}

#[test]
fn a_tensor_of_five_dimensions() {
    refused(&llama().entry("w", &[2, 2, 2, 2, 2], 0, 0), &["\"w\"", "5 dimensions"]);
    refused(&llama().entry("w", &[], 0, 0), &["\"w\"", "0 dimensions"]);
}

#[test]
fn a_tensor_of_a_billion_dimensions() {
    let mut file = llama();
    file.n_tensors += 1;
    file.tensors.extend([&1u64.to_le_bytes()[..], b"w", &u32::MAX.to_le_bytes(), &[1; 64]].concat());
    refused(&file, &["\"w\"", "4294967295 dimensions"]);
}

#[test]
fn a_tensor_with_a_dimension_of_zero() {
    refused(&llama().entry("w", &[8, 0], 0, 0), &["\"w\"", "dimension of zero"]);
}

#[test]
fn a_tensor_whose_size_overflows() {
    refused(&llama().entry("w", &[1 << 40, 1 << 40], 0, 0), &["\"w\"", "more elements"]);
    refused(&llama().entry("w", &[1 << 62], 0, 0), &["\"w\"", "beyond the end"]);
}

#[test]
fn a_tensor_whose_rows_are_not_whole_blocks() {
    refused(&llama().entry("w", &[48, 2], 8, 0), &["\"w\"", "48", "Q8_0", "32"]);
}

#[test]
fn a_tensor_beyond_the_end_of_the_file() {
    refused(&llama().entry("w", &[8], 0, 1 << 20), &["\"w\"", "beyond the end of the file"]);
    refused(&llama().entry("w", &[8], 0, u64::MAX - 31), &["\"w\"", "beyond the end of the file"]);
}

#[test]
fn a_tensor_at_an_odd_offset() {
    refused(&llama().entry("w", &[8], 0, 8), &["\"w\"", "aligned to 32"]);
}

#[test]
fn tensors_that_overlap() {
    refused(&llama().entry("w", &[8], 0, 32), &["\"token_embd.weight\"", "\"w\"", "overlap"]);
    refused(&llama().entry("w", &[8, 5], 0, 0), &["overlap"]);
}

#[test]
fn an_alignment_that_is_none() {
    for bad in [0, 24, 1 << 31] {
        refused(&llama().u32("general.alignment", bad), &["general.alignment", "power of two"]);
    }
    refused(&llama().string("general.alignment", "32"), &["general.alignment", "power of two"]);
}

#[test]
fn a_tensor_type_that_is_not_read() {
    refused(&llama().entry("w", &[256], 10, 0), &["\"w\"", "Q2_K", "patchwave reads F32"]);
    refused(&llama().entry("w", &[256], 77, 0), &["\"w\"", "number 77"]);
}

#[test]
fn one_part_of_a_split_model() {
    let part = llama().raw(b"split.count", 2, &3u16.to_le_bytes());
    refused(&part, &["one part of 3", "llama-gguf-split --merge"]);
}

#[test]
fn heads_that_do_not_divide_the_rows() {
    refused(
        &llama_with_heads().zeros("blk.0.attn_q.weight", &[8, 7]),
        &["\"blk.0.attn_q.weight\"", "7 rows", "2 heads"],
    );
    refused(&llama().zeros("blk.0.attn_q.weight", &[8, 8]), &["\"blk.0.attn_q.weight\"", "number of heads is missing"]);
    let none = llama().u32("llama.attention.head_count", 0).zeros("blk.0.attn_q.weight", &[8, 8]);
    refused(&none, &["8 rows", "0 heads"]);
    let neox = GgufFile::new("gptneox").u32("gptneox.attention.head_count", u32::MAX);
    refused(&neox.zeros("blk.0.attn_qkv.weight", &[8, 8]), &["8 rows", "4294967295 heads"]);
}

#[test]
fn head_counts_that_differ_by_layer() {
    refused(&llama().i32s("llama.attention.head_count", &[2, 4]), &["llama.attention.head_count", "layer to layer"]);
}

#[test]
fn a_negative_head_count() {
    refused(&llama().i32s("llama.attention.head_count", &[-2]), &["llama.attention.head_count", "negative"]);
}

#[test]
fn an_unknown_architecture() {
    config_refused(&GgufFile::new("mamba").zeros("w", &[8]), &["\"mamba\"", "llama", "gptneox"]);
    config_refused(&GgufFile::default().zeros("w", &[8]), &["general.architecture"]);
}

#[test]
fn metadata_that_is_missing() {
    config_refused(&llama(), &["has no llama.attention.head_count"]);
    config_refused(&GgufFile::new("llama"), &["token_embd.weight"]);
}

#[test]
fn metadata_of_the_wrong_type() {
    config_refused(
        &llama_with_heads().string("llama.rope.freq_base", "1e4"),
        &["llama.rope.freq_base", "finite float"],
    );
    config_refused(
        &llama_with_heads().f32("llama.rope.freq_base", f32::NAN),
        &["llama.rope.freq_base", "finite float"],
    );
}

#[test]
fn metadata_against_the_tensors() {
    config_refused(&llama_with_heads().u32("llama.vocab_size", 6), &["vocab_size 6", "[5, 8]"]);
    let wide = GgufFile::new("llama")
        .u32("llama.block_count", 1)
        .u32("llama.embedding_length", 9)
        .u32("llama.attention.head_count", 1)
        .zeros("token_embd.weight", &[8, 5]);
    config_refused(&wide, &["embedding_length 9", "[5, 8]"]);
}

#[test]
fn absurdly_many_layers() {
    let file = GgufFile::new("smollm3")
        .u32("smollm3.block_count", u32::MAX)
        .u32("smollm3.embedding_length", 8)
        .u32("smollm3.attention.head_count", 2)
        .zeros("token_embd.weight", &[8, 5]);
    config_refused(&file, &["block_count 4294967295", "1 tensors"]);
}

#[test]
fn rope_that_is_not_known() {
    let scaled = |kind| llama_with_heads().string("llama.rope.scaling.type", kind);
    config_refused(&scaled("longrope"), &["\"longrope\"", "yarn"]);
    config_refused(&scaled("linear"), &["no rope.scaling.factor"]);
    config_refused(&scaled("yarn").f32("llama.rope.scaling.factor", 2.0), &["original_context_length"]);
    config_refused(&llama_with_heads().u32("llama.rope.dimension_count", 2), &["rotates 2 of the 4"]);
    config_refused(&llama_with_heads().u32("llama.attention.value_length", 2), &["value heads of 2"]);
    config_refused(&llama_with_heads().zeros("rope_freqs.weight", &[3]), &["rope_freqs.weight", "[2] was expected"]);
    config_refused(&llama_with_heads().zeros("rope_freqs.weight", &[2]), &["rope_freqs.weight", "the factor 0"]);
    let twice = scaled("linear").f32("llama.rope.scaling.factor", 2.0).zeros("rope_freqs.weight", &[2]);
    config_refused(&twice, &["twice", "\"linear\""]);
}

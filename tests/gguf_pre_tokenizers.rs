//! The pre-tokenizers of the newer architectures: ids are those of Hugging Face's tokenizers, on 1,000 strings.
//!
//! Fixtures: tests/fixtures/gguf/make_pre_tokenizers.py; the vocabulary and the strings of tests/tokenizer.rs.

#[path = "fixtures/gguf/writer.rs"]
mod writer;

use patchwave::model::Gguf;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use writer::GgufFile;

fn fixture<T: for<'a> Deserialize<'a>>(path: &str) -> T {
    let text = std::fs::read_to_string(Path::new("tests/fixtures").join(path)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[derive(Deserialize)]
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
}

/// FNV-1a of the ids as text.
fn digest(ids: &[u32]) -> u32 {
    let text = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    text.bytes().fold(0x811C_9DC5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[test]
fn every_pre_tokenizer_cuts_as_the_model_it_is_named_after() {
    let vocabulary: Vocabulary = fixture("tokenizer/byte_level.json");
    let strings: Vec<String> = fixture("tokenizer/strings.json");
    // One digest for each of the first hundred strings, so that a failure names one, and one of all ids.
    let expected: BTreeMap<String, Vec<u32>> = fixture("gguf/pre_tokenizers.json");
    let names = [
        ("command-r", "command-r"),
        ("phi-2", "phi-2"),
        ("starcoder", "starcoder"),
        ("refact", "starcoder"),
        ("falcon", "falcon"),
        ("bloom", "bloom"),
    ];
    for (pre, reference) in names {
        let file = GgufFile::new("llama")
            .string("tokenizer.ggml.model", "gpt2")
            .strings("tokenizer.ggml.tokens", &vocabulary.tokens)
            .i32s("tokenizer.ggml.token_type", &vocabulary.types)
            .strings("tokenizer.ggml.merges", &vocabulary.merges)
            .string("tokenizer.ggml.pre", pre);
        let saved = file.save();
        let tokenizer = Gguf::open(&saved.path).unwrap().tokenizer().unwrap().unwrap();
        let ids: Vec<Vec<u32>> = strings.iter().map(|s| tokenizer.encode(s).unwrap()).collect();
        let (all, each) = expected[reference].split_last().unwrap();
        for ((string, ids), expected) in strings.iter().zip(&ids).zip(each) {
            assert_eq!(digest(ids), *expected, "{pre}: {string:?} became {ids:?}");
        }
        assert_eq!(digest(&ids.concat()), *all, "{pre}");
    }
}

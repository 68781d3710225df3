//! The vocabulary of a GGUF file as a Hugging Face tokenizer.
//!
//! The file has tokens, and merges or scores; how text is cut before them is a name (`tokenizer.ggml.pre`) whose meaning
//! is in llama.cpp's code. What is built here is the `tokenizer.json` that the model has on the hub, so that ids are
//! Hugging Face's, also where llama.cpp's differ.

use super::header::{self, Array};
use super::{Gguf, ModelError, Tokenizer};
use serde_json::{Map, Value, json};
use std::cmp::Ordering;
use std::collections::HashMap;

/// `tokenizer.ggml.token_type`.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Longest piece of a vocabulary with scores; the work to find its merges grows with the square.
const MAX_PIECE_BYTES: usize = 1024;

/// Cuts of GPT-4's and Llama 3's tokenizers, without the digits: those come as groups of up to three or one by one.
fn split_with_digits(digits: &str) -> Value {
    let regex = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]})
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

/// What a name in `tokenizer.ggml.pre` means for a byte-level vocabulary.
struct PreTokenizer {
    normalizer: Value,
    pre_tokenizer: Value,
    /// Words that are tokens are taken whole before any merge is tried.
    ignore_merges: bool,
}

/// The names that are known, each from the `tokenizer.json` of the model that llama.cpp's converter recognises by it.
const KNOWN: &str = "gpt-2, phi-2, mpt, olmo, llama-bpe (llama3, llama-v3), smaug-bpe, qwen2, smollm, starcoder, refact, \
                     command-r, falcon, bloom";

impl PreTokenizer {
    fn named(pre: &str) -> Option<Self> {
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let nfc = json!({"type": "NFC"});
        let known = |normalizer, pre_tokenizer, ignore_merges| Some(Self { normalizer, pre_tokenizer, ignore_merges });
        match pre {
            // openai-community/gpt2: the regex of the ByteLevel pre-tokenizer is GPT-2's own. microsoft/phi-2 has CodeGen's
            // tokenizer, which cuts the same.
            "gpt-2" | "phi-2" => known(Value::Null, byte_level, false),
            // EleutherAI/gpt-neox-20b, which Pythia, MPT and OLMo 1 share: GPT-2's after NFC.
            "mpt" | "olmo" => known(nfc, byte_level, false),
            // meta-llama/Meta-Llama-3-8B. HuggingFaceTB/SmolLM3-3B has the same vocabulary without a BOS template, which
            // is why the converter names it after another model (smaug-bpe) that differs from Llama 3 in just that.
            "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => {
                known(Value::Null, split_with_digits(r"\p{N}{1,3}"), true)
            }
            // Qwen/Qwen1.5-7B and later.
            "qwen2" => known(nfc, split_with_digits(r"\p{N}"), false),
            // HuggingFaceTB/SmolLM-135M and SmolLM2: digits one by one, then GPT-2's. The same in bigcode/starcoder2-3b and
            // smallcloudai/Refact-1_6-base (which Granite's files name), and after NFC in CohereForAI/c4ai-command-r-v01.
            "smollm" | "starcoder" | "refact" | "command-r" => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                let normalizer = if pre == "command-r" { nfc } else { Value::Null };
                known(normalizer, json!({"type": "Sequence", "pretokenizers": [digits, byte_level]}), false)
            }
            // tiiuae/falcon-7b: runs of punctuation, then GPT-2's, then (in the letters that stand for bytes) runs of
            // digits, cut into threes.
            "falcon" => {
                let punctuation = json!({"type": "Punctuation", "behavior": "Contiguous"});
                let digits = json!({"type": "Digits", "individual_digits": false});
                let threes = split("[0-9][0-9][0-9]");
                let steps = json!([punctuation, byte_level, digits, threes]);
                known(Value::Null, json!({"type": "Sequence", "pretokenizers": steps}), false)
            }
            // bigscience/bloom.
            "bloom" => {
                let words = split(r" ?[^(\s|[.,!?…。，、।۔،])]+");
                let bytes =
                    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
                known(Value::Null, json!({"type": "Sequence", "pretokenizers": [words, bytes]}), false)
            }
            _ => None,
        }
    }
}

impl Gguf {
    /// The tokenizer of the file, `None` if it has no vocabulary.
    ///
    /// `bos()` is `tokenizer.ggml.bos_token_id`, also where `tokenizer.ggml.add_bos_token` is false.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for a kind of vocabulary or a pre-tokenizer that is not known for certain;
    /// [`ModelError::Malformed`] for a vocabulary that contradicts itself.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, ModelError> {
        let model = match self.string("tokenizer.ggml.model")? {
            None | Some("none" | "no_vocab") => return Ok(None),
            Some(model) => model,
        };
        let vocabulary = self.vocabulary()?;
        let definition = match model {
            "gpt2" => self.byte_level(&vocabulary)?,
            "llama" => self.sentencepiece(&vocabulary)?,
            _ => {
                return Err(self.unsupported(format!(
                    "has a vocabulary of type {model:?}; patchwave reads gpt2 (byte-level BPE) and llama (SentencePiece \
                     BPE). Prompts given as token ids need none"
                )));
            }
        };
        let bos = match self.unsigned("tokenizer.ggml.bos_token_id")? {
            None => None,
            Some(id) if id < vocabulary.tokens.len() as u64 => Some(id as u32),
            Some(id) => return Err(self.malformed(format!("has the BOS token {id}, outside its vocabulary"))),
        };
        let definition = serde_json::to_vec(&definition).map_err(|e| self.malformed(e.to_string()))?;
        let tokenizer = Tokenizer::from_definition(&definition, bos);
        tokenizer.map(Some).map_err(|e| self.malformed(format!("has a vocabulary that contradicts itself: {e}")))
    }

    fn vocabulary(&self) -> Result<Vocabulary<'_>, ModelError> {
        let Some(array) = self.array("tokenizer.ggml.tokens")? else {
            return Err(self.malformed("has tokenizer.ggml.model without tokenizer.ggml.tokens"));
        };
        let tokens = self.strings("tokenizer.ggml.tokens", array)?;
        if tokens.len() > u32::MAX as usize {
            return Err(self.malformed(format!("claims {} tokens", tokens.len())));
        }
        let types = match self.array("tokenizer.ggml.token_type")? {
            None => vec![1; tokens.len()],
            Some(array) => header::integers(&self.map, array)
                .filter(|types| types.len() == tokens.len())
                .ok_or_else(|| self.malformed("does not have one tokenizer.ggml.token_type for each token"))?,
        };
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in (0u32..).zip(&tokens) {
            if let Some(first) = ids.insert(*token, id) {
                return Err(self.malformed(format!("has the token {token:?} twice, as {first} and {id}")));
            }
        }
        Ok(Vocabulary { tokens, types, ids })
    }

    fn strings<'a>(&'a self, key: &str, array: &Array) -> Result<Vec<&'a str>, ModelError> {
        header::strings(&self.map, array).ok_or_else(|| self.wrong_type(key, "an array of strings"))
    }

    fn merges(&self) -> Result<Option<Vec<(String, String)>>, ModelError> {
        let key = "tokenizer.ggml.merges";
        let Some(array) = self.array(key)? else { return Ok(None) };
        let merges = self.strings(key, array)?.into_iter().map(|merge| match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => Err(self.malformed(format!("has the merge {merge:?}, which is not two tokens and a space"))),
        });
        merges.collect::<Result<_, _>>().map(Some)
    }

    fn byte_level(&self, vocabulary: &Vocabulary) -> Result<Value, ModelError> {
        let pre = match self.string("tokenizer.ggml.pre")? {
            // Files from before the key; only of GPT-2 itself is it certain what they mean.
            None | Some("default") if self.architecture()? == "gpt2" => "gpt-2",
            Some(pre) => pre,
            None => {
                return Err(self.unsupported(
                    "does not say how its vocabulary cuts text (tokenizer.ggml.pre is missing): convert the model again, \
                     or give prompts as token ids",
                ));
            }
        };
        let Some(pre) = PreTokenizer::named(pre) else {
            return Err(self.unsupported(format!(
                "has the pre-tokenizer {pre:?} (tokenizer.ggml.pre), which patchwave does not know; it knows {KNOWN}. \
                 Prompts given as token ids need none"
            )));
        };
        let Some(merges) = self.merges()? else {
            return Err(self.malformed("has a gpt2 vocabulary without tokenizer.ggml.merges"));
        };
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        Ok(json!({
            "version": "1.0",
            "added_tokens": vocabulary.added(),
            "normalizer": pre.normalizer,
            "pre_tokenizer": pre.pre_tokenizer,
            "post_processor": null,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "unk_token": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": pre.ignore_merges,
                "vocab": vocabulary.to_json(),
                "merges": merges,
            },
        }))
    }

    /// As `LlamaTokenizer` of transformers 5: a space before the text unless it begins with one, spaces as `▁`, no cuts at
    /// all, then merges in the order of the scores; what is left over becomes bytes.
    fn sentencepiece(&self, vocabulary: &Vocabulary) -> Result<Value, ModelError> {
        if self.boolean("tokenizer.ggml.remove_extra_whitespaces")? == Some(true) {
            return Err(self.unsupported("has a SentencePiece vocabulary that drops spaces (remove_extra_whitespaces)"));
        }
        if self.array("tokenizer.ggml.precompiled_charsmap")?.is_some_and(|map| map.len > 0) {
            return Err(self.unsupported("has a SentencePiece vocabulary with a normalization of its own"));
        }
        let merges = match self.merges()? {
            Some(merges) => merges,
            None => self.merges_of_scores(vocabulary)?,
        };
        let prefix = self.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let unknown = match self.unsigned("tokenizer.ggml.unknown_token_id")? {
            Some(id) => vocabulary.tokens.get(usize::try_from(id).unwrap_or(usize::MAX)),
            None => vocabulary.types.iter().position(|t| *t == UNKNOWN).and_then(|id| vocabulary.tokens.get(id)),
        };
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "version": "1.0",
            "added_tokens": vocabulary.added(),
            "normalizer": null,
            "pre_tokenizer": {
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": if prefix { "first" } else { "never" },
                "split": false,
            },
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE",
                "unk_token": unknown,
                "fuse_unk": true,
                "byte_fallback": true,
                "ignore_merges": false,
                "vocab": vocabulary.to_json(),
                "merges": merges,
            },
        }))
    }

    /// SentencePiece joins the two neighbours whose union has the highest score. As a list of merges (`generate_merges` of
    /// transformers' tokenization_utils_base.py): every way to make a token of two others, best score first; of equal
    /// scores longer left parts first, then longer right parts, then in the order of the vocabulary.
    fn merges_of_scores(&self, vocabulary: &Vocabulary) -> Result<Vec<(String, String)>, ModelError> {
        let scores = self.array("tokenizer.ggml.scores")?.and_then(|array| header::floats(&self.map, array));
        let Some(scores) = scores.filter(|scores| scores.len() == vocabulary.tokens.len()) else {
            return Err(self.malformed("does not have one tokenizer.ggml.scores for each token, nor merges"));
        };
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(self.malformed(format!("has the score NaN for token {id}")));
        }
        struct Merge<'a> {
            score: f64,
            /// Lengths in characters.
            lengths: (usize, usize),
            left: &'a str,
            right: &'a str,
        }
        let mut merges = Vec::new();
        for (token, score) in vocabulary.tokens.iter().zip(scores) {
            if token.len() > MAX_PIECE_BYTES {
                return Err(self.malformed(format!("has a token of {} bytes in a scored vocabulary", token.len())));
            }
            let n_chars = token.chars().count();
            let first = merges.len();
            for (n_left, (at, _)) in token.char_indices().enumerate().skip(1) {
                let (left, right) = token.split_at(at);
                if vocabulary.ids.contains_key(left) && vocabulary.ids.contains_key(right) {
                    merges.push(Merge { score, lengths: (n_left, n_chars - n_left), left, right });
                }
            }
            merges[first..].sort_by_key(|m| (vocabulary.ids[m.left], vocabulary.ids[m.right]));
        }
        merges.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal).then(b.lengths.cmp(&a.lengths)));
        Ok(merges.into_iter().map(|m| (m.left.to_owned(), m.right.to_owned())).collect())
    }
}

struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    types: Vec<i64>,
    ids: HashMap<&'a str, u32>,
}

impl Vocabulary<'_> {
    fn to_json(&self) -> Value {
        let vocab: Map<String, Value> =
            (0u32..).zip(&self.tokens).map(|(id, t)| ((*t).to_owned(), json!(id))).collect();
        Value::Object(vocab)
    }

    /// Tokens that are found in the text before it is cut: control tokens, the unknown token, and those the model's
    /// authors added (a run of spaces, say).
    fn added(&self) -> Vec<Value> {
        let special = |kind| matches!(kind, UNKNOWN | CONTROL);
        let added = self.types.iter().enumerate().filter(|(_, kind)| special(**kind) || **kind == USER_DEFINED);
        added
            .filter(|(id, _)| !self.tokens[*id].is_empty())
            .map(|(id, kind)| {
                json!({
                    "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special(*kind),
                })
            })
            .collect()
    }
}

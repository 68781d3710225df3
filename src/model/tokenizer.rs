//! Text to token ids: a Hugging Face `tokenizer.json`, from a model folder or made from the vocabulary of a GGUF file.

use super::ModelError;
use crate::hex::hex;
use crate::quiet::quietly;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;

/// A tokenizer and the token that its model expects at the beginning of a text.
///
/// Ids are those of Hugging Face's tokenizer: the `tokenizers` crate does the work.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    spelling: Spelling,
    hash: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("len", &self.len()).field("bos", &self.bos).field("hash", &self.hash).finish()
    }
}

/// What is looked at in a `tokenizer.json` here; the rest is the library's.
#[derive(Deserialize)]
struct Outline {
    model: OutlineOfModel,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct OutlineOfModel {
    dropout: Option<f64>,
}

/// How the vocabulary spells the bytes of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// GPT-2: one printable letter per byte (`Ġ` is the space).
    ByteLevel,
    /// SentencePiece: text with `▁` for the space, and `<0xE2>` for bytes that no piece covers.
    SentencePiece,
    /// Anything else is left to the tokenizer's own decoder.
    Other,
}

impl Tokenizer {
    /// The tokenizer of a folder in Hugging Face layout, `None` if it has no `tokenizer.json`.
    ///
    /// The BOS token is `bos_token` of `tokenizer_config.json` (null there means that there is none), else of
    /// `special_tokens_map.json`, else `bos_token_id` of `config.json` if the vocabulary has that id.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] for a file that is not what it should be, or a BOS token outside the vocabulary;
    /// [`ModelError::Io`] for one that cannot be read.
    pub fn from_folder(dir: &Path) -> Result<Option<Tokenizer>, ModelError> {
        let Some(definition) = read(&dir.join("tokenizer.json"))? else { return Ok(None) };
        let mut tokenizer = Self::from_definition(&definition, None)?;
        tokenizer.bos = tokenizer.bos_of_folder(dir)?;
        Ok(Some(tokenizer))
    }

    /// From the bytes of a `tokenizer.json`. `bos` must be an id of its vocabulary.
    pub(crate) fn from_definition(definition: &[u8], bos: Option<u32>) -> Result<Tokenizer, ModelError> {
        let wrong = |reason: String| ModelError::Tokenizer(format!("tokenizer.json: {reason}"));
        let outline: Outline = serde_json::from_slice(definition).map_err(|e| wrong(e.to_string()))?;
        if outline.model.dropout.is_some_and(|p| p > 0.0) {
            return Err(wrong(
                "has dropout, so the same text has other ids each time; set model.dropout to null".into(),
            ));
        }
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(definition)).map_err(wrong)?;
        // What a training script left in the file; Hugging Face's tokenizers ignore it, too, unless asked.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| wrong(e.to_string()))?;
        Ok(Tokenizer { inner, bos, spelling: spelling(&outline.decoder), hash: hex(&Sha256::digest(definition)) })
    }

    fn bos_of_folder(&self, dir: &Path) -> Result<Option<u32>, ModelError> {
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            let Some(config) = read_json(&dir.join(file))? else { continue };
            let content = match config.get("bos_token") {
                None => continue,
                Some(Value::Null) => return Ok(None),
                Some(Value::String(content)) => content,
                Some(token) => match token.get("content") {
                    Some(Value::String(content)) => content,
                    _ => {
                        return Err(ModelError::Tokenizer(format!(
                            "{file}: bos_token is neither a string nor a token"
                        )));
                    }
                },
            };
            return match self.inner.token_to_id(content) {
                Some(id) => Ok(Some(id)),
                None => Err(ModelError::Tokenizer(format!(
                    "{file}: bos_token is {content:?}, which is not in the vocabulary of tokenizer.json"
                ))),
            };
        }
        let id = read_json(&dir.join("config.json"))?.and_then(|config| config.get("bos_token_id")?.as_u64());
        Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|id| self.inner.id_to_token(*id).is_some()))
    }

    /// The ids of `text`, without the special tokens that the tokenizer would add around it (special tokens that are
    /// written out in the text do become their ids).
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the tokenizer fails on this text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = guarded(|| self.inner.encode_fast(text, false));
        Ok(encoding.map_err(|e| ModelError::Tokenizer(format!("cannot encode {text:?}: {e}")))?.get_ids().to_vec())
    }

    /// The id of the token that begins every text the model was trained on, if it has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// What token `id` stands for, as a label: `" Mary"`. Bytes that are no UTF-8 by themselves are shown as `<0xE2>`.
    /// `None` if the vocabulary has no such id.
    pub fn token(&self, id: u32) -> Option<String> {
        let token = self.inner.id_to_token(id)?;
        if self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id) {
            return Some(token);
        }
        let bytes = match self.spelling {
            Spelling::ByteLevel => token.chars().map(byte_of_letter).collect::<Option<Vec<u8>>>(),
            Spelling::SentencePiece => {
                Some(byte_of_piece(&token).map_or_else(|| token.replace('▁', " ").into_bytes(), |byte| vec![byte]))
            }
            Spelling::Other => guarded(|| self.inner.decode(&[id], false)).ok().map(String::into_bytes),
        };
        Some(bytes.map_or(token, |bytes| readable(&bytes)))
    }

    /// Number of ids, added tokens included.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SHA-256 of the `tokenizer.json`, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// The `tokenizers` crate trusts its files and can panic on a hostile one; that must not reach the user.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match quietly(work) {
        Some(result) => result.map_err(|e| e.to_string()),
        None => Err("is beyond what the tokenizers library can handle".to_owned()),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ModelError::Io { path: path.to_owned(), source }),
    }
}

fn read_json(path: &Path) -> Result<Option<Value>, ModelError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Some(serde_json::from_slice(&bytes).map_err(|e| ModelError::Tokenizer(format!("{name}: {e}")))?))
}

fn spelling(decoder: &Value) -> Spelling {
    let parts = match decoder.get("decoders") {
        Some(Value::Array(parts)) => parts.as_slice(),
        _ => std::slice::from_ref(decoder),
    };
    let has = |kind: &str| parts.iter().any(|part| part["type"] == kind);
    if has("ByteLevel") {
        Spelling::ByteLevel
    } else if has("ByteFallback") || has("Metaspace") {
        Spelling::SentencePiece
    } else {
        Spelling::Other
    }
}

/// The byte that a letter of GPT-2's alphabet stands for (`bytes_to_unicode` of its encoder.py): printable Latin-1
/// letters stand for themselves, the 68 others are numbered from U+0100.
fn byte_of_letter(letter: char) -> Option<u8> {
    let itself = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(letter) {
        code @ 0..=0xFF => Some(code as u8).filter(itself),
        code => (0..=u8::MAX).filter(|b| !itself(b)).nth(code as usize - 0x100),
    }
}

/// The byte of SentencePiece's `<0xE2>`.
fn byte_of_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "<0x{byte:02X}>");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_letter_of_the_gpt2_alphabet() {
        let letters = (0..0x200).filter_map(char::from_u32);
        let mut bytes: Vec<u8> = letters.filter_map(byte_of_letter).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
        assert_eq!(byte_of_letter('Ġ'), Some(b' '));
        assert_eq!(byte_of_letter('Ċ'), Some(b'\n'));
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_in_hexadecimal() {
        assert_eq!(readable(b" Mary"), " Mary");
        assert_eq!(readable("é".as_bytes()), "é");
        assert_eq!(readable(b"a\xE2\x82"), "a<0xE2><0x82>");
    }
}

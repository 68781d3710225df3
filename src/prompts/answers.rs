//! Answers as token ids: the token that would follow the prompt.

use super::encode::Encode;
use super::error::{Location, PromptError};
use super::record::Field;
use super::resolve::{OF_TOKENIZER, check_vocabulary, token_id};
use super::show::{kind, quote, show_split, show_token};
use serde_json::Value;
use std::collections::HashSet;

/// Reads the answers of one pair.
pub(super) struct Reader<'a> {
    pub at: &'a Location,
    pub tokenizer: Option<&'a dyn Encode>,
    pub d_vocab: usize,
    /// The clean prompt as text and its own tokens, where it was text.
    pub context: Option<(&'a str, &'a [u32])>,
}

impl Reader<'_> {
    /// The ids of a field: a string, an id, or a list of them. `None` where the field is absent, null, or (unless
    /// `needed`) an empty list.
    pub(super) fn read(&self, field: Option<&Field>, needed: bool) -> Result<Option<Vec<u32>>, PromptError> {
        let Some(Field { name, value }) = field else { return Ok(None) };
        let items = match value {
            Value::Null => return Ok(None),
            Value::Array(items) if items.is_empty() => {
                let at = self.at.clone();
                return if needed { Err(PromptError::EmptyList { at, field: (*name).into() }) } else { Ok(None) };
            }
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut ids = Vec::new();
        let mut seen = HashSet::new();
        for item in items {
            let id = self.one(name, item)?;
            // Twice in the list, it would count twice in the mean and in the sum.
            if !seen.insert(id) {
                let piece = show_token(self.tokenizer, id);
                return Err(PromptError::RepeatedAnswer { at: self.at.clone(), field: (*name).into(), id, piece });
            }
            ids.push(id);
        }
        Ok(Some(ids))
    }

    /// A token that is both right and wrong measures nothing.
    pub(super) fn check_disjoint(&self, answers: &[u32], wrong: &[u32]) -> Result<(), PromptError> {
        let wrong: HashSet<&u32> = wrong.iter().collect();
        match answers.iter().find(|id| wrong.contains(id)) {
            Some(&id) => {
                Err(PromptError::SharedAnswer { at: self.at.clone(), id, piece: show_token(self.tokenizer, id) })
            }
            None => Ok(()),
        }
    }

    fn one(&self, field: &str, value: &Value) -> Result<u32, PromptError> {
        let (at, name) = (|| self.at.clone(), || field.to_owned());
        match value {
            Value::Number(_) => token_id(self.at, field, value, self.d_vocab),
            Value::String(text) if text.is_empty() => Err(PromptError::EmptyAnswer { at: at(), field: name() }),
            Value::String(text) => {
                let Some(tokenizer) = self.tokenizer else {
                    return Err(PromptError::NoTokenizer { at: at(), field: name() });
                };
                let failed = |reason| PromptError::Tokenizer { at: at(), field: name(), reason };
                match self.token(tokenizer, text).map_err(failed)? {
                    Ok(id) => check_vocabulary(self.at, field, u64::from(id), self.d_vocab, OF_TOKENIZER),
                    Err(tokens) => Err(PromptError::MultiTokenAnswer {
                        at: at(),
                        field: field.into(),
                        answer: quote(text).into(),
                        tokens: tokens.len(),
                        pieces: show_split(Some(tokenizer), &tokens, 0).into(),
                        hint: self.hint(tokenizer, text).map_err(failed)?.into(),
                    }),
                }
            }
            Value::Array(items) => Err(PromptError::AnswerType {
                at: at(),
                field: name(),
                found: format!("a list of {} within a list: an answer of several tokens", items.len()),
            }),
            other => Err(PromptError::AnswerType { at: at(), field: name(), found: kind(other) }),
        }
    }

    fn token(&self, tokenizer: &dyn Encode, text: &str) -> Result<Result<u32, Vec<u32>>, String> {
        token(tokenizer, self.context, text)
    }

    /// What to write instead of `text`.
    fn hint(&self, tokenizer: &dyn Encode, text: &str) -> Result<String, String> {
        if let Some(bare) = text.strip_prefix(' ') {
            return Ok(match self.token(tokenizer, bare)? {
                Ok(_) if !bare.is_empty() => format!("without the leading space, {}, it is one", quote(bare)),
                _ => "choose one that is a single token of this tokenizer, or give its id".into(),
            });
        }
        let spaced = format!(" {text}");
        Ok(match self.token(tokenizer, &spaced)? {
            Ok(_) => format!("with a leading space, {}, it is one", quote(&spaced)),
            Err(tokens) => format!(
                "a leading space does not help ({}): choose one that is a single token, or give its id",
                show_split(Some(tokenizer), &tokens, 0)
            ),
        })
    }
}

/// The token that `text` is after the prompt (its text and tokens), else the token that it is alone, else the tokens that
/// it is alone. The outer error is the tokenizer's.
pub(super) fn token(
    tokenizer: &dyn Encode,
    context: Option<(&str, &[u32])>,
    text: &str,
) -> Result<Result<u32, Vec<u32>>, String> {
    if let Some((prompt, tokens)) = context {
        let whole = tokenizer.encode(&format!("{prompt}{text}"))?;
        if let Some([id]) = whole.strip_prefix(tokens) {
            return Ok(Ok(*id));
        }
    }
    let alone = tokenizer.encode(text)?;
    Ok(match alone.as_slice() {
        [id] => Ok(*id),
        _ => Err(alone),
    })
}

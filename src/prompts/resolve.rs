//! From a record to a pair: text becomes tokens, and everything that a run relies on is checked.

use super::encode::{Bos, BosPolicy, Encode};
use super::error::{Location, PromptError};
use super::record::{ALONE, ANSWERS, CLEAN, CORRUPTED, Field, Record, missing, take};
use super::show::{kind, show_split};
use super::{LoadOptions, Pair, answers, positions};
use serde_json::Value;

/// Turns the records of one file into pairs.
pub(super) struct Resolver<'a> {
    pub file: &'a str,
    pub tokenizer: Option<&'a dyn Encode>,
    pub options: &'a LoadOptions,
    /// What was done to the prompts so far.
    pub bos: Bos,
}

/// The tokens of one prompt.
struct Prompt {
    ids: Vec<u32>,
    /// How many tokens were put before those that the file wrote: 1 for a BOS, else 0.
    shift: usize,
    /// The text and its own tokens, where it was text.
    text: Option<(String, Vec<u32>)>,
}

impl Resolver<'_> {
    pub(super) fn pair(&mut self, mut record: Record) -> Result<Pair, PromptError> {
        let at = Location { file: self.file.to_owned(), place: record.place };
        let needs_corrupted = self.options.needs_corrupted;
        if record.clean.is_none() && !needs_corrupted {
            record.clean = take(&at, &mut record.labels, ALONE)?;
        }
        let Some(clean) = record.clean else { return Err(missing(&at, CLEAN, &record.has)) };
        if record.corrupted.is_none() && needs_corrupted {
            return Err(missing(&at, CORRUPTED, &record.has));
        }
        let clean = self.prompt(&at, clean)?;
        let corrupted = match record.corrupted {
            Some(field) => {
                let corrupted = self.prompt(&at, field)?;
                self.check_lengths(&at, &clean.ids, &corrupted.ids)?;
                corrupted.ids
            }
            None => Vec::new(),
        };

        // Both the answer and the wrong one are what could follow the clean prompt.
        let context = clean.text.as_ref().map(|(text, ids)| (text.as_str(), ids.as_slice()));
        let reader = answers::Reader { at: &at, tokenizer: self.tokenizer, d_vocab: self.options.d_vocab, context };
        let (needs_answer, needs_wrong) = (self.options.needs_answer, self.options.needs_wrong);
        let answers = match reader.read(record.answers.as_ref(), needs_answer)? {
            None if needs_answer => return Err(missing(&at, ANSWERS, &record.has)),
            found => found.unwrap_or_default(),
        };
        let wrong = match reader.read(record.wrong.as_ref(), needs_wrong)? {
            None if needs_wrong => return Err(PromptError::WrongMissing { at }),
            found => found.unwrap_or_default(),
        };
        reader.check_disjoint(&answers, &wrong)?;

        let positions = positions::read(&at, &record.positions, clean.ids.len() - clean.shift, clean.shift)?;
        let line = match record.place {
            super::Place::Line(n) | super::Place::Index(n) => n,
        };
        Ok(Pair { clean: clean.ids, corrupted, answers, wrong, positions, labels: record.labels, line })
    }

    fn prompt(&mut self, at: &Location, field: Field) -> Result<Prompt, PromptError> {
        let Field { name, value } = field;
        let named = || (at.clone(), name.to_owned());
        let prompt = match value {
            Value::String(text) => self.text(at, name, text)?,
            Value::Array(items) => self.ids(at, name, &items)?,
            other => {
                let (at, field) = named();
                return Err(PromptError::PromptType { at, field, found: kind(&other) });
            }
        };
        let len = prompt.ids.len();
        match self.options.n_ctx {
            Some(n_ctx) if len > n_ctx => {
                let (at, field) = named();
                Err(PromptError::TooLong { at, field, len, n_ctx })
            }
            _ => Ok(prompt),
        }
    }

    fn text(&mut self, at: &Location, name: &str, text: String) -> Result<Prompt, PromptError> {
        let named = || (at.clone(), name.to_owned());
        let Some(tokenizer) = self.tokenizer else {
            let (at, field) = named();
            return Err(PromptError::NoTokenizer { at, field });
        };
        let own = tokenizer.encode(&text).map_err(|reason| {
            let (at, field) = named();
            PromptError::Tokenizer { at, field, reason }
        })?;
        if own.is_empty() {
            let (at, field) = named();
            return Err(PromptError::EmptyPrompt { at, field });
        }
        if self.bos.policy == BosPolicy::Always && self.bos.id.is_none() {
            return Err(PromptError::NoBos);
        }
        let mut ids = own.clone();
        let shift = self.bos.apply(&mut ids);
        for &id in &ids {
            check_vocabulary(at, name, u64::from(id), self.options.d_vocab, OF_TOKENIZER)?;
        }
        Ok(Prompt { ids, shift, text: Some((text, own)) })
    }

    fn ids(&mut self, at: &Location, name: &str, items: &[Value]) -> Result<Prompt, PromptError> {
        let named = || (at.clone(), name.to_owned());
        if items.is_empty() {
            let (at, field) = named();
            return Err(PromptError::EmptyPrompt { at, field });
        }
        let ids =
            items.iter().map(|item| token_id(at, name, item, self.options.d_vocab)).collect::<Result<Vec<_>, _>>()?;
        if self.bos.policy == BosPolicy::Always && (self.bos.id.is_none() || ids.first().copied() != self.bos.id) {
            let (at, field) = named();
            return Err(PromptError::BosOverIds { at, field });
        }
        self.bos.given_as_ids += 1;
        Ok(Prompt { ids, shift: 0, text: None })
    }

    fn check_lengths(&self, at: &Location, clean: &[u32], corrupted: &[u32]) -> Result<(), PromptError> {
        let difference = super::first_difference(clean, corrupted);
        if clean.len() != corrupted.len() {
            let split = |ids| show_split(self.tokenizer, ids, difference);
            return Err(PromptError::UnequalLengths {
                at: at.clone(),
                clean: clean.len(),
                corrupted: corrupted.len(),
                split: format!("clean: {} corrupted: {}", split(clean), split(corrupted)),
            });
        }
        if difference == clean.len() {
            return Err(PromptError::IdenticalPair { at: at.clone() });
        }
        Ok(())
    }
}

/// Said of an id that came out of the tokenizer, not out of the file.
pub(super) const OF_TOKENIZER: &str = ", and comes from the tokenizer; is it the model's own?";

/// One id as the file writes it.
pub(super) fn token_id(at: &Location, field: &str, value: &Value, d_vocab: usize) -> Result<u32, PromptError> {
    match value.as_u64() {
        Some(id) => check_vocabulary(at, field, id, d_vocab, ""),
        None => Err(PromptError::NotATokenId { at: at.clone(), field: field.to_owned(), found: kind(value) }),
    }
}

/// `id` as a row of the embedding.
pub(super) fn check_vocabulary(
    at: &Location,
    field: &str,
    id: u64,
    d_vocab: usize,
    hint: &'static str,
) -> Result<u32, PromptError> {
    match u32::try_from(id) {
        Ok(row) if usize::try_from(id).is_ok_and(|id| id < d_vocab) => Ok(row),
        _ => Err(PromptError::OutsideVocabulary { at: at.clone(), field: field.to_owned(), id, d_vocab, hint }),
    }
}

//! Which of a task's words the model's tokenizer has as one token.

use crate::prompts::answers;
use crate::prompts::encode::Encode;
use crate::prompts::error::PromptError;

/// A tokenizer as one task sees it.
pub(super) struct Vocabulary<'a> {
    pub task: &'static str,
    pub tokenizer: &'a dyn Encode,
}

impl Vocabulary<'_> {
    /// The token that `text` is right after `before`, if it is one and leaves the tokens of `before` as they are.
    pub(super) fn token_after(&self, before: &str, text: &str) -> Option<u32> {
        let tokens = self.tokenizer.encode(before).ok()?;
        match self.tokenizer.encode(&format!("{before}{text}")).ok()?.strip_prefix(tokens.as_slice()) {
            Some([id]) => Some(*id),
            _ => None,
        }
    }

    /// The token that `answer` is after `prompt`, by the rule for answers in files.
    pub(super) fn answer(&self, prompt: &str, tokens: &[u32], answer: &str) -> Option<u32> {
        answers::token(self.tokenizer, Some((prompt, tokens)), answer).ok()?.ok()
    }

    /// `text` is one token right after `before`, and that token is this text and not a stand-in for texts that the tokenizer
    /// does not know.
    pub(super) fn has_after(&self, before: &str, text: &str) -> bool {
        let piece = self.token_after(before, text).and_then(|id| self.tokenizer.piece(id));
        piece.is_some_and(|piece| piece.trim().eq_ignore_ascii_case(text.trim()))
    }

    /// `word` is one token behind another word and a space.
    fn has(&self, word: &str) -> bool {
        self.has_after(word, &format!(" {word}"))
    }

    /// The word is one token at the start of a prompt, too.
    pub(super) fn has_at_start(&self, word: &str) -> bool {
        self.tokenizer.encode(word).is_ok_and(|ids| ids.len() == 1)
    }

    /// Those of `candidates` that are one token inside a text.
    ///
    /// # Errors
    /// [`PromptError::TooFewWords`] where fewer than `needed` are; `what` is what they are called there.
    pub(super) fn words(
        &self,
        what: &'static str,
        candidates: &[&'static str],
        needed: usize,
    ) -> Result<Vec<&'static str>, PromptError> {
        let words: Vec<&str> = candidates.iter().copied().filter(|word| self.has(word)).collect();
        self.enough(what, words.len(), candidates.len(), needed)?;
        Ok(words)
    }

    /// Those pairs of words of which both are one token inside a text. Errors as in [`Self::words`].
    pub(super) fn couples(
        &self,
        what: &'static str,
        candidates: &[(&'static str, &'static str)],
        needed: usize,
    ) -> Result<Vec<(&'static str, &'static str)>, PromptError> {
        let couples: Vec<_> = candidates.iter().copied().filter(|(a, b)| self.has(a) && self.has(b)).collect();
        self.enough(what, couples.len(), candidates.len(), needed)?;
        Ok(couples)
    }

    /// # Errors
    /// [`PromptError::TooFewWords`] where `found` is less than `needed`.
    pub(super) fn enough(&self, what: &'static str, found: usize, of: usize, needed: usize) -> Result<(), PromptError> {
        match found < needed {
            true => Err(PromptError::TooFewWords { task: self.task, what, found, of, needed }),
            false => Ok(()),
        }
    }
}

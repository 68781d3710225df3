//! Rows of a benchmark that this tokenizer cannot pose.

use super::error::PromptError;

/// How many rows of MIB's data were left out, and why. Its authors make one file for many tokenizers and leave out, for
/// each, what does not fit; a file of the user's own is never treated so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Rows without the chosen counterfactual.
    pub no_counterfactual: usize,
    /// An answer is several tokens.
    pub long_answers: usize,
    /// Answer and wrong answer are the same token.
    pub same_answers: usize,
    /// Clean and corrupted have different numbers of tokens.
    pub unequal_lengths: usize,
    /// Clean and corrupted are the same.
    pub identical: usize,
}

impl LeftOut {
    pub fn total(&self) -> usize {
        self.no_counterfactual + self.long_answers + self.same_answers + self.unequal_lengths + self.identical
    }

    /// Counts a row that fails for one of these reasons; any other error is handed back.
    pub(super) fn count(&mut self, error: PromptError) -> Result<(), PromptError> {
        let reason = match error {
            PromptError::MultiTokenAnswer { .. } => &mut self.long_answers,
            PromptError::SharedAnswer { .. } => &mut self.same_answers,
            PromptError::UnequalLengths { .. } => &mut self.unequal_lengths,
            PromptError::IdenticalPair { .. } => &mut self.identical,
            other => return Err(other),
        };
        *reason += 1;
        Ok(())
    }

    /// One line, if there is something to say.
    pub fn say(&self) -> Option<String> {
        let reasons = [
            (self.no_counterfactual, "without the counterfactual"),
            (self.long_answers, "with an answer of several tokens"),
            (self.same_answers, "with the same right and wrong answer"),
            (self.unequal_lengths, "of unequal token lengths"),
            (self.identical, "with nothing to patch"),
        ];
        let said: Vec<String> =
            reasons.iter().filter(|(n, _)| *n > 0).map(|(n, reason)| format!("{n} {reason}")).collect();
        let rows = if self.total() == 1 { "row" } else { "rows" };
        (!said.is_empty()).then(|| format!("{} {rows} left out: {}", self.total(), said.join(", ")))
    }
}

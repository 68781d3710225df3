//! Tasks: prompt pairs made from templates and words of our own, for the tokenizer at hand.
//!
//! A task draws pairs from a seed. Each is text, so that it reads well and goes through the same door as a file
//! ([`parse`](super::parse)); before that it is held to this tokenizer: its words are one token each, clean and corrupted
//! have the same number of tokens, named positions stand at the same place in both, and every answer is one token that
//! no other answer shares. What does not fit is drawn again. One file a task; all lists and templates are ours.

mod arithmetic;
mod capital;
mod docstring;
mod gender;
mod greater_than;
mod induction;
mod ioi;
mod names;
mod random;
mod sva;
mod text;
mod vocabulary;

use super::encode::Encode;
use super::error::PromptError;
use random::Random;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use text::Text;
use vocabulary::Vocabulary;

/// A kind of prompt pairs.
pub struct Task {
    /// What `--task` calls it.
    pub name: &'static str,
    /// One line: what the model has to do.
    pub about: &'static str,
    /// A prompt and its answer.
    pub example: &'static str,
    /// How the corrupted prompt differs; the first is the default.
    pub variants: &'static [Variant],
    /// The names of the positions that every pair has.
    pub positions: &'static [&'static str],
    /// The metric that its answers are made for.
    pub metric: &'static str,
    prepare: Prepare,
}

/// One way to make the corrupted prompts of a task (of arithmetic, which operation).
pub struct Variant {
    pub name: &'static str,
    /// What is different in the corrupted prompt.
    pub about: &'static str,
}

/// Chooses the words that the tokenizer has and says how to draw one pair from them.
type Prepare = fn(&Vocabulary<'_>, &'static str) -> Result<Draw, PromptError>;
type Draw = Box<dyn Fn(&mut Random) -> Draft>;

/// A pair before it is held to the tokenizer.
struct Draft {
    clean: Text,
    corrupted: Text,
    answers: Vec<String>,
    wrong: Vec<String>,
    labels: Vec<(&'static str, Value)>,
}

/// All tasks, in the order in which they are listed.
pub const TASKS: &[Task] = &[
    ioi::TASK,
    induction::TASK,
    greater_than::TASK,
    sva::TASK,
    docstring::TASK,
    gender::TASK,
    capital::TASK,
    arithmetic::TASK,
];

/// A task and one of its variants: `ioi`, `ioi:abc`.
#[derive(Clone, Copy)]
pub struct TaskChoice {
    pub task: &'static Task,
    pub variant: &'static Variant,
}

impl fmt::Debug for TaskChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for TaskChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.task.name, self.variant.name)
    }
}

impl FromStr for TaskChoice {
    type Err = PromptError;

    /// `NAME` or `NAME:VARIANT`.
    fn from_str(text: &str) -> Result<TaskChoice, PromptError> {
        let (name, variant) = text.split_once(':').map_or((text, None), |(name, variant)| (name, Some(variant)));
        let Some(task) = TASKS.iter().find(|task| task.name == name) else {
            let known = TASKS.iter().map(|task| task.name).collect::<Vec<_>>().join(", ");
            return Err(PromptError::UnknownTask { name: super::show::quote(name), known });
        };
        let chosen = match variant {
            None => task.variants.first(),
            Some(variant) => task.variants.iter().find(|v| v.name == variant),
        };
        let known = || task.variants.iter().map(|v| format!("{}:{}", task.name, v.name)).collect::<Vec<_>>().join(", ");
        match chosen {
            Some(variant) => Ok(TaskChoice { task, variant }),
            None => Err(PromptError::UnknownVariant {
                task: task.name,
                name: super::show::quote(variant.unwrap_or("")),
                known: known(),
            }),
        }
    }
}

/// The most pairs of one task.
pub const MAX_PAIRS: usize = 100_000;

impl TaskChoice {
    /// `pairs` different pairs as JSONL of text, for [`parse`](super::parse): `clean`, `corrupted`, `answer`, `wrong`,
    /// `positions`, and as labels `task`, `corruption` and what the task tells of its pair. The same seed gives the same
    /// text on every platform, and more pairs begin with those of fewer.
    ///
    /// # Errors
    /// [`PromptError::TaskPairs`] for 0 or more than [`MAX_PAIRS`]; [`PromptError::TooFewWords`] where the tokenizer has
    /// too few of the task's words as one token; [`PromptError::TooFewPairs`] where they make fewer different pairs.
    pub fn generate(&self, pairs: usize, seed: u64, tokenizer: &dyn Encode) -> Result<String, PromptError> {
        if !(1..=MAX_PAIRS).contains(&pairs) {
            return Err(PromptError::TaskPairs { asked: pairs, most: MAX_PAIRS });
        }
        let vocabulary = Vocabulary { task: self.task.name, tokenizer };
        let draw = (self.task.prepare)(&vocabulary, self.variant.name)?;
        let mut random = Random::new(seed);
        let mut drawn: HashSet<(String, String)> = HashSet::new();
        let mut jsonl = String::new();
        let (mut found, mut repeats, mut unfit) = (0, 0, 0);
        while found < pairs {
            let draft = draw(&mut random);
            if !drawn.insert((draft.clean.text.clone(), draft.corrupted.text.clone())) {
                repeats += 1;
            } else if let Some(record) = self.record(&vocabulary, draft) {
                jsonl.push_str(&Value::Object(record).to_string());
                jsonl.push('\n');
                (found, repeats) = (found + 1, 0);
            } else {
                unfit += 1;
            }
            // Of S pairs the last one is missed so often with a chance of e^-20; and where hardly any fits, none will.
            if repeats > 500 + 20 * drawn.len() || unfit > 2_000 + 50 * found {
                return Err(PromptError::TooFewPairs { task: self.to_string(), asked: pairs, found });
            }
        }
        Ok(jsonl)
    }

    /// The pair as a line of JSONL; `None` where it does not fit the tokenizer.
    fn record(&self, vocabulary: &Vocabulary<'_>, draft: Draft) -> Option<Map<String, Value>> {
        let Draft { clean, corrupted, answers, wrong, labels } = draft;
        let encode = |text: &Text| vocabulary.tokenizer.encode(&text.text).ok();
        let (clean_ids, corrupted_ids) = (encode(&clean)?, encode(&corrupted)?);
        if clean_ids.len() != corrupted_ids.len() || clean_ids == corrupted_ids {
            return None;
        }
        let positions = positions(vocabulary.tokenizer, &clean, &clean_ids)?;
        if positions != self::positions(vocabulary.tokenizer, &corrupted, &corrupted_ids)? {
            return None;
        }
        // No token may be two answers, nor right and wrong at once.
        let mut seen = HashSet::new();
        let one = |text: &String| vocabulary.answer(&clean.text, &clean_ids, text).is_some_and(|id| seen.insert(id));
        if !answers.iter().chain(&wrong).all(one) {
            return None;
        }
        let text = |mut texts: Vec<String>| match (texts.pop(), texts.is_empty()) {
            (Some(only), true) => Value::String(only),
            (last, _) => texts.into_iter().chain(last).map(Value::String).collect(),
        };
        let mut record = Map::new();
        record.insert("clean".into(), clean.text.into());
        record.insert("corrupted".into(), corrupted.text.into());
        record.insert("answer".into(), text(answers));
        record.insert("wrong".into(), text(wrong));
        record.insert("positions".into(), Value::Object(positions));
        record.insert("task".into(), self.task.name.into());
        record.insert("corruption".into(), self.variant.name.into());
        record.extend(labels.into_iter().map(|(name, value)| (name.to_owned(), value)));
        Some(record)
    }
}

/// The token of each mark, and `end`, counted without a BOS. `None` where a word's last token reaches beyond the word.
fn positions(tokenizer: &dyn Encode, text: &Text, ids: &[u32]) -> Option<Map<String, Value>> {
    let mut positions = Map::new();
    for mark in &text.marks {
        let before = tokenizer.encode(text.text.get(..mark.end)?).ok()?;
        let position = before.len().checked_sub(1)? + mark.after;
        if !ids.starts_with(&before) || position >= ids.len() {
            return None;
        }
        positions.insert(mark.name.into(), position.into());
    }
    positions.insert("end".into(), ids.len().checked_sub(1)?.into());
    Some(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tasks_and_variants_are_words_and_unique() {
        let mut seen = HashSet::new();
        for task in TASKS {
            assert!(seen.insert(task.name) && !task.variants.is_empty() && task.positions.ends_with(&["end"]));
            for variant in task.variants {
                let choice: TaskChoice = format!("{}:{}", task.name, variant.name).parse().expect("it is listed");
                assert_eq!((choice.task.name, choice.variant.name), (task.name, variant.name));
            }
            let default: TaskChoice = task.name.parse().expect("it is listed");
            assert_eq!(default.variant.name, task.variants[0].name);
        }
    }

    #[test]
    fn unknown_names_list_those_that_exist() {
        let error = "iio".parse::<TaskChoice>().unwrap_err().to_string();
        assert!(error.starts_with("--task: no task \"iio\"; there are ioi, induction, greater_than"), "{error}");
        let error = "ioi:s3".parse::<TaskChoice>().unwrap_err().to_string();
        assert_eq!(error, "--task: ioi has no corruption \"s3\"; it has ioi:s2, ioi:abc, ioi:names");
    }
}

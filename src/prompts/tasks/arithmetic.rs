//! Sums and differences of small numbers.
//!
//! Where the tokenizer keeps the space apart from the digits (`is`, ` `, `7`), prompts end with that space.

use super::{Draft, Draw, Task, Text, Variant, Vocabulary};
use crate::prompts::error::PromptError;

pub(super) const TASK: Task = Task {
    name: "arithmetic",
    about: "the sum or the difference of two numbers",
    example: "The sum of 3 and 4 is → 7",
    variants: &[
        Variant { name: "addition", about: "sums; the second number (b) is another one" },
        Variant { name: "subtraction", about: "differences; the second number (b) is another one" },
    ],
    positions: &["a", "b", "end"],
    metric: "logit_diff",
    prepare,
};

const SUMS: &[&str] = &[
    "The sum of {a} and {b} is",
    "Adding {b} to {a} gives",
    "Question: What is {a} plus {b}? Answer:",
    "We know that {a} + {b} =",
];

const DIFFERENCES: &[&str] = &[
    "The difference between {a} and {b} is",
    "Subtracting {b} from {a} gives",
    "Question: What is {a} minus {b}? Answer:",
    "We know that {a} - {b} =",
];

/// The largest number in a prompt or an answer.
const MAX: usize = 99;

fn prepare(vocabulary: &Vocabulary<'_>, variant: &'static str) -> Result<Draw, PromptError> {
    let sums = variant == "addition";
    let templates = if sums { SUMS } else { DIFFERENCES };
    let one_token = |space: &str, before: &str| {
        let prompt = format!("{SAMPLE}{before}");
        (0..=MAX).take_while(|n| vocabulary.has_after(&prompt, &format!("{space}{n}"))).count()
    };
    let (with_space, after_space) = (one_token(" ", ""), one_token("", " "));
    let (end, space, numbers) = if with_space >= 10 { ("", " ", with_space) } else { (" ", "", after_space) };
    vocabulary.enough("numbers from 0 on", numbers, MAX + 1, 10)?;
    let max = numbers - 1;
    Ok(Box::new(move |random| {
        let template = random.below(templates.len());
        let a = random.between(1, if sums { max - 2 } else { max });
        // b and another one, so that neither result leaves the range.
        let most = if sums { max - a } else { a };
        let b = random.between(if sums { 1 } else { 0 }, most);
        let other = random.between(if sums { 1 } else { 0 }, most);
        let text = |b: usize| {
            let mut text = Text::fill(templates[template], &[("a", &a.to_string()), ("b", &b.to_string())]);
            text.text.push_str(end);
            text
        };
        let result = |b: usize| vec![format!("{space}{}", if sums { a + b } else { a - b })];
        Draft {
            clean: text(b),
            corrupted: text(other),
            answers: result(b),
            wrong: result(other),
            labels: vec![("template", template.into()), ("a", a.into()), ("b", b.into())],
        }
    }))
}

/// A prompt to try numbers after.
const SAMPLE: &str = "The sum of 3 and 4 is";

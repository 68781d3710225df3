//! Greater-than (Hanna, Liu, Variengien 2023, arXiv 2305.00586): a span of years ends later than it begins.
//!
//! The answers are all two-digit years above the first one, the wrong ones all others, and the metric is `prob_diff`.
//! Where the tokenizer writes numbers digit by digit, the next token is the decade: answers are the digits above that of
//! the first year, wrong ones those below; the digit itself is neither.

use super::{Draft, Draw, Task, Text, Variant, Vocabulary};
use crate::prompts::error::PromptError;

pub(super) const TASK: Task = Task {
    name: "greater_than",
    about: "a span of years ends later than it began (answers are a set: use --metric prob_diff)",
    example: "The war lasted from the year 1732 to the year 17 → 33 … 99",
    variants: &[Variant { name: "01", about: "the first year ends with 01, so that every year is later" }],
    positions: &["noun", "XX1", "YY", "XX2", "end"],
    metric: "prob_diff",
    prepare,
};

const TEMPLATES: &[&str] = &[
    "The {noun} lasted from the year {XX1}{YY} to the year {XX2}",
    "The {noun} went on from the year {XX1}{YY} to the year {XX2}",
];

const NOUNS: &[&str] = &[
    "war",
    "plan",
    "project",
    "trip",
    "program",
    "reign",
    "trial",
    "strike",
    "siege",
    "study",
    "campaign",
    "contract",
    "conflict",
    "tour",
    "voyage",
    "boom",
    "crisis",
    "drought",
    "treaty",
    "debate",
    "journey",
    "mission",
    "search",
    "struggle",
    "dispute",
    "battle",
    "marriage",
    "partnership",
    "festival",
    "peace",
];

/// First and last century, as the first two digits of a year.
const CENTURIES: (usize, usize) = (11, 18);

fn prepare(vocabulary: &Vocabulary<'_>, _: &'static str) -> Result<Draw, PromptError> {
    let nouns = vocabulary.words("nouns", NOUNS, 1)?;
    let prompt = "The war lasted from the year 1732 to the year 17";
    let tokens = vocabulary.tokenizer.encode(prompt).unwrap_or_default();
    let of_two = (0..100).filter(|y| vocabulary.answer(prompt, &tokens, &format!("{y:02}")).is_some()).count();
    let of_one = (0..10).filter(|d| vocabulary.has_after(prompt, &d.to_string())).count();
    let by_digit = of_two < 100 && of_one == 10;
    if !by_digit {
        vocabulary.enough("two-digit years", of_two, 100, 100)?;
    }
    Ok(Box::new(move |random| {
        let template = random.below(TEMPLATES.len());
        let noun = random.pick(&nouns);
        let century = random.between(CENTURIES.0, CENTURIES.1).to_string();
        // Neither end of the range: both sets of answers have something in them.
        let year = if by_digit { random.between(10, 89) } else { random.between(2, 98) };
        let text = |year: usize| {
            let digits = format!("{year:02}");
            let (template, marked, rest) = match by_digit {
                true => (TEMPLATES[template].replace("{YY}", "{YY}{_unit}"), &digits[..1], &digits[1..]),
                false => (TEMPLATES[template].to_owned(), digits.as_str(), ""),
            };
            let words = [("noun", noun), ("XX1", &century), ("YY", marked), ("_unit", rest), ("XX2", &century)];
            Text::fill(&template, &words)
        };
        let (answers, wrong) = match by_digit {
            true => (digits(year / 10 + 1..10), digits(0..year / 10)),
            false => (years(year + 1..100), years(0..year + 1)),
        };
        Draft {
            clean: text(year),
            corrupted: text(1),
            answers,
            wrong,
            labels: vec![("template", template.into()), ("year", format!("{century}{year:02}").into())],
        }
    }))
}

fn years(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|year| format!("{year:02}")).collect()
}

fn digits(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|digit| digit.to_string()).collect()
}

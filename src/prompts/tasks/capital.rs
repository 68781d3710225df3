//! Countries and their capitals: recall of a fact.

use super::{Draft, Draw, Task, Text, Variant, Vocabulary};
use crate::prompts::error::PromptError;

pub(super) const TASK: Task = Task {
    name: "capital",
    about: "the capital of a country",
    example: "The capital of France is → Paris",
    variants: &[Variant { name: "country", about: "another country, whose capital is the wrong answer" }],
    positions: &["country", "end"],
    metric: "logit_diff",
    prepare,
};

const TEMPLATES: &[&str] = &[
    "The capital of {country} is",
    "The capital city of {country} is called",
    "Question: What is the capital of {country}? Answer:",
    "The government of {country} sits in its capital,",
    "If you travel to {country}, you should see its capital,",
];

const CAPITALS: &[(&str, &str)] = &[
    ("France", "Paris"),
    ("Germany", "Berlin"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("England", "London"),
    ("Russia", "Moscow"),
    ("Japan", "Tokyo"),
    ("China", "Beijing"),
    ("Greece", "Athens"),
    ("Egypt", "Cairo"),
    ("Poland", "Warsaw"),
    ("Austria", "Vienna"),
    ("Ireland", "Dublin"),
    ("Sweden", "Stockholm"),
    ("Norway", "Oslo"),
    ("Finland", "Helsinki"),
    ("Denmark", "Copenhagen"),
    ("Portugal", "Lisbon"),
    ("Belgium", "Brussels"),
    ("Hungary", "Budapest"),
    ("Cuba", "Havana"),
    ("Peru", "Lima"),
    ("Chile", "Santiago"),
    ("Kenya", "Nairobi"),
    ("Iran", "Tehran"),
    ("Iraq", "Baghdad"),
    ("Syria", "Damascus"),
    ("Turkey", "Ankara"),
    ("Canada", "Ottawa"),
    ("Ukraine", "Kiev"),
    ("Vietnam", "Hanoi"),
    ("Thailand", "Bangkok"),
    ("Scotland", "Edinburgh"),
    ("Afghanistan", "Kabul"),
    ("Taiwan", "Taipei"),
    ("Lebanon", "Beirut"),
    ("Bulgaria", "Sofia"),
    ("Serbia", "Belgrade"),
    ("Indonesia", "Jakarta"),
];

fn prepare(vocabulary: &Vocabulary<'_>, _: &'static str) -> Result<Draw, PromptError> {
    let capitals = vocabulary.couples("countries with their capitals", CAPITALS, 2)?;
    Ok(Box::new(move |random| {
        let template = random.below(TEMPLATES.len());
        let [(country, capital), (other, others_capital)] = random.pick_different(&capitals);
        let text = |country| Text::fill(TEMPLATES[template], &[("country", country)]);
        Draft {
            clean: text(country),
            corrupted: text(other),
            answers: vec![format!(" {capital}")],
            wrong: vec![format!(" {others_capital}")],
            labels: vec![("template", template.into()), ("country", country.into()), ("capital", capital.into())],
        }
    }))
}

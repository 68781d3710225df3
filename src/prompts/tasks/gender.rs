//! Gendered pronouns (Mathwin et al. 2023): he or she, by the name.

use super::{Draft, Draw, Task, Text, Variant, Vocabulary, names};
use crate::prompts::error::PromptError;

pub(super) const TASK: Task = Task {
    name: "gender",
    about: "the pronoun that goes with a name",
    example: "My friend Mary went home early because → she",
    variants: &[Variant { name: "name", about: "a name that the other pronoun goes with" }],
    positions: &["name", "end"],
    metric: "logit_diff",
    prepare,
};

const TEMPLATES: &[&str] = &[
    "My friend {name} went home early because",
    "Everybody likes {name} a lot because",
    "Yesterday {name} told me that",
    "The people of the town trust {name} because",
    "So {name} is a great cook, isn't",
    "Our neighbor {name} always smiles when",
    "The teacher thanked {name} after",
    "At dinner {name} said that",
];

fn prepare(vocabulary: &Vocabulary<'_>, _: &'static str) -> Result<Draw, PromptError> {
    let female = vocabulary.words("women's names", names::FEMALE, 1)?;
    let male = vocabulary.words("men's names", names::MALE, 1)?;
    vocabulary.words("pronouns", &["he", "she"], 2)?;
    Ok(Box::new(move |random| {
        let template = random.below(TEMPLATES.len());
        let (she, he) = (random.pick(&female), random.pick(&male));
        let is_she = random.below(2) == 0;
        let (name, other) = if is_she { (she, he) } else { (he, she) };
        let (answer, wrong) = if is_she { (" she", " he") } else { (" he", " she") };
        let text = |name| Text::fill(TEMPLATES[template], &[("name", name)]);
        Draft {
            clean: text(name),
            corrupted: text(other),
            answers: vec![answer.into()],
            wrong: vec![wrong.into()],
            labels: vec![("template", template.into()), ("pronoun", answer.trim().into()), ("name", name.into())],
        }
    }))
}

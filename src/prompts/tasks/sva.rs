//! Subject–verb agreement (Linzen et al. 2016, arXiv 1611.01368): the verb follows its subject, not the noun before it.

use super::{Draft, Draw, Task, Text, Variant, Vocabulary};
use crate::prompts::error::PromptError;

pub(super) const TASK: Task = Task {
    name: "sva",
    about: "subject-verb agreement: the verb's number is its subject's, not that of the noun before it",
    example: "The doctors near the artist → are, were, have",
    variants: &[Variant { name: "number", about: "the subject has the other number" }],
    positions: &["subject", "noun", "end"],
    metric: "logit_diff",
    prepare,
};

const TEMPLATES: &[&str] = &[
    "The {subject} near the {noun}",
    "The {subject} behind the {noun}",
    "Yesterday the {subject} next to the {noun}",
    "We all know that the {subject} beside the {noun}",
    "Today the {subject} with the {noun}",
    "The {subject} in front of the {noun}",
];

const NOUNS: &[(&str, &str)] = &[
    ("doctor", "doctors"),
    ("artist", "artists"),
    ("teacher", "teachers"),
    ("student", "students"),
    ("car", "cars"),
    ("author", "authors"),
    ("player", "players"),
    ("girl", "girls"),
    ("boy", "boys"),
    ("parent", "parents"),
    ("tree", "trees"),
    ("dog", "dogs"),
    ("house", "houses"),
    ("book", "books"),
    ("table", "tables"),
    ("key", "keys"),
    ("driver", "drivers"),
    ("manager", "managers"),
    ("friend", "friends"),
    ("officer", "officers"),
    ("bird", "birds"),
    ("farmer", "farmers"),
    ("worker", "workers"),
    ("writer", "writers"),
    ("lawyer", "lawyers"),
    ("ship", "ships"),
];

/// Singular and plural.
const VERBS: &[(&str, &str)] = &[("is", "are"), ("was", "were"), ("has", "have")];

fn prepare(vocabulary: &Vocabulary<'_>, _: &'static str) -> Result<Draw, PromptError> {
    let nouns = vocabulary.couples("nouns", NOUNS, 2)?;
    let verbs = vocabulary.couples("verbs", VERBS, 1)?;
    Ok(Box::new(move |random| {
        let template = random.below(TEMPLATES.len());
        let [subject, noun] = random.pick_different(&nouns);
        let (plural, plural_noun) = (random.below(2) == 1, random.below(2) == 1);
        let of = |(singular, several): (&'static str, &'static str), plural| if plural { several } else { singular };
        let text = |plural: bool| {
            Text::fill(TEMPLATES[template], &[("subject", of(subject, plural)), ("noun", of(noun, plural_noun))])
        };
        let verbs = |plural: bool| verbs.iter().map(|&verb| format!(" {}", of(verb, plural))).collect();
        let number = |plural: bool| if plural { "plural" } else { "singular" };
        Draft {
            clean: text(plural),
            corrupted: text(!plural),
            answers: verbs(plural),
            wrong: verbs(!plural),
            labels: vec![
                ("template", template.into()),
                ("subject", number(plural).into()),
                ("noun", number(plural_noun).into()),
            ],
        }
    }))
}

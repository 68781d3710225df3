//! Indirect object identification (Wang et al. 2022, arXiv 2211.00593): of two people, the one who is not named twice.

use super::{Draft, Draw, Task, Text, Variant, Vocabulary, names};
use crate::prompts::error::PromptError;

pub(super) const TASK: Task = Task {
    name: "ioi",
    about: "indirect object identification: of two people, the one who is not named a second time",
    example: "When Mary and John met at the store, John handed a book to → Mary",
    variants: &[
        Variant { name: "s2", about: "the second subject (S2) becomes the indirect object, so that S is right" },
        Variant { name: "abc", about: "the second subject (S2) becomes a third name" },
        Variant { name: "names", about: "all three become other names, each different" },
    ],
    positions: &["IO", "S1", "S1+1", "S2", "place", "object", "end"],
    metric: "logit_diff",
    prepare,
};

/// A and B are the indirect object and the subject, in either order.
const TEMPLATES: &[&str] = &[
    "When {A} and {B} met at the {place}, {S2} handed a {object} to",
    "Then {A} and {B} walked to the {place} together, and {S2} gave a {object} to",
    "After {A} and {B} came back from the {place}, {S2} showed a {object} to",
    "While {A} and {B} were waiting at the {place}, {S2} offered a {object} to",
    "One evening {A} and {B} sat near the {place}, where {S2} passed a {object} to",
    "As soon as {A} and {B} reached the {place}, {S2} gave a {object} to",
    "Once {A} and {B} had left the {place}, {S2} sold a {object} to",
    "Because {A} and {B} were late at the {place}, {S2} sent a {object} to",
    "Before {A} and {B} closed the {place}, {S2} promised a {object} to",
    "Yesterday {A} and {B} talked about the {place}, and then {S2} gave a {object} to",
    "Last week {A} and {B} worked at the {place}, and {S2} lent a {object} to",
    "The day {A} and {B} found the {place}, {S2} brought a {object} to",
];

const PLACES: &[&str] = &[
    "store", "park", "school", "garden", "station", "hospital", "office", "library", "beach", "market", "museum",
    "church", "farm", "bank", "house", "river", "hotel", "bridge", "kitchen", "theater",
];

const OBJECTS: &[&str] = &[
    "book", "letter", "drink", "ring", "cake", "ticket", "picture", "flower", "key", "bottle", "hammer", "map", "coin",
    "gift", "toy", "hat", "watch", "box", "card", "pen",
];

fn prepare(vocabulary: &Vocabulary<'_>, variant: &'static str) -> Result<Draw, PromptError> {
    let names = vocabulary.words("names", &names::all(), 5)?;
    let places = vocabulary.words("places", PLACES, 1)?;
    let objects = vocabulary.words("objects", OBJECTS, 1)?;
    Ok(Box::new(move |random| {
        let template = random.below(TEMPLATES.len());
        let abba = random.below(2) == 0;
        let [io, s, x, y, z] = random.pick_different(&names);
        let (place, object) = (random.pick(&places), random.pick(&objects));
        let text = |io: &str, s1: &str, s2: &str| {
            let (a, b) = if abba { ("IO", "S1") } else { ("S1", "IO") };
            let template = TEMPLATES[template].replace("{A}", &format!("{{{a}}}")).replace("{B}", &format!("{{{b}}}"));
            let words = [("IO", io), ("S1", s1), ("S2", s2), ("place", place), ("object", object)];
            Text::fill(&template, &words).mark_next("S1", "S1+1")
        };
        let corrupted = match variant {
            "abc" => text(io, s, x),
            "names" => text(x, y, z),
            _ => text(io, s, io),
        };
        Draft {
            clean: text(io, s, s),
            corrupted,
            answers: vec![format!(" {io}")],
            wrong: vec![format!(" {s}")],
            labels: vec![
                ("template", template.into()),
                ("order", if abba { "ABBA" } else { "BABA" }.into()),
                ("io", io.into()),
                ("s", s.into()),
            ],
        }
    }))
}

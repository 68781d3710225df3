//! Induction: `… A B … C D … A` → B. The pairs of the bundled demo are of this kind (`src/demo/README.md`).

use super::{Draft, Draw, Task, Text, Variant, Vocabulary};
use crate::prompts::error::PromptError;

pub(super) const TASK: Task = Task {
    name: "induction",
    about: "a word comes a second time: say what followed it the first time",
    example: "flute paper canoe cherry rabbit … grape cotton … cherry → rabbit",
    variants: &[Variant { name: "keys", about: "the two words A and C are exchanged, so that D is right" }],
    positions: &["A1", "B", "C", "D", "A2", "end"],
    metric: "logit_diff",
    prepare,
};

/// The words that the demo model knows; all are common nouns.
const WORDS: &[&str] = &[
    "acorn", "apple", "badge", "baker", "beach", "berry", "blade", "board", "bread", "brick", "bridge", "brush",
    "cabin", "candle", "canoe", "castle", "chair", "cherry", "clock", "cloud", "coin", "copper", "cotton", "crane",
    "creek", "crown", "desk", "door", "dove", "dream", "drum", "eagle", "ember", "engine", "fence", "field", "flame",
    "flute", "forest", "fox", "garden", "gate", "ghost", "glass", "goat", "grape", "hammer", "harbor", "honey",
    "horse", "island", "jacket", "kettle", "knife", "ladder", "lake", "lamp", "lemon", "lion", "maple", "market",
    "mirror", "moon", "mouse", "needle", "nest", "ocean", "olive", "onion", "owl", "paper", "peach", "pearl", "pencil",
    "piano", "pillow", "planet", "plum", "pocket", "rabbit", "river", "rocket", "rose", "saddle", "salt", "shadow",
    "ship", "silver", "snake", "spoon", "star", "stone", "table", "tiger", "tower", "train",
];

/// Words of a prompt, the last one being A again.
const LEN: usize = 16;
const A1: usize = 3;
const B: usize = 4;
const C: usize = 9;
const D: usize = 10;

fn prepare(vocabulary: &Vocabulary<'_>, _: &'static str) -> Result<Draw, PromptError> {
    let words = vocabulary.words("words", WORDS, LEN)?;
    // The first word has no space before it. Where that makes several tokens of some words, others go first.
    let mut first: Vec<&str> = words.iter().copied().filter(|word| vocabulary.has_at_start(word)).collect();
    if first.is_empty() {
        first.clone_from(&words);
    }
    Ok(Box::new(move |random| {
        let start = random.pick(&first);
        let others: Vec<&str> = words.iter().copied().filter(|word| *word != start).collect();
        let mut order = [start; LEN];
        order[1..LEN - 1].copy_from_slice(&random.pick_different::<_, { LEN - 2 }>(&others));
        order[LEN - 1] = order[A1];
        let mut exchanged = order;
        exchanged.swap(A1, C);
        Draft {
            clean: text(&order),
            corrupted: text(&exchanged),
            answers: vec![format!(" {}", order[B])],
            wrong: vec![format!(" {}", order[D])],
            labels: vec![("a", order[A1].into()), ("c", order[C].into())],
        }
    }))
}

fn text(words: &[&str; LEN]) -> Text {
    let mut text = Text::default();
    for (at, word) in words.iter().enumerate() {
        if at > 0 {
            text.text.push(' ');
        }
        let name = match at {
            A1 => "A1",
            B => "B",
            C => "C",
            D => "D",
            _ if at == LEN - 1 => "A2",
            _ => "_",
        };
        text.push(name, word);
    }
    text
}

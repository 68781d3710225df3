//! Docstrings (Heimersheim, Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer"): the
//! third documented parameter is the third one of the function.

use super::{Draft, Draw, Task, Text, Variant, Vocabulary};
use crate::prompts::error::PromptError;

pub(super) const TASK: Task = Task {
    name: "docstring",
    about: "the third documented parameter is the function's third one",
    example: "def port(self, load, size, files, last): … :param load: … :param size: … :param → files",
    variants: &[
        Variant { name: "swap", about: "the third and fourth parameter are exchanged, so that the fourth is right" },
        Variant { name: "def", about: "the function has other parameters than the docstring" },
        Variant { name: "doc", about: "the docstring names other parameters than the function" },
    ],
    positions: &["A_def", "B_def", "C_def", "D_def", "A_doc", "B_doc", "end"],
    metric: "logit_diff",
    prepare,
};

const TEMPLATES: &[&str] = &[
    "def {_f}(self, {A_def}, {B_def}, {C_def}, {D_def}):\n    \"\"\"{_t} {_u} {_v}\n\n    :param {A_doc}: {_w} {_x}\n    :param {B_doc}: {_y} {_z}\n    :param",
    "def {_f}(self, {A_def}, {B_def}, {C_def}, {D_def}):\n    \"\"\"{_t} {_u} {_v}\n\n    @param {A_doc}: {_w} {_x}\n    @param {B_doc}: {_y} {_z}\n    @param",
];

const PARAMETERS: &[&str] = &[
    "load", "size", "files", "last", "first", "order", "model", "image", "token", "user", "table", "source", "target",
    "value", "count", "state", "event", "field", "date", "path", "line", "point", "group", "level", "text", "color",
    "project", "result", "server", "window", "index", "limit", "region", "host", "item", "node", "score", "page",
    "unit", "form", "frame", "shape",
];

const FUNCTIONS: &[&str] = &["run", "make", "read", "write", "find", "test", "build", "check", "open", "update"];

/// What the docstring says; any words will do.
const WORDS: &[&str] = &[
    "oil", "water", "song", "street", "paper", "metal", "garden", "winter", "doctor", "music", "river", "health",
    "summer", "price", "stone", "bread", "animal", "holiday", "weather", "forest", "island", "science",
];

fn prepare(vocabulary: &Vocabulary<'_>, variant: &'static str) -> Result<Draw, PromptError> {
    let parameters = vocabulary.words("parameters", PARAMETERS, 8)?;
    let words = vocabulary.words("words", WORDS, 7)?;
    Ok(Box::new(move |random| {
        let template = random.below(TEMPLATES.len());
        let function = random.pick(FUNCTIONS);
        let [a, b, c, d, e, f, g, h] = random.pick_different(&parameters);
        let [t, u, v, w, x, y, z] = random.pick_different(&words);
        let text = |def: [&str; 4], doc: [&str; 2]| {
            let names = ["A_def", "B_def", "C_def", "D_def"];
            let mut fill = vec![("_f", function), ("A_doc", doc[0]), ("B_doc", doc[1])];
            fill.extend(names.into_iter().zip(def));
            fill.extend([("_t", t), ("_u", u), ("_v", v), ("_w", w), ("_x", x), ("_y", y), ("_z", z)]);
            Text::fill(TEMPLATES[template], &fill)
        };
        let (corrupted, wrong) = match variant {
            "def" => (text([e, f, g, h], [a, b]), vec![a, b, d]),
            "doc" => (text([a, b, c, d], [e, f]), vec![a, b, d]),
            _ => (text([a, b, d, c], [a, b]), vec![d]),
        };
        Draft {
            clean: text([a, b, c, d], [a, b]),
            corrupted,
            answers: vec![format!(" {c}")],
            wrong: wrong.into_iter().map(|word| format!(" {word}")).collect(),
            labels: vec![("template", template.into())],
        }
    }))
}

//! What can be wrong with a file of prompt pairs.

use std::fmt;

/// Where a pair stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of a JSONL or CSV file, counted from 1. A CSV record that spans lines is named by its first one.
    Line(usize),
    /// An element of a JSON array of pairs, counted from 0.
    Index(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Index(index) => write!(f, "entry [{index}]"),
        }
    }
}

/// A place in a file, printed as `pairs.jsonl: line 3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file's path as it was given, or the name of a bundled text.
    pub file: String,
    pub place: Place,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.place)
    }
}

/// Prompt pairs that cannot be used, and why. One line each: file, line, field, and what would fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    #[error("{file}: cannot read the prompts: {source}")]
    Io { file: String, source: std::io::Error },
    #[error("{file}: larger than {limit} bytes, the most that is read from one file of prompts; split it")]
    FileTooLarge { file: String, limit: u64 },
    /// One JSON document (a whole file, or one line of JSONL) above the size that is parsed in one piece.
    #[error("{at}: one JSON document larger than {limit} bytes; write JSONL with one pair a line")]
    DocumentTooLarge { at: Location, limit: usize },
    #[error("{at}: not UTF-8 text; prompts are read as UTF-8")]
    NotUtf8 { at: Location },
    #[error("{file}: no prompt pairs in it")]
    NoPairs { file: String },
    #[error(
        "{file}: {reason}; pairs are JSONL (one object a line), auto-circuit JSON, EAP-IG CSV or MIB's data (parquet or JSON)"
    )]
    UnknownFormat { file: String, reason: String },
    #[error("{at}: invalid JSON: {reason} (column {column})")]
    Json { at: Location, column: usize, reason: String },
    #[error("{at}: invalid CSV: {reason}")]
    Csv { at: Location, reason: String },
    #[error(
        "{at}: {found} where a pair was expected, an object such as {{\"clean\": …, \"corrupted\": …, \"answer\": …}}"
    )]
    NotAnObject { at: Location, found: String },
    #[error("{at}: no field `{field}`{aliases}; the fields here are {has}", aliases = or_aliases(aliases))]
    MissingField { at: Location, field: &'static str, aliases: &'static [&'static str], has: String },
    /// The metric compares the answer with `wrong`, and this pair has none.
    #[error("{at}: no field `wrong`{aliases}, which this metric needs; add it, or take a metric that reads only the answer (prob, logprob) or none (kl)", aliases = or_aliases(&["wrong_answers"]))]
    WrongMissing { at: Location },
    #[error("{at}: {field}: an empty list, and this metric needs at least one token there")]
    EmptyList { at: Location, field: String },
    /// Two spellings of one field in one record: which one is meant cannot be known.
    #[error("{at}: both `{first}` and `{second}`, two names of the same field; keep one")]
    DuplicateField { at: Location, first: String, second: String },
    #[error("{at}: {field}: {found}; a prompt is a string or an array of token ids")]
    PromptType { at: Location, field: String, found: String },
    #[error("{at}: {field}: empty; a prompt has at least one token of its own")]
    EmptyPrompt { at: Location, field: String },
    /// An element of an array of ids, or an id given as an answer, that is no unsigned integer.
    #[error("{at}: {field}: {found} is not a token id (a whole number, 0 or above)")]
    NotATokenId { at: Location, field: String, found: String },
    #[error("{at}: {field}: token id {id} is outside the model's vocabulary of {d_vocab}{hint}")]
    OutsideVocabulary { at: Location, field: String, id: u64, d_vocab: usize, hint: &'static str },
    #[error("{at}: {field}: text, but this model folder has no tokenizer.json: give token ids")]
    NoTokenizer { at: Location, field: String },
    #[error("{at}: {field}: the tokenizer failed: {reason}")]
    Tokenizer { at: Location, field: String, reason: String },
    #[error("--bos always: this model's tokenizer has no BOS token; use --bos auto or --bos never")]
    NoBos,
    /// `--bos always` over an array of ids, which is never changed.
    #[error(
        "{at}: {field}: --bos always, but arrays of token ids are taken as they are and this one does not begin with the BOS token; put it there, or use --bos auto"
    )]
    BosOverIds { at: Location, field: String },
    #[error("{at}: {field}: {len} tokens, but this model takes at most {n_ctx}")]
    TooLong { at: Location, field: String, len: usize, n_ctx: usize },
    #[error("{at}: clean has {clean} tokens and corrupted {corrupted}; a pair needs the same number. {split}")]
    UnequalLengths { at: Location, clean: usize, corrupted: usize, split: String },
    #[error("{at}: clean and corrupted are the same tokens; there is nothing to patch")]
    IdenticalPair { at: Location },
    #[error("{at}: {field}: {found}; an answer is a string or a token id, or a list of them")]
    AnswerType { at: Location, field: String, found: String },
    #[error("{at}: {field}: an empty string; an answer is one token")]
    EmptyAnswer { at: Location, field: String },
    #[error("{at}: {field}: {answer} is {tokens} tokens ({pieces}), and an answer must be one; {hint}")]
    MultiTokenAnswer {
        at: Location,
        field: Box<str>,
        answer: Box<str>,
        tokens: usize,
        pieces: Box<str>,
        /// What to write instead.
        hint: Box<str>,
    },
    #[error("{at}: {field}: token {id} ({piece}) is listed twice")]
    RepeatedAnswer { at: Location, field: String, id: u32, piece: String },
    #[error("{at}: token {id} ({piece}) is both an answer and wrong")]
    SharedAnswer { at: Location, id: u32, piece: String },
    #[error("{at}: {field}: {found}; positions are an object of names and token positions, such as {{\"S2\": 9}}")]
    PositionType { at: Location, field: String, found: String },
    #[error("{at}: {field}: position {found} is outside the prompt, whose own tokens are 0 to {last}")]
    PositionRange { at: Location, field: String, found: String, last: usize },
    /// A name that `--positions` could never address.
    #[error(
        "{at}: {field}: {name} cannot name a position: a name is not empty, not a number, and has no comma and no space around it"
    )]
    PositionName { at: Location, field: String, name: String },
    #[error("--positions: {item} in {list}: a position is a name, a whole number (negative from the end) or `end`")]
    Selector { item: String, list: String },
    #[error("--positions {name}: the pair at {at} has no position of that name; it has {has}")]
    UnknownPosition { at: Location, name: String, has: String },
    #[error("{file}: not a parquet file that can be read: {reason}")]
    Parquet { file: String, reason: String },
    #[error("--counterfactual: {at} has no {name}; it has {known}")]
    Counterfactual { at: Location, name: String, known: String },
    #[error("{at}: several counterfactuals; choose one with --counterfactual: {known}")]
    ChooseCounterfactual { at: Location, known: String },
    #[error("--counterfactual: {file} has no counterfactuals to choose from; only MIB's data has")]
    NoCounterfactuals { file: String },
    /// Every row of a benchmark was left out.
    #[error("{file}: no pair can be used: {reasons}")]
    AllLeftOut { file: String, reasons: String },
    #[error("--task: no task {name}; there are {known}")]
    UnknownTask { name: String, known: String },
    #[error("--task: {task} has no corruption {name}; it has {known}")]
    UnknownVariant { task: &'static str, name: String, known: String },
    #[error("--pairs {asked}: a task makes 1 to {most} pairs")]
    TaskPairs { asked: usize, most: usize },
    #[error(
        "task {task}: this model has no tokenizer, which the task's words are chosen by; give --prompts in token ids"
    )]
    TaskWithoutTokenizer { task: String },
    /// Of the words of a task, too few are one token of the model's tokenizer.
    #[error(
        "task {task}: of its {of} {what} only {found} are one token in this model's tokenizer, and it needs {needed}; take another task, or give --prompts"
    )]
    TooFewWords { task: &'static str, what: &'static str, found: usize, of: usize, needed: usize },
    #[error(
        "task {task}: {asked} pairs asked for, but it makes only {found} different ones with this model's tokenizer"
    )]
    TooFewPairs { task: String, asked: usize, found: usize },
    #[error("--positions {position}: beyond every prompt of {file}; the longest has {longest} tokens")]
    PositionBeyond { file: String, position: i64, longest: usize },
}

impl PromptError {
    /// Always 2: prompts are input.
    pub fn exit_code(&self) -> u8 {
        2
    }
}

/// `` (or its alias `corrupt`)``, or nothing.
fn or_aliases(aliases: &[&str]) -> String {
    match aliases {
        [] => String::new(),
        [alias] => format!(" (or its alias `{alias}`)"),
        several => {
            let quoted: Vec<String> = several.iter().map(|alias| format!("`{alias}`")).collect();
            format!(" (or one of its aliases {})", quoted.join(", "))
        }
    }
}

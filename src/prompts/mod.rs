//! Prompt pairs: a file of them becomes checked token ids, before any weight is read.
//!
//! A *pair* is two prompts of equal token length, `clean` and `corrupted`, with the token (or tokens) that is the
//! answer to the clean one and the token that is wrong. Files are JSONL, one pair a line:
//!
//! ```json
//! {"clean": "When Mary and John went to the store, John gave a drink to",
//!  "corrupted": "When Mary and John went to the store, Mary gave a drink to",
//!  "answer": " Mary", "wrong": " John", "positions": {"S2": 9}, "template": "ABBA"}
//! ```
//!
//! or auto-circuit's JSON, EAP-IG's CSV or MIB's data, or pairs are made by a [task](tasks). Prompts are text or arrays of
//! token ids, answers text or ids, one or several. Text is encoded without special tokens and then gets one BOS
//! ([`BosPolicy`]); ids are taken as they are. Everything in a file is checked, whether the metric of the run reads it or
//! not.

mod align;
mod answers;
mod csv;
mod encode;
mod error;
mod format;
mod left_out;
mod mib;
mod parquet;
mod positions;
mod record;
mod resolve;
mod show;
mod strict_json;
pub mod tasks;
mod write;

pub use align::{Align, PositionAxis, position_labels};
pub use encode::{Bos, BosPolicy, Encode};
pub use error::{Location, Place, PromptError};
pub use format::Format;
pub use left_out::LeftOut;
pub use positions::{Selector, resolve_positions};
pub use show::show_piece;
pub use write::write_jsonl;

use crate::hex::hex;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Two prompts of equal length and what should follow the clean one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pair {
    /// Token ids `[len]`, a BOS included.
    pub clean: Vec<u32>,
    /// Token ids `[len]`, different from `clean` somewhere. Empty where the file has none and may have none
    /// ([`LoadOptions::needs_corrupted`]).
    pub corrupted: Vec<u32>,
    /// The tokens that are right after `clean`; empty where the file has none and the metric needs none.
    pub answers: Vec<u32>,
    /// The tokens that are wrong; none of them in `answers`.
    pub wrong: Vec<u32>,
    /// Named positions in the tokens above, a BOS counted.
    pub positions: BTreeMap<String, usize>,
    /// The other fields of the record, as they were.
    pub labels: Map<String, Value>,
    /// The line of the file, from 1; in a JSON array the index, from 0. [`PromptSet::location`] tells which.
    pub line: usize,
}

impl Pair {
    /// Number of tokens of each of the two prompts.
    pub fn len(&self) -> usize {
        self.clean.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clean.is_empty()
    }

    /// The first position where the two prompts have different tokens; `len()` if there were none. A patch from the
    /// other run changes nothing before it.
    pub fn first_difference(&self) -> usize {
        first_difference(&self.clean, &self.corrupted)
    }
}

fn first_difference(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// The pairs of one file, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptSet {
    /// At least one.
    pub pairs: Vec<Pair>,
    /// What was done at the start of the prompts.
    pub bos: Bos,
    /// The file, or the name of a bundled text.
    pub source: String,
    pub format: Format,
    /// What the file says beside its pairs (auto-circuit's `seq_labels`).
    pub labels: Map<String, Value>,
    /// [`hash_pairs`] of `pairs`.
    pub hash: String,
    /// Rows of MIB's data that do not fit the tokenizer.
    pub left_out: LeftOut,
}

impl PromptSet {
    /// Tokens of the longest pair.
    pub fn longest(&self) -> usize {
        self.pairs.iter().map(Pair::len).max().unwrap_or(0)
    }

    /// Where `pair` (one of this set) stands in its file.
    pub fn location(&self, pair: &Pair) -> Location {
        Location { file: self.source.clone(), place: self.format.place(pair.line) }
    }
}

/// SHA-256, in hexadecimal, of what the model is asked: ids, answers and positions in order. Two files that resolve to
/// the same tokens have the same hash; labels and line numbers do not count.
pub fn hash_pairs(pairs: &[Pair]) -> String {
    let mut hasher = Sha256::new();
    let mut number = |n: usize| hasher.update((n as u64).to_le_bytes());
    // Every list goes in behind its length, so that no two sets can give the same bytes.
    number(pairs.len());
    for pair in pairs {
        for ids in [&pair.clean, &pair.corrupted, &pair.answers, &pair.wrong] {
            number(ids.len());
            ids.iter().for_each(|&id| number(id as usize));
        }
        number(pair.positions.len());
        for (name, &position) in &pair.positions {
            number(name.len());
            name.bytes().for_each(|byte| number(byte.into()));
            number(position);
        }
    }
    hex(&hasher.finalize())
}

/// What the pairs are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    pub bos: BosPolicy,
    /// Rows of the embedding: ids are below it.
    pub d_vocab: usize,
    /// The most tokens that the model takes, where it has such a limit.
    pub n_ctx: Option<usize>,
    /// Whether the metric reads `wrong`, so that every pair must have it.
    pub needs_wrong: bool,
    /// Whether the metric reads `answer`.
    pub needs_answer: bool,
    /// Whether every pair must have its corrupted prompt. Without, a record may have a clean prompt alone, which may
    /// then be called `prompt` or `text`, too; [`Pair::corrupted`] is empty there.
    pub needs_corrupted: bool,
}

/// The most bytes that are read from one file of prompts.
const MAX_FILE: u64 = 256 << 20;

/// Reads the pairs of a file. See [`parse`].
pub fn load(path: &Path, tokenizer: Option<&dyn Encode>, options: &LoadOptions) -> Result<PromptSet, PromptError> {
    load_choosing(path, tokenizer, options, None)
}

/// [`load`], with the counterfactual of MIB's data that is the corrupted prompt. See [`parse_choosing`].
pub fn load_choosing(
    path: &Path,
    tokenizer: Option<&dyn Encode>,
    options: &LoadOptions,
    counterfactual: Option<&str>,
) -> Result<PromptSet, PromptError> {
    let (name, bytes) = read_file(path)?;
    parse_choosing(&name, &bytes, tokenizer, options, counterfactual)
}

/// The file's name for messages, and its bytes.
fn read_file(path: &Path) -> Result<(String, Vec<u8>), PromptError> {
    let name = path.display().to_string();
    let io = |source| PromptError::Io { file: name.clone(), source };
    let mut bytes = Vec::new();
    // Counted while reading: a pipe or a device has no size to ask for.
    std::fs::File::open(path).map_err(io)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(PromptError::FileTooLarge { file: name, limit: MAX_FILE });
    }
    Ok((name, bytes))
}

/// Hands the records of a file to `sink`, in order; returns its format and what it says beside them.
fn read_records(
    name: &str,
    bytes: &[u8],
    counterfactual: Option<&str>,
    sink: format::Sink<'_>,
) -> Result<(Format, Map<String, Value>), PromptError> {
    let is_parquet = Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"));
    if is_parquet || bytes.starts_with(parquet::MAGIC) {
        parquet::read(name, bytes, counterfactual, sink)?;
        return Ok((Format::Parquet, Map::new()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        PromptError::NotUtf8 { at: Location { file: name.to_owned(), place: Place::Line(line) } }
    })?;
    format::read(name, text, counterfactual, sink)
}

/// The labels of one record, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordLabels {
    pub at: Location,
    pub labels: Map<String, Value>,
}

/// The labels of a file's records: no prompt is looked at, so no tokenizer is needed.
pub fn load_labels(path: &Path) -> Result<Vec<RecordLabels>, PromptError> {
    let (name, bytes) = read_file(path)?;
    let mut all = Vec::new();
    read_records(&name, &bytes, None, &mut |record| {
        all.push(RecordLabels { at: Location { file: name.clone(), place: record.place }, labels: record.labels });
        Ok(())
    })?;
    Ok(all)
}

/// Reads pairs from memory. `name` stands for the file in messages, and its extension tells the format (`.jsonl`,
/// `.csv`, `.parquet`); other names are told by content. The first thing that is wrong, in the order of the file, is the
/// error.
pub fn parse(
    name: &str,
    bytes: &[u8],
    tokenizer: Option<&dyn Encode>,
    options: &LoadOptions,
) -> Result<PromptSet, PromptError> {
    parse_choosing(name, bytes, tokenizer, options, None)
}

/// [`parse`], with the counterfactual of MIB's data that is the corrupted prompt (`abc` or `abc_counterfactual`); `None`
/// for the one that MIB takes. Rows of MIB's data that do not fit the tokenizer are counted in
/// [`left_out`](PromptSet::left_out) and no error.
///
/// # Errors
/// [`PromptError::Counterfactual`] for one that the rows lack, [`PromptError::NoCounterfactuals`] for other files.
pub fn parse_choosing(
    name: &str,
    bytes: &[u8],
    tokenizer: Option<&dyn Encode>,
    options: &LoadOptions,
    counterfactual: Option<&str>,
) -> Result<PromptSet, PromptError> {
    let bos = Bos::new(options.bos, tokenizer.and_then(Encode::bos));
    let mut resolver = resolve::Resolver { file: name, tokenizer, options, bos };
    let (mut pairs, mut left_out) = (Vec::new(), LeftOut::default());
    let sink = &mut |record: record::Record| {
        if record.from_mib && record.corrupted.is_none() && options.needs_corrupted {
            left_out.no_counterfactual += 1;
            return Ok(());
        }
        let (from_mib, bos) = (record.from_mib, resolver.bos.clone());
        match resolver.pair(record) {
            Ok(pair) => pairs.push(pair),
            Err(error) if from_mib => {
                left_out.count(error)?;
                resolver.bos = bos;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    };
    let (format, labels) = read_records(name, bytes, counterfactual, sink)?;
    if pairs.is_empty() {
        return Err(match left_out.say() {
            Some(reasons) => PromptError::AllLeftOut { file: name.to_owned(), reasons },
            None => PromptError::NoPairs { file: name.to_owned() },
        });
    }
    let hash = hash_pairs(&pairs);
    Ok(PromptSet { pairs, bos: resolver.bos, source: name.to_owned(), format, labels, hash, left_out })
}

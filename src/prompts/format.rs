//! Which format a file of pairs has, and its records one after the other.

use super::error::{Location, Place, PromptError};
use super::record::Record;
use super::show::{kind, quote};
use super::{csv, strict_json};
use serde_json::{Map, Value};
use std::path::Path;

/// The formats that pairs come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// auto-circuit's `{"prompts": […], "word_idxs": {…}}`, or an array of pairs.
    Json,
    /// EAP-IG's table.
    Csv,
    /// Rows of a parquet file, as the hub keeps MIB's data.
    Parquet,
}

impl Format {
    /// The place of pair number `n`, which is what [`Pair::line`](super::Pair::line) holds.
    pub fn place(self, n: usize) -> Place {
        match self {
            Format::Json | Format::Parquet => Place::Index(n),
            Format::Jsonl | Format::Csv => Place::Line(n),
        }
    }

    /// The format of `text`: by the extension of `name` where that decides, by content otherwise. `text` is not blank.
    fn recognise(name: &str, text: &str) -> Result<Format, PromptError> {
        let extension = Path::new(name).extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("csv") => return Ok(Format::Csv),
            Some("jsonl" | "ndjson") => return Ok(Format::Jsonl),
            _ => {}
        }
        let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("");
        match first.chars().next() {
            Some('[') => Ok(Format::Json),
            Some('{') => Ok(match serde_json::from_str::<Value>(first) {
                Ok(document) if document.get("prompts").is_none() => Format::Jsonl,
                Ok(_) => Format::Json,
                // A line that looks whole is a broken line of JSONL; otherwise the document goes on below.
                Err(_) if first.ends_with('}') && extension.as_deref() != Some("json") => Format::Jsonl,
                Err(_) => Format::Json,
            }),
            _ if first.split(',').any(|column| column.trim().trim_matches('"') == "clean") => Ok(Format::Csv),
            _ => Err(PromptError::UnknownFormat {
                file: name.to_owned(),
                reason: format!("begins with {}, which is no format of pairs", quote(first)),
            }),
        }
    }
}

/// The most bytes of one JSON document (a line, or a whole file that is not JSONL): parsing multiplies them.
const MAX_DOCUMENT: usize = 32 << 20;

/// Takes the records of a file, one after the other, and may stop at one.
pub(super) type Sink<'a> = &'a mut dyn FnMut(Record) -> Result<(), PromptError>;

/// Hands every record of `text` to `sink` in order; returns the format and what the file says beside its pairs.
pub(super) fn read(
    file: &str,
    text: &str,
    counterfactual: Option<&str>,
    sink: Sink<'_>,
) -> Result<(Format, Map<String, Value>), PromptError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(PromptError::NoPairs { file: file.to_owned() });
    }
    let format = Format::recognise(file, text)?;
    let labels = match format {
        Format::Jsonl => read_lines(file, text, counterfactual, sink).map(|()| Map::new()),
        Format::Json => read_document(file, text, counterfactual, sink),
        Format::Csv | Format::Parquet if counterfactual.is_some() => {
            return Err(PromptError::NoCounterfactuals { file: file.to_owned() });
        }
        Format::Csv | Format::Parquet => csv::read(file, text, sink).map(|()| Map::new()),
    }?;
    Ok((format, labels))
}

/// JSONL. Blank lines are skipped, and counted.
fn read_lines(file: &str, text: &str, counterfactual: Option<&str>, sink: Sink<'_>) -> Result<(), PromptError> {
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let at = Location { file: file.to_owned(), place: Place::Line(index + 1) };
        if line.len() > MAX_DOCUMENT {
            return Err(PromptError::DocumentTooLarge { at, limit: MAX_DOCUMENT });
        }
        match strict_json::parse(line) {
            Ok(value) => sink(Record::from_json(&at, value, None, counterfactual)?)?,
            Err(fault) => return Err(PromptError::Json { at, column: fault.column, reason: fault.reason }),
        }
    }
    Ok(())
}

/// auto-circuit's JSON (`auto_circuit/data.py`, `load_datasets_from_json`), or an array of pairs. `word_idxs` name
/// positions of every pair, not counting a BOS; all other keys are kept.
fn read_document(
    file: &str,
    text: &str,
    counterfactual: Option<&str>,
    sink: Sink<'_>,
) -> Result<Map<String, Value>, PromptError> {
    let place = |place| Location { file: file.to_owned(), place };
    if text.len() > MAX_DOCUMENT {
        return Err(PromptError::DocumentTooLarge { at: place(Place::Line(1)), limit: MAX_DOCUMENT });
    }
    let document = strict_json::parse(text).map_err(|fault| PromptError::Json {
        at: place(Place::Line(fault.line)),
        column: fault.column,
        reason: fault.reason,
    })?;
    let unknown = |reason: String| PromptError::UnknownFormat { file: file.to_owned(), reason };
    let (prompts, mut labels) = match document {
        Value::Array(prompts) => (prompts, Map::new()),
        Value::Object(mut object) => match object.shift_remove("prompts") {
            Some(Value::Array(prompts)) => (prompts, object),
            Some(other) => return Err(unknown(format!("`prompts` is {}, not an array", kind(&other)))),
            None => return Err(unknown("a JSON object over several lines without `prompts`".into())),
        },
        other => return Err(unknown(format!("the JSON is {}", kind(&other)))),
    };
    let word_idxs = labels.shift_remove("word_idxs").filter(|value| !value.is_null());
    for (index, value) in prompts.into_iter().enumerate() {
        sink(Record::from_json(&place(Place::Index(index)), value, word_idxs.as_ref(), counterfactual)?)?;
    }
    Ok(labels)
}

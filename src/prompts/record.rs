//! One pair as its file spells it, before tokens: the same shape for every format.

use super::error::{Location, Place, PromptError};
use super::mib;
use super::show::{kind, quote};
use serde_json::{Map, Value};

/// A value and the name that the file gave it (`corrupt`, `wrong_answers`, `correct_idx` …), for messages.
#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub value: Value,
}

/// One pair as its file spells it.
#[derive(Debug)]
pub(super) struct Record {
    pub place: Place,
    pub clean: Option<Field>,
    pub corrupted: Option<Field>,
    pub answers: Option<Field>,
    pub wrong: Option<Field>,
    /// Named positions for every pair of the file (`word_idxs`), then the pair's own, which win.
    pub positions: Vec<Field>,
    pub labels: Map<String, Value>,
    /// The names of all fields of the record, for messages about one that is missing.
    pub has: Vec<String>,
    /// A row of MIB's data, which may be left out where it does not fit the tokenizer.
    pub from_mib: bool,
}

/// The names of the fields, the canonical one first.
pub(super) const CLEAN: &[&str] = &["clean"];
/// What the clean prompt may be called where it stands alone.
pub(super) const ALONE: &[&str] = &["prompt", "text"];
pub(super) const CORRUPTED: &[&str] = &["corrupted", "corrupt"];
pub(super) const ANSWERS: &[&str] = &["answer", "answers"];
pub(super) const WRONG: &[&str] = &["wrong", "wrong_answers"];
pub(super) const POSITIONS: &[&str] = &["positions"];

impl Record {
    /// Reads one JSON object; what has no meaning here becomes a label. `everywhere` are positions of all pairs.
    /// `counterfactual` is the one that the user chose, which only a row of MIB's data has.
    pub(super) fn from_json(
        at: &Location,
        value: Value,
        everywhere: Option<&Value>,
        counterfactual: Option<&str>,
    ) -> Result<Record, PromptError> {
        let mut object = match value {
            Value::Object(object) => object,
            other => return Err(PromptError::NotAnObject { at: at.clone(), found: kind(&other) }),
        };
        if mib::is_row(&object) {
            return mib::record(at, object, counterfactual);
        }
        if counterfactual.is_some() {
            return Err(PromptError::NoCounterfactuals { file: at.file.clone() });
        }
        let has: Vec<String> = object.keys().cloned().collect();
        let clean = take(at, &mut object, CLEAN)?;
        let corrupted = take(at, &mut object, CORRUPTED)?;
        let answers = take(at, &mut object, ANSWERS)?;
        let wrong = take(at, &mut object, WRONG)?;
        let everywhere = everywhere.map(|value| Field { name: "word_idxs", value: value.clone() });
        let own = take(at, &mut object, POSITIONS)?;
        Ok(Record {
            place: at.place,
            clean,
            corrupted,
            answers,
            wrong,
            positions: everywhere.into_iter().chain(own).collect(),
            labels: object,
            has,
            from_mib: false,
        })
    }
}

/// The error for a field that is not there, with the names it could have had and the names that are there.
pub(super) fn missing(at: &Location, names: &'static [&'static str], has: &[String]) -> PromptError {
    let (field, aliases) = names.split_first().map_or(("", names), |(&first, rest)| (first, rest));
    let shown: Vec<String> = has.iter().take(20).map(|name| quote(name)).collect();
    let has = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
    PromptError::MissingField { at: at.clone(), field, aliases, has }
}

/// Takes the field out of `object` under whichever of its names it has; under two of them it is ambiguous.
pub(super) fn take(
    at: &Location,
    object: &mut Map<String, Value>,
    names: &'static [&'static str],
) -> Result<Option<Field>, PromptError> {
    let mut found: Option<Field> = None;
    for &name in names {
        // shift_remove keeps the order of the labels.
        let Some(value) = object.shift_remove(name) else { continue };
        if let Some(first) = &found {
            return Err(PromptError::DuplicateField { at: at.clone(), first: first.name.into(), second: name.into() });
        }
        found = Some(Field { name, value });
    }
    Ok(found)
}

//! Records of MIB's data sets (mib-bench/{ioi, copycolors_mcqa, arc_easy, arc_challenge, arithmetic_addition,
//! arithmetic_subtraction} on the hub), read as its circuit track does (`HFEAPDataset` of
//! github.com/hannamw/MIB-circuit-track, `dataset.py`).
//!
//! The clean prompt is `prompt`, the corrupted one the `prompt` of a counterfactual. The answers are
//! - `metadata.indirect_object` and `metadata.subject`, behind a space, where there are such (IOI);
//! - else `choices.label[answerKey]` of the row and of its counterfactual, as they stand (multiple choice);
//! - else `label` of the row and of its counterfactual (arithmetic).

use super::error::{Location, PromptError};
use super::record::{Field, Record};
use super::show::quote;
use serde_json::{Map, Value};

/// How the name of a counterfactual's column ends.
const COUNTERFACTUAL: &str = "_counterfactual";

/// What MIB takes where nothing is chosen: of IOI, of multiple choice, of arithmetic.
const DEFAULTS: [&str; 3] = ["s2_io_flip_counterfactual", "symbol_counterfactual", "random_counterfactual"];

/// The object is a row of such a data set.
pub(super) fn is_row(object: &Map<String, Value>) -> bool {
    !object.contains_key("clean")
        && object.contains_key("prompt")
        && object.keys().any(|name| name.ends_with(COUNTERFACTUAL))
}

/// Reads a row. Labels are the columns that are neither prompts nor answers, and `counterfactual`, the chosen one.
///
/// # Errors
/// [`PromptError::Counterfactual`] where `chosen` is none of the row's, or nothing is chosen and no default is there.
pub(super) fn record(at: &Location, mut row: Map<String, Value>, chosen: Option<&str>) -> Result<Record, PromptError> {
    let has: Vec<String> = row.keys().cloned().collect();
    let name = choose(at, &row, chosen)?;
    let prompt = row.shift_remove("prompt").unwrap_or_default();
    let other = row.shift_remove(&name).unwrap_or_default();
    row.retain(|column, _| !column.ends_with(COUNTERFACTUAL));
    let (answers, wrong) = answers(&row, &other);
    for read in ["choices", "answerKey", "label"] {
        row.shift_remove(read);
    }
    row.insert("counterfactual".into(), name.strip_suffix(COUNTERFACTUAL).unwrap_or(&name).into());
    Ok(Record {
        place: at.place,
        clean: Some(Field { name: "prompt", value: prompt }),
        corrupted: other
            .get("prompt")
            .filter(|value| !value.is_null())
            .map(|value| Field { name: "counterfactual prompt", value: value.clone() }),
        answers,
        wrong,
        positions: Vec::new(),
        labels: row,
        has,
        from_mib: true,
    })
}

fn choose(at: &Location, row: &Map<String, Value>, chosen: Option<&str>) -> Result<String, PromptError> {
    let has: Vec<&str> = row.keys().filter_map(|column| column.strip_suffix(COUNTERFACTUAL)).collect();
    let known = || has.join(", ");
    match chosen {
        Some(chosen) => {
            let short = chosen.strip_suffix(COUNTERFACTUAL).unwrap_or(chosen);
            match has.contains(&short) {
                true => Ok(format!("{short}{COUNTERFACTUAL}")),
                false => Err(PromptError::Counterfactual { at: at.clone(), name: quote(chosen), known: known() }),
            }
        }
        None => match (DEFAULTS.iter().find(|name| row.contains_key(**name)), &has[..]) {
            (Some(default), _) => Ok((*default).to_owned()),
            (None, [only]) => Ok(format!("{only}{COUNTERFACTUAL}")),
            (None, _) => Err(PromptError::ChooseCounterfactual { at: at.clone(), known: known() }),
        },
    }
}

/// The answer to the row's prompt, and the wrong one.
fn answers(row: &Map<String, Value>, other: &Value) -> (Option<Field>, Option<Field>) {
    let field = |name, text: Option<String>| text.map(|text| Field { name, value: text.into() });
    let name_of = |role| row.get("metadata")?.get(role)?.as_str().map(|name| format!(" {name}"));
    if let (Some(io), Some(subject)) = (name_of("indirect_object"), name_of("subject")) {
        return (field("metadata.indirect_object", Some(io)), field("metadata.subject", Some(subject)));
    }
    let of_row = |name: &str| row.get(name);
    let of_other = |name: &str| other.get(name);
    let choice = |column: &dyn Fn(&str) -> Option<Value>| {
        let (choices, key) = (column("choices")?, column("answerKey")?);
        let labels = choices.get("label").unwrap_or(&choices).as_array()?.clone();
        let index = match key.as_u64() {
            Some(index) => usize::try_from(index).ok()?,
            None => labels.iter().position(|label| *label == key)?,
        };
        text(labels.get(index)?)
    };
    if row.contains_key("choices") {
        let answer = choice(&|name| of_row(name).cloned());
        let wrong = choice(&|name| of_other(name).cloned());
        return (field("choices", answer), field("counterfactual choices", wrong));
    }
    (field("label", of_row("label").and_then(text)), field("counterfactual label", of_other("label").and_then(text)))
}

/// A word or a number as it is written.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

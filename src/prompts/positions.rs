//! Positions by name: those that a file gives its pairs, and those that `--positions` asks for.

use super::error::{Location, PromptError};
use super::record::Field;
use super::show::{kind, quote};
use super::{Pair, PromptSet};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The named positions of one pair: those of `fields` in order, later ones winning. A position counts the `own` tokens
/// of the clean prompt as the file wrote it, and moves by `shift` when a BOS was put before them.
pub(super) fn read(
    at: &Location,
    fields: &[Field],
    own: usize,
    shift: usize,
) -> Result<BTreeMap<String, usize>, PromptError> {
    let mut positions = BTreeMap::new();
    for Field { name: field, value } in fields {
        let object = match value {
            Value::Object(object) => object,
            Value::Null => continue,
            other => {
                return Err(PromptError::PositionType { at: at.clone(), field: (*field).into(), found: kind(other) });
            }
        };
        for (name, value) in object {
            let named = || (at.clone(), format!("{field}.{}", name.escape_debug()));
            if name.is_empty() || name.trim() != name || name.contains(',') || name.parse::<i64>().is_ok() {
                return Err(PromptError::PositionName { at: at.clone(), field: (*field).into(), name: quote(name) });
            }
            if !(value.is_u64() || value.is_i64()) {
                let (at, field) = named();
                return Err(PromptError::PositionType { at, field, found: kind(value) });
            }
            match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(position) if position < own => positions.insert(name.clone(), position + shift),
                _ => {
                    let (at, field) = named();
                    let last = own.saturating_sub(1);
                    return Err(PromptError::PositionRange { at, field, found: value.to_string(), last });
                }
            };
        }
    }
    Ok(positions)
}

/// One item of `--positions S2,end,7,-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// A name from the file; `end` is the last token unless the file gives it another meaning.
    Name(String),
    /// A position in the tokens that the model sees, so 0 is the BOS where there is one. Negative from the end.
    At(i64),
}

impl Selector {
    /// The items of a comma-separated list. An empty item, or a number beyond `i64`, is [`PromptError::Selector`].
    pub fn parse_list(list: &str) -> Result<Vec<Selector>, PromptError> {
        list.split(',').map(|item| Selector::parse(item.trim(), list)).collect()
    }

    fn parse(item: &str, list: &str) -> Result<Selector, PromptError> {
        if let Ok(position) = item.parse() {
            return Ok(Selector::At(position));
        }
        let number = item.strip_prefix(['-', '+']).unwrap_or(item);
        if item.is_empty() || (!number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())) {
            return Err(PromptError::Selector { item: quote(item), list: quote(list) });
        }
        Ok(Selector::Name(item.to_owned()))
    }

    /// The position in `pair`, or `None` where it has none: a number beyond its ends, or a name that it lacks.
    pub fn resolve(&self, pair: &Pair) -> Option<usize> {
        match self {
            Selector::Name(name) => match pair.positions.get(name) {
                Some(&position) => Some(position),
                None if name == "end" => pair.len().checked_sub(1),
                None => None,
            },
            Selector::At(position) => {
                let distance = usize::try_from(position.unsigned_abs()).ok()?;
                let index = if *position < 0 { pair.len().checked_sub(distance)? } else { distance };
                (index < pair.len()).then_some(index)
            }
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Name(name) => f.write_str(name),
            Selector::At(position) => write!(f, "{position}"),
        }
    }
}

/// Where each selector points in each pair, `[selector][pair]`; `None` where a pair is too short for a number.
///
/// A name that some pair lacks is [`PromptError::UnknownPosition`], which names the pair; a number that is beyond every
/// pair is [`PromptError::PositionBeyond`].
pub fn resolve_positions(set: &PromptSet, selectors: &[Selector]) -> Result<Vec<Vec<Option<usize>>>, PromptError> {
    selectors.iter().map(|selector| resolve_one(set, selector)).collect()
}

fn resolve_one(set: &PromptSet, selector: &Selector) -> Result<Vec<Option<usize>>, PromptError> {
    let resolved: Vec<Option<usize>> = set.pairs.iter().map(|pair| selector.resolve(pair)).collect();
    match selector {
        Selector::Name(name) => {
            if let Some(pair) = set.pairs.iter().zip(&resolved).find_map(|(pair, at)| at.is_none().then_some(pair)) {
                let names: Vec<String> = pair.positions.keys().map(|name| quote(name)).collect();
                let has = if names.is_empty() { "none but `end`".to_owned() } else { names.join(", ") };
                return Err(PromptError::UnknownPosition { at: set.location(pair), name: quote(name), has });
            }
        }
        Selector::At(position) => {
            if resolved.iter().all(Option::is_none) {
                let (file, longest) = (set.source.clone(), set.longest());
                return Err(PromptError::PositionBeyond { file, position: *position, longest });
            }
        }
    }
    Ok(resolved)
}

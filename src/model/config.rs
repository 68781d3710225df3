//! [`Config`]: `config.json` with a memory of which keys were read, range checks, and one clear line for each mistake.

use super::ModelError;
use super::inert::{self, Inert};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Largest width of anything: vocabulary, residual stream, MLP, heads side by side.
pub const MAX_WIDTH: usize = 1 << 24;
/// Largest number of heads, and largest width of one.
pub const MAX_HEADS: usize = 1 << 16;
pub const MAX_LAYERS: usize = 10_000;
/// Longest prompt a config may promise, in tokens.
pub const MAX_POSITIONS: usize = 1 << 31;

/// A table of `config.json`: the whole file, or one nested in it (`rope_scaling`).
///
/// A key that is null counts as absent for every reader; where the two differ (`sliding_window` of Mistral), ask
/// [`contains`](Self::contains).
#[derive(Debug)]
pub struct Config {
    values: Map<String, Value>,
    /// `""`, or `"rope_scaling."` in a nested table: keys are named in full in messages and in `--allow-config-key`.
    within: String,
    read: RefCell<BTreeSet<String>>,
    allowed: Rc<Allowed>,
}

#[derive(Debug)]
struct Allowed {
    keys: Vec<String>,
    used: RefCell<BTreeSet<String>>,
}

impl Config {
    /// `allow` lists unknown keys that the user says may be ignored.
    pub fn new(values: Map<String, Value>, allow: &[String]) -> Self {
        let allowed = Rc::new(Allowed { keys: allow.to_vec(), used: RefCell::default() });
        Config { values, within: String::new(), read: RefCell::default(), allowed }
    }

    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with line and column if it is not JSON, or not an object.
    pub fn parse(json: &str) -> Result<Map<String, Value>, ModelError> {
        match serde_json::from_str(json) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(ModelError::Config("the file is not a JSON object".into())),
            Err(e) => Err(ModelError::Config(format!("invalid JSON: {e}"))),
        }
    }

    /// An error about `key`, named in full.
    pub fn error(&self, key: &str, reason: impl std::fmt::Display) -> ModelError {
        ModelError::Config(format!("{}{}: {reason}", self.within, printable(key)))
    }

    /// Whether the key is there at all, null or not.
    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The value of `key`, from now on counted as read.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let value = self.values.get(key)?;
        self.read.borrow_mut().insert(key.to_owned());
        (!value.is_null()).then_some(value)
    }

    /// The value under whichever of several spellings is present; two that disagree are an error.
    pub fn one_of<'k>(&self, keys: &[&'k str]) -> Result<Option<(&'k str, &Value)>, ModelError> {
        let mut found: Option<(&str, &Value)> = None;
        for &key in keys {
            let Some(value) = self.get(key) else { continue };
            match found {
                Some((first, other)) if !inert::same(other, value) => {
                    return Err(self.error(key, format!("{value} contradicts {first}, which is {other}")));
                }
                Some(_) => {}
                None => found = Some((key, value)),
            }
        }
        Ok(found)
    }

    /// A size in `1..=max`.
    pub fn size(&self, keys: &[&str], max: usize) -> Result<Option<usize>, ModelError> {
        let Some((key, value)) = self.one_of(keys)? else { return Ok(None) };
        let whole = number(value).filter(|x| x.fract() == 0.0);
        let Some(x) = whole else { return Err(self.error(key, format!("{} is not a whole number", short(value)))) };
        if x < 1.0 || x > max as f64 {
            return Err(self.error(key, format!("{} is outside 1..={max}", short(value))));
        }
        Ok(Some(x as usize))
    }

    /// A size in `1..=max` that has no default.
    pub fn required_size(&self, keys: &[&str], max: usize) -> Result<usize, ModelError> {
        let missing = || ModelError::Config(format!("{}{}: the key is missing", self.within, keys.join(" or ")));
        self.size(keys, max)?.ok_or_else(missing)
    }

    /// A finite number in `(0, 1e30]`.
    pub fn positive(&self, keys: &[&str]) -> Result<Option<f64>, ModelError> {
        let Some((key, value)) = self.one_of(keys)? else { return Ok(None) };
        match number(value) {
            Some(x) if x > 0.0 && x <= 1e30 => Ok(Some(x)),
            _ => Err(self.error(key, format!("{} is not a positive, finite number", short(value)))),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.error(key, format!("{} is neither true nor false", short(v)))),
        }
    }

    pub fn text(&self, keys: &[&str]) -> Result<Option<(String, String)>, ModelError> {
        match self.one_of(keys)? {
            None => Ok(None),
            Some((key, Value::String(s))) => Ok(Some((key.to_owned(), s.clone()))),
            Some((key, v)) => Err(self.error(key, format!("{} is not a string", short(v)))),
        }
    }

    pub fn list(&self, key: &str) -> Result<Option<&[Value]>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(v) => Err(self.error(key, format!("{} is not a list", short(v)))),
        }
    }

    /// A list with one entry per layer.
    pub fn per_layer(&self, key: &str, n_layers: usize) -> Result<Option<&[Value]>, ModelError> {
        match self.list(key)? {
            Some(items) if items.len() != n_layers => {
                Err(self.error(key, format!("{} entries for {n_layers} layers", items.len())))
            }
            list => Ok(list),
        }
    }

    /// Exactly `n` positive, finite numbers.
    pub fn positives(&self, key: &str, n: usize) -> Result<Option<Vec<f64>>, ModelError> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        if items.len() != n {
            return Err(self.error(key, format!("{} entries, but {n} are needed", items.len())));
        }
        let parse = |v: &Value| number(v).filter(|x| *x > 0.0 && *x <= 1e30);
        let list: Option<Vec<f64>> = items.iter().map(parse).collect();
        list.map(Some).ok_or_else(|| self.error(key, "an entry is not a positive, finite number"))
    }

    /// A nested table. Its keys are tracked on their own: call [`finish`](Self::finish) on it as well.
    pub fn table(&self, key: &str) -> Result<Option<Config>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Config {
                values: values.clone(),
                within: format!("{}{key}.", self.within),
                read: RefCell::default(),
                allowed: Rc::clone(&self.allowed),
            })),
            Some(v) => Err(self.error(key, format!("{} is not a table", short(v)))),
        }
    }

    /// A list with one table per layer. Call [`finish`](Self::finish) on each.
    pub fn table_per_layer(&self, key: &str, n_layers: usize) -> Result<Option<Vec<Config>>, ModelError> {
        let Some(items) = self.per_layer(key, n_layers)? else { return Ok(None) };
        let table = |(i, item): (usize, &Value)| match item {
            Value::Object(values) => Ok(Config {
                values: values.clone(),
                within: format!("{}{key}[{i}].", self.within),
                read: RefCell::default(),
                allowed: Rc::clone(&self.allowed),
            }),
            _ => Err(self.error(key, format!("entry {i} is not a table"))),
        };
        items.iter().enumerate().map(table).collect::<Result<_, _>>().map(Some)
    }

    /// Every key must have been read, or be null, or inert at its value, or private (`_…`), or allowed by the user.
    ///
    /// # Errors
    /// [`ModelError::Config`] that names the first other key and `--allow-config-key`.
    pub fn finish(&self, inert: &[&[Inert]]) -> Result<(), ModelError> {
        for (key, value) in &self.values {
            if self.read.borrow().contains(key) || value.is_null() || key.starts_with('_') {
                continue;
            }
            let listed = inert.iter().copied().flatten().find(|i| i.key == key);
            if listed.is_some_and(|i| i.accepts(value)) {
                continue;
            }
            let full = format!("{}{key}", self.within);
            if self.allowed.keys.contains(&full) {
                self.allowed.used.borrow_mut().insert(full);
                continue;
            }
            let problem = match listed {
                Some(i) => format!("{}, and {}", short(value), i.why),
                None => format!("{} (an unknown key, which could change what the model computes)", short(value)),
            };
            let allow = printable(&full);
            return Err(self.error(key, format!("{problem}; --allow-config-key {allow} ignores it")));
        }
        Ok(())
    }

    /// The unknown keys that were ignored because the user allowed them, in order.
    pub fn allowed_keys_used(&self) -> Vec<String> {
        self.allowed.used.borrow().iter().cloned().collect()
    }
}

/// A number, also in the wrapper that transformers 5 writes for what JSON cannot say: `{"__float__": "Infinity"}`.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::Object(map) if map.len() == 1 => match map.get("__float__")?.as_str()? {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            _ => None,
        },
        _ => None,
    }
}

/// A value from a file, short enough for a message. JSON text has no control characters.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// A key from a file as it may be shown on a terminal: plain if it looks like one, quoted and escaped if not.
fn printable(key: &str) -> String {
    let plain = !key.is_empty() && key.len() <= 80 && key.chars().all(|c| c.is_ascii_graphic());
    if plain { key.to_owned() } else { format!("{:?}", key.chars().take(80).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str, allow: &[&str]) -> Config {
        Config::new(Config::parse(json).unwrap(), &allow.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn sizes_are_whole_and_in_range() {
        let c = config(r#"{"a": 8.0, "b": 0, "c": 1.5, "d": 1099511627776, "e": -3, "f": "8", "g": null}"#, &[]);
        assert_eq!(c.size(&["a"], 10).unwrap(), Some(8));
        for key in ["b", "c", "d", "e", "f"] {
            assert!(c.size(&[key], MAX_WIDTH).unwrap_err().to_string().contains(&format!("{key}: ")), "{key}");
        }
        assert_eq!(c.size(&["g"], 10).unwrap(), None);
        assert!(c.required_size(&["g"], 10).unwrap_err().to_string().contains("g: the key is missing"));
    }

    #[test]
    fn two_spellings_that_disagree_are_refused() {
        let c = config(r#"{"n_embd": 4, "hidden_size": 8, "eps": 1, "norm_eps": 1.0}"#, &[]);
        assert!(c.size(&["n_embd", "hidden_size"], 10).unwrap_err().to_string().contains("contradicts n_embd"));
        assert_eq!(c.positive(&["eps", "norm_eps"]).unwrap(), Some(1.0));
    }

    #[test]
    fn what_transformers_5_writes_for_infinity_is_a_number() {
        let c = config(r#"{"clip": {"__float__": "Infinity"}, "x": {"__float__": "Infinity", "y": 1}}"#, &[]);
        assert_eq!(number(c.get("clip").unwrap()), Some(f64::INFINITY));
        assert!(c.positive(&["clip"]).unwrap_err().to_string().contains("finite"));
        assert_eq!(number(c.get("x").unwrap()), None);
    }

    #[test]
    fn unread_keys_are_null_inert_private_allowed_or_an_error() {
        let c = config(r#"{"a": null, "top_k": 5, "_b": 1, "mystery": {"x": 1}, "add_cross_attention": false}"#, &[]);
        let message = c.finish(&[inert::SHARED]).unwrap_err().to_string();
        assert!(message.contains("mystery") && message.contains("--allow-config-key mystery"), "{message}");

        let c = config(r#"{"mystery": 1, "rope_scaling": {"odd": 2}}"#, &["mystery", "rope_scaling.odd", "absent"]);
        c.table("rope_scaling").unwrap().unwrap().finish(&[]).unwrap();
        c.finish(&[inert::SHARED]).unwrap();
        assert_eq!(c.allowed_keys_used(), ["mystery", "rope_scaling.odd"]);

        let c = config(r#"{"add_cross_attention": true}"#, &[]);
        assert!(c.finish(&[inert::SHARED]).unwrap_err().to_string().contains("cross-attention is not supported"));
    }

    #[test]
    fn a_hostile_key_cannot_write_to_the_terminal() {
        let c = config("{\"\\u001b[2J\": 1}", &[]);
        assert!(!c.finish(&[]).unwrap_err().to_string().contains('\u{1b}'));
    }
}

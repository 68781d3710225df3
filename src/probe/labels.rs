//! What a probe predicts.

use super::error::ProbeError;
use serde_json::{Map, Value};

/// How labels are predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Classes, by logistic regression; judged by accuracy.
    Logistic,
    /// Numbers, by ridge regression; judged by R².
    Ridge,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Logistic => "logistic",
            Kind::Ridge => "ridge",
        }
    }

    /// What its cross-validated score is called.
    pub fn score(self) -> &'static str {
        match self {
            Kind::Logistic => "accuracy",
            Kind::Ridge => "R²",
        }
    }
}

/// One pair's labels and where they stand, for messages.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// `pairs.jsonl: line 18`, or `pair 17 (from 0)`.
    pub place: String,
    pub labels: Map<String, Value>,
}

/// The labels of all pairs as numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Class names sorted (numbers by value), two at least, and the class of each pair.
    Classes {
        names: Vec<String>,
        of: Vec<usize>,
    },
    Numbers(Vec<f64>),
}

impl Target {
    /// Reads field `field` of every pair. Without `kind`, numbers are for ridge, all else for logistic.
    ///
    /// # Errors
    /// A pair without the label, a label that is no word or number, the same label everywhere.
    pub fn read(pairs: &[Labelled], field: &str, kind: Option<Kind>) -> Result<Target, ProbeError> {
        let mut values = Vec::with_capacity(pairs.len());
        for pair in pairs {
            match pair.labels.get(field) {
                Some(value) if !value.is_null() => values.push((pair, value)),
                _ => {
                    let names: Vec<String> = pair.labels.keys().take(20).map(|k| format!("{k:?}")).collect();
                    let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                    let (place, field) = (pair.place.clone(), field.to_owned());
                    return Err(ProbeError::LabelMissing { place, field, has });
                }
            }
        }
        let all_numbers = values.iter().all(|(_, v)| v.is_number());
        match kind.unwrap_or(if all_numbers { Kind::Ridge } else { Kind::Logistic }) {
            Kind::Ridge => numbers(&values, field),
            Kind::Logistic => classes(&values, field),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Target::Classes { .. } => Kind::Logistic,
            Target::Numbers(_) => Kind::Ridge,
        }
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        match self {
            Target::Classes { of, .. } => of.len(),
            Target::Numbers(y) => y.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels of some pairs, over the same classes.
    pub(super) fn select(&self, index: &[usize]) -> Target {
        match self {
            Target::Classes { names, of } => {
                Target::Classes { names: names.clone(), of: index.iter().map(|i| of[*i]).collect() }
            }
            Target::Numbers(y) => Target::Numbers(index.iter().map(|i| y[*i]).collect()),
        }
    }
}

fn numbers(values: &[(&Labelled, &Value)], field: &str) -> Result<Target, ProbeError> {
    let number = |(pair, value): &(&Labelled, &Value)| {
        value.as_f64().ok_or_else(|| ProbeError::LabelType {
            place: pair.place.clone(),
            field: field.to_owned(),
            found: value.to_string(),
            wanted: "ridge predicts numbers; use --kind logistic for classes",
        })
    };
    let y: Vec<f64> = values.iter().map(number).collect::<Result<_, _>>()?;
    match y.first() {
        Some(only) if y.iter().all(|x| x == only) => {
            Err(ProbeError::OneNumber { field: field.to_owned(), only: *only })
        }
        _ => Ok(Target::Numbers(y)),
    }
}

fn classes(values: &[(&Labelled, &Value)], field: &str) -> Result<Target, ProbeError> {
    let class = |(pair, value): &(&Labelled, &Value)| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        other => Err(ProbeError::LabelType {
            place: pair.place.clone(),
            field: field.to_owned(),
            found: if other.is_array() { "an array".into() } else { "an object".into() },
            wanted: "a label is a word, a number, true or false",
        }),
    };
    let texts: Vec<String> = values.iter().map(class).collect::<Result<_, _>>()?;
    let mut names = texts.clone();
    names.sort_by(|a, b| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        _ => a.cmp(b),
    });
    names.dedup();
    if let [only] = &names[..] {
        return Err(ProbeError::OneClass { field: field.to_owned(), only: only.clone() });
    }
    let of = texts.iter().map(|t| names.iter().position(|n| n == t).unwrap_or(0)).collect();
    Ok(Target::Classes { names, of })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pairs(labels: &[Value]) -> Vec<Labelled> {
        let labelled = |(i, v): (usize, &Value)| Labelled {
            place: format!("pair {i} (from 0)"),
            labels: v.as_object().cloned().unwrap_or_default(),
        };
        labels.iter().enumerate().map(labelled).collect()
    }

    #[test]
    fn words_are_classes_and_numbers_are_numbers_unless_one_says_otherwise() {
        let read = |labels: &[Value], kind| Target::read(&pairs(labels), "x", kind);
        let words = read(&[json!({"x": "b"}), json!({"x": "a"}), json!({"x": "b"})], None).unwrap();
        assert_eq!(words, Target::Classes { names: vec!["a".into(), "b".into()], of: vec![1, 0, 1] });
        let numbers = [json!({"x": 10}), json!({"x": 9.5}), json!({"x": 10})];
        assert_eq!(read(&numbers, None).unwrap(), Target::Numbers(vec![10.0, 9.5, 10.0]));
        let classes = read(&numbers, Some(Kind::Logistic)).unwrap();
        assert_eq!(classes, Target::Classes { names: vec!["9.5".into(), "10".into()], of: vec![1, 0, 1] });
        let error = read(&[json!({"x": 1}), json!({"x": "one"})], Some(Kind::Ridge)).unwrap_err().to_string();
        assert!(error.contains("pair 1 (from 0)") && error.contains("\"one\""), "{error}");
    }

    #[test]
    fn a_label_missing_in_pair_17_names_it() {
        let mut labels = vec![json!({"x": "a", "y": 1}); 18];
        labels[17] = json!({"y": 1});
        let error = Target::read(&pairs(&labels), "x", None).unwrap_err().to_string();
        assert!(error.contains("pair 17 (from 0)") && error.contains("\"x\"") && error.contains("\"y\""), "{error}");
    }

    #[test]
    fn a_single_class_is_refused() {
        let error = Target::read(&pairs(&vec![json!({"x": "a"}); 4]), "x", None).unwrap_err().to_string();
        assert!(error.contains("same label, \"a\""), "{error}");
        let error = Target::read(&pairs(&vec![json!({"x": 3}); 4]), "x", None).unwrap_err().to_string();
        assert!(error.contains("same number, 3"), "{error}");
    }

    #[test]
    fn a_label_that_is_a_list_is_refused() {
        let error = Target::read(&pairs(&[json!({"x": "a"}), json!({"x": [1]})]), "x", None).unwrap_err().to_string();
        assert!(error.contains("an array"), "{error}");
    }
}

//! The CSV files of EAP-IG: `clean,corrupted,label` and `clean,corrupted,corrupted_hard,correct_idx,incorrect_idx`
//! (`greater_than_data.csv` and `ioi_llama.csv` of github.com/hannamw/EAP-IG).
//!
//! - `correct_idx` and `incorrect_idx` are token ids, or lists of them: `"[464, 465]"`. They belong to one tokenizer.
//! - `label` is `[answer, wrong]` in ids, one id, or text. In the greater-than files it (or a lone `correct_idx`) is
//!   neither but a *year*: EAP-IG's metric is the probability of the years above it minus that of the others, and that
//!   is how it is read where the prompt is recognised as one (`… the year 1352 to the year 13` with 52).
//! - `answer` and `wrong` are text, as in JSONL. The column without a name that pandas writes is left out; all other
//!   columns (`corrupted_hard` among them) are labels.

use super::error::{Location, Place, PromptError};
use super::format::Sink;
use super::record::{self, CLEAN, CORRUPTED, Field, Record};
use super::show::quote;
use super::strict_json;
use serde_json::{Map, Value};

/// Reads the records of `text` in order into `sink`.
pub(super) fn read(file: &str, text: &str, sink: Sink<'_>) -> Result<(), PromptError> {
    let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    let mut lines = LineCounter { text: text.as_bytes(), byte: 0, line: 1 };
    let mut columns: Option<Columns> = None;
    let mut record = ::csv::StringRecord::new();
    loop {
        let at = Location { file: file.to_owned(), place: Place::Line(lines.at(reader.position().byte())) };
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => return Err(PromptError::Csv { at, reason: reason(&error) }),
        }
        match &columns {
            None => columns = Some(Columns::read(&at, &record)?),
            Some(columns) => sink(columns.record(&at, &record)?)?,
        }
    }
}

fn reason(error: &::csv::Error) -> String {
    match error.kind() {
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, but the header has {expected_len}; is a comma or a quote missing its quotes?")
        }
        _ => error.to_string(),
    }
}

/// Counts the lines before a growing byte offset. The reader's own count is one short after `\r\n`: it stops between
/// the two.
struct LineCounter<'a> {
    text: &'a [u8],
    byte: usize,
    line: usize,
}

impl LineCounter<'_> {
    /// The line of the first byte at or after `byte` that ends no line.
    fn at(&mut self, byte: u64) -> usize {
        let byte = usize::try_from(byte).unwrap_or(usize::MAX);
        while let Some(&c) = self.text.get(self.byte) {
            if self.byte >= byte && c != b'\r' && c != b'\n' {
                break;
            }
            self.line += usize::from(c == b'\n');
            self.byte += 1;
        }
        self.line
    }
}

/// Which column is which.
struct Columns {
    names: Vec<String>,
    clean: usize,
    corrupted: (usize, &'static str),
    answers: Option<(usize, &'static str)>,
    wrong: Option<(usize, &'static str)>,
}

const CORRECT_IDX: &str = "correct_idx";
const INCORRECT_IDX: &str = "incorrect_idx";
const LABEL: &str = "label";
/// What may hold the answer and what the wrong one, for messages: canonical names first.
const ANSWER_COLUMNS: &[&str] = &["answer", "answers", CORRECT_IDX];
const WRONG_COLUMNS: &[&str] = &["wrong", "wrong_answers", INCORRECT_IDX];

impl Columns {
    fn read(at: &Location, header: &::csv::StringRecord) -> Result<Columns, PromptError> {
        let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
        let mut sorted: Vec<&String> = names.iter().filter(|name| !name.is_empty()).collect();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PromptError::DuplicateField {
                at: at.clone(),
                first: quote(twice[0]),
                second: quote(twice[1]),
            });
        }
        let find = |accepted: &'static [&'static str]| -> Result<Option<(usize, &'static str)>, PromptError> {
            let mut found = None;
            for &name in accepted {
                let Some(index) = names.iter().position(|n| n == name) else { continue };
                if let Some((_, first)) = found {
                    let first: &str = first;
                    return Err(PromptError::DuplicateField {
                        at: at.clone(),
                        first: first.into(),
                        second: name.into(),
                    });
                }
                found = Some((index, name));
            }
            Ok(found)
        };
        let clean = find(CLEAN)?.ok_or_else(|| record::missing(at, CLEAN, &names))?.0;
        let corrupted = find(CORRUPTED)?.ok_or_else(|| record::missing(at, CORRUPTED, &names))?;
        // A `label` beside another answer column is what it says: a label.
        let answers = match find(ANSWER_COLUMNS)? {
            Some(found) => Some(found),
            None => find(&[LABEL])?,
        };
        let wrong = find(WRONG_COLUMNS)?;
        Ok(Columns { names, clean, corrupted, answers, wrong })
    }

    fn record(&self, at: &Location, row: &::csv::StringRecord) -> Result<Record, PromptError> {
        let cell = |index: usize| row.get(index).unwrap_or("");
        let text = |index: usize, name| Field { name, value: Value::String(cell(index).to_owned()) };
        let clean = text(self.clean, CLEAN[0]);
        let corrupted = text(self.corrupted.0, self.corrupted.1);

        let mut answers = None;
        let mut wrong = match self.wrong {
            Some((index, INCORRECT_IDX)) => ids(at, INCORRECT_IDX, cell(index))?,
            Some((index, name)) => texts(name, cell(index)),
            None => None,
        };
        let mut used = vec![self.clean, self.corrupted.0];
        used.extend(self.wrong.map(|(index, _)| index));
        if let Some((index, name)) = self.answers {
            let value = cell(index);
            let year = if self.wrong.is_none() { year(cell(self.clean), value) } else { None };
            match (name, year) {
                // The column stays a label as well: the year is what the file says, the tokens are what it means.
                (LABEL | CORRECT_IDX, Some(year)) => (answers, wrong) = years(name, year),
                (LABEL, None) => {
                    used.push(index);
                    let (first, second) = label(at, value)?;
                    answers = first;
                    wrong = wrong.or(second);
                }
                (CORRECT_IDX, None) => {
                    used.push(index);
                    answers = ids(at, CORRECT_IDX, value)?;
                }
                (name, _) => {
                    used.push(index);
                    answers = texts(name, value);
                }
            }
        }

        let mut labels = Map::new();
        for (index, name) in self.names.iter().enumerate() {
            if !name.is_empty() && !used.contains(&index) {
                labels.insert(name.clone(), Value::String(cell(index).to_owned()));
            }
        }
        let has = self.names.clone();
        Ok(Record {
            place: at.place,
            clean: Some(clean),
            corrupted: Some(corrupted),
            answers,
            wrong,
            positions: Vec::new(),
            labels,
            has,
            from_mib: false,
        })
    }
}

/// A cell of text: one answer. An empty cell is none.
fn texts(name: &'static str, cell: &str) -> Option<Field> {
    (!cell.is_empty()).then(|| Field { name, value: Value::String(cell.to_owned()) })
}

/// A cell of token ids: `464` or `[464, 465]`. An empty cell is none.
fn ids(at: &Location, name: &'static str, cell: &str) -> Result<Option<Field>, PromptError> {
    let cell = cell.trim();
    if cell.is_empty() {
        return Ok(None);
    }
    match strict_json::parse(cell) {
        Ok(value @ (Value::Number(_) | Value::Array(_))) => Ok(Some(Field { name, value })),
        _ => Err(PromptError::NotATokenId { at: at.clone(), field: name.to_owned(), found: quote(cell) }),
    }
}

/// A `label` that is no year: `[answer, wrong]` in ids, one id, or text.
fn label(at: &Location, cell: &str) -> Result<(Option<Field>, Option<Field>), PromptError> {
    let field = |value| Field { name: LABEL, value };
    match strict_json::parse(cell.trim()) {
        Ok(value @ Value::Number(_)) => Ok((Some(field(value)), None)),
        Ok(Value::Array(items)) => match <[Value; 2]>::try_from(items) {
            Ok([answer, wrong]) => Ok((Some(field(answer)), Some(field(wrong)))),
            Err(items) => Err(PromptError::AnswerType {
                at: at.clone(),
                field: LABEL.into(),
                found: format!("a list of {}, where a list is [answer, wrong]", items.len()),
            }),
        },
        _ => Ok((texts(LABEL, cell), None)),
    }
}

/// The year that a greater-than prompt ends before: `clean` ends with a century of two digits, names a year of that
/// century earlier, and `cell` is that year's last two digits.
fn year(clean: &str, cell: &str) -> Option<u8> {
    let year: u8 = cell.trim().parse().ok().filter(|&year| year < 100)?;
    let mut numbers = clean.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let century = numbers.next_back().filter(|digits| digits.len() == 2 && clean.ends_with(digits))?;
    numbers.any(|digits| digits == format!("{century}{year:02}")).then_some(year)
}

/// The answers of a greater-than prompt, the two-digit years above `year`, and the wrong ones, `year` and below.
fn years(name: &'static str, year: u8) -> (Option<Field>, Option<Field>) {
    let list = |range: std::ops::Range<u8>| {
        let value = Value::Array(range.map(|y| Value::String(format!("{y:02}"))).collect());
        Some(Field { name, value })
    };
    (list(year + 1..100), list(0..year + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greater_than_label_is_a_year_only_beside_its_prompt() {
        assert_eq!(year("The plan lasted from the year 1352 to the year 13", "52"), Some(52));
        assert_eq!(year("The effect lasted from the year 1604 to the year 16", "4"), Some(4));
        assert_eq!(year("The plan lasted from the year 1352 to the year 13", "53"), None);
        assert_eq!(year("When Mary and John went to the store, John gave a drink to", "52"), None);
        assert_eq!(year("13", "52"), None);
    }

    #[test]
    fn lines_are_counted_through_both_kinds_of_line_ends() {
        let text = "a\r\nb\r\n\r\nc\nd";
        let mut lines = LineCounter { text: text.as_bytes(), byte: 0, line: 1 };
        assert_eq!(lines.at(0), 1);
        // The csv reader stops after the carriage return.
        assert_eq!(lines.at(2), 2);
        assert_eq!(lines.at(5), 4);
        assert_eq!(lines.at(10), 5);
        assert_eq!(lines.at(11), 5);
    }
}

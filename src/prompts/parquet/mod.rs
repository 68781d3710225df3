//! Rows of a parquet file as JSON objects.
//!
//! The `parquet` crate decodes; what it would trust is checked first. The footer's schema is neither wide nor deep
//! ([`footer`]); before any page is decompressed its header is read here ([`pages`]), so that sizes and counts are bounded
//! and encodings are the plain ones; and a panic of the crate is an error of the file.

mod footer;
mod pages;
mod thrift;

use super::error::{Location, Place, PromptError};
use super::format::Sink;
use super::record::Record;
use super::show::quote;
use crate::quiet::quietly;
use bytes::Bytes;
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

/// How a parquet file begins.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// The most rows of one file.
const MAX_ROWS: i64 = 1_000_000;
/// The most bytes of text in all rows together: a dictionary can repeat one long text for every row.
const MAX_TEXT: usize = 1 << 30;
/// The most levels of nested values.
const MAX_DEPTH: usize = 16;

/// Hands every row to `sink` in order.
pub(super) fn read(file: &str, bytes: &[u8], counterfactual: Option<&str>, sink: Sink<'_>) -> Result<(), PromptError> {
    let wrong = |reason: String| PromptError::Parquet { file: file.to_owned(), reason };
    let beyond = || wrong("beyond what the parquet library can handle; is the file whole?".into());
    let said = |error: parquet::errors::ParquetError| wrong(error.to_string());
    footer::check(bytes).map_err(wrong)?;
    let reader = quietly(|| SerializedFileReader::new(Bytes::copy_from_slice(bytes))).ok_or_else(beyond)?;
    let reader = reader.map_err(said)?;
    quietly(|| check(reader.metadata(), bytes)).ok_or_else(beyond)?.map_err(wrong)?;

    let mut rows = quietly(|| reader.get_row_iter(None)).ok_or_else(beyond)?.map_err(said)?;
    let mut budget = MAX_TEXT;
    for index in 0.. {
        let Some(row) = quietly(|| rows.next()).ok_or_else(beyond)? else { break };
        let at = Location { file: file.to_owned(), place: Place::Index(index) };
        let value = object(row.map_err(said)?, &mut budget, MAX_DEPTH)
            .map_err(|reason| wrong(format!("row {index}: {reason}")))?;
        sink(Record::from_json(&at, Value::Object(value), None, counterfactual)?)?;
    }
    Ok(())
}

/// What the crate would take the file's word for.
fn check(metadata: &ParquetMetaData, bytes: &[u8]) -> Result<(), String> {
    let rows = metadata.file_metadata().num_rows();
    if !(0..=MAX_ROWS).contains(&rows) {
        return Err(format!("{rows} rows; at most {MAX_ROWS} are read"));
    }
    let mut budget = pages::Budget::default();
    for group in metadata.row_groups() {
        if !(0..=MAX_ROWS).contains(&group.num_rows()) {
            return Err(format!("a row group of {} rows; at most {MAX_ROWS} are read", group.num_rows()));
        }
        for column in group.columns() {
            let name = || quote(&column.column_path().string());
            if !matches!(column.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY) {
                let codec = column.compression();
                return Err(format!("column {} is compressed with {codec}; write it with snappy or none", name()));
            }
            let (start, len) = column.byte_range();
            let chunk = usize::try_from(start).ok().zip(usize::try_from(len).ok());
            let chunk = chunk.and_then(|(start, len)| bytes.get(start..start.checked_add(len)?));
            let chunk = chunk.ok_or_else(|| format!("column {} lies outside the file", name()))?;
            budget.check(chunk).map_err(|reason| format!("column {}: {reason}", name()))?;
        }
    }
    Ok(())
}

fn object(row: Row, budget: &mut usize, depth: usize) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    for (name, field) in row.into_columns() {
        let value = value(&field, budget, depth)?;
        if object.insert(name.clone(), value).is_some() {
            return Err(format!("two columns named {}", quote(&name)));
        }
    }
    Ok(object)
}

fn value(field: &Field, budget: &mut usize, depth: usize) -> Result<Value, String> {
    let depth = depth.checked_sub(1).ok_or("nested too deeply")?;
    let spent = if let Field::Str(text) = field { 64 + text.len() } else { 64 };
    *budget = budget.checked_sub(spent).ok_or_else(|| format!("more than {MAX_TEXT} bytes once unpacked"))?;
    let real = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float(x) => real(f64::from(*x)),
        Field::Double(x) => real(*x),
        Field::Str(text) => text.clone().into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => return Err("a binary value where text was expected".into()),
        },
        Field::Group(row) => {
            let mut inner = Map::new();
            for (name, field) in row.get_column_iter() {
                inner.insert(name.clone(), value(field, budget, depth)?);
            }
            Value::Object(inner)
        }
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(|field| value(field, budget, depth)).collect::<Result<_, _>>()?)
        }
        // No data set of prompts has dates, decimals or maps; as labels their text is enough.
        other => other.to_string().into(),
    })
}

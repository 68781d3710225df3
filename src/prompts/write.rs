//! Pairs as JSONL.

use super::Pair;
use serde_json::{Map, Value};
use std::io::{self, Write};

/// Writes one pair a line, in token ids: `{"clean": […], "corrupted": […], "answer": […], "wrong": […], "positions":
/// {…}, …labels}`. Ids are taken as they are, a BOS included, so [`load`](super::load) gives back the same pairs and
/// the same [`hash`](super::PromptSet::hash).
pub fn write_jsonl(out: &mut impl Write, pairs: &[Pair]) -> io::Result<()> {
    for pair in pairs {
        let mut object = Map::new();
        let ids = |ids: &[u32]| Value::from(ids.to_vec());
        object.insert("clean".into(), ids(&pair.clean));
        object.insert("corrupted".into(), ids(&pair.corrupted));
        if !pair.answers.is_empty() {
            object.insert("answer".into(), ids(&pair.answers));
        }
        if !pair.wrong.is_empty() {
            object.insert("wrong".into(), ids(&pair.wrong));
        }
        if !pair.positions.is_empty() {
            let positions = pair.positions.iter().map(|(name, &at)| (name.clone(), Value::from(at)));
            object.insert("positions".into(), Value::Object(positions.collect()));
        }
        for (name, value) in &pair.labels {
            object.entry(name.as_str()).or_insert_with(|| value.clone());
        }
        serde_json::to_writer(&mut *out, &object)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

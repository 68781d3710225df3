//! Files of prompt pairs: the formats, what becomes of text, and every way in which a file can be wrong.

use patchwave::prompts::{
    Align, BosPolicy, Encode, Format, Pair, Place, PositionAxis, PromptError, PromptSet, Selector, load, parse,
    position_labels, resolve_positions, write_jsonl,
};
use patchwave::prompts::{LoadOptions, hash_pairs};
use proptest::prelude::*;
use std::path::Path;
use std::time::{Duration, Instant};

/// A tokenizer one can read: the longest entry of a word list at each place, single characters otherwise. Ids 0 to 127
/// are ASCII, the words follow.
struct Words {
    words: Vec<&'static str>,
    bos: Option<u32>,
}

const WORDS: [&str; 14] = [
    "<bos>", "When", " Mary", " John", " and", " went", " store", " gave", " drink", " to", "Mary", " Jane", "13", "52",
];

fn word(text: &str) -> u32 {
    128 + WORDS.iter().position(|w| *w == text).expect("a word of the list") as u32
}

fn words() -> Words {
    Words { words: WORDS.to_vec(), bos: Some(word("<bos>")) }
}

fn words_without_bos() -> Words {
    Words { bos: None, ..words() }
}

impl Encode for Words {
    fn encode(&self, mut text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        while let Some(first) = text.chars().next() {
            let longest =
                self.words.iter().enumerate().filter(|(_, w)| text.starts_with(**w)).max_by_key(|(_, w)| w.len());
            let len = match longest {
                Some((index, word)) => {
                    ids.push(128 + index as u32);
                    word.len()
                }
                None if first.is_ascii() => {
                    ids.push(first as u32);
                    1
                }
                None => return Err(format!("no token for {first:?}")),
            };
            text = &text[len..];
        }
        Ok(ids)
    }

    fn bos(&self) -> Option<u32> {
        self.bos
    }

    fn piece(&self, id: u32) -> Option<String> {
        match id {
            0..128 => Some(char::from(id as u8).to_string()),
            id => self.words.get(id as usize - 128).map(|w| w.to_string()),
        }
    }
}

fn options() -> LoadOptions {
    LoadOptions {
        bos: BosPolicy::Auto,
        d_vocab: 200,
        n_ctx: Some(64),
        needs_wrong: true,
        needs_answer: true,
        needs_corrupted: true,
    }
}

fn read(name: &str, text: &str) -> Result<PromptSet, PromptError> {
    parse(name, text.as_bytes(), Some(&words()), &options())
}

fn pairs(text: &str) -> PromptSet {
    read("pairs.jsonl", text).unwrap_or_else(|error| panic!("{error}"))
}

/// The error of a file that is one line of JSONL.
fn refused(line: &str) -> PromptError {
    let error = read("pairs.jsonl", line).expect_err("this file is wrong");
    assert_eq!(error.exit_code(), 2);
    let message = error.to_string();
    assert!(!message.contains('\n'), "one line: {message:?}");
    error
}

macro_rules! assert_refused {
    ($line:expr, $pattern:pat, $message:expr) => {{
        let error = refused($line);
        assert!(matches!(error, $pattern), "{error:?}");
        assert_eq!(error.to_string(), $message);
    }};
}

const IOI: &str = r#"{"clean": "When Mary and John gave", "corrupted": "When Mary and Mary gave", "answer": " Mary", "wrong": " John"}"#;
const IDS: &str = r#"{"clean": [1, 2, 3], "corrupted": [1, 4, 3], "answer": 5, "wrong": [6, 7]}"#;

mod formats;
mod meaning;
mod positions;
mod wrong;

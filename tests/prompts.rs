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

// ---- what a line means

#[test]
fn text_becomes_tokens_behind_one_bos() {
    let set = pairs(IOI);
    let expected: Vec<u32> = ["<bos>", "When", " Mary", " and", " John", " gave"].map(word).to_vec();
    assert_eq!(set.pairs[0].clean, expected);
    assert_eq!(set.pairs[0].corrupted[4], word(" Mary"));
    assert_eq!((set.pairs[0].len(), set.pairs[0].first_difference()), (6, 4));
    assert_eq!(set.pairs[0].answers, [word(" Mary")]);
    assert_eq!(set.pairs[0].wrong, [word(" John")]);
    assert_eq!((set.bos.id, set.bos.prepended), (Some(word("<bos>")), 2));
}

#[test]
fn ids_are_taken_as_they_are_and_need_no_tokenizer() {
    let set = parse("pairs.jsonl", IDS.as_bytes(), None, &options()).unwrap();
    assert_eq!(set.pairs[0].clean, [1, 2, 3]);
    assert_eq!(set.pairs[0].answers, [5]);
    assert_eq!(set.pairs[0].wrong, [6, 7]);
    let with_tokenizer = pairs(IDS);
    assert_eq!(with_tokenizer.pairs[0].clean, [1, 2, 3]);
    assert_eq!((with_tokenizer.bos.prepended, with_tokenizer.bos.given_as_ids), (0, 2));
}

#[test]
fn the_bos_policies() {
    let with = |policy, tokenizer: &Words, line: &str| {
        parse("pairs.jsonl", line.as_bytes(), Some(tokenizer), &LoadOptions { bos: policy, ..options() })
    };
    let first = |set: &PromptSet| set.pairs[0].clean[0];
    let (bos, when) = (word("<bos>"), word("When"));

    let auto = with(BosPolicy::Auto, &words(), IOI).unwrap();
    assert_eq!((first(&auto), auto.bos.prepended), (bos, 2));
    let never = with(BosPolicy::Never, &words(), IOI).unwrap();
    assert_eq!((first(&never), never.bos.none), (when, 2));
    let none = with(BosPolicy::Auto, &words_without_bos(), IOI).unwrap();
    assert_eq!((first(&none), none.bos.id, none.bos.none), (when, None, 2));

    // A text that begins with it gets no second one, under any policy.
    let written = IOI.replace("When", "<bos>When");
    for policy in [BosPolicy::Auto, BosPolicy::Always, BosPolicy::Never] {
        let set = with(policy, &words(), &written).unwrap();
        assert_eq!(set.pairs[0].clean[..2], [bos, when]);
        assert_eq!(set.bos.already_there, 2);
    }

    let error = with(BosPolicy::Always, &words_without_bos(), IOI).unwrap_err();
    assert!(matches!(error, PromptError::NoBos), "{error:?}");
    let error = with(BosPolicy::Always, &words(), IDS).unwrap_err();
    assert!(matches!(error, PromptError::BosOverIds { .. }), "{error:?}");
    let ids_with_bos = IDS.replace("[1,", "[128,");
    assert_eq!(first(&with(BosPolicy::Always, &words(), &ids_with_bos).unwrap()), bos);
}

#[test]
fn named_positions_move_with_the_bos() {
    let named = IOI.replace("\"answer\"", "\"positions\": {\"S2\": 3, \"start\": 0}, \"answer\"");
    let set = pairs(&named);
    assert_eq!(set.pairs[0].positions["S2"], 4);
    assert_eq!(set.pairs[0].positions["start"], 1);
    assert_eq!(set.pairs[0].clean[set.pairs[0].positions["S2"]], word(" John"));

    // A BOS that the text wrote itself is one of its own tokens.
    let written = named.replace("When", "<bos>When");
    assert_eq!(pairs(&written).pairs[0].positions["S2"], 3);
    // Ids do not move either.
    let ids = pairs(&IDS.replace("\"answer\"", "\"positions\": {\"S2\": 1}, \"answer\""));
    assert_eq!(ids.pairs[0].positions["S2"], 1);
}

#[test]
fn aliases_lists_and_labels() {
    let set = pairs(
        r#"{"id": 7, "clean": [1, 2], "corrupt": [1, 3], "answers": [" Mary", 9], "wrong_answers": [" John"], "template": "ABBA"}"#,
    );
    let pair = &set.pairs[0];
    assert_eq!(pair.answers, [word(" Mary"), 9]);
    assert_eq!(pair.wrong, [word(" John")]);
    assert_eq!(serde_json::to_string(&pair.labels).unwrap(), r#"{"id":7,"template":"ABBA"}"#);
}

#[test]
fn fields_that_the_metric_does_not_read_may_be_absent() {
    let only_prompts = r#"{"clean": [1, 2], "corrupted": [1, 3], "wrong": null}"#;
    let kl = LoadOptions { needs_answer: false, needs_wrong: false, ..options() };
    let set = parse("p.jsonl", only_prompts.as_bytes(), None, &kl).unwrap();
    assert!(set.pairs[0].answers.is_empty() && set.pairs[0].wrong.is_empty());
}

#[test]
fn an_answer_is_the_token_that_follows_the_prompt() {
    /// Puts a space before every text, as SentencePiece models do: alone, "Mary" is " Mary".
    struct DummyPrefix(Words);
    impl Encode for DummyPrefix {
        fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
            self.0.encode(&format!(" {text}"))
        }
        fn bos(&self) -> Option<u32> {
            self.0.bos()
        }
        fn piece(&self, id: u32) -> Option<String> {
            self.0.piece(id)
        }
    }
    let line = r#"{"clean": "When John to", "corrupted": "When Mary to", "answer": "Mary", "wrong": " John"}"#;
    let set = parse("p.jsonl", line.as_bytes(), Some(&DummyPrefix(words())), &options()).unwrap();
    assert_eq!(set.pairs[0].answers, [word("Mary")]);
    // After a prompt in ids there is no text to follow: the answer alone decides.
    let ids = line.replace("\"When John to\"", "[1, 2, 3, 4, 5]").replace("\" John\"", "\"John\"");
    let set =
        parse("p.jsonl", ids.as_bytes(), Some(&DummyPrefix(words())), &options()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(set.pairs[0].answers, [word(" Mary")]);
}

#[test]
fn an_answer_that_melts_into_the_prompt_is_the_token_that_it_is_alone() {
    // "1" + "3" is one token, "13", so nothing follows "When 1"; "3" alone is a token.
    let set = pairs(r#"{"clean": "When 1", "corrupted": "When 2", "answer": "3", "wrong": "4"}"#);
    assert_eq!(set.pairs[0].answers, [u32::from(b'3')]);
}

// ---- formats

#[test]
fn jsonl_with_crlf_blank_lines_and_a_byte_order_mark() {
    let text = format!("\u{feff}{IOI}\r\n\r\n{IDS}\r\n\r\n  \r\n");
    let set = read("pairs.jsonl", &text).unwrap();
    assert_eq!(set.pairs.iter().map(|p| p.line).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(set.format, Format::Jsonl);
    assert_eq!(set.location(&set.pairs[1]).to_string(), "pairs.jsonl: line 3");
}

#[test]
fn the_format_is_told_by_content_where_the_name_does_not_say() {
    for (name, text, format) in [
        ("pairs", format!("{IOI}\n{IDS}\n"), Format::Jsonl),
        ("pairs.json", format!("{IOI}\n{IDS}\n"), Format::Jsonl),
        ("pairs.json", IDS.to_owned(), Format::Jsonl),
        ("pairs", format!("[{IOI},\n{IDS}]"), Format::Json),
        ("pairs.txt", format!("{{\n\"prompts\": [{IOI}]}}"), Format::Json),
        ("pairs", format!("{{\"prompts\": [{IOI}]}}"), Format::Json),
        ("pairs", "clean,corrupted,answer,wrong\nWhen Mary,When John, to, and\n".to_owned(), Format::Csv),
    ] {
        assert_eq!(read(name, &text).unwrap_or_else(|e| panic!("{e}")).format, format, "{text}");
    }
    let error = read("pairs.txt", "Dear reader,\n").unwrap_err();
    assert!(matches!(error, PromptError::UnknownFormat { .. }), "{error:?}");
    let error = read("pairs.json", "{\n\"clean\": \"x\"}").unwrap_err();
    assert!(matches!(error, PromptError::UnknownFormat { .. }), "{error:?}");
}

#[test]
fn auto_circuit_json_names_positions_of_every_pair() {
    let text = r#"{
      "seq_labels": ["<first>", "IO", "and", "S", "verb"],
      "word_idxs": {"IO": 1, "S1+1": 4, "end": 4},
      "prompts": [
        {"clean": "When Mary and John gave", "corrupt": "When Mary and Mary gave",
         "answers": [" Mary"], "wrong_answers": [" John"]},
        {"clean": "When John and Mary gave", "corrupt": "When Mary and Mary gave",
         "answers": [" John"], "wrong_answers": [" Mary"], "positions": {"IO": 2}}
      ]
    }"#;
    let set = read("ioi_prompts.json", text).unwrap();
    assert_eq!(set.pairs[0].positions["IO"], 2);
    assert_eq!(set.pairs[0].positions["S1+1"], 5);
    assert_eq!(set.pairs[1].positions["IO"], 3, "a pair's own position wins");
    assert!(set.labels.contains_key("seq_labels"));
    assert_eq!(set.location(&set.pairs[1]).place, Place::Index(1));

    let short = text.replace("\"S1+1\": 4", "\"S1+1\": 5");
    let error = read("ioi_prompts.json", &short).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ioi_prompts.json: entry [0]: word_idxs.S1+1: position 5 is outside the prompt, whose own tokens are 0 to 4"
    );
    let error = read("ioi_prompts.json", &text.replace("\"corrupt\": \"When Mary and Mary gave\",", "")).unwrap_err();
    assert!(
        error.to_string().starts_with("ioi_prompts.json: entry [0]: no field `corrupted` (or its alias `corrupt`)")
    );
}

#[test]
fn eap_ig_csv_with_ids_of_the_answers() {
    // As pandas writes it: an index column without a name, quotes where there are commas, a newline in a cell.
    let text = "\u{feff},clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\r\n\
                470,\"When, \"\"Mary\"\" gave\",\"When, \"\"John\"\" gave\",x,130,131\r\n\
                184,\"When\nMary to\",\"When\nJohn to\",\"y, z\",\"[130, 5]\",\"[131]\"\r\n\
                11,When Mary to,When John to,x,130,131\r\n\r\n";
    let text = text.replace("Mary", " Mary").replace("John", " John");
    let set = read("ioi_llama.csv", &text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(set.pairs[0].answers, [130]);
    assert_eq!(set.pairs[0].wrong, [131]);
    assert_eq!(set.pairs[1].answers, [130, 5]);
    assert_eq!(set.pairs[1].clean[2], u32::from(b'\n'));
    assert_eq!(set.pairs[1].labels["corrupted_hard"], "y, z");
    assert_eq!(set.pairs.iter().map(|p| p.line).collect::<Vec<_>>(), [2, 3, 6]);
    assert!(!set.pairs[0].labels.contains_key(""));

    let error = read("ioi_llama.csv", &text.replace("x,130,131\r\n\r\n", "x,one,131\r\n")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ioi_llama.csv: line 6: correct_idx: \"one\" is not a token id (a whole number, 0 or above)"
    );
    let error = read("ioi_llama.csv", &text.replace("x,130,131\r\n\r\n", "x,130\r\n")).unwrap_err();
    assert!(matches!(error, PromptError::Csv { .. }), "{error:?}");
    assert!(error.to_string().starts_with("ioi_llama.csv: line 6: invalid CSV: 5 fields"), "{error}");
}

#[test]
fn eap_ig_csv_with_a_label() {
    let one = LoadOptions { needs_wrong: false, ..options() };
    let read = |text: &str| parse("data.csv", text.as_bytes(), Some(&words()), &one).unwrap_or_else(|e| panic!("{e}"));
    let id = read("clean,corrupted,label\nWhen Mary,When John,52\n");
    assert_eq!(id.pairs[0].answers, [52]);
    let both = read("clean,corrupted,label\nWhen Mary,When John,\"[52, 53]\"\n");
    assert_eq!((&both.pairs[0].answers[..], &both.pairs[0].wrong[..]), (&[52][..], &[53][..]));
    let text = read("clean,corrupted,label\nWhen Mary,When John, to\n");
    assert_eq!(text.pairs[0].answers, [word(" to")]);
}

#[test]
fn a_greater_than_label_is_a_year() {
    /// One token for every year, as GPT-2 has; anything else by character.
    struct Years;
    impl Encode for Years {
        fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
            let bytes = text.as_bytes();
            let mut ids = Vec::new();
            let mut at = 0;
            while at < bytes.len() {
                match bytes[at..] {
                    [a @ b'0'..=b'9', b @ b'0'..=b'9', ..] => {
                        ids.push(1000 + 10 * u32::from(a - b'0') + u32::from(b - b'0'));
                        at += 2;
                    }
                    _ => {
                        ids.push(bytes[at].into());
                        at += 1;
                    }
                }
            }
            Ok(ids)
        }
        fn bos(&self) -> Option<u32> {
            None
        }
        fn piece(&self, _: u32) -> Option<String> {
            None
        }
    }
    let text = "clean,corrupted,label\n\
                The plan lasted from the year 1397 to the year 13,The plan lasted from the year 1301 to the year 13,97\n";
    let options = LoadOptions { d_vocab: 1100, n_ctx: None, ..options() };
    let set = parse("greater_than_data.csv", text.as_bytes(), Some(&Years), &options).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(set.pairs[0].answers, [1098, 1099]);
    assert_eq!(set.pairs[0].wrong, (1000..=1097).collect::<Vec<_>>());
    assert_eq!(set.pairs[0].labels["label"], "97");
}

#[test]
fn written_pairs_are_read_back_the_same() {
    let line = IOI.replace("\"answer\"", "\"positions\": {\"S2\": 3}, \"template\": [\"ABBA\", 1], \"answer\"");
    let set = pairs(&format!("{line}\n{IDS}\n"));
    let mut written = Vec::new();
    write_jsonl(&mut written, &set.pairs).unwrap();
    let again = parse("again.jsonl", &written, None, &options()).unwrap();
    assert_eq!(again.pairs, set.pairs);
    assert_eq!(again.hash, set.hash);
}

#[test]
fn the_hash_is_of_what_the_model_is_asked() {
    let set = pairs(IOI);
    assert_eq!(set.hash.len(), 64);
    let labelled = pairs(&format!("\n{}", IOI.replace("\"answer\"", "\"note\": 1, \"answer\"")));
    assert_eq!(labelled.hash, set.hash);
    let named = pairs(&IOI.replace("\"answer\"", "\"positions\": {\"S2\": 3}, \"answer\""));
    let other = pairs(&IOI.replace("\" John\"", "\" went\""));
    assert_ne!(named.hash, set.hash);
    assert_ne!(other.hash, set.hash);
    // Where one list ends and the next begins counts.
    let pair =
        |answers: &[u32], wrong: &[u32]| Pair { answers: answers.into(), wrong: wrong.into(), ..set.pairs[0].clone() };
    assert_ne!(hash_pairs(&[pair(&[1, 2], &[3])]), hash_pairs(&[pair(&[1], &[2, 3])]));
}

#[test]
fn ten_thousand_lines_load_fast() {
    let text = format!("{IOI}\n").repeat(10_000);
    let start = Instant::now();
    let set = pairs(&text);
    assert_eq!(set.pairs.len(), 10_000);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_file_is_read_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.jsonl");
    std::fs::write(&path, IOI).unwrap();
    let set = load(&path, Some(&words()), &options()).unwrap();
    assert_eq!(set.source, path.display().to_string());
    assert_eq!(set.pairs, pairs(IOI).pairs);
}

#[test]
fn a_byte_level_bpe_of_hugging_face() {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    struct Bpe(tokenizers::Tokenizer);
    impl Encode for Bpe {
        fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
            Ok(self.0.encode(text, false).map_err(|e| e.to_string())?.get_ids().to_vec())
        }
        fn bos(&self) -> Option<u32> {
            None
        }
        fn piece(&self, id: u32) -> Option<String> {
            self.0.decode(&[id], false).ok()
        }
    }
    // The 256 byte symbols, and merges that build each word from the left.
    let mut alphabet: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    alphabet.sort();
    let mut vocab: Vec<String> = alphabet;
    let mut merges = Vec::new();
    for word in ["ĠMary", "ĠJohn", "Ġgave", "When"] {
        let symbols: Vec<String> = word.chars().map(String::from).collect();
        let mut left = symbols[0].clone();
        for right in &symbols[1..] {
            merges.push((left.clone(), right.clone()));
            left.push_str(right);
            vocab.push(left.clone());
        }
    }
    let vocab: Vec<(String, u32)> = vocab.into_iter().zip(0..).collect();
    let id = |piece: &str| vocab.iter().find(|(p, _)| p == piece).unwrap().1;
    let (mary, john, when, gave) = (id("ĠMary"), id("ĠJohn"), id("When"), id("Ġgave"));
    // What a tokenizer.json holds.
    let ids: serde_json::Map<_, _> = vocab.iter().map(|(piece, id)| (piece.clone(), (*id).into())).collect();
    let byte_level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let file = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": byte_level.clone(), "decoder": byte_level,
        "model": {"type": "BPE", "vocab": ids, "merges": merges},
    });
    let tokenizer = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
    let tokenizer = Bpe(tokenizer);
    let options = LoadOptions { d_vocab: vocab.len(), ..options() };

    let line = r#"{"clean": "When Mary gave", "corrupted": "When John gave", "answer": " John", "wrong": " Mary"}"#;
    let set = parse("p.jsonl", line.as_bytes(), Some(&tokenizer), &options).unwrap();
    assert_eq!(set.pairs[0].clean, [when, mary, gave]);
    assert_eq!((&set.pairs[0].answers[..], &set.pairs[0].wrong[..]), (&[john][..], &[mary][..]));

    let spaceless = line.replace("\" John\"", "\"John\"");
    let error = parse("p.jsonl", spaceless.as_bytes(), Some(&tokenizer), &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "p.jsonl: line 1: answer: \"John\" is 4 tokens (J|o|h|n), and an answer must be one; \
         with a leading space, \" John\", it is one"
    );
}

// ---- wrong files

#[test]
fn an_unreadable_path() {
    let error = load(Path::new("/nonexistent/pairs.jsonl"), None, &options()).unwrap_err();
    assert!(matches!(error, PromptError::Io { .. }));
    assert!(error.to_string().starts_with("/nonexistent/pairs.jsonl: cannot read the prompts: "), "{error}");
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(load(folder.path(), None, &options()), Err(PromptError::Io { .. })));
}

#[test]
fn an_empty_file() {
    for (name, text) in [
        ("pairs.jsonl", ""),
        ("pairs.jsonl", "\u{feff}\n \r\n"),
        ("pairs.json", "{\"prompts\": []}"),
        ("pairs.json", "[]"),
        ("pairs.csv", "clean,corrupted,label\n"),
    ] {
        let error = read(name, text).unwrap_err();
        assert!(matches!(error, PromptError::NoPairs { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("{name}: no prompt pairs in it"));
    }
}

#[test]
fn invalid_json_names_file_line_and_column() {
    let error = read("pairs.jsonl", &format!("{IOI}\n{IDS}\n{{\"clean\": \"x\", corrupted}}\n")).unwrap_err();
    assert_eq!(error.to_string(), "pairs.jsonl: line 3: invalid JSON: key must be a string (column 16)");
    let error = read("pairs.json", "{\"prompts\": [\n{\"clean\": \"x\",}\n]}").unwrap_err();
    assert_eq!(error.to_string(), "pairs.json: line 2: invalid JSON: trailing comma (column 15)");
    // A truncated last line.
    let error = read("pairs.jsonl", &format!("{IOI}\n{}", &IDS[..30])).unwrap_err();
    assert!(matches!(&error, PromptError::Json { at, .. } if at.place == Place::Line(2)), "{error:?}");
}

#[test]
fn text_that_is_not_utf8() {
    let mut bytes = format!("{IOI}\n").into_bytes();
    bytes.extend([b'{', 0xff, 0xfe]);
    let error = parse("pairs.jsonl", &bytes, Some(&words()), &options()).unwrap_err();
    assert_eq!(error.to_string(), "pairs.jsonl: line 2: not UTF-8 text; prompts are read as UTF-8");
}

#[test]
fn a_line_that_is_no_object() {
    assert_refused!(
        "[1, 2]",
        PromptError::NotAnObject { .. },
        "pairs.jsonl: line 1: an array where a pair was expected, an object such as \
         {\"clean\": …, \"corrupted\": …, \"answer\": …}"
    );
}

#[test]
fn missing_fields_say_what_is_there_and_which_names_would_do() {
    assert_refused!(
        r#"{"clean": "When", "answer": " to"}"#,
        PromptError::MissingField { .. },
        "pairs.jsonl: line 1: no field `corrupted` (or its alias `corrupt`); the fields here are \"clean\", \"answer\""
    );
    assert_refused!(
        r#"{"corrupted": [1]}"#,
        PromptError::MissingField { .. },
        "pairs.jsonl: line 1: no field `clean`; the fields here are \"corrupted\""
    );
    assert_refused!(
        r#"{"clean": [1], "corrupted": [2], "wrong": 3}"#,
        PromptError::MissingField { .. },
        "pairs.jsonl: line 1: no field `answer` (or its alias `answers`); the fields here are \"clean\", \
         \"corrupted\", \"wrong\""
    );
    assert_refused!(
        r#"{"clean": [1], "corrupted": [2], "answer": 3}"#,
        PromptError::WrongMissing { .. },
        "pairs.jsonl: line 1: no field `wrong` (or its alias `wrong_answers`), which this metric needs; add it, or \
         take a metric that reads only the answer (prob, logprob) or none (kl)"
    );
    assert_refused!(
        r#"{"clean": [1], "corrupted": [2], "answer": 3, "wrong": []}"#,
        PromptError::EmptyList { .. },
        "pairs.jsonl: line 1: wrong: an empty list, and this metric needs at least one token there"
    );
    let error = read("pairs.csv", "clean,label\nWhen,3\n").unwrap_err();
    assert!(error.to_string().starts_with("pairs.csv: line 1: no field `corrupted`"), "{error}");
}

#[test]
fn two_names_of_one_field() {
    assert_refused!(
        r#"{"clean": [1], "corrupted": [2], "corrupt": [3], "answer": 4, "wrong": 5}"#,
        PromptError::DuplicateField { .. },
        "pairs.jsonl: line 1: both `corrupted` and `corrupt`, two names of the same field; keep one"
    );
    assert!(matches!(
        refused(r#"{"clean": [1], "corrupted": [2], "answer": 4, "answers": [4], "wrong": 5}"#),
        PromptError::DuplicateField { .. }
    ));
    // The same name twice, of which a JSON reader would keep the last.
    let error = refused(r#"{"clean": [1], "clean": [2], "corrupted": [3], "answer": 4, "wrong": 5}"#);
    assert!(error.to_string().contains("the key \"clean\" appears twice"), "{error}");
    let error = read("pairs.csv", "clean,corrupted,clean\na,b,c\n").unwrap_err();
    assert!(matches!(error, PromptError::DuplicateField { .. }), "{error:?}");
}

#[test]
fn unequal_lengths_show_both_splits() {
    assert_refused!(
        &IOI.replace("and Mary gave", "and Jill gave"),
        PromptError::UnequalLengths { clean: 6, corrupted: 10, .. },
        "pairs.jsonl: line 1: clean has 6 tokens and corrupted 10; a pair needs the same number. \
         clean: <bos>|When|␣Mary|␣and|␣John|␣gave corrupted: <bos>|When|␣Mary|␣and|␣|J|i|l|l|␣gave"
    );
}

#[test]
fn identical_pairs() {
    assert_refused!(
        r#"{"clean": "When Mary", "corrupted": "When Mary", "answer": " to", "wrong": " and"}"#,
        PromptError::IdenticalPair { .. },
        "pairs.jsonl: line 1: clean and corrupted are the same tokens; there is nothing to patch"
    );
}

#[test]
fn prompts_of_another_kind_and_empty_ones() {
    let prompt = |clean: &str| format!(r#"{{"clean": {clean}, "corrupted": [2], "answer": 4, "wrong": 5}}"#);
    assert_refused!(
        &prompt("7"),
        PromptError::PromptType { .. },
        "pairs.jsonl: line 1: clean: 7; a prompt is a string or an array of token ids"
    );
    assert!(matches!(refused(&prompt("null")), PromptError::PromptType { .. }));
    assert!(matches!(refused(&prompt("{}")), PromptError::PromptType { .. }));
    for empty in ["\"\"", "[]"] {
        assert_refused!(
            &prompt(empty),
            PromptError::EmptyPrompt { .. },
            "pairs.jsonl: line 1: clean: empty; a prompt has at least one token of its own"
        );
    }
}

#[test]
fn ids_that_are_no_tokens_of_the_model() {
    let prompt = |id: &str| format!(r#"{{"clean": [1, {id}], "corrupted": [1, 2], "answer": 4, "wrong": 5}}"#);
    assert_refused!(
        &prompt("200"),
        PromptError::OutsideVocabulary { id: 200, .. },
        "pairs.jsonl: line 1: clean: token id 200 is outside the model's vocabulary of 200"
    );
    assert!(read("p.jsonl", &prompt("199")).is_ok());
    assert!(matches!(refused(&prompt("4294967297")), PromptError::OutsideVocabulary { .. }));
    assert!(matches!(refused(&prompt("18446744073709551615")), PromptError::OutsideVocabulary { .. }));
    for (id, shown) in
        [("-1", "-1"), ("1.0", "1.0"), ("1e30", "1e+30"), ("\"3\"", "the string \"3\""), ("[3]", "an array")]
    {
        assert_refused!(
            &prompt(id),
            PromptError::NotATokenId { .. },
            format!("pairs.jsonl: line 1: clean: {shown} is not a token id (a whole number, 0 or above)")
        );
    }
    let answer = |id: &str| format!(r#"{{"clean": [1, 3], "corrupted": [1, 2], "answer": {id}, "wrong": 5}}"#);
    assert!(matches!(refused(&answer("200")), PromptError::OutsideVocabulary { .. }));
    assert!(matches!(refused(&answer("-4")), PromptError::NotATokenId { .. }));

    // A tokenizer that knows more tokens than the model.
    let small = LoadOptions { d_vocab: 130, ..options() };
    let error = parse("p.jsonl", IOI.as_bytes(), Some(&words()), &small).unwrap_err();
    assert_eq!(
        error.to_string(),
        "p.jsonl: line 1: clean: token id 130 is outside the model's vocabulary of 130, and comes from the tokenizer; \
         is it the model's own?"
    );
}

#[test]
fn text_without_a_tokenizer() {
    let error = parse("pairs.jsonl", IOI.as_bytes(), None, &options()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pairs.jsonl: line 1: clean: text, but this model folder has no tokenizer.json: give token ids"
    );
    let answer = IDS.replace("5,", "\" Mary\",");
    let error = parse("pairs.jsonl", answer.as_bytes(), None, &options()).unwrap_err();
    assert!(matches!(error, PromptError::NoTokenizer { ref field, .. } if field == "answer"), "{error:?}");
}

#[test]
fn a_tokenizer_that_fails() {
    assert_refused!(
        &IOI.replace("When Mary and John", "When Mary ünd John"),
        PromptError::Tokenizer { .. },
        "pairs.jsonl: line 1: clean: the tokenizer failed: no token for 'ü'"
    );
}

#[test]
fn prompts_longer_than_the_model_takes() {
    let short = LoadOptions { n_ctx: Some(5), ..options() };
    let error = parse("pairs.jsonl", IOI.as_bytes(), Some(&words()), &short).unwrap_err();
    assert_eq!(error.to_string(), "pairs.jsonl: line 1: clean: 6 tokens, but this model takes at most 5");
}

#[test]
fn answers_of_several_tokens_show_their_pieces_and_a_way_out() {
    let answer = |text: &str| IOI.replace("\" Mary\", \"wrong\"", &format!("{text:?}, \"wrong\""));
    assert_refused!(
        &answer("Jane"),
        PromptError::MultiTokenAnswer { tokens: 4, .. },
        "pairs.jsonl: line 1: answer: \"Jane\" is 4 tokens (J|a|n|e), and an answer must be one; with a leading space, \
         \" Jane\", it is one"
    );
    assert_refused!(
        &answer(" When"),
        PromptError::MultiTokenAnswer { tokens: 2, .. },
        "pairs.jsonl: line 1: answer: \" When\" is 2 tokens (␣|When), and an answer must be one; without the leading \
         space, \"When\", it is one"
    );
    assert_refused!(
        &answer("Jo"),
        PromptError::MultiTokenAnswer { tokens: 2, .. },
        "pairs.jsonl: line 1: answer: \"Jo\" is 2 tokens (J|o), and an answer must be one; a leading space does not \
         help (␣|J|o): choose one that is a single token, or give its id"
    );
    assert!(matches!(refused(&answer("")), PromptError::EmptyAnswer { .. }));
    let nested = IDS.replace("[6, 7]", "[[6, 7]]");
    let error = refused(&nested);
    assert!(error.to_string().contains("wrong: a list of 2 within a list: an answer of several tokens"), "{error}");
    assert!(matches!(refused(&IDS.replace("5,", "true,")), PromptError::AnswerType { .. }));
}

#[test]
fn answers_that_collide() {
    assert_refused!(
        &IOI.replace("\" John\"", "[\" John\", \" Mary\"]"),
        PromptError::SharedAnswer { .. },
        "pairs.jsonl: line 1: token 130 (␣Mary) is both an answer and wrong"
    );
    assert_refused!(
        &IDS.replace("[6, 7]", "[6, 7, 6]"),
        PromptError::RepeatedAnswer { .. },
        "pairs.jsonl: line 1: wrong: token 6 (\\u{6}) is listed twice"
    );
}

#[test]
fn positions_that_cannot_be() {
    let positions = |value: &str| IDS.replace("\"answer\"", &format!("\"positions\": {value}, \"answer\""));
    assert_refused!(
        &positions("{\"S2\": 3}"),
        PromptError::PositionRange { .. },
        "pairs.jsonl: line 1: positions.S2: position 3 is outside the prompt, whose own tokens are 0 to 2"
    );
    assert!(matches!(refused(&positions("{\"S2\": -1}")), PromptError::PositionRange { .. }));
    assert!(matches!(refused(&positions("{\"S2\": 18446744073709551615}")), PromptError::PositionRange { .. }));
    assert_refused!(
        &positions("{\"S2\": 1.5}"),
        PromptError::PositionType { .. },
        "pairs.jsonl: line 1: positions.S2: 1.5; positions are an object of names and token positions, such as \
         {\"S2\": 9}"
    );
    assert!(matches!(refused(&positions("{\"S2\": \"last\"}")), PromptError::PositionType { .. }));
    assert!(matches!(refused(&positions("{\"S2\": null}")), PromptError::PositionType { .. }));
    assert!(matches!(refused(&positions("[1, 2]")), PromptError::PositionType { .. }));
    for name in ["", "7", "-1", "a,b", " S2"] {
        let error = refused(&positions(&format!("{{{name:?}: 1}}")));
        assert!(matches!(error, PromptError::PositionName { .. }), "{error:?}");
    }
    // The BOS that is put before does not count: 4 is the last own token of five.
    let text = |at| IOI.replace("\"answer\"", &format!("\"positions\": {{\"end\": {at}}}, \"answer\""));
    assert_eq!(pairs(&text(4)).pairs[0].positions["end"], 5);
    assert!(matches!(refused(&text(5)), PromptError::PositionRange { .. }));
}

#[test]
fn documents_too_large_to_parse_in_one_piece() {
    let huge = format!("{{\"clean\": \"{}\"}}", "x".repeat(33 << 20));
    assert!(matches!(read("p.jsonl", &huge), Err(PromptError::DocumentTooLarge { .. })));
    assert!(matches!(read("p.json", &huge.replacen('{', "{\n", 1)), Err(PromptError::DocumentTooLarge { .. })));
}

#[test]
fn messages_stay_short_and_printable() {
    let error = refused(&format!("{{\"clean\": [\"\\u001b[31m{}\"], \"corrupted\": [1]}}", "x".repeat(100_000)));
    let message = error.to_string();
    assert!(message.len() < 300 && !message.chars().any(char::is_control), "{message}");
}

proptest! {
    /// Any few bytes of a good file changed: pairs that hold what they promise, or an error of one line.
    #[test]
    fn damaged_files_are_errors_and_never_panics(
        file in 0..3_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cutting in any::<bool>(),
    ) {
        let positions = IOI.replace("\"answer\"", "\"positions\": {\"S2\": 3}, \"answer\"");
        let (name, text) = match file {
            0 => ("p.jsonl", format!("{positions}\n{IDS}\n")),
            1 => ("p", format!("{{\n\"word_idxs\": {{\"IO\": 1}}, \"prompts\": [{positions}, {IDS}]}}")),
            _ => ("p.csv", "clean,corrupted,correct_idx,incorrect_idx\n\"When, 13\",\"When, 14\",3,\"[4, 5]\"\n".into()),
        };
        let bytes = damage(text, &edits, cutting.then_some(cut));
        match parse(name, &bytes, Some(&words()), &options()) {
            Ok(set) => for pair in &set.pairs {
                prop_assert_eq!(pair.clean.len(), pair.corrupted.len());
                prop_assert!(pair.first_difference() < pair.len());
                prop_assert!(!pair.answers.is_empty() && !pair.wrong.is_empty());
                prop_assert!(pair.positions.values().all(|&at| at < pair.len()));
                prop_assert!(pair.clean.iter().chain(&pair.corrupted).chain(&pair.answers).all(|&id| id < 200));
            },
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
        }
    }
}

fn damage(text: String, edits: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    for (at, byte) in edits {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if let Some(cut) = cut {
        let len = cut.index(bytes.len());
        bytes.truncate(len);
    }
    bytes
}

// ---- positions and axes

/// Two pairs of 3 and 5 tokens; both name S2, the longer one X too.
fn uneven() -> PromptSet {
    pairs(
        "{\"clean\": [1, 2, 3], \"corrupted\": [1, 4, 3], \"answer\": 5, \"wrong\": 6, \"positions\": {\"S2\": 1}}\n\
         {\"clean\": [1, 2, 7, 8, 3], \"corrupted\": [1, 2, 9, 8, 3], \"answer\": 5, \"wrong\": 6, \
          \"positions\": {\"S2\": 2, \"X\": 0}}\n",
    )
}

#[test]
fn selected_positions_point_into_every_pair() {
    let set = uneven();
    let selectors = Selector::parse_list("S2, end,3,-1,-4").unwrap();
    assert_eq!(
        resolve_positions(&set, &selectors).unwrap(),
        [
            [Some(1), Some(2)],
            [Some(2), Some(4)],
            [None, Some(3)], // beyond the shorter pair
            [Some(2), Some(4)],
            [None, Some(1)],
        ]
    );
    assert_eq!(selectors.iter().map(Selector::to_string).collect::<Vec<_>>(), ["S2", "end", "3", "-1", "-4"]);
}

#[test]
fn end_can_be_a_name_of_the_file() {
    let set = pairs(&IDS.replace("\"answer\"", "\"positions\": {\"end\": 1}, \"answer\""));
    assert_eq!(resolve_positions(&set, &[Selector::Name("end".into())]).unwrap(), [[Some(1)]]);
}

#[test]
fn a_position_name_that_some_pair_lacks() {
    let error = resolve_positions(&uneven(), &[Selector::Name("X".into())]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--positions \"X\": the pair at pairs.jsonl: line 1 has no position of that name; it has \"S2\""
    );
}

#[test]
fn a_position_beyond_every_pair() {
    for position in [5, -6, i64::MIN, i64::MAX] {
        let error = resolve_positions(&uneven(), &[Selector::At(position)]).unwrap_err();
        assert!(matches!(error, PromptError::PositionBeyond { longest: 5, .. }), "{error:?}");
    }
}

#[test]
fn a_list_of_positions_that_says_nothing() {
    for list in ["", "S2,,end", "99999999999999999999"] {
        let error = Selector::parse_list(list).unwrap_err();
        assert!(matches!(error, PromptError::Selector { .. }), "{error:?}");
    }
    assert_eq!(Selector::parse_list("IO-1").unwrap(), [Selector::Name("IO-1".into())]);
}

#[test]
fn the_position_axis_is_as_long_as_the_longest_pair() {
    let set = uneven();
    let start = PositionAxis::new(&set, Align::Start);
    let end = PositionAxis::new(&set, Align::End);
    assert_eq!((start.len, end.len), (5, 5));
    let columns = |axis: PositionAxis, len| (0..5).map(|c| axis.position(c, len)).collect::<Vec<_>>();
    assert_eq!(columns(start, 3), [Some(0), Some(1), Some(2), None, None]);
    assert_eq!(columns(end, 3), [None, None, Some(0), Some(1), Some(2)]);
    for axis in [start, end] {
        for len in [1, 3, 5] {
            for position in 0..len {
                let column = axis.column(position, len).unwrap();
                assert_eq!(axis.position(column, len), Some(position));
            }
            assert_eq!(axis.column(len, len), None);
        }
    }
}

#[test]
fn columns_are_labelled_by_the_token_that_all_pairs_share() {
    let set = uneven();
    assert_eq!(position_labels(&set, None, Align::Start), ["1_0", "2_1", "pos_2", "8_3", "3_4"]);
    assert_eq!(position_labels(&set, None, Align::End), ["1_0", "2_1", "end-2", "end-1", "3_4"]);
    let text = pairs(&IOI.replace("gave", "gave\\n"));
    assert_eq!(
        position_labels(&text, Some(&words()), Align::Start),
        ["<bos>_0", "When_1", "␣Mary_2", "␣and_3", "␣John_4", "␣gave_5", "⏎_6"]
    );
}

/// What reads activations needs no pair: a record may have its clean prompt alone, under any of three names.
#[test]
fn a_prompt_may_stand_alone_where_no_pair_is_needed() {
    let alone = LoadOptions { needs_corrupted: false, needs_answer: false, needs_wrong: false, ..options() };
    let lines = "{\"clean\": [1, 2]}\n{\"prompt\": [3], \"kind\": \"b\"}\n{\"text\": [4, 5, 6]}\n";
    let set = parse("p.jsonl", lines.as_bytes(), None, &alone).expect("three prompts");
    let ids: Vec<&[u32]> = set.pairs.iter().map(|p| &p.clean[..]).collect();
    assert_eq!(ids, [&[1, 2][..], &[3], &[4, 5, 6]]);
    assert!(set.pairs.iter().all(|p| p.corrupted.is_empty()));
    assert_eq!(set.pairs[1].labels.keys().collect::<Vec<_>>(), ["kind"]);
    // With a corrupted prompt it is a pair, and held to what pairs must be.
    let error = parse("p.jsonl", b"{\"text\": [1], \"corrupted\": [2, 3]}", None, &alone).unwrap_err().to_string();
    assert!(error.contains("clean has 1 tokens and corrupted 2"), "{error}");
    for (line, field) in
        [("{\"x\": 1}", "`clean`"), ("{\"text\": [1], \"prompt\": [1]}", "two names of the same field")]
    {
        let error = parse("p.jsonl", line.as_bytes(), None, &alone).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    // Where a pair is needed, `text` is a label like any other.
    let error = parse("p.jsonl", b"{\"text\": [1]}", None, &options()).unwrap_err().to_string();
    assert!(error.contains("no field `clean`") && error.contains("\"text\""), "{error}");
}

//! MIB's data, as parquet and as JSON: prompts, answers, counterfactuals, and files that are not what they should be.
//!
//! The files of `tests/fixtures/mib` are ours, in MIB's layout (`make_mib.py`).

use patchwave::prompts::{BosPolicy, Encode, Format, LoadOptions, PromptError, PromptSet, parse_choosing};
use proptest::prelude::*;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// Every word, with the space before it, is a token; so is every other character.
struct Words(RefCell<Vec<String>>);

impl Encode for Words {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let (mut ids, mut rest) = (Vec::new(), text);
        while let Some(first) = rest.chars().next() {
            let spaced = usize::from(first == ' ');
            let letters = rest[spaced..].bytes().take_while(u8::is_ascii_alphanumeric).count();
            let (piece, after) = rest.split_at(if letters > 0 { spaced + letters } else { first.len_utf8() });
            let mut pieces = self.0.borrow_mut();
            let at = pieces.iter().position(|known| known == piece).unwrap_or_else(|| {
                pieces.push(piece.to_owned());
                pieces.len() - 1
            });
            ids.push(at as u32);
            rest = after;
        }
        Ok(ids)
    }

    fn bos(&self) -> Option<u32> {
        None
    }

    fn piece(&self, id: u32) -> Option<String> {
        self.0.borrow().get(id as usize).cloned()
    }
}

fn words() -> Words {
    Words(RefCell::new(Vec::new()))
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mib").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("a fixture")
}

fn parse(name: &str, bytes: &[u8], words: &Words, chosen: Option<&str>) -> Result<PromptSet, PromptError> {
    let options = LoadOptions {
        bos: BosPolicy::Auto,
        d_vocab: 1000,
        n_ctx: None,
        needs_wrong: true,
        needs_answer: true,
        needs_corrupted: true,
    };
    parse_choosing(name, bytes, Some(words), &options, chosen)
}

fn read(name: &str, chosen: Option<&str>) -> (PromptSet, Words) {
    let words = words();
    let set = parse(name, &bytes(name), &words, chosen).unwrap_or_else(|e| panic!("{name}: {e}"));
    (set, words)
}

fn text(words: &Words, ids: &[u32]) -> String {
    ids.iter().map(|id| words.piece(*id).expect("a token")).collect()
}

#[test]
fn ioi_takes_the_flip_and_the_names_of_the_metadata() {
    let (set, words) = read("ioi.parquet", None);
    assert_eq!((set.format, set.pairs.len()), (Format::Parquet, 3));
    let pair = &set.pairs[0];
    assert_eq!(text(&words, &pair.clean), "When Mary and John met at the store, John gave a book to");
    assert_eq!(text(&words, &pair.corrupted), "When Mary and John met at the store, Mary gave a book to");
    assert_eq!((text(&words, &pair.answers), text(&words, &pair.wrong)), (" Mary".into(), " John".into()));
    assert_eq!(pair.labels["counterfactual"], "s2_io_flip");
    assert_eq!(pair.labels["metadata"]["random_c"], "Paul");
    assert!(pair.labels.keys().all(|name| !name.ends_with("_counterfactual")), "{:?}", pair.labels);
    let at = set.location(&set.pairs[2]).to_string();
    assert_eq!(at, "ioi.parquet: entry [4]", "rows are counted as they stand in the file");
}

#[test]
fn rows_that_do_not_fit_are_counted_and_told() {
    let (set, _) = read("ioi.parquet", None);
    assert_eq!((set.left_out.no_counterfactual, set.left_out.unequal_lengths, set.left_out.total()), (1, 1, 2));
    let said = set.left_out.say().expect("two were left out");
    assert_eq!(said, "2 rows left out: 1 without the counterfactual, 1 of unequal token lengths");
    let (other, _) = read("ioi.parquet", Some("abc"));
    assert_eq!(other.left_out.say().expect("one"), "1 row left out: 1 with an answer of several tokens");
    assert_eq!(set.bos.none, 6, "what is told of the prompts is told of those that are used");
    let (sums, _) = read("arithmetic.parquet", None);
    assert_eq!(sums.left_out.say().expect("3 + 3 is 1 + 5"), "1 row left out: 1 with the same right and wrong answer");
    let (whole, _) = read("mcqa.parquet", None);
    assert_eq!(whole.left_out.say(), None);
}

#[test]
fn another_counterfactual_by_its_name_with_and_without_the_ending() {
    for name in ["abc", "abc_counterfactual"] {
        let (set, words) = read("ioi.parquet", Some(name));
        assert_eq!(text(&words, &set.pairs[0].corrupted), "When Mary and John met at the store, Paul gave a book to");
        assert_eq!(set.pairs[0].labels["counterfactual"], "abc");
        assert_eq!(set.pairs.len(), 4, "the third row has this one");
    }
}

#[test]
fn json_and_parquet_hold_the_same() {
    let (parquet, a) = read("ioi.parquet", None);
    let (json, b) = read("ioi.json", None);
    assert_eq!((json.format, parquet.left_out), (Format::Json, json.left_out));
    let shown = |set: &PromptSet, words: &Words| -> Vec<_> {
        set.pairs.iter().map(|p| (text(words, &p.clean), text(words, &p.corrupted), p.labels.clone())).collect()
    };
    assert_eq!(shown(&parquet, &a), shown(&json, &b));
    // One row a line is the same, too.
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&bytes("ioi.json")).expect("JSON");
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let jsonl = parse("ioi.jsonl", lines.as_bytes(), &words(), None).expect("pairs");
    assert_eq!((jsonl.format, jsonl.hash), (Format::Jsonl, json.hash));
}

#[test]
fn multiple_choice_reads_the_symbols() {
    let (set, words) = read("mcqa.parquet", None);
    let pair = &set.pairs[0];
    assert_eq!(text(&words, &pair.clean), "Question: A box is red. What color is a box?\nA. blue\nB. red\nAnswer:");
    assert_eq!((text(&words, &pair.answers), text(&words, &pair.wrong)), ("B".into(), "Y".into()));
    assert_eq!(pair.labels["counterfactual"], "symbol");
}

#[test]
fn arithmetic_reads_the_labels() {
    let (set, words) = read("arithmetic.parquet", None);
    let shown = |ids: &[u32]| text(&words, ids);
    let pair = &set.pairs[1];
    assert_eq!(
        (shown(&pair.clean), shown(&pair.corrupted)),
        ("The sum of 1 and 6 is".into(), "The sum of 2 and 2 is".into())
    );
    assert_eq!((shown(&pair.answers), shown(&pair.wrong)), (" 7".into(), " 4".into()));
    assert_eq!(pair.labels["operand2"], 6);
}

#[test]
fn an_unknown_counterfactual_lists_those_that_are_there() {
    let error = parse("ioi.parquet", &bytes("ioi.parquet"), &words(), Some("s1_io_flip")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--counterfactual: ioi.parquet: entry [0] has no \"s1_io_flip\"; it has abc, s2_io_flip"
    );
}

#[test]
fn a_counterfactual_of_files_that_have_none() {
    let pair = r#"{"clean": [1, 2], "corrupted": [1, 3], "answer": 1, "wrong": 2}"#;
    for (name, text) in [("p.jsonl", pair), ("p.csv", "clean,corrupted\na,b\n")] {
        let error = parse(name, text.as_bytes(), &words(), Some("abc")).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("--counterfactual: {name} has no counterfactuals to choose from; only MIB's data has")
        );
    }
}

#[test]
fn several_counterfactuals_without_a_default_must_be_chosen_from() {
    let row = r#"{"prompt": "a b", "label": "c", "x_counterfactual": null, "y_counterfactual": null}"#;
    let error = parse("p.jsonl", row.as_bytes(), &words(), None).unwrap_err().to_string();
    assert_eq!(error, "p.jsonl: line 1: several counterfactuals; choose one with --counterfactual: x, y");
}

#[test]
fn a_file_of_which_nothing_can_be_used() {
    let row = r#"{"prompt": "a b", "label": "c", "x_counterfactual": {"prompt": "a b c", "label": "d"}}"#;
    let error = parse("p.jsonl", row.as_bytes(), &words(), None).unwrap_err().to_string();
    assert_eq!(error, "p.jsonl: no pair can be used: 1 row left out: 1 of unequal token lengths");
}

#[test]
fn a_truncated_parquet_file() {
    let whole = bytes("ioi.parquet");
    for len in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        let error = parse("ioi.parquet", &whole[..len], &words(), None).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("ioi.parquet: not a parquet file that can be read: "), "{said}");
        assert!(said.len() < 400 && error.exit_code() == 2, "{said}");
    }
}

#[test]
fn a_compression_that_is_not_read() {
    let error = parse("z.parquet", &bytes("zstd.parquet"), &words(), None).unwrap_err().to_string();
    assert!(error.contains("is compressed with ZSTD") && error.contains("write it with snappy or none"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever stands in the file, it is pairs or one error.
    #[test]
    fn damaged_parquet_is_an_error_and_never_panics(
        file in prop::sample::select(vec!["ioi.parquet", "mcqa.parquet", "arithmetic.parquet"]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        footer in any::<bool>(),
    ) {
        let mut bytes = bytes(file);
        let len = bytes.len();
        for (at, byte) in edits {
            // The footer tells sizes, counts and places; the rest is pages behind their headers.
            let at = if footer { len - 1 - at.index(len / 2) } else { at.index(len) };
            bytes[at] = byte;
        }
        if let Err(error) = parse(file, &bytes, &words(), None) {
            prop_assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}

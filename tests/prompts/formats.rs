//! Formats: JSONL, auto-circuit JSON, EAP-IG CSV; writing and hashing.

use crate::*;

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

//! Wrong files: the error names file, line and field.

use crate::*;

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

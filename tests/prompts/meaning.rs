//! What a line means.

use crate::*;

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

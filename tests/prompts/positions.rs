//! Positions by name and number, and the axis of columns.

use crate::*;

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

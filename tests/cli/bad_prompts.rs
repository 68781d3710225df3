//! Prompts that cannot be used: each is one line that names the file and the line, exit code 2, and nothing is written.

use crate::scene::{Scene, pair, pairs_of_lengths, word_tokenizer};
use serde_json::{Value, json};

/// A good pair, then this one.
fn second_pair(bad: Value) -> Scene {
    let scene = Scene::new("gpt2");
    scene.pairs(&[pair(&[1, 2, 3], &[1, 4, 3]), bad]);
    scene
}

/// The model with a tokenizer of words, and one pair of text.
fn text_pair(pair: Value) -> Scene {
    let scene = Scene::new("gpt2");
    scene.config(|c| drop(c.remove("bos_token_id")));
    scene.write("model/tokenizer.json", word_tokenizer(&["?", "the", "cat", "dog", "sat", "ran", "away"]));
    scene.pairs(&[pair]);
    scene
}

#[test]
fn unequal_lengths() {
    let scene = second_pair(pair(&[1, 2, 3], &[1, 2, 3, 4]));
    scene.sweep_refused("", &["pairs.jsonl: line 2", "clean has 3 tokens and corrupted 4"]);
    let scene = text_pair(json!({"clean": "the cat sat", "corrupted": "the cat", "answer": "ran", "wrong": "sat"}));
    scene.sweep_refused("", &["line 1", "clean has 3 tokens and corrupted 2", "cat"]);
}

#[test]
fn answer_of_several_tokens() {
    let bad = json!({"clean": "the cat", "corrupted": "the dog", "answer": " ran away", "wrong": " sat"});
    text_pair(bad).sweep_refused("", &["line 1", "answer", "ran away", "2 tokens"]);
}

#[test]
fn identical_pair() {
    second_pair(pair(&[1, 2, 3], &[1, 2, 3])).sweep_refused("", &["line 2", "same tokens"]);
}

#[test]
fn id_outside_the_vocabulary() {
    second_pair(pair(&[1, 67, 3], &[1, 2, 3])).sweep_refused("", &["line 2", "clean", "67", "vocabulary of 67"]);
    let bad = json!({"clean": [1, 2], "corrupted": [3, 2], "answer": 4_000_000_000_u64, "wrong": 1});
    second_pair(bad).sweep_refused("", &["line 2", "answer", "4000000000", "vocabulary"]);
}

#[test]
fn negative_id() {
    let bad = json!({"clean": [1, -2], "corrupted": [3, 2], "answer": 4, "wrong": 1});
    second_pair(bad).sweep_refused("", &["line 2", "clean", "-2", "not a token id"]);
}

#[test]
fn empty_file() {
    let scene = Scene::new("gpt2");
    for nothing in ["", "\n\n"] {
        scene.write("pairs.jsonl", nothing);
        scene.sweep_refused("", &["pairs.jsonl", "no prompt pairs"]);
    }
}

#[test]
fn invalid_json() {
    let scene = Scene::new("gpt2");
    scene.write("pairs.jsonl", format!("{}\n\n{{\"clean\": [1, 2\n", pair(&[1, 2], &[1, 3])));
    scene.sweep_refused("", &["pairs.jsonl: line 3", "invalid JSON"]);
}

#[test]
fn missing_field() {
    for field in ["clean", "corrupted", "answer"] {
        let mut bad = pair(&[1, 2, 3], &[1, 4, 3]);
        bad.as_object_mut().expect("an object").remove(field);
        second_pair(bad).sweep_refused("", &["line 2", &format!("no field `{field}`")]);
    }
}

#[test]
fn missing_wrong_for_logit_diff() {
    let bad = json!({"clean": [1, 2, 3], "corrupted": [1, 4, 3], "answer": 5});
    let scene = second_pair(bad);
    scene.sweep_refused("", &["line 2", "no field `wrong`", "prob"]);
    scene.sweep_refused("--metric prob_diff", &["no field `wrong`"]);
    scene.sweep("--metric prob").ok();
}

#[test]
fn prompt_longer_than_the_model_allows() {
    let scene = Scene::new("gpt2");
    scene.pairs(&pairs_of_lengths(&[16, 17]));
    scene.sweep_refused("", &["line 2", "17 tokens", "at most 16"]);
}

#[test]
fn text_without_a_tokenizer() {
    let bad = json!({"clean": "the cat", "corrupted": "the dog", "answer": " sat", "wrong": " ran"});
    second_pair(bad).sweep_refused("", &["line 2", "clean", "no tokenizer.json", "token ids"]);
}

#[test]
fn prompts_that_are_not_there() {
    let scene = Scene::new("gpt2");
    scene.refused("sweep --model model --prompts none.jsonl --output run", &["none.jsonl", "cannot read"]);
    scene.refused("sweep --model model --prompts model --output run", &["model", "cannot read"]);
}

#[test]
fn named_position_that_a_pair_lacks() {
    let scene = Scene::new("gpt2");
    scene.sweep_refused("--by head,pos --positions S2", &["line 1", "S2"]);
    scene.sweep_refused("--by head,pos --positions 6", &["6"]);
    scene.sweep_refused("--by head,pos --positions end,,1", &["end,,1"]);
}

//! `probe`: from labels to directions, and what it refuses.

use crate::scene::{Scene, pair, pairs_of_lengths, safetensors_file};
use patchwave::demo;
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// The demo's pairs with a label: the half of the alphabet that the first key is in.
pub fn demo_with_labels() -> String {
    let line = |line: &str| {
        let mut record: Value = serde_json::from_str(line).expect("a pair");
        let words: Vec<&str> = record["clean"].as_str().expect("text").split(' ').collect();
        let half = if words[3] < "k" { "first" } else { "second" };
        record["half"] = json!(half);
        format!("{record}\n")
    };
    demo::PAIRS.lines().map(line).collect()
}

/// Twenty pairs whose third token is 7 where the label is "seven", and else 11; a number, too.
fn labelled(scene: &Scene) -> Vec<Value> {
    let mut pairs = pairs_of_lengths(&[6; 20]);
    for (i, p) in pairs.iter_mut().enumerate() {
        let seven = i % 2 == 0;
        p["clean"][2] = json!(if seven { 7 } else { 11 });
        p["corrupted"][2] = json!(13);
        p["third"] = json!(if seven { "seven" } else { "eleven" });
        p["size"] = json!(if seven { 2.5 } else { 1.0 });
    }
    scene.pairs(&pairs);
    pairs
}

const PROBE: &str = "probe --model model --prompts pairs.jsonl --output out";

fn scene() -> Scene {
    let scene = Scene::new("gpt2");
    labelled(&scene);
    scene
}

fn refused(scene: &Scene, args: &str, words: &[&str]) {
    scene.refused(args, words);
}

#[test]
fn a_token_is_read_at_its_position_and_not_before() {
    let scene = scene();
    scene.run(&format!("{PROBE} --label third --sites resid_pre,resid_post --layers 0-1 --no-standardize")).ok();
    let found = scene.json("out/probe.json");
    let site = &found["sites"][0];
    assert_eq!(site["site"], "resid_pre");
    assert_eq!(site["score"][0][2], 1.0, "at the token itself");
    assert!(site["score"][0][1].as_f64().unwrap() < 0.9, "before it: {}", site["score"][0]);
    assert_eq!(site["score"][2][2], Value::Null, "layer 2 was not asked for");
    assert_eq!((&found["classes"], &found["kind"]), (&json!(["eleven", "seven"]), &json!("logistic")));
    assert_eq!(found["fold"].as_array().map(Vec::len), Some(20));
    // The direction leads to the second class: from the embedding of 11 to that of 7.
    let bytes = scene.read("out/directions.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let resid = file.tensor("resid_pre").unwrap();
    assert_eq!((resid.shape(), file.len()), (&[3, 6, 24][..], 2));
    let numbers: Vec<f32> = resid.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert!(numbers.iter().all(|x| x.is_finite()) && numbers[2 * 6 * 24..].iter().all(|x| *x == 0.0));
    let model = scene.read("model/model.safetensors");
    let model = SafeTensors::deserialize(&model).unwrap();
    let name = model.names().into_iter().find(|n| n.ends_with("wte.weight")).expect("an embedding").to_owned();
    let table = model.tensor(&name).unwrap();
    let row = |token: usize| -> Vec<f32> {
        let data = &table.data()[token * 24 * 4..][..24 * 4];
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let apart: Vec<f32> = row(7).iter().zip(row(11)).map(|(a, b)| a - b).collect();
    let direction = &numbers[2 * 24..3 * 24];
    for (found, apart) in direction.iter().zip(&apart) {
        assert!((found - apart).abs() < 1e-3, "{found} and {apart}");
    }
}

/// One position has no axis; numbers are ridge's; the same from a capture as from the model.
#[test]
fn from_a_capture_as_from_the_model() {
    let scene = scene();
    let direct = scene.run(&format!("{PROBE} --label size --sites z --positions 2")).ok();
    let capture = "capture --model model --prompts pairs.jsonl --sites z --positions 2 --output acts.safetensors";
    scene.run(capture).ok();
    let again = scene.run("probe --activations acts.safetensors --label size --output from-file").ok();
    assert_eq!(direct.out.replace("out/", "from-file/"), again.out);
    assert_eq!(scene.read("out/directions.safetensors"), scene.read("from-file/directions.safetensors"));
    assert_eq!(scene.json("from-file/probe.json")["score"], "R²");
    let bytes = scene.read("out/directions.safetensors");
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("z").unwrap().shape(), [3, 24]);
    scene.run("probe --activations acts.safetensors --label third --prompts pairs.jsonl --output labels").ok();
}

#[test]
fn label_missing_in_pair_17() {
    let scene = scene();
    let mut pairs = labelled(&scene);
    pairs[17].as_object_mut().unwrap().remove("third");
    scene.pairs(&pairs);
    refused(&scene, &format!("{PROBE} --label third"), &["pairs.jsonl: line 18", "\"third\"", "\"size\""]);
    scene.run("capture --model model --prompts pairs.jsonl --sites z --output acts.safetensors").ok();
    let file = "probe --activations acts.safetensors --label third --output out";
    refused(&scene, file, &["acts.safetensors: pair 17 (from 0)", "\"third\""]);
}

#[test]
fn single_class() {
    let scene = scene();
    let mut pairs = labelled(&scene);
    pairs.iter_mut().for_each(|p| p["third"] = json!("seven"));
    scene.pairs(&pairs);
    refused(&scene, &format!("{PROBE} --label third"), &["same label", "seven"]);
}

#[test]
fn fewer_examples_than_folds() {
    let scene = scene();
    refused(&scene, &format!("{PROBE} --label third --folds 11"), &["10 pairs", "11 folds"]);
    refused(&scene, &format!("{PROBE} --label size --folds 21"), &["20 pairs", "21 folds"]);
    refused(&scene, &format!("{PROBE} --label size --folds 1"), &["--folds 1"]);
}

#[test]
fn penalty_that_is_none() {
    for l2 in ["0", "-1", "NaN", "inf"] {
        refused(&scene(), &format!("{PROBE} --label third --l2={l2}"), &["--l2", "positive"]);
    }
}

#[test]
fn sites_that_a_probe_cannot_read() {
    let scene = scene();
    refused(&scene, &format!("{PROBE} --label third --sites zz"), &["\"zz\"", "resid_pre"]);
    refused(&scene, &format!("{PROBE} --label third --sites pattern"), &["pattern", "matrices"]);
    scene.run("capture --model model --prompts pairs.jsonl --sites z,pattern --output acts.safetensors").ok();
    let file = "probe --activations acts.safetensors --label third --output out";
    refused(&scene, &format!("{file} --sites resid_post"), &["resid_post", "it has z"]);
    refused(&scene, &format!("{file} --sites pattern"), &["pattern", "matrices"]);
}

#[test]
fn prompts_of_different_lengths_need_positions() {
    let scene = scene();
    let mut pairs = labelled(&scene);
    pairs[3] = pair(&[1, 2, 3, 4], &[1, 2, 5, 4]);
    pairs[3]["third"] = json!("seven");
    scene.pairs(&pairs);
    refused(&scene, &format!("{PROBE} --label third"), &["--positions end"]);
    scene.run("capture --model model --prompts pairs.jsonl --sites z --output acts.safetensors").ok();
    refused(&scene, "probe --activations acts.safetensors --label third --output out", &["--positions end"]);
    scene.run(&format!("{PROBE} --label third --positions end")).ok();
}

#[test]
fn activations_that_are_not_finite_name_tensor_and_pair() {
    let scene = scene();
    scene.run("capture --model model --prompts pairs.jsonl --sites z --output acts.safetensors").ok();
    let mut bytes = scene.read("acts.safetensors");
    let at = {
        let (header, about) = SafeTensors::read_metadata(&bytes).unwrap();
        let one = about.info("clean.blocks.1.attn.hook_z").unwrap();
        8 + header + one.data_offsets.0 + 4 * (5 * 6 * 24 + 30)
    };
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    scene.write("acts.safetensors", bytes);
    let args = "probe --activations acts.safetensors --label third --output out";
    refused(&scene, args, &["clean.blocks.1.attn.hook_z", "pair 5", "not finite"]);
}

#[test]
fn activations_that_are_no_capture() {
    let scene = scene();
    let args = "probe --activations acts.safetensors --label third --output out";
    refused(&scene, args, &["acts.safetensors", "cannot read"]);
    scene.write("acts.safetensors", "not safetensors at all");
    refused(&scene, args, &["acts.safetensors", "safetensors file"]);
    scene.write("acts.safetensors", safetensors_file(&Default::default()));
    refused(&scene, args, &["acts.safetensors", "patchwave capture"]);
    scene.run("capture --model model --prompts pairs.jsonl --sites z --output whole").ok();
    let whole = scene.read("whole");
    scene.write("acts.safetensors", &whole[..whole.len() - 100]);
    refused(&scene, args, &["acts.safetensors", "truncated"]);
    scene.write("fewer.jsonl", "{\"text\": \"x\", \"third\": \"seven\"}\n");
    refused(&scene, "probe --activations whole --prompts fewer.jsonl --label third --output out", &["1 pairs", "20"]);
}

#[test]
fn output_that_exists() {
    let scene = scene();
    scene.write("out", "mine");
    refused(&scene, &format!("{PROBE} --label third"), &["out", "there already"]);
}

#[test]
fn ridge_of_words() {
    let scene = scene();
    refused(&scene, &format!("{PROBE} --label third --kind ridge"), &["line 1", "third", "--kind logistic"]);
}

//! `capture`: what it writes, and what it refuses.

use crate::scene::{Scene, Tensors, pair, pairs_of_lengths, tensor};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::process::Command;

const CAPTURE: &str = "capture --model model --prompts pairs.jsonl --output acts.safetensors";

fn refused(scene: &Scene, more: &str, words: &[&str]) {
    scene.refused(&format!("{CAPTURE} {more}"), words);
}

/// Shape and bytes of a tensor of the capture.
fn stored(scene: &Scene, name: &str) -> (Vec<usize>, Vec<u8>) {
    let bytes = scene.read("acts.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let t = file.tensor(name).unwrap_or_else(|_| panic!("no {name} in {:?}", file.names()));
    (t.shape().to_vec(), t.data().to_vec())
}

#[test]
fn every_tensor_has_its_documented_shape() {
    let scene = Scene::new("gpt2");
    scene.run(&format!("{CAPTURE} --sites logits,z,resid_post,attn_scores,mlp_post --layers 1-2")).ok();
    let shape = |name: &str| stored(&scene, name).0;
    assert_eq!(shape("clean.logits"), [3, 6, 67]);
    assert_eq!(shape("corrupted.blocks.1.attn.hook_z"), [3, 6, 4, 6]);
    assert_eq!(shape("clean.blocks.2.hook_resid_post"), [3, 6, 24]);
    assert_eq!(shape("clean.blocks.2.attn.hook_attn_scores"), [3, 4, 6, 6]);
    assert_eq!(shape("clean.blocks.1.mlp.hook_post"), [3, 6, 96]);
    assert_eq!(shape("input_ids.corrupted"), [3, 6]);
    let bytes = scene.read("acts.safetensors");
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let about = header.metadata().clone().expect("metadata");
    assert_eq!(
        (about["sites"].as_str(), about["layers"].as_str()),
        (r#"["logits","z","resid_post","attn_scores","mlp_post"]"#, "[1,2]")
    );
    assert_eq!(about["model_sha256"].len(), 64);
    assert!(about["bos"].contains("given_as_ids"), "{about:?}");
    assert!(header.info("clean.blocks.0.attn.hook_z").is_none(), "--layers leaves it out");
}

#[test]
fn prompts_of_different_lengths_are_packed() {
    let scene = Scene::new("gpt2");
    scene.pairs(&pairs_of_lengths(&[6, 4, 5]));
    scene.run(&format!("{CAPTURE} --sites z,pattern")).ok();
    assert_eq!(stored(&scene, "clean.blocks.0.attn.hook_z").0, [15, 4, 6]);
    assert_eq!(stored(&scene, "clean.blocks.0.attn.hook_pattern").0, [4 * (36 + 16 + 25)]);
    let offsets: Vec<u8> = [0i64, 6, 10, 15].iter().flat_map(|n| n.to_le_bytes()).collect();
    assert_eq!(stored(&scene, "row_offsets"), (vec![4], offsets));
}

#[test]
fn max_memory_changes_no_bit_and_too_little_is_refused() {
    let scene = Scene::new("gpt2");
    scene.pairs(&pairs_of_lengths(&[9; 30]));
    scene.run(&format!("{CAPTURE} --sites logits,z")).ok();
    let whole = scene.read("acts.safetensors");
    std::fs::remove_file(scene.path("acts.safetensors")).unwrap();
    let args = format!("{CAPTURE} --sites logits,z --max-memory 1");
    let said = scene.run(&args).failed(2, &["--max-memory 1 bytes", "at least"]);
    let least: u64 = said.err.split_once("at least ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    scene.run(&format!("{CAPTURE} --sites logits,z --max-memory {least}")).ok();
    assert!(scene.read("acts.safetensors") == whole);
}

#[test]
fn plain_prompts_need_no_pair_and_keep_their_labels() {
    let scene = Scene::new("gpt2");
    scene.pairs(&[
        json!({"clean": [1, 2, 3], "kind": "a"}),
        json!({"prompt": [4, 5, 6], "kind": "b"}),
        json!({"text": [7, 8, 9]}),
    ]);
    scene.run(&format!("{CAPTURE} --sites resid_post")).ok();
    assert_eq!(stored(&scene, "clean.blocks.0.hook_resid_post").0, [3, 3, 24]);
    let labels: Value = serde_json::from_slice(&stored(&scene, "labels").1).expect("JSON");
    assert_eq!(labels, json!([{"kind": "a"}, {"kind": "b"}, {}]));
    std::fs::remove_file(scene.path("acts.safetensors")).unwrap();
    refused(&scene, "--sites resid_post --run both", &["line 1", "corrupted", "--run clean"]);
    scene.pairs(&[pair(&[1, 2, 3], &[1, 5, 3]), json!({"text": [7, 8, 9]})]);
    refused(&scene, "--sites resid_post", &["line 2", "corrupted", "--run clean"]);
    // A sweep still needs the pair.
    scene.sweep_refused("", &["line 2", "clean"]);
}

#[test]
fn unknown_site() {
    refused(&Scene::new("gpt2"), "--sites zz", &["\"zz\"", "logits", "resid_pre"]);
}

#[test]
fn site_that_no_layer_has() {
    refused(&Scene::new("gpt_neox"), "--sites resid_mid", &["resid_mid", "gpt_neox", "resid_post"]);
}

#[test]
fn output_that_exists() {
    let scene = Scene::new("gpt2");
    scene.write("acts.safetensors", "mine");
    refused(&scene, "--sites z", &["acts.safetensors", "there already"]);
}

#[test]
fn output_in_a_folder_that_is_not_there() {
    let scene = Scene::new("gpt2");
    scene.refused(
        "capture --model model --prompts pairs.jsonl --sites z --output no/where.safetensors",
        &["no/where.safetensors", "cannot write"],
    );
}

#[test]
fn position_that_a_pair_lacks() {
    let scene = Scene::new("gpt2");
    scene.pairs(&pairs_of_lengths(&[6, 4, 6]));
    refused(&scene, "--sites z --positions 5", &["--positions 5", "line 2", "4 tokens"]);
    refused(&scene, "--sites z --positions S2", &["S2", "line 1"]);
}

#[test]
fn bfloat16_as_npy() {
    let scene = Scene::new("gpt2");
    refused(&scene, "--sites z --format npy --store-as bfloat16", &["numpy has no bfloat16"]);
}

#[test]
fn a_number_beyond_float16_names_tensor_and_pair() {
    let scene = Scene::new("gpt2");
    scene.tensors(|t: &mut Tensors| tensor(t, "wte.weight").fill(1e5));
    let said = scene.run(&format!("{CAPTURE} --sites resid_pre --store-as float16"));
    said.failed(1, &["clean.blocks.0.hook_resid_pre", "pair 0", "float16", "--store-as"]);
    assert!(!scene.path("acts.safetensors").exists() && !scene.path("acts.safetensors.partial").exists());
}

#[test]
fn activations_that_overflow_name_the_tensor() {
    let scene = Scene::new("gpt2");
    scene.tensors(|t: &mut Tensors| tensor(t, "h.1.mlp.c_proj.bias").fill(f32::MAX));
    scene.tensors(|t: &mut Tensors| tensor(t, "h.0.mlp.c_proj.bias").fill(f32::MAX));
    let said = scene.run(&format!("{CAPTURE} --sites resid_post"));
    said.failed(1, &["clean.blocks.1.hook_resid_post", "pair 0", "not finite"]);
    assert!(!scene.path("acts.safetensors").exists());
}

/// The shell's limit on the size of files stands for a disk that is full.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_nothing() {
    let scene = Scene::new("gpt2");
    scene.pairs(&pairs_of_lengths(&[9; 40]));
    for format in ["safetensors", "npy"] {
        let line = format!(
            "trap '' XFSZ; ulimit -f 8; exec {} {CAPTURE} --sites logits,result --format {format}",
            env!("CARGO_BIN_EXE_patchwave")
        );
        let before = scene.files();
        let done = Command::new("bash").args(["-c", &line]).current_dir(scene.path("")).output().expect("a shell");
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("acts.safetensors: cannot write"), "{said}");
        assert_eq!(scene.files(), before);
    }
}

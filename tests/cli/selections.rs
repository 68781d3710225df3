//! `--layers`, `--heads`, `--positions`: fewer cells, the same numbers. And `--max-memory`: other waves, the same bits.

use crate::scene::{Effects, Scene, pairs_of_lengths};
use serde_json::json;

/// Every cell for which `keep` holds is in `some` as it is in `all`; the others are NaN.
fn is_part(some: &Effects, all: &Effects, keep: impl Fn(usize) -> bool) {
    assert_eq!(some.shape("effect"), all.shape("effect"), "axes keep their lengths");
    for (i, (some, all)) in some.values("effect").iter().zip(all.values("effect")).enumerate() {
        let expected = if keep(i) { *all } else { f32::NAN };
        assert!(some.to_bits() == expected.to_bits() || some.is_nan() && expected.is_nan(), "cell {i}: {some}, {all}");
    }
}

#[test]
fn layers_that_are_not_selected_are_nan() {
    let scene = Scene::new("gpt2");
    scene.sweep("").ok();
    let all = scene.effects("run");
    scene.sweep("--layers 0,2 --force").ok();
    is_part(&scene.effects("run"), &all, |cell| cell / 4 != 1);
    assert!(scene.text("run/effects.csv").contains("\nz,1,3,,,0,,,\n"), "empty in the table");
    assert_eq!(scene.json("run/run.json")["cells"], 8);
}

#[test]
fn heads_that_are_not_selected_are_nan() {
    let scene = Scene::new("gpt2");
    scene.sweep("").ok();
    let all = scene.effects("run");
    scene.sweep("--heads a1.h2,0.3 --force").ok();
    is_part(&scene.effects("run"), &all, |cell| cell == 6 || cell == 3);
}

#[test]
fn positions_are_columns_in_the_order_given() {
    let scene = Scene::new("gpt2");
    scene.sweep("--by head,pos").ok();
    let all = scene.effects("run");
    scene.sweep("--by head,pos --positions end,-2,1 --force").ok();
    let some = scene.effects("run");
    assert_eq!(some.shape("effect"), [3, 3, 4]);
    for (column, pos) in [(0, 5), (1, 4), (2, 1)] {
        for (layer, head) in (0..3).flat_map(|l| (0..4).map(move |h| (l, h))) {
            let (some, all) = (some.at("effect", &[layer, column, head]), all.at("effect", &[layer, pos, head]));
            assert_eq!(some.to_bits(), all.to_bits(), "layer {layer}, position {pos}, head {head}");
        }
    }
    assert_eq!(scene.json("run/run.json")["sites"][0]["axes"][1]["labels"], json!(["end", "-2", "1"]));
    assert!(
        scene.text("run/effects.csv").starts_with("site,layer,head,pos,pos_label,effect,mean_metric,n_pairs,stderr,")
    );
}

#[test]
fn positions_without_a_position_axis_are_patched_together() {
    let scene = Scene::new("gpt2");
    scene.sweep("--sites resid_pre --by layer").ok();
    let all = scene.effects("run");
    // The prompts differ only at position 2, so that position is the whole of layer 0.
    scene.sweep("--sites resid_pre --by layer --positions 2 --force").ok();
    let some = scene.effects("run");
    assert!((some.at("effect", &[0]) - all.at("effect", &[0])).abs() < 1e-5);
    assert!((some.at("effect", &[2]) - all.at("effect", &[2])).abs() > 1e-3, "later, other positions differ too");
}

#[test]
fn names_of_the_prompts_are_positions() {
    let scene = Scene::new("gpt2");
    let mut pairs = pairs_of_lengths(&[6, 8]);
    pairs[0]["positions"] = json!({"S2": 2});
    pairs[1]["positions"] = json!({"S2": 4});
    scene.pairs(&pairs);
    scene.sweep("--sites resid_pre").ok();
    let all = scene.effects("run");
    scene.sweep("--sites resid_pre --positions S2 --force").ok();
    let some = scene.effects("run");
    for (pair, pos) in [(0, 2), (1, 4)] {
        let (some, all) = (some.at("metric", &[1, 0, pair]), all.at("metric", &[1, pos, pair]));
        assert_eq!(some.to_bits(), all.to_bits());
    }
}

#[test]
fn max_memory_changes_no_bit() {
    for (case, options) in [
        ("gpt2", "--sites z,q,k,pattern,resid_pre,mlp_post"),
        ("llama", "--sites z,k,v,result --by head,pos --direction noise"),
        ("mistral", "--sites attn_out,mlp_out,resid_mid --patch mean --metric kl"),
    ] {
        let scene = Scene::new(case);
        scene.pairs(&pairs_of_lengths(&[12, 16, 9, 16, 3, 14, 16, 11]));
        scene.sweep(options).ok();
        let usual = scene.read("run/effects.safetensors");
        let waves = scene.json("run/run.json")["items"]["waves"].as_u64();
        let least = scene.least_memory(options);
        for memory in [least, least + (1 << 16), least + (1 << 20)] {
            scene.sweep(&format!("{options} --force --max-memory {memory}")).ok();
            assert!(scene.read("run/effects.safetensors") == usual, "{case} in {memory} bytes");
            let cut = scene.json("run/run.json")["items"]["waves"].as_u64();
            assert!(memory > least || cut > waves, "{case}: {cut:?} waves in the least memory, {waves:?} usually");
        }
    }
}

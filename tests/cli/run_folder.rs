//! The files of a run: which there are, what is in them, and what the numbers mean.

use crate::scene::{Scene, pair, pairs_of_lengths};
use serde_json::{Value, json};

fn same_bits(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits()
}

#[test]
fn one_site_is_six_tensors_of_float32_and_four_files() {
    let scene = Scene::new("gpt2");
    scene.sweep("").ok();
    let mut files: Vec<_> = std::fs::read_dir(scene.path("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["effects.csv", "effects.safetensors", "heatmap.svg", "run.json"]);
    let effects = scene.effects("run");
    assert_eq!(effects.names(), ["effect", "interval", "metric", "metric_clean", "metric_corrupted", "stderr"]);
    assert_eq!(effects.shape("effect"), [3, 4]);
    assert_eq!(effects.shape("metric"), [3, 4, 3]);
    assert_eq!(effects.shape("stderr"), [3, 4]);
    assert_eq!(effects.shape("interval"), [3, 4, 2]);
    assert_eq!(effects.shape("metric_clean"), [3]);
    assert_eq!(effects.shape("metric_corrupted"), [3]);
    assert!(effects.values("metric").iter().all(|m| m.is_finite()));
    assert!(scene.text("run/heatmap.svg").starts_with("<svg"));
}

#[test]
fn several_sites_have_tensors_of_their_own() {
    let scene = Scene::new("gpt2");
    scene.sweep("--sites z,resid_pre,attn.hook_pattern").ok();
    let effects = scene.effects("run");
    let names = [
        "effect.pattern",
        "effect.resid_pre",
        "effect.z",
        "interval.pattern",
        "interval.resid_pre",
        "interval.z",
        "metric.pattern",
        "metric.resid_pre",
        "metric.z",
        "metric_clean",
        "metric_corrupted",
        "stderr.pattern",
        "stderr.resid_pre",
        "stderr.z",
    ];
    assert_eq!(effects.names(), names);
    assert_eq!(effects.shape("effect.z"), [3, 4]);
    assert_eq!(effects.shape("effect.resid_pre"), [3, 6]);
    assert_eq!(effects.shape("metric.pattern"), [3, 4, 3]);
    let sites = &scene.json("run/run.json")["sites"];
    let of = |key: &str| -> Vec<Value> { sites.as_array().unwrap().iter().map(|s| s[key].clone()).collect() };
    assert_eq!(of("site"), ["z", "resid_pre", "pattern"]);
    assert_eq!(of("effect"), ["effect.z", "effect.resid_pre", "effect.pattern"]);
    assert_eq!(of("shape"), [json!([3, 4]), json!([3, 6]), json!([3, 4])]);
}

#[test]
fn by_says_which_axes_there_are() {
    let scene = Scene::new("gpt2");
    for (by, shape, axes) in [
        ("pos", &[3, 6][..], &["layer", "pos"][..]),
        ("layer", &[3], &["layer"]),
        ("head", &[3, 4], &["layer", "head"]),
        ("head,pos", &[3, 6, 4], &["layer", "pos", "head"]),
    ] {
        scene.sweep(&format!("--sites z,q --by {by} --force")).ok();
        assert_eq!(scene.effects("run").shape("effect.q"), shape, "{by}");
        let site = &scene.json("run/run.json")["sites"][0];
        let names: Vec<_> = site["axes"].as_array().unwrap().iter().map(|a| a["name"].clone()).collect();
        assert_eq!(names, axes);
    }
}

#[test]
fn run_json_says_what_was_done_and_how_good_it_is() {
    let scene = Scene::new("llama_mqa_bf16");
    scene.sweep("--verify 5").ok();
    let run = scene.json("run/run.json");
    assert_eq!(run["patchwave_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(run["dtype"], "float32");
    assert!(run["device"].as_str().unwrap().starts_with("cpu"));
    assert_eq!(run["metric"], "logit_diff");
    assert_eq!(run["direction"], "denoise");
    assert_eq!(run["patch"], "source");
    assert_eq!(run["effect_defined"], true);
    assert_eq!(run["n_pairs"], 3);
    assert_eq!(run["verified_items"], 5);
    assert!(run["noise_floor"].as_f64().unwrap() < 1e-4);
    for time in ["seconds", "seconds_loading", "seconds_verifying", "seconds_total"] {
        assert!(run[time].as_f64().unwrap() >= 0.0, "{time}");
    }
    let rows = |key: &str| run[key].as_u64().unwrap();
    assert!(rows("rows_computed") > 0 && rows("rows_saved") > 0);
    assert_eq!(rows("rows_computed") + rows("rows_saved"), rows("rows_of_full_passes"));
    assert_eq!(run["model"]["name"], "model");
    assert_eq!(run["model"]["family"], "llama");
    assert_eq!(run["model"]["stored_as"], json!(["BF16"]));
    for hash in [&run["model"]["sha256"], &run["prompts"]["sha256"]] {
        let hash = hash.as_str().unwrap();
        assert!(hash.len() == 64 && hash.bytes().all(|c| c.is_ascii_hexdigit()), "{hash}");
    }
    assert_eq!(run["prompts"]["path"], "pairs.jsonl");
    assert_eq!(run["prompts"]["bos"]["policy"], "auto");
    assert_eq!(run["prompts"]["bos"]["given_as_ids"], 6);
    assert_eq!(run["plan"]["sites"], json!(["z"]));
    let labels = json!({"name": "layer", "labels": ["0", "1"]});
    assert_eq!(run["sites"][0]["axes"][0], labels);
}

#[test]
fn without_verification_nothing_is_verified() {
    let scene = Scene::new("gpt2");
    scene.sweep("--verify 0").ok();
    assert_eq!(scene.json("run/run.json")["verified_items"], 0);
    // More than there are is all there are.
    scene.sweep("--verify 18446744073709551615 --force").ok();
    assert_eq!(scene.json("run/run.json")["verified_items"], 3 * 4 * 3);
}

#[test]
fn the_effect_is_the_ratio_of_means() {
    for (direction, base) in [("denoise", "metric_corrupted"), ("noise", "metric_clean")] {
        let scene = Scene::new("gpt2");
        scene.sweep(&format!("--direction {direction}")).ok();
        let effects = scene.effects("run");
        let mean = |x: &[f32]| x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
        let span = mean(effects.values("metric_clean")) - mean(effects.values("metric_corrupted"));
        for (effect, metrics) in effects.values("effect").iter().zip(effects.values("metric").chunks(3)) {
            let expected = (mean(metrics) - mean(effects.values(base))) / span;
            assert!((f64::from(*effect) - expected).abs() < 1e-6 * expected.abs().max(1.0), "{effect} {expected}");
        }
    }
}

#[test]
fn positions_beyond_a_pair_are_nan_and_those_before_the_difference_are_the_base() {
    let scene = Scene::new("gpt2");
    scene.pairs(&pairs_of_lengths(&[5, 8]));
    scene.sweep("--sites resid_pre").ok();
    let effects = scene.effects("run");
    assert_eq!(effects.shape("metric"), [3, 8, 2]);
    for layer in 0..3 {
        for pos in 0..8 {
            let of = |pair| effects.at("metric", &[layer, pos, pair]);
            assert_eq!(of(0).is_nan(), pos >= 5, "layer {layer}, position {pos}");
            assert!(!of(1).is_nan() && !effects.at("effect", &[layer, pos]).is_nan());
            // The prompts differ from position 2 on: patching before it changes nothing.
            if pos < 2 {
                assert_eq!(effects.at("effect", &[layer, pos]), 0.0);
                assert!((0..2).all(|p| same_bits(of(p), effects.at("metric_corrupted", &[p]))));
            }
        }
    }
    // All of the clean run's residual stream at the one position that differs is the clean run.
    let whole = effects.at("effect", &[0, 2]);
    assert!((whole - 1.0).abs() < 1e-5, "{whole}");
    let line = |start: &str| scene.text("run/effects.csv").lines().find(|l| l.starts_with(start)).unwrap().to_owned();
    let fields = |start: &str| line(start).rsplit(',').map(str::to_owned).collect::<Vec<_>>();
    let [one, two] = [fields("resid_pre,0,7,"), fields("resid_pre,0,4,")];
    assert_eq!((one[3].as_str(), two[3].as_str()), ("1", "2"), "the pairs that have the cell are counted");
    assert!(one[..3].iter().all(String::is_empty), "one pair has no spread");
    assert!(two[..3].iter().all(|field| !field.is_empty()));
}

#[test]
fn aligned_at_the_end_short_pairs_lack_the_first_columns() {
    let scene = Scene::new("gpt2");
    scene.pairs(&pairs_of_lengths(&[5, 8]));
    scene.sweep("--sites resid_pre --align end").ok();
    let effects = scene.effects("run");
    for pos in 0..8 {
        assert_eq!(effects.at("metric", &[1, pos, 0]).is_nan(), pos < 3);
        assert!(!effects.at("metric", &[1, pos, 1]).is_nan());
    }
}

#[test]
fn dead_places_have_exactly_the_base_metric() {
    let scene = Scene::new("gpt2");
    scene.sweep("--sites resid_post --by pos").ok();
    let effects = scene.effects("run");
    for pos in 0..5 {
        assert_eq!(effects.at("effect", &[2, pos]), 0.0, "nobody reads the last layer before the last token");
        for pair in 0..3 {
            assert!(same_bits(effects.at("metric", &[2, pos, pair]), effects.at("metric_corrupted", &[pair])));
        }
    }
    assert!((effects.at("effect", &[2, 5]) - 1.0).abs() < 1e-5);
}

#[test]
fn k_and_v_have_an_axis_of_kv_heads() {
    let scene = Scene::new("llama");
    scene.sweep("--sites k,v,q,z").ok();
    let effects = scene.effects("run");
    for (site, heads) in [("k", 2), ("v", 2), ("q", 4), ("z", 4)] {
        assert_eq!(effects.shape(&format!("effect.{site}")), [3, heads]);
        assert!(effects.values(&format!("effect.{site}")).iter().all(|e| e.is_finite()));
    }
}

#[test]
fn kl_needs_no_answers_and_is_zero_for_the_clean_run() {
    let scene = Scene::new("gpt2");
    scene.pairs(&[json!({"clean": [1, 2, 3], "corrupted": [1, 4, 3]}), json!({"clean": [9, 2], "corrupted": [8, 2]})]);
    scene.sweep("--metric kl --sites resid_pre").ok();
    let effects = scene.effects("run");
    assert_eq!(effects.values("metric_clean"), [0.0, 0.0]);
    assert!(effects.values("metric_corrupted").iter().all(|m| *m > 0.0));
    assert_eq!(scene.json("run/run.json")["effect_defined"], true);
}

#[test]
fn zero_and_mean_patches_go_into_the_clean_run_unless_told_otherwise() {
    let scene = Scene::new("gpt2");
    for (options, direction) in [
        ("--patch zero", "noise"),
        ("--patch mean", "noise"),
        ("--patch zero --direction denoise", "denoise"),
        ("--patch source", "denoise"),
    ] {
        scene.sweep(&format!("{options} --force")).ok();
        assert_eq!(scene.json("run/run.json")["direction"], direction, "{options}");
    }
}

/// Two pairs of the same prompts with answer and wrong exchanged: the model prefers the answer in just one of them, and
/// the means of both runs are exactly 0.
fn opposite_pairs() -> Scene {
    let scene = Scene::new("gpt2");
    let one = pair(&[1, 2, 3], &[1, 4, 3]);
    let mut other = one.clone();
    (other["answer"], other["wrong"]) = (one["wrong"].clone(), one["answer"].clone());
    scene.pairs(&[one, other]);
    scene
}

#[test]
fn undefined_effects_are_nan_with_one_warning() {
    let scene = opposite_pairs();
    let done = scene.sweep("").ok();
    let about: Vec<&str> = done.err.lines().filter(|l| l.contains("undefined")).collect();
    assert!(matches!(about[..], [line] if line.starts_with("warning: ")), "{done:?}");
    let effects = scene.effects("run");
    assert!(effects.values("effect").iter().all(|e| e.is_nan()));
    assert!(effects.values("metric").iter().all(|m| m.is_finite()));
    assert_eq!(scene.json("run/run.json")["effect_defined"], false);
    assert!(scene.text("run/effects.csv").lines().nth(1).unwrap().starts_with("z,0,0,,"), "an empty effect");
    scene.run("heatmap run --output raw.svg").ok();
}

#[test]
fn correct_only_drops_pairs_and_counts_them() {
    let scene = opposite_pairs();
    let done = scene.sweep("").ok();
    assert!(done.err.contains("does not prefer the answer in 1 of 2 pairs"), "{done:?}");
    assert_eq!(scene.json("run/run.json")["clean_prefers_answer"], 1);
    let done = scene.sweep("--correct-only --force").ok();
    assert_eq!(done.err, "");
    let run = scene.json("run/run.json");
    assert_eq!((&run["prompts"]["pairs_given"], &run["prompts"]["pairs_dropped"]), (&json!(2), &json!(1)));
    assert_eq!((&run["n_pairs"], &run["clean_prefers_answer"]), (&json!(1), &json!(1)));
    assert_eq!(scene.effects("run").shape("metric"), [3, 4, 1]);
}

#[test]
fn correct_only_that_leaves_no_pair_is_refused() {
    let scene = opposite_pairs();
    // Keep the pair that the model gets wrong.
    let both = scene.text("pairs.jsonl");
    for line in both.lines() {
        scene.write("pairs.jsonl", line);
        scene.sweep("--force").ok();
        if scene.json("run/run.json")["clean_prefers_answer"] == 0 {
            std::fs::remove_dir_all(scene.path("run")).unwrap();
            scene.sweep_refused("--correct-only", &["--correct-only", "none of the 1 pairs"]);
            return;
        }
    }
    panic!("the model prefers the answer in both");
}

//! `patchwave patch`, and the kinds of `--patch` on the command line.

use crate::scene::{Scene, Stored, pairs_of_lengths, safetensors_file};
use safetensors::Dtype;
use serde_json::Value;

const PATCH: &str = "patch --model model --prompts pairs.jsonl";

fn patch(more: &str) -> String {
    format!("{PATCH} {more}")
}

/// The patched metrics of a result file.
fn patched(scene: &Scene, file: &str) -> Vec<f64> {
    let of = |pair: &Value| pair["patched"].as_f64().expect("a number");
    scene.json(file)["pairs"].as_array().expect("pairs").iter().map(of).collect()
}

/// A file with one vector as wide as gpt2's residual stream, and its width.
fn direction(scene: &Scene, name: &str, shape: Vec<usize>) {
    let n: usize = shape.iter().product();
    let data = (0..n).flat_map(|i| (0.1 * i as f32).to_le_bytes()).collect();
    scene.write(name, safetensors_file(&[("v".to_owned(), Stored { dtype: Dtype::F32, shape, data })].into()));
}

fn d_model(scene: &Scene) -> usize {
    scene.json("model/config.json")["n_embd"].as_u64().expect("a width") as usize
}

#[test]
fn one_node_is_the_sweeps_cell() {
    let scene = Scene::new("gpt2");
    for (node, site, at) in [("a1.h2", "z", 6), ("a2.h0<k>", "k", 8), ("a0.h3<pattern>", "pattern", 3)] {
        for kind in ["source --direction noise", "mean", "noise:0.5 --seed 3 --draws 2", "resample"] {
            if kind.starts_with("noise") && site == "pattern" {
                continue;
            }
            scene.sweep(&format!("--sites {site} --patch {kind} --force --verify 0")).ok();
            scene.run(&patch(&format!("--nodes {node} --patch {kind} --output one.json"))).ok();
            let effects = scene.effects("run");
            let cell: Vec<f64> = effects.values("metric")[at * 3..at * 3 + 3].iter().map(|x| f64::from(*x)).collect();
            assert_eq!(patched(&scene, "one.json"), cell, "{node} {kind}");
        }
    }
}

#[test]
fn lists_and_circuits_name_the_same_nodes() {
    let scene = Scene::new("gpt2");
    scene.write("list.txt", "# two heads and an MLP\na0.h1\na1.h2   # the second\n\nm1\n");
    scene.write(
        "circuit.json",
        r#"{"cfg": {}, "nodes": {"input": {"in_graph": true}, "a0.h1": {"in_graph": true}, "a0.h0": {"in_graph": false},
            "a1.h2": {"in_graph": true}, "m1": {"in_graph": true}, "logits": {"in_graph": true}}, "edges": {}}"#,
    );
    for except in ["", "--except --patch mean"] {
        scene.run(&patch(&format!("--nodes a0.h1,a1.h2,m1 {except} --output a.json"))).ok();
        scene.run(&patch(&format!("--nodes @list.txt {except} --output b.json"))).ok();
        scene.run(&patch(&format!("--nodes-file circuit.json {except} --output c.json"))).ok();
        assert_eq!(patched(&scene, "a.json"), patched(&scene, "b.json"));
        assert_eq!(scene.json("a.json")["pairs"], scene.json("c.json")["pairs"]);
    }
    let all = scene.json("a.json");
    assert_eq!(all["nodes"], serde_json::json!(["a0.h1", "a1.h2", "m1"]));
    assert_eq!((&all["except"], &all["patch"], &all["direction"]), (&true.into(), &"mean".into(), &"noise".into()));
}

#[test]
fn except_every_node_is_the_base_run() {
    let scene = Scene::new("gpt2");
    let all: Vec<String> =
        (0..3).flat_map(|l| [format!("z{l}"), format!("m{l}")]).chain(["input".to_owned()]).collect();
    scene.run(&patch(&format!("--nodes {} --except --output all.json", all.join(",")))).ok();
    for pair in scene.json("all.json")["pairs"].as_array().expect("pairs") {
        assert_eq!(pair["patched"], pair["corrupted"]);
    }
}

#[test]
fn results_are_json_or_csv() {
    let scene = Scene::new("gpt2");
    scene.run(&patch("--nodes a0.h1,m1@-1 --output r.csv")).ok();
    scene.run(&patch("--nodes a0.h1,m1@-1 --output r.json")).ok();
    let csv = scene.text("r.csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!((lines[0], lines.len()), ("pair,clean,corrupted,patched,effect", 4));
    for (i, line) in lines[1..].iter().enumerate() {
        let pair = &scene.json("r.json")["pairs"][i];
        let numbers: Vec<f64> = line.split(',').map(|x| x.parse().expect("a number")).collect();
        assert_eq!(numbers[0], i as f64);
        let close = |x: &Value, y: f64| (x.as_f64().expect("a number") - y).abs() < 1e-6;
        assert!(close(&pair["clean"], numbers[1]) && close(&pair["patched"], numbers[3]), "{line} {pair}");
    }
    scene.refused(&patch("--nodes a0.h1 --output r.txt"), &["--output r.txt", ".json or .csv"]);
    scene.refused(&patch("--nodes a0.h1 --output no/such/r.csv"), &["no/such/r.csv", "cannot write"]);
}

#[test]
fn nodes_that_are_none() {
    let scene = Scene::new("gpt2");
    for (nodes, words) in [
        ("nine", &["--nodes", "\"nine\"", "a9.h6"][..]),
        ("a0.h1,,m1", &["node \"\""]),
        ("a3.h0", &["node a3.h0", "layers 0 to 2"]),
        ("a0.h4", &["node a0.h4", "4 heads at z, 0 to 3"]),
        ("a0.h1@five", &["node a0.h1@five", "pairs.jsonl", "line 1", "\"five\""]),
        ("a0.h1@6", &["node a0.h1@6", "pairs.jsonl", "\"6\"", "6 tokens"]),
        ("logits", &["\"logits\"", "metric reads"]),
        ("a0.h1,a0.h1", &["a0.h1 and a0.h1 overlap"]),
        ("a0,a0.h1@3", &["a0.h1@3 lies inside a0", "position 3"]),
        ("@missing.txt", &["missing.txt"]),
    ] {
        scene.refused(&patch(&format!("--nodes {nodes}")), words);
    }
    scene.refused(PATCH, &["--nodes"]);
    scene.refused(&patch("--nodes a0.h1<q> --except"), &["a0.h1<q>", "--except"]);
    scene.write("empty.txt", "# nothing\n");
    scene.refused(&patch("--nodes @empty.txt"), &["empty.txt", "no node"]);
    // KV heads are fewer; and a layer may lack a site.
    Scene::new("llama").refused(&patch("--nodes a1.h2<k>"), &["a1.h2<k>", "2 KV heads at k"]);
    Scene::new("gpt_neox").refused(&patch("--nodes resid_mid1"), &["resid_mid1", "this model has no resid_mid"]);
}

#[test]
fn patches_that_are_none() {
    let scene = Scene::new("gpt2");
    let d = d_model(&scene);
    direction(&scene, "wide.safetensors", vec![d + 1]);
    direction(&scene, "long.safetensors", vec![3, 5, d]);
    for (kind, words) in [
        ("ablate", &["--patch \"ablate\"", "noise:SIGMA"][..]),
        ("noise:-1", &["--patch \"noise:-1\"", "not negative"]),
        ("noise", &["noise:0.1"]),
        ("scale:x", &["--patch \"scale:x\"", "scale:0.5"]),
        ("noise:1 --draws 0", &["--draws 0", "1 to"]),
        ("zero --draws 2", &["--draws", "not random"]),
        ("source --seed 2", &["--seed", "nothing here is random"]),
        ("zero --edges 0->1", &["--edges", "knockout"]),
        ("add:missing.safetensors", &["--patch add:missing.safetensors"]),
        ("add:pairs.jsonl", &["--patch add:pairs.jsonl", "no safetensors file"]),
    ] {
        scene.sweep_refused(&format!("--patch {kind}"), words);
        scene.refused(&patch(&format!("--nodes a0.h1 --patch {kind}")), words);
    }
    scene.sweep_refused(
        "--sites resid_pre --patch add:wide.safetensors",
        &["wide", "\"v\"", "resid_pre", &format!("[{d}]")],
    );
    scene.sweep_refused("--sites resid_pre --patch add:long.safetensors", &["long", "5 positions", "6"]);
    scene.sweep_refused("--sites pattern --patch noise:1", &["noise has no meaning at pattern"]);
    scene.sweep_refused("--sites resid_pre,resid_post --patch add:v.safetensors", &["v.safetensors"]);
    direction(&scene, "v.safetensors", vec![d]);
    scene.sweep_refused("--sites resid_pre,resid_post --patch add:v.safetensors", &["one residual stream"]);
    // Each pair is alone with its length.
    scene.pairs(&pairs_of_lengths(&[6, 7]));
    scene.sweep_refused("--patch resample", &["resample", "6 tokens of pair 0", "--align"]);
}

#[test]
fn knockouts_without_sense() {
    let scene = Scene::new("gpt2");
    for (more, words) in [
        ("", &["--patch knockout needs --edges"][..]),
        ("--edges 2", &["--edges", "\"2\"", "S2->end"]),
        ("--edges 1->5,1->5", &["1->5", "twice"]),
        ("--edges five->end", &["five", "line 1"]),
        ("--edges 9->9", &["--edges", "9 is beyond", "6 tokens"]),
        ("--edges 5->1", &["5->1", "line 1", "position 5"]),
        ("--edges 0->0", &["0->0", "position 0", "every source"]),
        ("--edges 0->1,1->1", &["0->1,1->1", "position 1", "layer 0", "every source"]),
    ] {
        scene.sweep_refused(&format!("--patch knockout {more}"), words);
        scene.refused(&patch(&format!("--nodes a0.h1 --patch knockout {more}")), words);
    }
    scene.sweep_refused("--patch knockout --edges 1->5 --sites z", &["knockout has no meaning at z"]);
    scene.sweep_refused("--patch knockout --edges 1->5 --positions 2", &["--positions", "--edges"]);
    scene.refused(&patch("--nodes m1 --patch knockout --edges 1->5"), &["m1", "a9.h6"]);
    scene.refused(&patch("--nodes a1.h1@2 --patch knockout --edges 1->5"), &["a1.h1@2", "--edges"]);
}

#[test]
fn a_knockout_sweeps_its_edges() {
    let scene = Scene::new("gpt2");
    scene.sweep("--patch knockout --edges 1->end,0->4 --by head,pos").ok();
    let run = scene.json("run/run.json");
    assert_eq!(run["sites"][0]["site"], "attn_scores");
    assert_eq!(run["sites"][0]["axes"][1]["labels"], serde_json::json!(["1->end", "0->4"]));
    assert_eq!(run["patch"], serde_json::json!({"name": "knockout", "edges": "1->end,0->4"}));
    assert_eq!(run["direction"], "noise");
    assert!(run["noise_floor"].as_f64().expect("a number") < 1e-4);
    scene.run(&patch("--nodes a1.h2 --patch knockout --edges 1->end --output k.json")).ok();
    let effects = scene.effects("run");
    let at = (2 * 4 + 2) * 3; // layer 1, edge 0 of 2, head 2 of 4
    let cell: Vec<f64> = effects.values("metric")[at..at + 3].iter().map(|x| f64::from(*x)).collect();
    assert_eq!(patched(&scene, "k.json"), cell);
    scene.run(&patch("--nodes a1.h2 --except --patch knockout --edges 1->end")).ok();
}

/// What a patch is belongs to what a run that goes on must share.
#[test]
fn another_patch_is_another_run() {
    let scene = Scene::new("gpt2");
    let d = d_model(&scene);
    direction(&scene, "v.safetensors", vec![d]);
    for (one, others) in [
        (
            "--patch noise:0.5 --seed 1",
            ["--patch noise:0.5 --seed 2", "--patch noise:0.5 --seed 1 --draws 2", "--patch noise:0.6 --seed 1"],
        ),
        (
            "--patch knockout --edges 1->5",
            ["--patch knockout --edges 2->5", "--patch zero --sites attn_scores", "--patch knockout --edges 1->4"],
        ),
        (
            "--sites mlp_out --patch add:v.safetensors",
            ["--sites mlp_out --patch add:v.safetensors*2", "--sites mlp_out --patch scale:2", "--sites mlp_out"],
        ),
    ] {
        scene.sweep(&format!("{one} --force")).ok();
        scene.sweep(&format!("{one} --resume")).ok();
        for other in others {
            scene.sweep_refused(&format!("{other} --resume"), &["--resume", "--force"]);
        }
    }
    // The file's content counts, not its name.
    scene.sweep("--sites mlp_out --patch add:v.safetensors --force").ok();
    direction(&scene, "v.safetensors", vec![3, d]);
    scene.sweep_refused("--sites mlp_out --patch add:v.safetensors --resume", &["`patch`", "--force"]);
}

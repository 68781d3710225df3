//! `patchwave task`, `--task` and the formats beside JSONL, as their users meet them.

use crate::scene::{FIXTURES, Scene, pair, word_tokenizer};
use crate::transcripts::golden;
use serde_json::{Value, json};

#[test]
fn help_the_list_and_one_task() {
    let scene = Scene::empty();
    golden("help-task.txt", &scene.run("task --help").ok().out);
    golden("tasks.txt", &scene.run("task").ok().out);
    golden("task-induction.jsonl", &scene.run("task induction --pairs 3 --seed 5").ok().out);
    scene.run("task induction --pairs 3 --seed 5 --output three.jsonl").ok();
    assert_eq!(scene.text("three.jsonl"), scene.run("task induction --pairs 3 --seed 5").ok().out);
}

#[test]
fn a_task_in_a_file_and_in_the_sweep_are_the_same_in_bits() {
    let scene = Scene::empty();
    scene.run("task induction --pairs 6 --seed 3 --output pairs.jsonl").ok();
    scene.run("sweep --prompts pairs.jsonl --output file").ok();
    scene.run("sweep --task induction --pairs 6 --seed 3 --output direct").ok();
    assert!(scene.read("file/effects.safetensors") == scene.read("direct/effects.safetensors"));
    let (file, direct) = (scene.json("file/run.json"), scene.json("direct/run.json"));
    assert_eq!(file["prompts"]["sha256"], direct["prompts"]["sha256"]);
    assert_eq!(direct["prompts"]["path"], "task induction:keys, seed 3");
    assert_eq!(direct["prompts"]["task"], json!({"name": "induction", "corruption": "keys", "pairs": 6, "seed": 3}));
    assert_eq!((&file["prompts"]["path"], &file["prompts"]["task"]), (&json!("pairs.jsonl"), &Value::Null));
    // The demo knows induction: nearly all pairs are right, and named positions are columns.
    scene
        .run("sweep --task induction --pairs 6 --seed 3 --correct-only --by head,pos --positions B,A2 --output named")
        .ok();
    let axes = &scene.json("named/run.json")["sites"][0]["axes"];
    assert_eq!(axes[1]["labels"], json!(["B", "A2"]));
}

#[test]
fn unknown_tasks_and_corruptions() {
    let scene = Scene::empty();
    scene.refused("task iio", &["no task \"iio\"", "ioi, induction"]);
    scene.refused("sweep --task induction:values", &["induction has no corruption \"values\"", "induction:keys"]);
}

#[test]
fn a_task_whose_words_the_tokenizer_lacks() {
    let scene = Scene::empty();
    scene.refused("sweep --task ioi", &["task ioi", "of its 70 names only 0 are one token", "it needs 5"]);
    scene.refused("task arithmetic", &["task arithmetic", "only 0 are one token"]);
}

#[test]
fn a_task_without_a_tokenizer() {
    Scene::new("gpt2").refused("task ioi --model model", &["task ioi:s2", "no tokenizer"]);
}

#[test]
fn pairs_0_and_too_many() {
    let scene = Scene::empty();
    scene.refused("task induction --pairs 0", &["--pairs 0", "1 to 100000"]);
    scene.refused("sweep --task induction --pairs 100001", &["--pairs 100001", "1 to 100000"]);
    scene.refused("sweep --pairs 33", &["--pairs 33", "1 to 32 can be had"]);
    scene.refused("sweep --pairs 0", &["--pairs 0", "1 to 32"]);
}

#[test]
fn options_that_belong_to_tasks_only_or_to_files_only() {
    let scene = Scene::empty();
    scene.refused("sweep --task induction --prompts p.jsonl", &["--task", "--prompts"]);
    scene.refused("sweep --seed 1", &["--task"]);
    scene.refused("sweep --task induction --counterfactual abc", &["--counterfactual", "--task"]);
    scene.refused("task --seed 1", &["NAME"]);
}

#[test]
fn the_first_pairs_of_a_file() {
    let scene = Scene::new("gpt2");
    scene.sweep("--pairs 2").ok();
    assert_eq!(scene.json("run/run.json")["n_pairs"], 2);
}

#[test]
fn a_position_name_missing_in_pair_17() {
    let scene = Scene::new("gpt2");
    let mut pairs: Vec<Value> = (0..20).map(|n| pair(&[1, 2, 3 + n], &[1, 30, 3 + n])).collect();
    for (n, pair) in pairs.iter_mut().enumerate() {
        pair["positions"] = if n == 16 { json!({"S1": 1}) } else { json!({"S1": 1, "S2": 2}) };
    }
    scene.pairs(&pairs);
    scene.sweep_refused("--positions S2", &["--positions \"S2\"", "pairs.jsonl: line 17", "it has \"S1\""]);
}

/// auto-circuit's `word_idxs` name positions of every pair: as columns by name, and with any alignment.
#[test]
fn word_idxs_are_positions_columns_and_alignable() {
    let scene = Scene::new("gpt2");
    let prompts = [(vec![1, 2, 3, 4], vec![1, 9, 3, 4]), (vec![5, 6, 7, 8, 9], vec![5, 1, 7, 8, 9])];
    let prompts = prompts
        .map(|(clean, corrupt)| json!({"clean": clean, "corrupt": corrupt, "answers": [5], "wrong_answers": [9]}));
    scene.write("ioi.json", json!({"word_idxs": {"S2": 1, "verb": 2}, "prompts": prompts}).to_string());
    let sweep = |more: &str, name: &str| {
        scene.run(&format!("sweep --model model --prompts ioi.json --by head,pos --output {name} {more}")).ok();
        scene.effects(name)
    };
    let named = sweep("--positions S2,verb,end", "named");
    let labels = &scene.json("named/run.json")["sites"][0]["axes"][1]["labels"];
    assert_eq!(*labels, json!(["S2", "verb", "end"]));
    let picture = scene.text("named/heatmap.svg");
    assert!(picture.contains(">S2<") && picture.contains(">verb<"), "names are the columns' labels");
    // The same cells by number: each pair's metric is that of its position.
    let all = sweep("--align start", "all");
    for layer in 0..all.shape("metric")[0] {
        for pair in 0..2 {
            assert_eq!(named.at("metric", &[layer, 0, 0, pair]), all.at("metric", &[layer, 1, 0, pair]));
            assert_eq!(named.at("metric", &[layer, 1, 0, pair]), all.at("metric", &[layer, 2, 0, pair]));
        }
    }
    let aligned = sweep("--positions S2,verb,end --align end --patch mean", "aligned");
    assert_eq!(aligned.shape("effect"), named.shape("effect"));
}

/// MIB's parquet through a tokenizer of words: two of five rows do not fit it, and the run says so.
#[test]
fn mib_parquet_is_swept_and_tells_what_it_left_out() {
    let scene = Scene::new("gpt2");
    scene.config(|c| drop(c.remove("bos_token_id")));
    let words =
        "? When Mary John Paul Alice Tom Mark Anna James Peter Laura David Simon and met at the store, gave a book to";
    scene.write("model/tokenizer.json", word_tokenizer(&words.split(' ').collect::<Vec<_>>()));
    let data = format!("{FIXTURES}/mib/ioi.parquet");
    let args = |more: &str| format!("sweep --model model --prompts {data} --output run --force {more}");
    let done = scene.run(&args("")).ok();
    assert!(done.err.contains("2 rows left out: 1 without the counterfactual, 1 of unequal token lengths"), "{done:?}");
    let run = scene.json("run/run.json");
    assert_eq!((&run["prompts"]["left_out"], &run["n_pairs"]), (&json!(2), &json!(3)));
    scene.run(&args("--counterfactual abc")).ok();
    assert_eq!(scene.json("run/run.json")["n_pairs"], 4);
    let other = format!("sweep --model model --prompts {data} --counterfactual random");
    scene.refused(&other, &["--counterfactual", "has no \"random\"", "abc, s2_io_flip"]);
    scene.write("cut.parquet", &std::fs::read(&data).expect("a fixture")[..900]);
    scene.refused("sweep --model model --prompts cut.parquet", &["cut.parquet: not a parquet file that can be read"]);
}

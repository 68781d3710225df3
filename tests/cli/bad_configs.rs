//! A `config.json` that cannot be trusted: one line that names the key, exit code 2, and nothing is written.

use crate::scene::Scene;
use serde_json::{Value, json};

/// The fixture with these config keys set.
fn with(case: &str, keys: &[(&str, Value)]) -> Scene {
    let scene = Scene::new(case);
    scene.config(|c| keys.iter().for_each(|(key, value)| drop(c.insert((*key).to_owned(), value.clone()))));
    scene
}

#[test]
fn unknown_model_type() {
    with("gpt2", &[("model_type", json!("gpt17"))]).sweep_refused("", &["config.json", "model_type", "gpt17"]);
}

#[test]
fn missing_model_type() {
    let scene = Scene::new("gpt2");
    scene.config(|c| drop(c.remove("model_type")));
    scene.sweep_refused("", &["config.json", "model_type"]);
}

#[test]
fn unknown_rope_type() {
    let rope = json!({"rope_type": "spiral", "factor": 2.0});
    with("llama_linear", &[("rope_scaling", rope)]).sweep_refused("", &["config.json", "rope", "spiral"]);
}

#[test]
fn unknown_activation() {
    with("llama_linear", &[("hidden_act", json!("swoosh"))])
        .sweep_refused("", &["config.json", "hidden_act", "swoosh"]);
    with("gpt2", &[("activation_function", json!("swoosh"))]).sweep_refused("", &["activation_function", "swoosh"]);
}

#[test]
fn unknown_config_key() {
    let scene = with("gpt2", &[("frobnicate", json!(3))]);
    scene.sweep_refused("", &["config.json", "frobnicate", "--allow-config-key"]);
    scene.sweep_refused("--allow-config-key frob", &["frobnicate"]);
    scene.refused("inspect --model model", &["frobnicate", "--allow-config-key"]);
}

#[test]
fn allowed_config_key_is_recorded() {
    let scene = with("gpt2", &[("frobnicate", json!(3))]);
    scene.sweep("--allow-config-key frobnicate").ok();
    assert_eq!(scene.json("run/run.json")["model"]["allowed_config_keys"], json!(["frobnicate"]));
    scene.run("inspect --model model --allow-config-key frobnicate").ok();
}

#[test]
fn zero_dimensions() {
    for key in ["n_embd", "n_head", "n_layer", "vocab_size"] {
        with("gpt2", &[(key, json!(0))]).sweep_refused("", &["config.json", key]);
    }
    for key in ["num_key_value_heads", "intermediate_size", "head_dim"] {
        with("llama_linear", &[(key, json!(0))]).sweep_refused("", &[key]);
    }
}

#[test]
fn dimensions_of_2_to_the_40() {
    for key in ["n_embd", "n_head", "n_layer", "vocab_size", "n_inner"] {
        with("gpt2", &[(key, json!(1_u64 << 40))]).sweep_refused("", &[]);
    }
    for key in ["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim"] {
        with("llama_linear", &[(key, json!(1_u64 << 40))]).sweep_refused("", &[]);
    }
}

#[test]
fn negative_and_fractional_dimensions() {
    for value in [json!(-3), json!(2.5), json!("3"), json!([3])] {
        with("gpt2", &[("n_layer", value)]).sweep_refused("", &["config.json", "n_layer"]);
    }
}

#[test]
fn dimensions_that_contradict_each_other() {
    with("gpt2", &[("n_head", json!(5))]).sweep_refused("", &["n_head"]);
    with("llama_linear", &[("num_key_value_heads", json!(2))]).sweep_refused("", &["num_key_value_heads"]);
}

#[test]
fn config_that_is_not_json() {
    let scene = Scene::new("gpt2");
    scene.write("model/config.json", "{\"model_type\": \"gpt2\",\n \"n_embd\": }");
    scene.sweep_refused("", &["config.json", "line 2"]);
    scene.write("model/config.json", "[]");
    scene.sweep_refused("", &["config.json"]);
    scene.write("model/config.json", [0xff, 0xfe]);
    scene.sweep_refused("", &["config.json", "UTF-8"]);
}

#[test]
fn tokenizer_that_is_none() {
    let scene = Scene::new("gpt2");
    scene.write("model/tokenizer.json", "{\"model\": 3}");
    scene.sweep_refused("", &["tokenizer.json"]);
}

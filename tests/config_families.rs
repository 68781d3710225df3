//! Configs of the dense families that are refused, each with the line that says why, and knobs that no tiny model shows.

use patchwave::model::spec::{AlibiAt, NormScope, Op};
use patchwave::model::{ModelError, ModelSpec, resolve};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The config of a tiny model of `tests/fixtures/hf` with some keys replaced.
fn changed(case: &str, changes: Value) -> Result<ModelSpec, ModelError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(case).join("config.json");
    let mut config: Map<String, Value> =
        serde_json::from_str(&std::fs::read_to_string(path).expect("a config")).expect("a table");
    config.extend(changes.as_object().expect("a table").clone());
    resolve(config, None, &[]).map(|resolved| resolved.spec)
}

/// That the change is refused with one line that has all of `words`.
#[track_caller]
fn refused(case: &str, changes: Value, words: &[&str]) {
    match changed(case, changes.clone()) {
        Ok(_) => panic!("{case} with {changes} resolved"),
        Err(e) => {
            let message = e.to_string();
            assert!(matches!(e, ModelError::Config(_)) && e.exit_code() == 2 && !message.contains('\n'), "{message}");
            assert!(words.iter().all(|w| message.contains(w)), "{message:?} lacks one of {words:?}");
        }
    }
}

#[test]
fn one_rope_table_where_two_are_needed() {
    let flat = json!({"rope_type": "default", "rope_theta": 10000.0});
    refused(
        "gemma3",
        json!({"rope_theta": null, "rope_parameters": flat}),
        &["rope_parameters.full_attention", "missing"],
    );
    let half = json!({"full_attention": {"rope_type": "default"}});
    refused("olmo3", json!({"rope_parameters": half}), &["rope_parameters.sliding_attention", "missing"]);
    let odd = json!({"full_attention": {"rope_type": "spiral"}, "sliding_attention": {"rope_type": "default"}});
    refused(
        "gemma3",
        json!({"rope_theta": null, "rope_parameters": odd}),
        &["rope_parameters.full_attention", "spiral"],
    );
}

#[test]
fn two_rope_tables_where_one_is_known() {
    let both = json!({"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}});
    refused("gemma2", json!({"rope_theta": null, "rope_parameters": both}), &["rope_parameters", "attention"]);
}

#[test]
fn attention_that_looks_ahead() {
    refused("gemma2", json!({"use_bidirectional_attention": true}), &["use_bidirectional_attention", "not supported"]);
}

#[test]
fn softcaps_that_gemma3_does_not_apply() {
    refused("gemma3", json!({"attn_logit_softcapping": 50.0}), &["attn_logit_softcapping", "unknown key"]);
}

#[test]
fn attention_types_that_do_not_add_up() {
    for types in
        [json!([[["global", "local"], 1]]), json!([["global", 3]]), json!([[["global"], 1u64 << 40]]), json!([3])]
    {
        refused("gpt_neo", json!({"attention_types": types}), &["attention_types", "3 layers"]);
    }
    refused("gpt_neo", json!({"attention_types": [[["global", "far"], 1]]}), &["attention_types", "local"]);
    refused("gpt_neo", json!({"attention_layers": ["local", "local", "local"]}), &["attention_layers", "contradicts"]);
}

#[test]
fn falcon_flags_that_contradict_each_other() {
    refused("falcon_40b", json!({"parallel_attn": false}), &["new_decoder_architecture", "contradicts"]);
    refused("falcon_7b", json!({"num_ln_in_parallel_attn": 2}), &["new_decoder_architecture", "contradicts"]);
    refused("falcon_7b", json!({"num_ln_in_parallel_attn": 3}), &["num_ln_in_parallel_attn", "outside"]);
    refused("bloom", json!({"apply_residual_connection_post_layernorm": true}), &["post_layernorm", "not supported"]);
}

#[test]
fn what_an_mpt_may_not_be() {
    let attention = |key: &str, value: Value| json!({"attn_config": {"alibi": true, key: value}});
    for (key, value) in [
        ("alibi", json!(false)),
        ("alibi_bias_max", json!(16)),
        ("qk_ln", json!(true)),
        ("prefix_lm", json!(true)),
        ("attn_type", json!("multiquery_attention")),
        ("rope", json!(true)),
    ] {
        refused("mpt", attention(key, value), &[&format!("attn_config.{key}")]);
    }
    refused("mpt", json!({"no_bias": false}), &["no_bias"]);
    refused("mpt", json!({"expansion_ratio": 3}), &["expansion_ratio"]);
    refused("mpt", json!({"logit_scale": 2.0}), &["logit_scale"]);
}

#[test]
fn rotated_dimensions_of_gptj() {
    for rotary_dim in [json!(3), json!(10), json!(null)] {
        refused("gptj", json!({"rotary_dim": rotary_dim}), &["rotary_dim", "even"]);
    }
    refused("gptj", json!({"scale_attn_weights": false}), &["scale_attn_weights"]);
}

#[test]
fn patterns_of_exaone() {
    refused("exaone4", json!({"sliding_window_pattern": "LGLG"}), &["sliding_window_pattern", "letters"]);
    refused("exaone4", json!({"sliding_window_pattern": 0}), &["sliding_window_pattern", "0 is outside"]);
    let spec = changed("exaone4", json!({"layer_types": null})).expect("it resolves");
    assert_eq!((0..3).map(|l| spec.attn(l).unwrap().window).collect::<Vec<_>>(), [Some(5), Some(5), None]);
    assert!(spec.attn(0).unwrap().rope.is_some() && spec.attn(2).unwrap().rope.is_none());
}

#[test]
fn what_ministral3_and_apertus_cannot_do_without() {
    refused("ministral3", json!({"rope_parameters": null}), &["rope_parameters", "missing"]);
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8});
    refused("ministral3", json!({"rope_parameters": yarn}), &["rope_parameters.llama_4_scaling_beta", "missing"]);
    refused("apertus", json!({"rope_scaling": null}), &["rope_scaling", "missing"]);
    refused("llama", json!({"rope_parameters": {"llama_4_scaling_beta": 0.1}}), &["llama_4_scaling_beta"]);
}

#[test]
fn block_configs_that_do_not_fit() {
    let block = |attention: Value, ffn: Value| json!({"attention": attention, "ffn": ffn});
    let (attention, ffn) = (json!({"n_heads_in_group": 1}), json!({"ffn_mult": 1.0}));
    let with = |b: Value| json!({"num_hidden_layers": 1, "block_configs": [b]});
    assert!(changed("nemotron_nas", with(block(attention.clone(), ffn.clone()))).is_ok());
    refused("nemotron_nas", json!({"block_configs": null}), &["block_configs", "missing"]);
    refused("nemotron_nas", json!({"block_configs": [1, 2, 3, 4]}), &["block_configs", "entry 0"]);
    refused("nemotron_nas", json!({"num_hidden_layers": 3}), &["block_configs", "4 entries for 3 layers"]);
    let linear = json!({"replace_with_linear": true, "n_heads_in_group": 1});
    let why = ["block_configs[0].attention.replace_with_linear", "not supported yet"];
    refused("nemotron_nas", with(block(linear, ffn.clone())), &why);
    let sinks = json!({"n_heads_in_group": 1, "window_length": 9});
    refused("nemotron_nas", with(block(sinks, ffn.clone())), &["block_configs[0].attention.window_length"]);
    let uneven = json!({"n_heads_in_group": 3});
    refused("nemotron_nas", with(block(uneven, ffn)), &["block_configs[0].attention.n_heads_in_group"]);
    for mult in [json!(null), json!(-1.0), json!(1e-9), json!(1e30)] {
        refused("nemotron_nas", with(block(attention.clone(), json!({"ffn_mult": mult}))), &["ffn.ffn_mult"]);
    }
}

#[test]
fn a_wrapper_of_text_and_images_without_a_language_model() {
    refused("gemma3_wrapped", json!({"text_config": null}), &["text_config", "missing"]);
    refused("gemma3_wrapped", json!({"text_config": 3}), &["text_config", "not a table"]);
    refused("gemma3_wrapped", json!({"audio_config": {"x": 1}}), &["audio_config", "unknown key"]);
    refused("gemma3_wrapped", json!({"text_config": {"model_type": "mamba"}}), &["text_config.model_type", "Mamba"]);
}

#[test]
fn gelu_means_the_tanh_in_gemma_and_both_keys_may_say_so() {
    let plain = changed("gemma", json!({})).expect("it resolves");
    assert_eq!(plain, changed("gemma", json!({"hidden_activation": "gelu_pytorch_tanh"})).expect("it resolves"));
    refused("gemma", json!({"hidden_act": "silu", "hidden_activation": "relu"}), &["contradicts"]);
}

#[test]
fn linear_biases_are_those_of_the_papers() {
    let slopes = |case: &str, changes| {
        let spec = changed(case, changes).expect("it resolves");
        let alibi = spec.attn(0).unwrap().alibi.clone().unwrap();
        (alibi.at, alibi.slopes.iter().map(|s| -s.log2()).collect::<Vec<_>>())
    };
    // Press, Smith, Lewis 2021: 2^-1, 2^-2 … for eight heads; every other one of sixteen for those beyond a power of two.
    let eight = json!({"n_embed": 16, "hidden_size": 16, "num_attention_heads": 8});
    assert_eq!(slopes("bloom", eight), (AlibiAt::AfterScale, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]));
    assert_eq!(slopes("bloom_six_heads", json!({})).1, [2.0, 4.0, 6.0, 8.0, 1.0, 3.0]);
    assert_eq!(slopes("mpt_clipped", json!({})).1, [2.0, 4.0, 6.0, 8.0, 1.0, 3.0]);
    assert_eq!(slopes("falcon_rw", json!({})).0, AlibiAt::BeforeScaleRounded);
}

#[test]
fn norms_stand_where_the_family_has_them() {
    let places = |case: &str| {
        let spec = changed(case, json!({})).expect("it resolves");
        let subs = &spec.blocks[0].subs;
        subs.iter().map(|s| [&s.pre_norm, &s.post_norm, &s.resid_norm].map(|n| n.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(places("llama"), [[true, false, false]; 2]);
    assert_eq!(places("olmo2"), [[false, true, false]; 2]);
    assert_eq!(places("gemma2"), [[true, true, false]; 2]);
    assert_eq!(places("vaultgemma"), [[true, false, false]; 2]);
    assert_eq!(places("opt_350m"), [[false, false, true]; 2]);
    let scope = |case: &str| match &changed(case, json!({})).expect("it resolves").blocks[0].subs[0].op {
        Op::Attn(a) => a.q_norm.as_ref().map(|n| n.scope),
        Op::Mlp(_) => None,
    };
    assert_eq!([scope("olmo2"), scope("gemma3")], [Some(NormScope::Full), Some(NormScope::PerHead)]);
    assert_eq!([scope("stablelm_12b"), scope("cohere_qk_norm")], [Some(NormScope::PerHeadDistinct); 2]);
}

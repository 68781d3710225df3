//! `config.json` to spec: both spellings of transformers, published models, rotary tables, and what is refused.

use patchwave::model::spec::{Act, NormScope, RopeByLength};
use patchwave::model::{ModelError, ModelSpec, Resolved, TensorInfo, resolve, resolve_config};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configs")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn tensors(index: &Value) -> BTreeMap<String, TensorInfo> {
    let shape = |v: &Value| v.as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
    let tensor = |(name, v): (&String, &Value)| (name.clone(), TensorInfo { shape: shape(v), dtype: "F32".into() });
    index.as_object().unwrap().iter().map(tensor).collect()
}

const TINY: &[&str] = &[
    "gpt2",
    "gpt2_mistral",
    "gpt_neox",
    "gpt_neox_seq",
    "llama",
    "llama31",
    "llama_linear",
    "llama_dynamic",
    "llama_yarn",
    "llama_bias_tied",
    "mistral",
    "qwen2",
    "qwen2_swa",
    "qwen3",
    "smollm3",
];

fn tiny(case: &str) -> Value {
    read_json(&configs().join(format!("tiny/{case}.json")))
}

fn tiny_spec(case: &str) -> ModelSpec {
    resolve_config(&tiny(case)["config"].to_string(), None).unwrap().spec
}

fn published(name: &str) -> Resolved {
    let path = configs().join(format!("published/{name}.json"));
    resolve_config(&std::fs::read_to_string(path).unwrap(), None).unwrap()
}

/// The config of the tiny Llama with some keys replaced.
fn llama_with(changes: Value) -> Result<Resolved, ModelError> {
    changed("llama", changes)
}

fn changed(case: &str, changes: Value) -> Result<Resolved, ModelError> {
    let mut config = tiny(case)["config"].as_object().unwrap().clone();
    config.extend(changes.as_object().unwrap().clone());
    resolve(config, None, &[])
}

/// That the change is refused with a line that has all of `words`.
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

// ---------------------------------------------------------------------------------------------- the two spellings

#[test]
fn both_spellings_of_every_tiny_model_resolve_to_one_spec() {
    for case in TINY {
        let files = tiny(case);
        let index = tensors(&files["tensors"]);
        let old = resolve_config(&files["config"].to_string(), Some(&index)).unwrap();
        let new = resolve_config(&files["config_v5"].to_string(), Some(&index)).unwrap();
        assert_eq!(old.spec, new.spec, "{case}");
        let alone = resolve_config(&files["config"].to_string(), None).unwrap();
        assert_eq!(old.spec, alone.spec, "{case}: the config alone says the same");
    }
}

#[test]
fn the_expected_tensors_are_those_in_the_file() {
    for case in TINY {
        let files = tiny(case);
        let expected = resolve_config(&files["config"].to_string(), None).unwrap().expected_tensors().unwrap();
        assert_eq!(expected, tensors(&files["tensors"]), "{case}");
    }
}

// ---------------------------------------------------------------------------------------------- knobs by family

#[test]
fn gpt2_scales_scores_by_layer_and_widens_the_mlp_four_times() {
    let plain = tiny_spec("gpt2");
    assert_eq!(plain.mlp(0).unwrap().d_mlp, 4 * 32);
    assert_eq!((plain.n_ctx, plain.unembed.tied), (Some(64), true));
    let mistral = tiny_spec("gpt2_mistral");
    assert_eq!(mistral.mlp(0).unwrap().d_mlp, 40);
    let scale = |l| mistral.attn(l).unwrap().scale;
    assert_eq!([scale(0), scale(2)], [(8f64.powf(-0.5)) as f32, (8f64.powf(-0.5) / 3.0) as f32]);
    let unscaled = changed("gpt2", json!({"scale_attn_weights": false})).unwrap();
    assert_eq!(unscaled.spec.attn(0).unwrap().scale, 1.0);
}

#[test]
fn neox_is_parallel_unless_told_otherwise() {
    let spec = tiny_spec("gpt_neox");
    assert!(spec.blocks.iter().all(|b| b.parallel));
    assert_eq!(spec.ropes[0].n_rot(), 2, "a quarter of 8");
    assert!(spec.attn(0).unwrap().bias.o);
    let serial = tiny_spec("gpt_neox_seq");
    assert!(serial.blocks.iter().all(|b| !b.parallel));
    assert_eq!(serial.ropes[0].n_rot(), 8);
    let bare = changed("gpt_neox", json!({"attention_bias": false})).unwrap().spec;
    assert!(!bare.attn(0).unwrap().bias.q && bare.mlp(0).unwrap().bias.up);
}

#[test]
fn llama_takes_biases_head_width_and_tying_from_the_config() {
    let spec = tiny_spec("llama_bias_tied");
    let attn = spec.attn(1).unwrap();
    assert!(attn.bias.q && attn.bias.o && spec.mlp(1).unwrap().bias.gate && spec.unembed.tied);
    assert_eq!((attn.d_qk, attn.n_kv_heads), (12, 2));
}

#[test]
fn mistral_has_its_class_window_when_the_key_is_absent_and_none_when_it_is_null() {
    let window = |changes| changed("mistral", changes).unwrap().spec.attn(0).unwrap().window;
    assert_eq!(window(json!({})), Some(6));
    assert_eq!(window(json!({"sliding_window": null})), None);
    let mut config = tiny("mistral")["config"].as_object().unwrap().clone();
    config.remove("sliding_window");
    assert_eq!(resolve(config, None, &[]).unwrap().spec.attn(0).unwrap().window, Some(4096));
}

#[test]
fn qwen2_slides_in_the_upper_layers_only_if_switched_on() {
    let windows = |s: &ModelSpec| (0..3).map(|l| s.attn(l).unwrap().window).collect::<Vec<_>>();
    assert_eq!(windows(&tiny_spec("qwen2_swa")), [None, Some(5), Some(5)]);
    assert_eq!(windows(&tiny_spec("qwen2")), [None; 3]);
    let all = changed("qwen2_swa", json!({"max_window_layers": 0})).unwrap().spec;
    assert_eq!(windows(&all), [Some(5); 3]);
    let bias = tiny_spec("qwen2").attn(0).unwrap().bias;
    assert!(bias.q && bias.k && bias.v && !bias.o);
}

#[test]
fn qwen3_norms_each_head_of_q_and_k() {
    let spec = tiny_spec("qwen3");
    let norm = spec.attn(2).unwrap().k_norm.clone().unwrap();
    assert_eq!((norm.scope, norm.tensor.as_str()), (NormScope::PerHead, "blocks.2.attn.k_norm"));
}

#[test]
fn smollm3_rotates_where_no_rope_layers_has_a_one() {
    let rotates = |s: &ModelSpec| (0..4).map(|l| s.attn(l).unwrap().rope.is_some()).collect::<Vec<_>>();
    assert_eq!(rotates(&tiny_spec("smollm3")), [true, true, true, false]);
    let other = changed("smollm3", json!({"no_rope_layers": [0, 1, 1, 0]})).unwrap().spec;
    assert_eq!(rotates(&other), [false, true, true, false]);
    let every_second = changed("smollm3", json!({"no_rope_layer_interval": 2})).unwrap().spec;
    assert_eq!(rotates(&every_second), [true, false, true, false]);
    let sliding = changed("smollm3", json!({"use_sliding_window": true, "sliding_window": 9})).unwrap().spec;
    assert_eq!((0..4).map(|l| sliding.attn(l).unwrap().window).collect::<Vec<_>>(), [None, None, None, Some(9)]);
}

#[test]
fn biases_follow_the_tensors_where_the_config_is_silent() {
    let files = tiny("llama_bias_tied");
    let mut config = files["config"].as_object().unwrap().clone();
    config.remove("attention_bias");
    let spec = resolve(config.clone(), Some(&tensors(&files["tensors"])), &[]).unwrap().spec;
    assert!(spec.attn(0).unwrap().bias.v);
    config.insert("attention_bias".into(), json!(false));
    let error = resolve(config, Some(&tensors(&files["tensors"])), &[]).err().unwrap().to_string();
    assert!(error.contains("attention_bias") && error.contains("self_attn.q_proj.bias"), "{error}");
}

#[test]
fn a_checkpoint_without_an_unembedding_is_tied_whatever_the_flag() {
    let files = tiny("llama");
    let mut index = tensors(&files["tensors"]);
    index.remove("lm_head.weight");
    assert!(resolve_config(&files["config"].to_string(), Some(&index)).unwrap().spec.unembed.tied);
    assert!(!tiny_spec("llama").unembed.tied);
}

#[test]
fn gpt2_files_with_and_without_their_prefix_are_one_model() {
    let files = tiny("gpt2");
    let with = tensors(&files["tensors"]);
    let without = with.iter().map(|(k, v)| (k.strip_prefix("transformer.").unwrap().to_owned(), v.clone())).collect();
    let config = files["config"].to_string();
    let tensor_of = |index| {
        let resolved = resolve_config(&config, Some(index)).unwrap();
        resolved.stored("blocks.1.attn.k.weight").unwrap().tensor
    };
    assert_eq!(tensor_of(&with), "transformer.h.1.attn.c_attn.weight");
    assert_eq!(tensor_of(&without), "h.1.attn.c_attn.weight");
}

// ---------------------------------------------------------------------------------------------- published models

/// (file, parameters, d_model, layers, heads, KV heads, d_head, d_mlp, vocabulary, n_ctx, tied)
type Published = (&'static str, u64, usize, usize, usize, usize, usize, usize, usize, usize, bool);

#[test]
fn published_configs_resolve_to_the_known_sizes() {
    // The numbers of parameters are those the model cards state.
    const UNLIMITED: usize = usize::MAX;
    const MODELS: &[Published] = &[
        ("gpt2", 124_439_808, 768, 12, 12, 12, 64, 3072, 50257, 1024, true),
        ("pythia-70m", 70_426_624, 512, 6, 8, 8, 64, 2048, 50304, 2048, false),
        ("pythia-1.4b", 1_414_647_808, 2048, 24, 16, 16, 128, 8192, 50304, 2048, false),
        ("SmolLM2-135M", 134_515_008, 576, 30, 9, 3, 64, 1536, 49152, 8192, true),
        ("SmolLM2-135M-Instruct", 134_515_008, 576, 30, 9, 3, 64, 1536, 49152, 8192, true),
        ("Qwen2.5-0.5B", 494_032_768, 896, 24, 14, 2, 64, 4864, 151936, 32768, true),
        ("Qwen3-0.6B", 596_049_920, 1024, 28, 16, 8, 128, 3072, 151936, 40960, true),
        ("Llama-3.2-1B", 1_235_814_400, 2048, 16, 32, 8, 64, 8192, 128256, 131072, true),
        ("Llama-3.1-8B", 8_030_261_248, 4096, 32, 32, 8, 128, 14336, 128256, 131072, false),
        ("Llama-2-7b-hf", 6_738_415_616, 4096, 32, 32, 32, 128, 11008, 32000, 4096, false),
        ("TinyLlama-1.1B-Chat-v1.0", 1_100_048_384, 2048, 22, 32, 4, 64, 5632, 32000, 2048, false),
        ("Mistral-7B-v0.1", 7_241_732_096, 4096, 32, 32, 8, 128, 14336, 32000, 32768, false),
        ("Mistral-7B-v0.3", 7_248_023_552, 4096, 32, 32, 8, 128, 14336, 32768, 32768, false),
        ("SmolLM3-3B", 3_075_098_624, 2048, 36, 16, 4, 128, 11008, 128256, 65536, true),
        ("gemma-2b", 2_506_172_416, 2048, 18, 8, 1, 256, 16384, 256000, 8192, true),
        ("gemma-2-2b", 2_614_341_888, 2304, 26, 8, 4, 256, 9216, 256000, 8192, true),
        ("gemma-3-1b-it", 999_885_952, 1152, 26, 4, 1, 256, 6912, 262144, 32768, true),
        // The language model alone: with what sees images it is 4,300,079,472.
        ("gemma-3-4b-it", 3_880_263_168, 2560, 34, 8, 4, 256, 10240, 262208, 131072, true),
        ("vaultgemma-1b", 1_038_741_120, 1152, 26, 4, 4, 256, 6912, 256000, 1024, true),
        ("OLMo-1B-hf", 1_176_764_416, 2048, 16, 16, 16, 128, 8192, 50304, 2048, true),
        ("OLMo-2-1124-7B", 7_298_617_344, 4096, 32, 32, 32, 128, 11008, 100352, 4096, false),
        ("Olmo-3-1025-7B", 7_298_011_136, 4096, 32, 32, 32, 128, 11008, 100278, 65536, false),
        ("phi-1_5", 1_418_270_720, 2048, 24, 32, 32, 64, 8192, 51200, 2048, false),
        ("phi-2", 2_779_683_840, 2560, 32, 32, 32, 80, 10240, 51200, 2048, false),
        ("Phi-3-mini-4k-instruct", 3_821_079_552, 3072, 32, 32, 32, 96, 8192, 32064, 4096, false),
        ("glm-4-9b-hf", 9_399_951_360, 4096, 40, 32, 2, 128, 13696, 151552, 8192, false),
        ("GLM-4-9B-0414", 9_400_279_040, 4096, 40, 32, 2, 128, 13696, 151552, 32768, false),
        ("Minitron-4B-Base", 4_190_509_056, 3072, 32, 24, 8, 128, 9216, 256000, 4096, false),
        // The files hold the unembedding a second time, which makes it 7,217,189,760.
        ("falcon-7b", 6_921_720_704, 4544, 32, 71, 1, 64, 18176, 65024, 2048, true),
        ("opt-125m", 125_239_296, 768, 12, 12, 12, 64, 3072, 50272, 2048, true),
        ("opt-350m", 331_196_416, 1024, 24, 16, 16, 64, 4096, 50272, 2048, true),
        ("gpt-j-6b", 6_050_882_784, 4096, 28, 16, 16, 256, 16384, 50400, 2048, false),
        ("gpt-neo-125m", 125_198_592, 768, 12, 12, 12, 64, 3072, 50257, 2048, true),
        ("bloom-560m", 559_214_592, 1024, 24, 16, 16, 64, 4096, 250880, UNLIMITED, true),
        ("stablelm-2-1_6b", 1_644_515_328, 2048, 24, 32, 32, 64, 5632, 100352, 4096, false),
        ("granite-3.1-2b-instruct", 2_533_531_648, 2048, 40, 32, 8, 64, 8192, 49155, 131072, true),
        ("c4ai-command-r-v01", 34_980_831_232, 8192, 40, 64, 64, 128, 22528, 256000, 8192, true),
        ("c4ai-command-r7b-12-2024", 8_028_033_024, 4096, 32, 32, 8, 128, 14336, 256000, 8192, true),
        ("starcoder2-3b", 3_030_371_328, 3072, 30, 24, 2, 128, 12288, 49152, 16384, true),
        ("starcoderbase-1b", 1_137_207_296, 2048, 24, 16, 1, 128, 8192, 49152, 8192, true),
        ("mpt-7b", 6_649_286_656, 4096, 32, 32, 32, 128, 16384, 50432, 2048, true),
        ("EXAONE-4.0-1.2B", 1_279_391_488, 2048, 30, 32, 8, 64, 4096, 102400, 65536, true),
        ("Seed-OSS-36B-Base", 36_151_104_512, 5120, 64, 80, 8, 128, 27648, 155136, 524288, false),
        // Four numbers of an xIELU in each layer, of which the card counts the two that were trained.
        ("Apertus-8B-2509", 8_053_338_176 + 2 * 32, 4096, 32, 32, 8, 128, 21504, 131072, 65536, false),
    ];
    for &(name, n_parameters, d_model, n_layers, n_heads, n_kv, d_head, d_mlp, d_vocab, n_ctx, tied) in MODELS {
        let resolved = published(name);
        let spec = &resolved.spec;
        assert_eq!(resolved.n_parameters, n_parameters, "{name}");
        assert_eq!((spec.d_model, spec.n_layers(), spec.d_vocab), (d_model, n_layers, d_vocab), "{name}");
        assert_eq!((spec.n_ctx.unwrap_or(UNLIMITED), spec.unembed.tied), (n_ctx, tied), "{name}");
        for l in 0..n_layers {
            let attn = spec.attn(l).unwrap();
            assert_eq!((attn.n_heads, attn.n_kv_heads, attn.d_qk, attn.d_v), (n_heads, n_kv, d_head, d_head), "{name}");
            assert_eq!(spec.mlp(l).unwrap().d_mlp, d_mlp, "{name}");
        }
    }
}

#[test]
fn published_configs_have_their_special_knobs() {
    let eps = |name| published(name).spec.final_norm.unwrap().eps;
    assert_eq!([eps("gpt2"), eps("Llama-2-7b-hf"), eps("Qwen3-0.6B")], [1e-5, 1e-5, 1e-6]);
    let act = |name| published(name).spec.mlp(0).unwrap().act;
    assert_eq!([act("gpt2"), act("pythia-70m"), act("SmolLM2-135M")], [Act::GeluTanh, Act::GeluErf, Act::Silu]);
    let window = |name| published(name).spec.attn(0).unwrap().window;
    assert_eq!([window("Mistral-7B-v0.1"), window("Mistral-7B-v0.3")], [Some(4096), None]);
    assert_eq!(window("Qwen2.5-0.5B"), None);
    assert_eq!(published("pythia-70m").spec.ropes[0].n_rot(), 16);
    assert!(published("pythia-70m").spec.blocks[3].parallel);
    let slowest = |name| *published(name).spec.ropes[0].inv_freq.last().unwrap();
    let unscaled = |theta: f64, d: f64| theta.powf(-(d - 2.0) / d) as f32;
    assert!((slowest("Llama-3.2-1B") * 32.0 / unscaled(5e5, 64.0) - 1.0).abs() < 1e-6);
    assert!((slowest("Llama-3.1-8B") * 8.0 / unscaled(5e5, 128.0) - 1.0).abs() < 1e-6);
    assert!((slowest("SmolLM2-135M") / unscaled(1e5, 64.0) - 1.0).abs() < 1e-6);
    assert!((slowest("Llama-2-7b-hf") / unscaled(1e4, 128.0) - 1.0).abs() < 1e-6, "class default");
    assert_eq!([eps("glm-4-9b-hf"), eps("GLM-4-9B-0414")], [1.5625e-7, 1e-5]);
    assert_eq!(
        [act("gemma-2b"), act("Minitron-4B-Base"), act("bloom-560m")],
        [Act::GeluTanh, Act::Relu2, Act::GeluTanh]
    );
    assert_eq!([window("Phi-3-mini-4k-instruct"), window("EXAONE-4.0-1.2B")], [Some(2047), None]);
    let full = |name| (0..8).filter(|&l| published(name).spec.attn(l).unwrap().window.is_none()).collect::<Vec<_>>();
    assert_eq!([full("gemma-2-2b"), full("gpt-neo-125m")], [[1, 3, 5, 7], [0, 2, 4, 6]]);
    assert_eq!(
        [full("Olmo-3-1025-7B"), full("c4ai-command-r7b-12-2024"), full("gemma-3-1b-it")],
        [vec![3, 7], vec![3, 7], vec![5]]
    );
    assert_eq!([published("phi-2").spec.ropes[0].n_rot(), published("gpt-j-6b").spec.ropes[0].n_rot()], [32, 64]);
    assert_eq!(published("opt-350m").spec.embed.projected, Some(512));
    let falcon_40b = published("falcon-40b").spec;
    assert_eq!((falcon_40b.attn(0).unwrap().n_kv_heads, falcon_40b.blocks[0].parallel), (8, true));
    let granite = published("granite-3.1-2b-instruct").spec;
    assert_eq!((granite.embed.scale, granite.unembed.scale, granite.blocks[0].resid_scale), (12.0, 0.125, 0.22));
    let smollm3 = published("SmolLM3-3B").spec;
    assert_eq!((0..36).filter(|&l| smollm3.attn(l).unwrap().rope.is_none()).count(), 9);
}

// ---------------------------------------------------------------------------------------------- rotary tables

#[test]
fn rotary_tables_are_those_of_hugging_face() {
    let rows = read_json(&configs().join("rope_tables.json"));
    for row in rows.as_array().unwrap() {
        let (name, length) = (&row["name"], row["length"].as_u64().unwrap() as usize);
        let mut config = row["config"].as_object().unwrap().clone();
        config.insert("model_type".into(), json!("llama"));
        let rope = resolve(config, None, &[]).unwrap().spec.ropes.remove(0);
        let expected: Vec<f32> =
            row["inv_freq"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let ours = rope.inv_freq_for(length);
        assert_eq!(ours.len(), expected.len(), "{name}");
        for (i, (a, b)) in ours.iter().zip(&expected).enumerate() {
            let ulps = a.to_bits().abs_diff(b.to_bits());
            assert!(ulps <= 1, "{name} at {length} tokens: frequency {i} is {a:e}, not {b:e} ({ulps} ulps)");
        }
        let amplitude = row["amplitude"].as_f64().unwrap();
        assert!((f64::from(rope.amplitude) - amplitude).abs() < 1e-7, "{name}: {} {amplitude}", rope.amplitude);
    }
}

#[test]
fn the_divisors_of_a_gguf_file_divide_the_frequencies() {
    let factors = json!([1.0, 1.0, 4.0, 8.0]);
    let with = llama_with(json!({"rope_scaling": {"rope_type": "rope_freqs", "factors": factors}})).unwrap().spec;
    let plain = tiny_spec("llama").ropes[0].inv_freq.clone();
    assert_eq!(with.ropes[0].inv_freq, [plain[0], plain[1], plain[2] / 4.0, plain[3] / 8.0]);
    refused("llama", json!({"rope_scaling": {"rope_type": "rope_freqs", "factors": [1.0]}}), &["factors", "4"]);
}

#[test]
fn scalings_written_on_top_of_the_config_stretch_the_context() {
    assert_eq!(tiny_spec("llama").n_ctx, Some(64));
    assert_eq!(tiny_spec("llama_dynamic").n_ctx, Some(32));
    assert_eq!(tiny_spec("llama_linear").n_ctx, Some(256));
    assert_eq!(tiny_spec("llama_yarn").n_ctx, Some(128));
    assert_eq!(tiny_spec("llama31").n_ctx, Some(256));
    assert!(matches!(tiny_spec("llama_dynamic").ropes[0].by_length, Some(RopeByLength::DynamicNtk { .. })));
}

#[test]
fn old_names_of_rotary_types_are_understood() {
    let lists = json!({"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]});
    let table = |name: &str| {
        let mut table = lists.as_object().unwrap().clone();
        table.insert(name.into(), json!(if name == "type" { "su" } else { "longrope" }));
        json!({"rope_scaling": table, "original_max_position_embeddings": 16})
    };
    let (old, new) = (llama_with(table("type")).unwrap().spec, llama_with(table("rope_type")).unwrap().spec);
    assert_eq!(old, new);
    let mrope = json!({"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 1, 1]}});
    assert_eq!(llama_with(mrope).unwrap().spec, tiny_spec("llama"));
}

// ---------------------------------------------------------------------------------------------- what is refused

#[test]
fn unknown_model_type() {
    refused("llama", json!({"model_type": "gpt17"}), &["model_type", "\"gpt17\"", "gpt2, gpt_bigcode, gpt_neo"]);
    refused("llama", json!({"model_type": null}), &["model_type", "missing"]);
}

#[test]
fn known_model_types_that_are_not_supported_say_what_is_missing() {
    for (model_type, missing) in [
        ("mixtral", "mixture-of-experts"),
        ("qwen3_moe", "mixture-of-experts"),
        ("deepseek_v3", "latent attention"),
        ("qwen3_next", "DeltaNet"),
        ("mamba", "Mamba"),
        ("nemotron_h", "Mamba"),
        ("gemma3n", "per-layer embeddings"),
        ("llava", "text model alone"),
        ("bert", "decoder-only"),
    ] {
        refused("llama", json!({"model_type": model_type}), &["model_type", model_type, missing, "supported"]);
    }
}

#[test]
fn unknown_rope_type() {
    refused("llama", json!({"rope_scaling": {"type": "spiral", "factor": 2.0}}), &["rope_scaling.type", "\"spiral\""]);
    refused("llama", json!({"rope_parameters": {"rope_type": "spiral"}}), &["rope_parameters.rope_type", "yarn"]);
}

#[test]
fn incomplete_or_impossible_rope_scaling() {
    refused("llama", json!({"rope_scaling": {"type": "linear"}}), &["rope_scaling.factor", "missing"]);
    refused("llama", json!({"rope_scaling": {"type": "linear", "factor": -1.0}}), &["rope_scaling.factor", "-1"]);
    refused("llama", json!({"rope_scaling": {"type": "linear", "factor": 2, "twist": 1}}), &["rope_scaling.twist"]);
    refused("llama", json!({"rope_scaling": "linear"}), &["rope_scaling", "not a table"]);
    refused("llama", json!({"rope_theta": {"__float__": "Infinity"}}), &["rope_theta", "finite"]);
    refused("gpt_neox", json!({"rotary_pct": 0.1}), &["partial_rotary_factor", "even"]);
    refused("gpt_neox", json!({"rotary_pct": 2.0}), &["partial_rotary_factor"]);
    let flat = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4});
    refused("llama", json!({"rope_scaling": flat}), &["high_freq_factor"]);
}

#[test]
fn unknown_activation() {
    refused("llama", json!({"hidden_act": "snake"}), &["hidden_act", "\"snake\"", "silu"]);
    refused("gpt2", json!({"activation_function": "tanh_then_some"}), &["activation_function"]);
}

#[test]
fn unknown_config_key() {
    refused("llama", json!({"logit_scale": 0.0625}), &["logit_scale", "0.0625", "--allow-config-key logit_scale"]);
    refused("llama", json!({"rope_interleaved": true}), &["rope_interleaved", "--allow-config-key"]);
    refused("gpt2", json!({"add_cross_attention": true}), &["add_cross_attention", "not supported"]);
    refused("llama", json!({"quantization_config": {"quant_method": "gptq"}}), &["quantization_config", "quantised"]);
    llama_with(json!({"logit_scale": null, "_private": 1, "temperature": 0.7})).unwrap();
}

#[test]
fn an_allowed_config_key_is_ignored_and_reported() {
    let mut config: Map<String, Value> = tiny("llama")["config"].as_object().unwrap().clone();
    config.insert("logit_scale".into(), json!(2));
    let allow = ["logit_scale".to_owned(), "not_there".to_owned()];
    let resolved = resolve(config, None, &allow).unwrap();
    assert_eq!(resolved.allowed_keys_used, ["logit_scale"]);
    assert_eq!(resolved.spec, tiny_spec("llama"));
}

#[test]
fn zero_and_absurd_dimensions() {
    let huge = 1u64 << 40;
    for key in
        ["hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"]
    {
        for value in [json!(0), json!(huge), json!(-1), json!(1.5), json!("4"), json!(1e300)] {
            refused("llama", json!({ key: value }), &[key]);
        }
    }
    for key in ["intermediate_size", "max_position_embeddings"] {
        refused("llama", json!({ key: 0 }), &[key, "0 is outside"]);
        refused("llama", json!({ key: huge }), &[key, "1099511627776"]);
    }
    refused("gpt2", json!({"n_positions": huge}), &["n_positions"]);
    refused("mistral", json!({"sliding_window": 0}), &["sliding_window"]);
    refused("llama", json!({"num_hidden_layers": 10_001}), &["num_hidden_layers", "10000"]);
    refused("llama", json!({"num_attention_heads": 65536, "head_dim": 65536}), &["head_dim", "wider"]);
    refused("llama", json!({"rms_norm_eps": 0}), &["rms_norm_eps"]);
}

#[test]
fn the_largest_allowed_sizes_do_not_overflow() {
    let width = 1 << 24;
    let absurd = json!({"hidden_size": width, "vocab_size": width, "intermediate_size": width,
        "num_hidden_layers": 10_000, "num_attention_heads": 65536, "head_dim": 256, "num_key_value_heads": 65536});
    refused("llama", absurd, &["absurd"]);
}

#[test]
fn contradictory_configs() {
    refused("llama", json!({"num_key_value_heads": 3}), &["num_key_value_heads", "4"]);
    refused("llama", json!({"hidden_size": 30}), &["num_attention_heads", "30"]);
    refused("llama", json!({"n_embd": 64}), &["n_embd", "contradicts hidden_size"]);
    refused("llama31", json!({"rope_theta": 7.0}), &["rope_theta", "contradicts rope_scaling.rope_theta"]);
    refused("llama31", json!({"rope_parameters": {"rope_type": "default"}}), &["rope_parameters", "rope_scaling"]);
    refused("llama", json!({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}}), &["contradicts"]);
    refused("qwen2", json!({"layer_types": vec!["sliding_attention"; 3]}), &["layer_types", "no window"]);
    refused("qwen2", json!({"layer_types": vec!["full_attention"; 2]}), &["layer_types", "2 entries for 3 layers"]);
    refused("qwen2", json!({"layer_types": ["full_attention", "mamba", "full_attention"]}), &["layer_types", "mamba"]);
    refused("smollm3", json!({"no_rope_layers": [1, 1, 1]}), &["no_rope_layers", "4 layers"]);
    refused("smollm3", json!({"no_rope_layers": [1, 1, 2, 1]}), &["no_rope_layers", "2"]);
}

#[test]
fn missing_sizes_and_wrong_types() {
    refused("llama", json!({"hidden_size": null}), &["hidden_size", "missing"]);
    refused("llama", json!({"intermediate_size": null}), &["intermediate_size", "missing"]);
    refused("llama", json!({"tie_word_embeddings": "yes"}), &["tie_word_embeddings"]);
    for text in ["", "[]", "{\"model_type\": ", "{\"model_type\": NaN}"] {
        let error = resolve_config(text, None).err().unwrap().to_string();
        assert!(error.starts_with("config.json: ") && !error.contains('\n'), "{error}");
    }
}

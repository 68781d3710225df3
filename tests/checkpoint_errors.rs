//! Model folders: what opens, what the parameters read, and every bad file by name.

use patchwave::model::{Checkpoint, ModelError, ModelFiles, Params, SafetensorsFolder, resolve};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Tensors by name: shape and numbers.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tiny_config(case: &str) -> Map<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/configs/tiny/{case}.json"));
    let file: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    file["config"].as_object().unwrap().clone()
}

/// Numbers that tell where they came from: 1000 · (index of the tensor) + (index in it), scaled to stay exact.
fn tiny_tensors(config: &Map<String, Value>) -> Tensors {
    let expected = resolve(config.clone(), None, &[]).unwrap().expected_tensors().unwrap();
    let tensor = |(t, (name, info)): (usize, (String, patchwave::model::TensorInfo))| {
        let values = (0..info.len()).map(|i| (t * 10_000 + i) as f32).collect();
        (name, (info.shape, values))
    };
    expected.into_iter().enumerate().map(tensor).collect()
}

/// A safetensors file of float32 tensors.
fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), vec![]);
    for (name, (shape, values)) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    with_header(&Value::Object(header).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

fn folder(config: &Map<String, Value>, tensors: &Tensors) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), Value::Object(config.clone()).to_string()).unwrap();
    fs::write(dir.path().join("model.safetensors"), safetensors(tensors)).unwrap();
    dir
}

/// The tiny model `case` with its tensors changed.
fn changed(case: &str, change: impl FnOnce(&mut Tensors)) -> TempDir {
    let config = tiny_config(case);
    let mut tensors = tiny_tensors(&config);
    change(&mut tensors);
    folder(&config, &tensors)
}

fn open(dir: &TempDir) -> Result<ModelFiles, ModelError> {
    ModelFiles::open(dir.path(), &[])
}

fn read(params: &dyn Params, name: &str, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    params.read(name, &mut out).unwrap();
    out
}

#[track_caller]
fn refused<T>(result: Result<T, ModelError>, words: &[&str]) {
    let Err(e) = result else { panic!("accepted") };
    let message = e.to_string();
    assert!(e.exit_code() == 2 && !message.contains('\n'), "{message}");
    assert!(words.iter().all(|w| message.contains(w)), "{message:?} lacks one of {words:?}");
}

// ---------------------------------------------------------------------------------------------- what opens

#[test]
fn every_family_reads_its_parameters() {
    for case in ["gpt2", "gpt2_mistral", "gpt_neox", "llama", "llama_bias_tied", "mistral", "qwen2", "qwen3", "smollm3"]
    {
        let model = open(&changed(case, |_| {})).unwrap_or_else(|e| panic!("{case}: {e}"));
        let mut n = 0;
        for p in model.spec.params() {
            n += read(&*model.params, &p.name, p.shape.iter().product()).len() as u64;
        }
        assert_eq!(n, model.n_parameters, "{case}");
        assert_eq!(model.stored_as, ["F32"]);
    }
}

#[test]
fn gpt2_weights_are_turned_and_c_attn_is_taken_apart() {
    let dir = changed("gpt2", |_| {});
    let (model, d) = (open(&dir).unwrap(), 32);
    let tensors = tiny_tensors(&tiny_config("gpt2"));
    let fused = &tensors["transformer.h.1.attn.c_attn.weight"].1;
    let bias = &tensors["transformer.h.1.attn.c_attn.bias"].1;
    for (part, name) in ["q", "k", "v"].into_iter().enumerate() {
        let weight = read(&*model.params, &format!("blocks.1.attn.{name}.weight"), d * d);
        for (o, i) in [(0, 0), (0, 1), (17, 3), (31, 31)] {
            assert_eq!(weight[o * d + i], fused[i * 3 * d + part * d + o], "{name}[{o}, {i}]");
        }
        assert_eq!(read(&*model.params, &format!("blocks.1.attn.{name}.bias"), d), bias[part * d..][..d]);
    }
    let down = read(&*model.params, "blocks.0.mlp.down.weight", d * 4 * d);
    assert_eq!(down[5 * 4 * d + 100], tensors["transformer.h.0.mlp.c_proj.weight"].1[100 * d + 5]);
}

#[test]
fn neox_rows_are_taken_head_by_head() {
    let dir = changed("gpt_neox", |_| {});
    let (model, d, d_head) = (open(&dir).unwrap(), 32, 8);
    let fused = &tiny_tensors(&tiny_config("gpt_neox"))["gpt_neox.layers.2.attention.query_key_value.weight"].1;
    // Out of order, so that the tensor kept for its parts is dropped and read again.
    for (part, name) in [(2, "v"), (0, "q"), (1, "k"), (0, "q")] {
        let weight = read(&*model.params, &format!("blocks.2.attn.{name}.weight"), d * d);
        for (head, row, i) in [(0, 0, 0), (1, 7, 3), (3, 2, 31)] {
            let stored = (head * 3 + part) * d_head + row;
            assert_eq!(weight[(head * d_head + row) * d + i], fused[stored * d + i], "{name} of head {head}");
        }
    }
}

#[test]
fn parameters_may_be_read_in_parallel() {
    use rayon::prelude::*;
    let model = open(&changed("gpt_neox", |_| {})).unwrap();
    let size = |shape: &[usize]| shape.iter().product();
    let params = model.spec.params();
    let one_by_one: Vec<_> = params.iter().map(|p| read(&*model.params, &p.name, size(&p.shape))).collect();
    for _ in 0..20 {
        let at_once: Vec<_> = params.par_iter().map(|p| read(&*model.params, &p.name, size(&p.shape))).collect();
        assert_eq!(at_once, one_by_one);
    }
}

#[test]
fn a_tied_model_ignores_a_stored_unembedding() {
    let dir = changed("qwen2", |t| {
        let embed = t["model.embed_tokens.weight"].clone();
        t.insert("lm_head.weight".into(), embed);
    });
    assert!(open(&dir).unwrap().spec.unembed.tied);
}

#[test]
fn buffers_of_old_versions_are_ignored() {
    let mask = |name: &str| (name.to_owned(), (vec![1, 1, 2, 2], vec![0.0; 4]));
    let names = ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.masked_bias"];
    open(&changed("gpt_neox", |t| t.extend(names.map(mask)))).unwrap();
    open(&changed("gpt2", |t| t.extend([mask("transformer.h.2.attn.bias")]))).unwrap();
    open(&changed("llama", |t| t.extend([mask("model.layers.0.self_attn.rotary_emb.inv_freq")]))).unwrap();
}

#[test]
fn all_float_types_widen_to_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..1000).map(|i| i as f32 / 4.0 - 32.0).collect();
    let mut data: Vec<u8> = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    data.extend(values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()));
    data.extend(values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()));
    let tensor = |dtype, range: [usize; 2]| json!({"dtype": dtype, "shape": [10, 100], "data_offsets": range});
    let header = json!({"a": tensor("F64", [0, 8000]), "b": tensor("F32", [8000, 12000]),
        "c": tensor("F16", [12000, 14000]), "d": tensor("BF16", [14000, 16000])});
    // An odd header length leaves the numbers unaligned in the file.
    let header = header.to_string();
    let header = if header.len().is_multiple_of(2) { header + " " } else { header };
    fs::write(dir.path().join("odd-name.safetensors"), with_header(&header, &data)).unwrap();
    let folder = SafetensorsFolder::open(dir.path()).unwrap();
    for name in ["a", "b", "c"] {
        let mut out = vec![0.0; 1000];
        folder.read(name, &mut out).unwrap();
        assert_eq!(out, values, "{name}");
        folder.read(name, &mut out).unwrap();
        assert_eq!(out, values, "{name} again, after its pages were given back");
    }
    let mut out = vec![0.0; 1000];
    folder.read("d", &mut out).unwrap();
    let rounded: Vec<f32> = values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
    assert_eq!(out, rounded);
    refused(folder.read("a", &mut [0.0; 3]), &["tensor a", "3 numbers", "1000"]);
}

#[test]
fn the_hash_changes_with_any_byte_and_not_with_the_folder() {
    let (a, b) = (changed("llama", |_| {}), changed("llama", |_| {}));
    let one = changed("llama", |t| t.get_mut("model.norm.weight").unwrap().1[5] += 1.0);
    let hash = |dir| open(dir).unwrap().sha256().unwrap();
    assert_eq!(hash(&a), hash(&b));
    assert_eq!(hash(&a).len(), 64);
    assert_ne!(hash(&a), hash(&one));
}

// ---------------------------------------------------------------------------------------------- shards

const INDEX: &str = "model.safetensors.index.json";

/// The tiny Llama in two shards, with `change` made to the index.
fn sharded(change: impl FnOnce(&mut Map<String, Value>)) -> TempDir {
    let config = tiny_config("llama");
    let mut first = tiny_tensors(&config);
    let second = first.split_off("model.layers.1.");
    let dir = folder(&config, &first);
    fs::rename(dir.path().join("model.safetensors"), dir.path().join("one.safetensors")).unwrap();
    fs::write(dir.path().join("two.safetensors"), safetensors(&second)).unwrap();
    let in_shard =
        |tensors: &Tensors, shard: &str| tensors.keys().map(|k| (k.clone(), json!(shard))).collect::<Vec<_>>();
    let mut map: Map<String, Value> = in_shard(&first, "one.safetensors").into_iter().collect();
    map.extend(in_shard(&second, "two.safetensors"));
    change(&mut map);
    fs::write(dir.path().join(INDEX), json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string()).unwrap();
    dir
}

#[test]
fn shards_are_one_model() {
    let whole = open(&changed("llama", |_| {})).unwrap();
    let parts = open(&sharded(|_| {})).unwrap();
    assert_eq!(whole.spec, parts.spec);
    for name in ["blocks.0.attn.q.weight", "blocks.1.attn.q.weight"] {
        assert_eq!(read(&*whole.params, name, 32 * 32), read(&*parts.params, name, 32 * 32));
    }
}

#[cfg(unix)]
#[test]
fn symlinks_inside_the_folder_are_followed() {
    let (dir, blobs) = (sharded(|_| {}), tempfile::tempdir().unwrap());
    for name in ["config.json", "one.safetensors", "two.safetensors", INDEX] {
        fs::rename(dir.path().join(name), blobs.path().join(name)).unwrap();
        std::os::unix::fs::symlink(blobs.path().join(name), dir.path().join(name)).unwrap();
    }
    open(&dir).unwrap();
}

#[test]
fn index_entries_that_leave_the_folder() {
    for name in
        ["../one.safetensors", "/etc/one.safetensors", "sub/one.safetensors", "..\\one.safetensors", "..", "", "."]
    {
        let dir = sharded(|map| {
            map.insert("model.norm.weight".into(), json!(name));
        });
        refused(open(&dir), &[INDEX, &format!("{name:?}"), "same folder"]);
    }
}

#[test]
fn index_that_names_a_missing_shard() {
    let dir = sharded(|map| {
        map.insert("model.norm.weight".into(), json!("three.safetensors"));
    });
    refused(open(&dir), &[INDEX, "three.safetensors", "not in the folder"]);
}

#[test]
fn index_with_a_tensor_its_shard_lacks() {
    let dir = sharded(|map| {
        map.insert("model.norm.weight".into(), json!("one.safetensors"));
    });
    refused(open(&dir), &[INDEX, "model.norm.weight", "one.safetensors"]);
    let dir = sharded(|map| {
        map.insert("model.extra.weight".into(), json!("one.safetensors"));
    });
    refused(open(&dir), &[INDEX, "model.extra.weight"]);
}

#[test]
fn a_tensor_in_two_shards() {
    let dir = sharded(|_| {});
    let mut again = tiny_tensors(&tiny_config("llama")).split_off("model.layers.1.");
    again.insert("lm_head.weight".into(), (vec![67, 32], vec![0.0; 67 * 32]));
    fs::write(dir.path().join("two.safetensors"), safetensors(&again)).unwrap();
    refused(open(&dir), &["two.safetensors", "lm_head.weight", "one.safetensors as well"]);
}

#[test]
fn an_index_that_is_no_index() {
    for text in ["", "{}", "[1]", "{\"weight_map\": {\"a\": 1}}"] {
        let dir = sharded(|_| {});
        fs::write(dir.path().join(INDEX), text).unwrap();
        refused(open(&dir), &[INDEX, "invalid index"]);
    }
}

// ---------------------------------------------------------------------------------------------- tensors and spec

#[test]
fn missing_tensor() {
    let dir = changed("llama", |t| drop(t.remove("model.layers.1.mlp.up_proj.weight")));
    refused(open(&dir), &["model.layers.1.mlp.up_proj.weight", "missing"]);
    let dir = changed("qwen2", |t| drop(t.remove("model.layers.0.self_attn.k_proj.bias")));
    refused(open(&dir), &["model.layers.0.self_attn.k_proj.bias", "missing"]);
}

#[test]
fn left_over_tensor() {
    let dir = changed("llama", |t| drop(t.insert("model.layers.0.adapter.weight".into(), (vec![2], vec![0.0; 2]))));
    refused(open(&dir), &["model.layers.0.adapter.weight", "left over", "llama"]);
    let dir = changed("llama", |t| drop(t.insert("score.weight".into(), (vec![2], vec![0.0; 2]))));
    refused(open(&dir), &["score.weight", "left over"]);
}

#[test]
fn wrongly_shaped_tensor() {
    let dir = changed("llama", |t| drop(t.insert("model.norm.weight".into(), (vec![31], vec![0.0; 31]))));
    refused(open(&dir), &["model.norm.weight", "[31]", "[32]"]);
    let dir = changed("gpt2", |t| t.get_mut("transformer.h.0.attn.c_attn.weight").unwrap().0.reverse());
    refused(open(&dir), &["transformer.h.0.attn.c_attn.weight", "[96, 32]", "[32, 96]"]);
}

#[test]
fn more_or_fewer_layers_than_the_config_says() {
    let mut config = tiny_config("llama");
    let tensors = tiny_tensors(&config);
    config.insert("num_hidden_layers".into(), json!(2));
    refused(open(&folder(&config, &tensors)), &["model.layers.2.", "left over", "has 2 layers, the checkpoint 3"]);
    config.insert("num_hidden_layers".into(), json!(4));
    refused(open(&folder(&config, &tensors)), &["model.layers.3.", "missing", "has 4 layers, the checkpoint 3"]);
}

#[test]
fn a_type_that_is_not_floating_point() {
    let dir = changed("llama", |_| {});
    let path = dir.path().join("model.safetensors");
    let file = String::from_utf8_lossy(&fs::read(&path).unwrap()[8..]).into_owned();
    let header = file[..file.find("}}").unwrap() + 2].replacen("F32", "I32", 1);
    let bytes = fs::read(&path).unwrap();
    let old = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    fs::write(&path, with_header(&header, &bytes[8 + old..])).unwrap();
    refused(open(&dir), &["lm_head.weight", "I32", "BF16"]);
}

#[test]
fn nan_and_infinity_name_the_tensor_and_fail_with_exit_code_1() {
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let dir = changed("gpt2", |t| t.get_mut("transformer.h.1.attn.c_attn.weight").unwrap().1[7] = value);
        let model = open(&dir).unwrap();
        let error = model.params.read("blocks.1.attn.v.weight", &mut [0.0; 32 * 32]).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("transformer.h.1.attn.c_attn.weight") && message.contains("element 7"), "{message}");
        assert!(message.contains(text) && error.exit_code() == 1, "{message}");
    }
}

#[test]
fn parameters_are_read_whole_and_by_their_own_names() {
    let model = open(&changed("llama", |_| {})).unwrap();
    refused(model.params.read("blocks.9.attn.q.weight", &mut [0.0; 4]), &["blocks.9.attn.q.weight"]);
    refused(model.params.read("ln_final.weight", &mut [0.0; 4]), &["ln_final.weight", "4 numbers", "32"]);
}

// ---------------------------------------------------------------------------------------------- hostile files

/// Opens a folder whose `model.safetensors` has these bytes.
fn open_bytes(bytes: &[u8]) -> Result<SafetensorsFolder, ModelError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    SafetensorsFolder::open(dir.path())
}

#[test]
fn truncated_safetensors() {
    let whole = safetensors(&tiny_tensors(&tiny_config("llama")));
    open_bytes(&whole).unwrap();
    for cut in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        refused(open_bytes(&whole[..cut]), &["model.safetensors", "truncated"]);
    }
    refused(open_bytes(&[&whole[..], b"x"].concat()), &["model.safetensors", "padded"]);
}

#[test]
fn header_lengths_that_lie() {
    for length in [u64::MAX, 1 << 63, 1 << 40, 100_000_001] {
        let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
        refused(open_bytes(&bytes), &["model.safetensors", &length.to_string()]);
    }
    refused(open_bytes(&with_header("{}", b"")[..9]), &["truncated"]);
}

#[test]
fn headers_that_are_not_headers() {
    for header in ["", "x", "[]", "{\"a\": 1}", "{\"a\": {\"dtype\": \"F32\"}}"] {
        refused(open_bytes(&with_header(header, b"")), &["model.safetensors"]);
    }
    let deep = "[".repeat(100_000);
    refused(open_bytes(&with_header(&deep, b"")), &["model.safetensors"]);
    refused(open_bytes(&with_header("\u{0}\u{1}", b"")), &["model.safetensors"]);
}

#[test]
fn overlapping_tensors() {
    let header = json!({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}});
    refused(open_bytes(&with_header(&header.to_string(), &[0; 12])), &["model.safetensors", "overlaps"]);
}

#[test]
fn offsets_and_shapes_that_lie() {
    let file = |shape: Value, offsets: Value| {
        let header = json!({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}});
        open_bytes(&with_header(&header.to_string(), &[0; 8]))
    };
    file(json!([2]), json!([0, 8])).unwrap();
    let max = u64::MAX;
    for (shape, offsets) in [
        (json!([2]), json!([8, 0])),
        (json!([2]), json!([0, 1u64 << 40])),
        (json!([2]), json!([max - 8, max])),
        (json!([3]), json!([0, 8])),
        (json!([1u64 << 40, 1u64 << 40]), json!([0, 8])),
        (json!([max, max]), json!([0, 8])),
        (json!([-1]), json!([0, 8])),
    ] {
        refused(file(shape, offsets), &["model.safetensors"]);
    }
}

// ---------------------------------------------------------------------------------------------- paths

#[test]
fn a_path_that_is_neither_folder_nor_gguf() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    fs::write(&file, "hello").unwrap();
    refused(ModelFiles::open(&file, &[]), &["notes.txt", "folder", ".gguf"]);
    refused(ModelFiles::open(&dir.path().join("absent"), &[]), &["absent"]);
    refused(ModelFiles::open(dir.path(), &[]), &["config.json"]);
}

#[test]
fn a_folder_without_weights() {
    let dir = changed("llama", |_| {});
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    refused(open(&dir), &["neither *.safetensors files nor pytorch_model.bin"]);
    fs::write(dir.path().join("a.safetensors"), "").unwrap();
    fs::write(dir.path().join("b.safetensors"), "").unwrap();
    refused(open(&dir), &["2 *.safetensors", INDEX]);
}

#[test]
fn config_files_that_are_not_configs() {
    let dir = changed("llama", |_| {});
    for text in [&b""[..], b"[]", b"{\"model_type\": \"llama\"", b"\xff\xfe", b"null"] {
        fs::write(dir.path().join("config.json"), text).unwrap();
        refused(open(&dir), &["config.json"]);
    }
}

#[test]
fn an_allowed_config_key_is_recorded() {
    let mut config = tiny_config("llama");
    let tensors = tiny_tensors(&config);
    config.insert("mystery".into(), json!(1));
    let dir = folder(&config, &tensors);
    refused(open(&dir), &["mystery", "--allow-config-key mystery"]);
    let model = ModelFiles::open(dir.path(), &["mystery".into(), "unneeded".into()]).unwrap();
    assert_eq!(model.allowed_keys_used, ["mystery"]);
}

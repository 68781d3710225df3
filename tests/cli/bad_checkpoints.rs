//! Weight files that cannot be trusted: one line that names the file or the tensor, exit code 2, and nothing is written.

#[path = "../fixtures/gguf/writer.rs"]
#[allow(dead_code)]
mod writer;

use crate::scene::{FIXTURES, Scene, tensor, with_header};
use serde_json::{Value, json};
use std::path::Path;
use writer::GgufFile;

#[test]
fn missing_tensor() {
    let scene = Scene::new("gpt2");
    scene.tensors(|t| t.retain(|name, _| !name.ends_with("h.1.mlp.c_fc.weight")));
    scene.sweep_refused("", &["h.1.mlp.c_fc.weight", "missing"]);
}

#[test]
fn left_over_tensor() {
    let scene = Scene::new("gpt2");
    scene.tensors(|t| {
        let copy = tensor(t, "ln_f.weight").clone();
        t.insert("transformer.adapter.weight".into(), copy);
    });
    scene.sweep_refused("", &["transformer.adapter.weight"]);
}

#[test]
fn wrongly_shaped_tensor() {
    let scene = Scene::new("gpt2");
    scene.tensors(|t| tensor(t, "h.0.attn.c_proj.weight").shape.insert(0, 1));
    scene.sweep_refused("", &["h.0.attn.c_proj.weight", "[1, 24, 24]", "[24, 24]"]);
}

#[test]
fn truncated_safetensors() {
    let scene = Scene::new("gpt2");
    let whole = scene.read("model/model.safetensors");
    for len in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        scene.write("model/model.safetensors", &whole[..len]);
        scene.sweep_refused("", &["model.safetensors", "truncated"]);
    }
}

#[test]
fn overlapping_tensors() {
    let scene = Scene::new("gpt2");
    let header = json!({
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    });
    scene.write("model/model.safetensors", with_header(&header.to_string(), &[0; 12]));
    scene.sweep_refused("", &["model.safetensors", "overlaps"]);
}

#[test]
fn hostile_safetensors_headers() {
    let scene = Scene::new("gpt2");
    let entry = |shape: Value, offsets: Value| {
        let header = json!({"wte.weight": {"dtype": "F32", "shape": shape, "data_offsets": offsets}});
        with_header(&header.to_string(), &[0; 16])
    };
    let hostile = [
        with_header("not JSON", &[]),
        with_header("[]", &[]),
        u64::MAX.to_le_bytes().to_vec(),
        [&(1_u64 << 40).to_le_bytes()[..], b"{}"].concat(),
        entry(json!([1_u64 << 40]), json!([0, 16])),
        entry(json!([1_u64 << 32, 1_u64 << 32]), json!([0, 16])),
        entry(json!([4]), json!([0, u64::MAX])),
        entry(json!([4]), json!([16, 0])),
        entry(json!([4]), json!([16, 32])),
        entry(json!([-4]), json!([0, 16])),
        with_header(&"[".repeat(100_000), &[]),
    ];
    for bytes in hostile {
        scene.write("model/model.safetensors", bytes);
        scene.sweep_refused("", &["model.safetensors"]);
    }
}

#[test]
fn index_entry_that_leaves_the_folder() {
    for shard in ["../model.safetensors", "/tmp/model.safetensors", "sub/model.safetensors", ".."] {
        let scene = Scene::new("llama");
        let mut index = scene.json("model/model.safetensors.index.json");
        let first = index["weight_map"].as_object_mut().and_then(|m| m.values_mut().next()).expect("an entry");
        *first = json!(shard);
        scene.write("model/model.safetensors.index.json", index.to_string());
        scene.sweep_refused("", &["model.safetensors.index.json", shard, "same folder"]);
    }
}

#[test]
fn truncated_gguf() {
    let scene = Scene::new("gpt2");
    let whole = std::fs::read(Path::new(FIXTURES).join("gguf/tiny-gpt2.gguf")).expect("the fixture");
    // The last bytes may be padding.
    for len in [0, 3, 4, 23, 200, whole.len() / 2, whole.len() - 64] {
        scene.write("tiny.gguf", &whole[..len]);
        scene.refused("sweep --model tiny.gguf --prompts pairs.jsonl --output run", &["tiny.gguf"]);
        scene.refused("inspect --model tiny.gguf", &["tiny.gguf"]);
    }
}

#[test]
fn path_that_is_neither_folder_nor_gguf() {
    let scene = Scene::new("gpt2");
    scene.refused("sweep --model pairs.jsonl --prompts pairs.jsonl", &["pairs.jsonl", "neither a folder", ".gguf"]);
    std::fs::create_dir(scene.path("empty")).expect("a folder");
    scene.refused("sweep --model empty --prompts pairs.jsonl", &["empty", "config.json"]);
}

#[test]
fn path_that_does_not_exist() {
    let scene = Scene::new("gpt2");
    for path in ["./nothing", "/nothing/at/all", "no/such/folder", "nothing.gguf"] {
        scene.refused(&format!("sweep --model {path} --prompts pairs.jsonl"), &[path, "no such folder"]);
    }
}

#[test]
fn hub_id_that_is_not_here() {
    let scene = Scene::new("gpt2");
    for id in ["EleutherAI/pythia-70m", "gpt2"] {
        scene.refused(&format!("sweep --model {id} --prompts pairs.jsonl"), &[id, "hub"]);
    }
}

#[test]
fn folder_without_weights() {
    let scene = Scene::new("gpt2");
    std::fs::remove_file(scene.path("model/model.safetensors")).expect("it was there");
    scene.sweep_refused("", &["model", "safetensors"]);
    scene.write("model/pytorch_model.bin", "PK");
    scene.sweep_refused("", &["pytorch_model"]);
}

/// A vocabulary whose pre-tokenizer is not known takes no text and hinders nobody who gives token ids.
#[test]
fn gguf_with_a_pre_tokenizer_that_is_not_known() {
    let file = GgufFile::new("llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 32)
        .u32("llama.embedding_length", 8)
        .u32("llama.feed_forward_length", 12)
        .u32("llama.attention.head_count", 2)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-6)
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "from-the-future")
        .strings("tokenizer.ggml.tokens", &["a", "b", "ab", "c", "d"])
        .strings("tokenizer.ggml.merges", &["a b"])
        .zeros("token_embd.weight", &[8, 5])
        .zeros("blk.0.attn_norm.weight", &[8])
        .zeros("blk.0.attn_q.weight", &[8, 8])
        .zeros("blk.0.attn_k.weight", &[8, 8])
        .zeros("blk.0.attn_v.weight", &[8, 8])
        .zeros("blk.0.attn_output.weight", &[8, 8])
        .zeros("blk.0.ffn_norm.weight", &[8])
        .zeros("blk.0.ffn_gate.weight", &[8, 12])
        .zeros("blk.0.ffn_up.weight", &[8, 12])
        .zeros("blk.0.ffn_down.weight", &[12, 8])
        .zeros("output_norm.weight", &[8]);
    let scene = Scene::empty();
    scene.write("new.gguf", file.bytes());
    let inspected = scene.run("inspect --model new.gguf").ok();
    assert!(inspected.out.contains("from-the-future"), "{inspected:?}");
    scene.pairs(&[json!({"clean": [0, 1, 2], "corrupted": [3, 1, 2], "answer": 1, "wrong": 2})]);
    scene.run("sweep --model new.gguf --prompts pairs.jsonl --output run").ok();
    scene.pairs(&[json!({"clean": "ab", "corrupted": "cb", "answer": "a", "wrong": "b"})]);
    scene.refused("sweep --model new.gguf --prompts pairs.jsonl --output text", &["from-the-future"]);
    scene.refused("sweep --model new.gguf --task ioi --output task", &["from-the-future"]);
}

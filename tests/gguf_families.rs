//! Every architecture of llama.cpp that patchwave reads: a GGUF file of a tiny Hugging Face model is that model again, its
//! spec and each of its parameters.
//!
//! Fixtures: tests/fixtures/gguf/make_families.py, of the folders in tests/fixtures/hf.

#[path = "fixtures/gguf/writer.rs"]
mod writer;

use patchwave::model::spec::{AttnSpec, NormWeight, Op};
use patchwave::model::{Gguf, ModelFiles, ModelSpec, Params};
use std::path::Path;
use writer::GgufFile;

struct Pair {
    folder: ModelFiles,
    gguf: ModelFiles,
}

fn open(case: &str) -> Pair {
    let open = |path: String| ModelFiles::open(Path::new(&path), &[]).unwrap_or_else(|e| panic!("{path}: {e}"));
    Pair {
        folder: open(format!("tests/fixtures/hf/{case}")),
        gguf: open(format!("tests/fixtures/gguf/hf-{case}.gguf")),
    }
}

/// The file is the folder, but for what `unrecorded` does to the folder's spec: what GGUF does not say.
fn is_the_folder_but(case: &str, unrecorded: impl Fn(&mut ModelSpec)) {
    let Pair { folder, gguf } = open(case);
    let mut expected = folder.spec.clone();
    unrecorded(&mut expected);
    assert_eq!(gguf.spec, expected, "{case}");
    assert!(Gguf::architectures().any(|(_, types)| types.contains(&gguf.spec.family.as_str())), "{case}");
    let plus_one: Vec<String> = gguf
        .spec
        .norms()
        .into_iter()
        .filter(|n| n.weight == NormWeight::OnePlusScale)
        .map(|n| format!("{}.weight", n.tensor))
        .collect();
    for param in gguf.spec.params() {
        let len = param.shape.iter().product();
        let read = |params: &dyn Params| {
            let mut out = vec![f32::NAN; len];
            params.read(&param.name, &mut out).unwrap_or_else(|e| panic!("{case}: {e}"));
            out
        };
        let (mut original, file) = (read(&*folder.params), read(&*gguf.params));
        if plus_one.contains(&param.name) {
            // The file has fl(1 + w), which is all that the forward pass makes of w.
            original.iter_mut().for_each(|w| *w = (*w + 1.0) - 1.0);
        }
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&file), bits(&original), "{case}: {}", param.name);
    }
}

fn is_the_folder(case: &str) {
    is_the_folder_but(case, |_| {});
}

#[test]
fn gemma() {
    is_the_folder("gemma");
}

/// Neither Gemma-2's nor Gemma-3's scale of the scores is recorded: the width of a head, as in all but the 27B models.
fn scaled_by_the_width_of_a_head(spec: &mut ModelSpec) {
    each_attn(spec, |attn| attn.scale = (attn.d_qk as f64).powf(-0.5) as f32);
}

#[test]
fn gemma2() {
    is_the_folder_but("gemma2", scaled_by_the_width_of_a_head);
}

#[test]
fn gemma3() {
    is_the_folder_but("gemma3", scaled_by_the_width_of_a_head);
    is_the_folder_but("gemma3_linear", scaled_by_the_width_of_a_head);
}

#[test]
fn phi2() {
    is_the_folder("phi");
}

#[test]
fn phi3() {
    is_the_folder("phi3");
    is_the_folder("phi3_longrope");
}

#[test]
fn olmo() {
    is_the_folder("olmo");
}

#[test]
fn olmo2_and_olmo3() {
    is_the_folder("olmo2");
    is_the_folder("olmo3_yarn");
}

#[test]
fn exaone4() {
    is_the_folder("exaone4");
    is_the_folder("exaone4_full");
}

/// The converter writes a length of 2048 and no base of the rope.
#[test]
fn falcon() {
    is_the_folder("falcon_7b");
    is_the_folder("falcon_40b");
    is_the_folder_but("falcon_11b", |spec| spec.n_ctx = Some(2048));
}

/// The converter writes d_model for the length of a model in Hugging Face's own format.
#[test]
fn chatglm() {
    is_the_folder_but("glm", |spec| spec.n_ctx = Some(spec.d_model));
}

#[test]
fn glm4() {
    is_the_folder("glm4");
}

#[test]
fn command_r() {
    is_the_folder("cohere");
    is_the_folder("cohere_qk_norm");
}

#[test]
fn cohere2() {
    is_the_folder("cohere2");
}

#[test]
fn granite() {
    is_the_folder("granite");
    is_the_folder("granite_biased");
}

#[test]
fn nemotron() {
    is_the_folder("nemotron");
    is_the_folder("nemotron_biased");
}

#[test]
fn stablelm() {
    is_the_folder("stablelm");
    is_the_folder("stablelm_12b");
}

/// The window is not recorded.
#[test]
fn starcoder2() {
    is_the_folder_but("starcoder2", |spec| each_attn(spec, |attn| attn.window = None));
}

#[test]
fn starcoder() {
    is_the_folder("gpt_bigcode");
}

#[test]
fn bloom() {
    is_the_folder("bloom");
}

/// A scale of the scores of its own is not recorded.
#[test]
fn mpt() {
    is_the_folder("mpt");
    is_the_folder_but("mpt_clipped", scaled_by_the_width_of_a_head);
}

#[test]
fn seed_oss() {
    is_the_folder("seed_oss");
}

/// The scaling of the rope comes as divisors that were rounded to float32.
#[test]
fn apertus() {
    let rounded = open("apertus").gguf.spec.ropes[0].inv_freq.clone();
    is_the_folder_but("apertus", |spec| {
        for (exact, rounded) in spec.ropes[0].inv_freq.iter_mut().zip(&rounded) {
            assert!((*exact - rounded).abs() <= 2e-7 * *exact, "{exact} {rounded}");
            *exact = *rounded;
        }
    });
}

#[test]
fn ministral3() {
    is_the_folder("ministral3");
}

/// Counts that all layers share may be one number (DeciLM-7B).
#[test]
fn deci_with_the_same_heads_in_every_layer() {
    let mut file = GgufFile::new("deci")
        .u32("deci.block_count", 2)
        .u32("deci.embedding_length", 8)
        .u32("deci.attention.head_count", 2)
        .i32s("deci.attention.head_count_kv", &[2, 1])
        .u32("deci.feed_forward_length", 12)
        .f32("deci.attention.layer_norm_rms_epsilon", 1e-5)
        .zeros("token_embd.weight", &[8, 5]);
    for layer in 0..2 {
        file = file.zeros(&format!("blk.{layer}.attn_q.weight"), &[8, 8]);
    }
    let saved = file.save();
    let config = Gguf::open(&saved.path).unwrap().config().unwrap();
    let groups: Vec<_> = (0..2).map(|l| config["block_configs"][l]["attention"]["n_heads_in_group"].as_u64()).collect();
    assert_eq!(groups, [Some(1), Some(2)]);
}

#[test]
fn what_an_architecture_may_become_is_a_model_type() {
    let known: Vec<_> = patchwave::model::model_types().collect();
    let mut names = Vec::new();
    for (name, model_types) in Gguf::architectures() {
        assert!(!model_types.is_empty() && model_types.iter().all(|t| known.contains(t)), "{name}: {model_types:?}");
        names.push(name);
    }
    let listed = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), listed);
}

fn each_attn(spec: &mut ModelSpec, change: impl Fn(&mut AttnSpec)) {
    for sub in spec.blocks.iter_mut().flat_map(|b| &mut b.subs) {
        if let Op::Attn(attn) = &mut sub.op {
            change(attn);
        }
    }
}

/// Layers of their own: the second has no attention, the third neither attention nor MLP, and the last shares one KV head.
#[test]
fn deci() {
    let mut file = GgufFile::new("deci")
        .u32("deci.block_count", 4)
        .u32("deci.context_length", 64)
        .u32("deci.embedding_length", 8)
        .i32s("deci.attention.head_count", &[2, 0, 0, 2])
        .i32s("deci.attention.head_count_kv", &[2, 0, 0, 1])
        .i32s("deci.feed_forward_length", &[12, 16, 0, 10])
        .u32("deci.attention.key_length", 4)
        .u32("deci.attention.value_length", 4)
        .u32("deci.rope.dimension_count", 4)
        .f32("deci.attention.layer_norm_rms_epsilon", 1e-5)
        .zeros("token_embd.weight", &[8, 5])
        .zeros("output.weight", &[8, 5])
        .zeros("output_norm.weight", &[8]);
    for (layer, kv_rows) in [(0, 8), (3, 4)] {
        file = file
            .zeros(&format!("blk.{layer}.attn_norm.weight"), &[8])
            .zeros(&format!("blk.{layer}.attn_q.weight"), &[8, 8])
            .zeros(&format!("blk.{layer}.attn_k.weight"), &[8, kv_rows])
            .zeros(&format!("blk.{layer}.attn_v.weight"), &[8, kv_rows])
            .zeros(&format!("blk.{layer}.attn_output.weight"), &[8, 8]);
    }
    for (layer, width) in [(0, 12), (1, 16), (3, 10)] {
        file = file
            .zeros(&format!("blk.{layer}.ffn_norm.weight"), &[8])
            .zeros(&format!("blk.{layer}.ffn_gate.weight"), &[8, width])
            .zeros(&format!("blk.{layer}.ffn_up.weight"), &[8, width])
            .zeros(&format!("blk.{layer}.ffn_down.weight"), &[width, 8]);
    }
    let saved = file.save();
    let spec = ModelFiles::open(&saved.path, &[]).unwrap().spec;
    assert_eq!(spec.family, "nemotron-nas");
    let kv: Vec<_> = (0..4).map(|l| spec.attn(l).map(|a| (a.n_heads, a.n_kv_heads, a.d_qk))).collect();
    assert_eq!(kv, [Some((2, 2, 4)), None, None, Some((2, 1, 4))]);
    let widths: Vec<_> = (0..4).map(|l| spec.mlp(l).map(|m| m.d_mlp)).collect();
    assert_eq!(widths, [Some(12), Some(16), None, Some(10)]);
}

//! Tiny random models of every family against Hugging Face's own float32 numbers: logits, every residual, and the
//! logits under a z-patch of every head. The fixtures come from `tests/fixtures/make_hf.py`.
//!
//! Where Hugging Face (transformers 5.23) is wrong, the fixture is made so that it is not: Falcon with linear biases runs
//! with sdpa (`falcon_rw`), because eager attention adds the biases twice; OLMo-3 has the base of its class, because another
//! `rope_theta` reaches the full layers only; MPT has the `alibi_bias_max` of its class, because it is ignored.

#[path = "support/reference.rs"]
mod reference;

use patchwave::backend::cpu::Cpu;
use patchwave::backend::{Backend, View};
use patchwave::engine::{Keep, Model, PatchPoint, Program, PromptRows, Site, Value};
use patchwave::model::{Checkpoint, ModelFiles, SafetensorsFolder, resolve_config};
use reference::{Reference, TOLERANCE, cases, distance};

fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    let off = distance(got, want);
    assert!(off <= TOLERANCE, "{what}: off by {off:e} of the largest");
}

fn logits(model: &Model<Cpu>, hidden: &Vec<f32>, rows: usize) -> Vec<f32> {
    model.backend.logits(View::packed(hidden, rows, model.spec.d_embed()), &model.unembedding())
}

#[test]
fn logits_residuals_and_head_patches_are_hugging_faces() {
    assert!(cases().len() >= 90, "at least two cases for each family");
    for dir in cases() {
        let case = dir.file_name().unwrap().to_string_lossy().into_owned();
        let files = ModelFiles::open(&dir, &[]).unwrap_or_else(|e| panic!("{case}: {e}"));
        let spec = std::sync::Arc::new(files.spec.clone());
        let model = Model::load(spec.clone(), &*files.params, Cpu, &|_| ()).unwrap_or_else(|e| panic!("{case}: {e}"));
        let reference = Reference::of(&dir);
        let ids = reference.ids();
        let (program, d, v, len) = (Program::new(&spec), spec.d_model, spec.d_vocab, ids[0].len());

        // Residuals, and the logits at every position (every prefix is a prompt of its own here, except where the rope
        // table depends on the length: there only the last position of the whole prompt is comparable).
        let keep = Keep { boundaries: (0..program.n_boundaries()).collect(), ..Keep::default() };
        let run = model.run(PromptRows::new(ids.clone()), &keep, &[]).expect("it runs");
        for layer in 0..=spec.n_layers() {
            let (_, want) = reference.floats(&format!("resid.{layer}"));
            let got = model.backend.download(run.cache.resid(program.layer_input(layer), d));
            assert_close(&format!("{case}: resid.{layer}"), &got, &want);
        }
        let (_, all_logits) = reference.floats("logits");
        let last = |row: usize| &all_logits[(row * len + len - 1) * v..][..v];
        let want = [last(0), last(1)].concat();
        assert_close(&format!("{case}: logits"), &logits(&model, &run.hidden, 2), &want);
        if spec.ropes.iter().all(|r| r.by_length.is_none()) {
            for prefix in 1..len {
                let run = model.run(PromptRows::new(vec![ids[0][..prefix].to_vec()]), &Keep::default(), &[]).unwrap();
                let want = &all_logits[(prefix - 1) * v..][..v];
                assert_close(&format!("{case}: logits at {}", prefix - 1), &logits(&model, &run.hidden, 1), want);
            }
        }

        // z of every head, at all positions and at one.
        for (name, positions) in
            [("z_patched", 0..len), ("z_patched_pos", reference.position()..reference.position() + 1)]
        {
            let (shape, want) = reference.floats(name);
            assert_eq!(shape[0], spec.n_layers(), "{case}");
            for layer in (0..spec.n_layers()).filter(|l| spec.attn(*l).is_some()) {
                let mut keep = Keep::default();
                keep.points.insert((layer, patchwave::engine::Point::Z));
                let clean = model.run(PromptRows::new(vec![ids[0].clone()]), &keep, &[]).expect("it runs");
                for head in 0..shape[1] {
                    let patch = PatchPoint {
                        site: Site::Z,
                        layer,
                        segment: 0,
                        heads: Some(head..head + 1),
                        positions: positions.clone(),
                        value: Value::From(&clean.cache, 0),
                    };
                    let run =
                        model.run(PromptRows::new(vec![ids[1].clone()]), &Keep::default(), &[patch]).expect("it runs");
                    let want = &want[(layer * shape[1] + head) * v..][..v];
                    let what = format!("{case}: {name} of a{layer}.h{head}");
                    assert_close(&what, &logits(&model, &run.hidden, 1), want);
                }
            }
        }
    }
}

/// transformers 4 and 5 spell a config differently; both must give the same spec.
#[test]
fn both_spellings_of_a_config_resolve_to_the_same_spec() {
    for dir in cases() {
        let index = SafetensorsFolder::open(&dir).expect("the tensors are there");
        let read = |name: &str| {
            let text = std::fs::read_to_string(dir.join(name)).expect("a config");
            let index = index.tensors();
            resolve_config(&text, Some(index)).unwrap_or_else(|e| panic!("{} {name}: {e}", dir.display())).spec
        };
        assert_eq!(read("config.json"), read("config_v5.json"), "{}", dir.display());
    }
}

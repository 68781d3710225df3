//! The bundled demo shows what everybody knows: a previous-token head and an induction head carry induction.

mod support;

use patchwave::backend::Backend;
use patchwave::backend::cpu::Cpu;
use patchwave::demo;
use patchwave::engine::{Keep, Model, Point, PromptRows, Site};
use patchwave::prompts::{self, BosPolicy, Encode, LoadOptions, Pair};
use patchwave::sweep::effect::effects;
use patchwave::sweep::{By, Direction, Selection, SiteCells};
use std::sync::Arc;

fn demo_model() -> (Model<Cpu>, Vec<Pair>) {
    let files = demo::model().expect("the demo opens");
    let options = LoadOptions {
        bos: BosPolicy::Auto,
        d_vocab: files.spec.d_vocab,
        n_ctx: files.spec.n_ctx,
        needs_wrong: true,
        needs_answer: true,
        needs_corrupted: true,
    };
    let tokenizer = files.tokenizer.as_ref().map(|t| t as &dyn Encode);
    let pairs = prompts::parse("demo", demo::PAIRS.as_bytes(), tokenizer, &options).expect("the pairs load").pairs;
    (Model::load(Arc::new(files.spec.clone()), &*files.params, Cpu, &|_| ()).expect("it loads"), pairs)
}

/// Effects `[layer, head]` of patching z, flattened.
fn head_effects(model: &Model<Cpu>, pairs: &[Pair]) -> Vec<f32> {
    let mut sweep = support::sweep(model, pairs, By::Head);
    sweep.sites = vec![SiteCells::new(&model.spec, Site::Z, By::Head, sweep.columns.len(), &Selection::default())];
    let outcome = support::run(&sweep);
    effects(&outcome.metric, &outcome.clean, &outcome.corrupted, Direction::Denoise, 0.0).effect
}

/// For every head, the mean of the pattern at (destination, source) places of the clean prompts, `[layer, head]`.
fn pattern_scores(model: &Model<Cpu>, pairs: &[Pair], places: impl Fn(&Pair) -> Vec<(usize, usize)>) -> Vec<f32> {
    let (n_layers, n_heads) = (model.spec.n_layers(), model.spec.attn(0).unwrap().n_heads);
    let keep = Keep { points: (0..n_layers).map(|l| (l, Point::Pattern)).collect(), ..Keep::default() };
    let run = model.run(PromptRows::new(pairs.iter().map(|p| p.clean.clone()).collect()), &keep, &[]).unwrap();
    let mut scores = Vec::new();
    for layer in 0..n_layers {
        for head in 0..n_heads {
            let (mut sum, mut n) = (0.0, 0);
            for (i, pair) in pairs.iter().enumerate() {
                let len = pair.len();
                let pattern = model.backend.download(run.cache.matrix(layer, Point::Pattern, i, n_heads));
                for (to, from) in places(pair) {
                    sum += pattern[(to * n_heads + head) * len + from];
                    n += 1;
                }
            }
            scores.push(sum / n as f32);
        }
    }
    scores
}

fn largest(x: &[f32]) -> usize {
    (0..x.len()).max_by(|a, b| x[*a].abs().total_cmp(&x[*b].abs())).expect("not empty")
}

#[test]
fn the_previous_token_head_and_the_induction_head_are_the_two_largest_effects() {
    let (model, pairs) = demo_model();
    assert!(model.spec.n_layers() >= 2 && model.spec.attn(0).unwrap().n_heads >= 8);
    let effect = head_effects(&model, &pairs);

    // Previous token: from every position to the one before. Induction: from the second A to the token after the first.
    let previous = pattern_scores(&model, &pairs, |p| (1..p.len()).map(|i| (i, i - 1)).collect());
    let induction = pattern_scores(&model, &pairs, |p| vec![(p.positions["A2"], p.positions["B"])]);
    let (previous_head, induction_head) = (largest(&previous), largest(&induction));
    assert!(previous[previous_head] >= 0.6, "previous-token score {}", previous[previous_head]);
    assert!(induction[induction_head] >= 0.6, "induction score {}", induction[induction_head]);

    let mut order: Vec<usize> = (0..effect.len()).collect();
    order.sort_by(|a, b| effect[*b].abs().total_cmp(&effect[*a].abs()));
    let mut top = order[..2].to_vec();
    top.sort_unstable();
    let mut heads = vec![previous_head, induction_head];
    heads.sort_unstable();
    assert_eq!(top, heads, "effects {effect:?}");
    assert!(effect[order[0]].abs() > 0.3);
    assert!(effect[order[effect.len() / 2]].abs() < 0.1, "median");
}

/// Hugging Face's effects of the same sweep, recorded by `tools/train-demo.py`.
#[test]
fn the_effects_are_hugging_faces() {
    let (model, pairs) = demo_model();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/demo_effects.json"));
    let recorded: serde_json::Value = serde_json::from_str(&text.expect("a recording")).expect("JSON");
    let want: Vec<f64> = recorded["effect"]
        .as_array()
        .expect("a table")
        .iter()
        .flat_map(|row| row.as_array().expect("a row").iter().map(|x| x.as_f64().expect("a number")))
        .collect();
    let got = head_effects(&model, &pairs);
    assert_eq!(got.len(), want.len());
    for (i, (a, b)) in got.iter().zip(&want).enumerate() {
        assert!((*a as f64 - b).abs() < 1e-5, "cell {i}: {a}, recorded {b}");
    }
}

//! The wave against the reference path on every family: every site it has, every way of cutting it, both directions,
//! every patch kind, on the tiny models of `tests/fixtures/hf`.

mod support;

use patchwave::backend::cpu::Cpu;
use patchwave::engine::Model;
use patchwave::model::ModelFiles;
use patchwave::prompts::Align;
use patchwave::sweep::{By, PatchKind};
use rayon::prelude::*;
use std::sync::Arc;
use support::*;

#[test]
fn wave_equals_reference_on_every_family_site_cut_direction_and_patch() {
    let combinations = combinations();
    let families = fixture_families();
    assert_eq!(families.len(), patchwave::model::model_types().count(), "{:?}", families.keys());
    // Each family's cases share the combinations out among them, so that every one meets every family.
    let jobs: Vec<_> = families
        .values()
        .flat_map(|cases| combinations.iter().enumerate().map(|(i, c)| (&cases[i % cases.len()], *c)))
        .collect();
    jobs.into_par_iter().enumerate().for_each(|(seed, (path, (by, direction, patch)))| {
        let files = ModelFiles::open(path, &[]).expect("a model");
        let model = Model::load(Arc::new(files.spec.clone()), &*files.params, Cpu, &|_| ()).expect("it loads");
        let mut pairs = random_pairs(seed as u64, 2, model.spec.d_vocab);
        let quadratic = patch == PatchKind::Mean && pairs[0].len() != pairs[1].len();
        pairs.truncate(if by == By::HeadPos { 1 } else { 2 });
        let mut sweep = sweep(&model, &pairs, by);
        (sweep.direction, sweep.patch) = (direction, patch);
        sweep.align = (seed % 2 == 0).then_some(Align::End);
        if quadratic && pairs.len() > 1 {
            sweep.sites.retain(|s| !matches!(s.site.name(), "pattern" | "attn_scores"));
        }
        agrees_with_the_reference(&sweep);
    });
}

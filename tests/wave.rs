//! The wave against the reference path: random models over every knob of the spec, random pairs of several lengths and
//! first differences, every site, direction and patch kind.

mod support;

use patchwave::prompts::Align;
use patchwave::sweep::{By, Direction, Limits, Metric, PatchKind, prefers_answer};
use proptest::prelude::*;
use support::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn wave_equals_reference(
        seed in any::<u64>(),
        by in prop::sample::select(vec![By::Head, By::HeadPos, By::Pos, By::Layer]),
        direction in prop::sample::select(vec![Direction::Denoise, Direction::Noise]),
        patch in prop::sample::select(vec![PatchKind::Source, PatchKind::Zero, PatchKind::Mean]),
        metric in prop::sample::select(Metric::ALL.to_vec()),
        align in prop::sample::select(vec![None, Some(Align::Start), Some(Align::End)]),
    ) {
        let model = load(random_spec(seed), seed);
        let pairs = random_pairs(seed, 2, model.spec.d_vocab);
        let mut sweep = sweep(&model, &pairs, by);
        (sweep.direction, sweep.patch, sweep.metric, sweep.align) = (direction, patch, metric, align);
        if patch == PatchKind::Mean && pairs[0].clean.len() != pairs[1].clean.len() {
            // Matrices of different sizes have no mean.
            sweep.sites.retain(|s| !matches!(s.site.name(), "pattern" | "attn_scores"));
        }
        agrees_with_the_reference(&sweep);
    }

    /// Patching the base run with itself, nothing skipped, gives the base metric bit for bit at every cell.
    #[test]
    fn a_self_patch_changes_no_bit(seed in any::<u64>(), by in prop::sample::select(vec![By::Head, By::HeadPos, By::Pos, By::Layer])) {
        let model = load(random_spec(seed), seed);
        let mut pairs = random_pairs(seed, 2, model.spec.d_vocab);
        for p in &mut pairs {
            p.corrupted = p.clean.clone();
        }
        let mut sweep = sweep(&model, &pairs, by);
        sweep.skip = false;
        let outcome = run(&sweep);
        prop_assert_eq!(outcome.stats.unchanged, 0);
        for (i, cell) in sweep.cells().iter().enumerate() {
            for pair in 0..pairs.len() {
                let m = outcome.metric[i * pairs.len() + pair];
                prop_assert!(m.is_nan() || m.to_bits() == outcome.clean[pair].to_bits(), "{:?} {} {}", cell, m, outcome.clean[pair]);
            }
        }
        // With skipping, none of them runs.
        sweep.skip = true;
        let skipped = run(&sweep);
        prop_assert_eq!(skipped.stats.run, 0);
        prop_assert_eq!(bits(&skipped.metric), bits(&outcome.metric));
    }

    /// However the wave is cut and the pairs are grouped, the result has the same bits.
    #[test]
    fn cutting_the_wave_changes_no_bit(seed in any::<u64>(), by in prop::sample::select(vec![By::Head, By::HeadPos, By::Pos])) {
        let model = load(random_spec(seed), seed);
        let pairs = random_pairs(seed, 3, model.spec.d_vocab);
        let mut sweep = sweep(&model, &pairs, by);
        let whole = run(&sweep);
        for (max_rows, cache_bytes) in [(1, 1), (17, 1 << 30), (100, 1)] {
            sweep.limits = Limits { max_rows, cache_bytes };
            let cut = run(&sweep);
            prop_assert!(cut.stats.waves >= whole.stats.waves);
            prop_assert_eq!(bits(&cut.metric), bits(&whole.metric));
            prop_assert_eq!(bits(&cut.clean), bits(&whole.clean));
        }
    }

    /// Patching the whole residual stream from the source gives the source metric.
    #[test]
    fn the_whole_residual_stream_carries_everything(seed in any::<u64>()) {
        let model = load(random_spec(seed), seed);
        let pairs = random_pairs(seed, 2, model.spec.d_vocab);
        let mut sweep = sweep(&model, &pairs, By::Layer);
        sweep.sites.retain(|s| s.site.name().starts_with("resid"));
        let outcome = run(&sweep);
        for (i, _) in sweep.cells().iter().enumerate() {
            for pair in 0..pairs.len() {
                let m = outcome.metric[i * pairs.len() + pair];
                prop_assert!(m.is_nan() || m.to_bits() == outcome.clean[pair].to_bits());
            }
        }
    }

    /// Noising is denoising with the roles swapped: the same metrics, bit for bit.
    #[test]
    fn noise_is_denoise_with_the_roles_swapped(seed in any::<u64>(), by in prop::sample::select(vec![By::Head, By::Pos])) {
        let model = load(random_spec(seed), seed);
        let pairs = random_pairs(seed, 2, model.spec.d_vocab);
        let swapped: Vec<_> = pairs
            .iter()
            .map(|p| pair(p.corrupted.clone(), p.clean.clone(), p.answers.clone(), p.wrong.clone()))
            .collect();
        let denoise = run(&sweep(&model, &pairs, by));
        let mut noise = sweep(&model, &swapped, by);
        noise.direction = Direction::Noise;
        let noise = run(&noise);
        prop_assert_eq!(bits(&denoise.metric), bits(&noise.metric));
    }
}

/// Whether a pair's answer is preferred does not depend on the other pairs; those without answers or wrong tokens mix with
/// those that have them.
#[test]
fn a_pair_prefers_its_answer_whatever_the_others_do() {
    let model = load(random_spec(3), 3);
    let mut pairs = random_pairs(3, 24, 37);
    for (i, pair) in pairs.iter_mut().enumerate() {
        match i % 4 {
            1 => pair.wrong.clear(),
            2 => pair.answers.clear(),
            _ => {}
        }
    }
    let together = prefers_answer(&model, &pairs).expect("it runs");
    let alone: Vec<bool> =
        pairs.iter().flat_map(|p| prefers_answer(&model, std::slice::from_ref(p)).expect("it runs")).collect();
    assert_eq!(together, alone);
    assert!(together.contains(&true) && together.contains(&false));
    assert!(together.iter().skip(2).step_by(4).all(|preferred| *preferred), "without an answer");
}

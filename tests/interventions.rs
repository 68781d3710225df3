//! Noise, resampling, steering, scaling and knockouts: the wave against the reference path on random models, several nodes
//! at once against whole forward passes, and both against what one can work out by hand.

mod support;

use patchwave::backend::cpu::Cpu;
use patchwave::backend::{Backend, View};
use patchwave::engine::{Keep, Model, PatchPoint, Point, PromptRows, Site, Value};
use patchwave::prompts::{Align, Pair, PromptSet};
use patchwave::sweep::*;
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use std::collections::BTreeSet;
use support::*;

const BYS: [By; 4] = [By::Head, By::HeadPos, By::Pos, By::Layer];
const DIRECTIONS: [Direction; 2] = [Direction::Denoise, Direction::Noise];

fn draws(n: u32) -> Draws {
    Draws { seed: 7, n }
}

/// A file with one tensor a site, `shape(width)` each, of random numbers.
fn directions(
    model: &Model<Cpu>,
    sites: impl IntoIterator<Item = Site>,
    shape: impl Fn(usize) -> Vec<usize>,
) -> Directions {
    let spec = &model.spec;
    let mut rng = Rng(11);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for site in sites {
        let Some(layer) = (0..spec.n_layers()).find(|l| site.exists(spec, *l)) else { continue };
        let a = spec.attn(layer);
        let width = match site {
            Site::Q => a.map_or(0, |a| a.n_heads * a.d_qk),
            Site::K => a.map_or(0, |a| a.n_kv_heads * a.d_qk),
            Site::V => a.map_or(0, |a| a.n_kv_heads * a.d_v),
            Site::Z => a.map_or(0, |a| a.n_heads * a.d_v),
            Site::MlpPre | Site::MlpPost => spec.mlp(layer).map_or(0, |m| m.d_mlp),
            _ => spec.d_model,
        };
        let shape = shape(width);
        let n: usize = shape.iter().product();
        let data = (0..n).flat_map(|_| (0.5 * rng.normal()).to_le_bytes()).collect();
        tensors.push((site.name().to_owned(), shape, data));
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        (name.clone(), TensorView::new(safetensors::Dtype::F32, shape.clone(), data).expect("a tensor"))
    });
    let bytes = safetensors::serialize(views, None).expect("a file");
    Directions::parse("directions", &bytes).expect("directions")
}

/// Leaves the sites at which the patch has a meaning.
fn keep_sites(sweep: &mut Sweep<'_, Cpu>) {
    let patch = sweep.patch;
    sweep.sites.retain(|s| patch.check_site(s.site).is_ok());
    if let PatchKind::Add { .. } = patch {
        sweep.sites.retain(|s| s.site != Site::ResidPost); // the same stream as resid_pre of the next layer
        // Behind a layer that does nothing, resid_pre is the stream of two layers, which cannot have two directions.
        let spec = &sweep.model.spec;
        if patch.check(spec, (0..spec.n_layers()).map(|layer| (Site::ResidPre, layer))).is_err() {
            sweep.sites.retain(|s| s.site != Site::ResidPre);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn noise_and_scale_equal_the_reference(
        seed in any::<u64>(),
        by in prop::sample::select(BYS.to_vec()),
        direction in prop::sample::select(DIRECTIONS.to_vec()),
        metric in prop::sample::select(Metric::ALL.to_vec()),
        patch in prop::sample::select(vec![
            PatchKind::Noise { sigma: 0.5, draws: Draws { seed: 7, n: 1 } },
            PatchKind::Noise { sigma: 0.3, draws: Draws { seed: 1, n: 3 } },
            PatchKind::Scale(0.5),
            PatchKind::Scale(-1.5),
        ]),
    ) {
        let model = load(random_spec(seed), seed);
        let pairs = random_pairs(seed, 2, model.spec.d_vocab);
        let mut sweep = sweep(&model, &pairs, by);
        (sweep.direction, sweep.patch, sweep.metric) = (direction, patch, metric);
        keep_sites(&mut sweep);
        agrees_with_the_reference(&sweep);
    }

    #[test]
    fn resampling_equals_the_reference(
        seed in any::<u64>(),
        by in prop::sample::select(BYS.to_vec()),
        direction in prop::sample::select(DIRECTIONS.to_vec()),
        n in 1u32..3,
        align in prop::sample::select(vec![Align::Start, Align::End]),
    ) {
        let model = load(random_spec(seed), seed);
        let pairs = random_pairs(seed, 3, model.spec.d_vocab);
        let mut sweep = sweep(&model, &pairs, by);
        (sweep.direction, sweep.patch) = (direction, PatchKind::Resample { draws: draws(n) });
        if pairs.iter().any(|p| p.len() != pairs[0].len()) {
            sweep.align = Some(align);
            sweep.sites.retain(|s| !matches!(s.site, Site::Pattern | Site::AttnScores));
        }
        agrees_with_the_reference(&sweep);
    }

    #[test]
    fn steering_equals_the_reference(
        seed in any::<u64>(),
        by in prop::sample::select(BYS.to_vec()),
        direction in prop::sample::select(DIRECTIONS.to_vec()),
        form in 0usize..3,
    ) {
        let model = load(random_spec(seed), seed);
        let pairs = random_pairs(seed, 2, model.spec.d_vocab);
        let mut sweep = sweep(&model, &pairs, by);
        let (layers, positions) = (model.spec.n_layers(), sweep.columns.len());
        let directions = directions(&model, Site::ALL, |width| match form {
            0 => vec![width],
            1 => vec![layers, width],
            _ => vec![layers, positions, width],
        });
        let axis = sweep.columns.clone();
        (sweep.direction, sweep.patch) = (direction, PatchKind::Add { directions: &directions, scale: 0.7, axis: &axis });
        keep_sites(&mut sweep);
        agrees_with_the_reference(&sweep);
    }

    /// Edges one by one and together, heads one by one and together.
    #[test]
    fn knockouts_equal_the_reference(
        seed in any::<u64>(),
        by in prop::sample::select(BYS.to_vec()),
        direction in prop::sample::select(DIRECTIONS.to_vec()),
    ) {
        let model = load(random_spec(seed), seed);
        let pairs = random_pairs(seed, 2, model.spec.d_vocab);
        let (columns, sources) = random_edges(seed, &pairs, 4);
        let mut sweep = sweep(&model, &pairs, by);
        sweep.sites = vec![SiteCells::new(&model.spec, Site::AttnScores, by, columns.len(), &Selection::default())];
        (sweep.direction, sweep.patch) = (direction, PatchKind::Knockout(&sources));
        (sweep.columns, sweep.restricted) = (columns, true);
        let outcome = run(&sweep);
        let tolerance = 1e-5 * largest_logit(&model, &pairs);
        for (i, cell) in sweep.cells().iter().enumerate() {
            for pair in 0..pairs.len() {
                let wave = outcome.metric[i * pairs.len() + pair];
                if cell.exists {
                    let slow = sweep.reference(cell, pair, &outcome).expect("the reference runs");
                    prop_assert!((wave - slow).abs() <= tolerance, "{:?} of pair {}: {} {}", cell, pair, wave, slow);
                }
            }
        }
    }

    /// However the wave is cut and the pairs are grouped, chance deals the same numbers.
    #[test]
    fn cutting_the_wave_changes_no_bit(seed in any::<u64>(), resample in any::<bool>()) {
        let model = load(random_spec(seed), seed);
        let mut pairs = random_pairs(seed, 3, model.spec.d_vocab);
        let ids: Vec<Pair> = pairs.iter().map(|p| pair(p.clean[..4].into(), p.corrupted[..4].into(), p.answers.clone(), p.wrong.clone())).collect();
        pairs = ids;
        let mut sweep = sweep(&model, &pairs, By::Head);
        sweep.patch = match resample {
            true => PatchKind::Resample { draws: draws(2) },
            false => PatchKind::Noise { sigma: 0.4, draws: draws(2) },
        };
        keep_sites(&mut sweep);
        let whole = run(&sweep);
        for (max_rows, cache_bytes) in [(1, 1), (9, 1 << 30)] {
            sweep.limits = Limits { max_rows, cache_bytes };
            prop_assert_eq!(bits(&run(&sweep).metric), bits(&whole.metric));
        }
    }

    /// Several nodes at once: from the first patched layer on, the bits of the run from the embedding on; and one node is
    /// the sweep's cell, bit for bit.
    #[test]
    fn several_nodes_equal_whole_forward_passes(
        seed in any::<u64>(),
        direction in prop::sample::select(DIRECTIONS.to_vec()),
        metric in prop::sample::select(Metric::ALL.to_vec()),
        kind in 0usize..8,
    ) {
        let model = load(random_spec(seed), seed);
        let pairs = random_pairs(seed, 3, model.spec.d_vocab);
        let equal = pairs.iter().all(|p| p.len() == pairs[0].len());
        let axis = all_columns(&pairs);
        let directions = directions(&model, Site::ALL, |width| vec![width]);
        let (columns, sources) = random_edges(seed, &pairs, 3);
        let patch = match kind {
            0 => PatchKind::Source,
            1 => PatchKind::Zero,
            2 => PatchKind::Mean,
            3 => PatchKind::Noise { sigma: 0.5, draws: draws(2) },
            4 => PatchKind::Resample { draws: draws(1) },
            5 => PatchKind::Add { directions: &directions, scale: -0.5, axis: &axis },
            6 => PatchKind::Scale(0.5),
            _ => PatchKind::Knockout(&sources),
        };
        let mut rng = Rng(seed ^ 5);
        let mut sites: Vec<Site> = Site::ALL.into_iter().filter(|s| patch.check_site(*s).is_ok()).collect();
        if kind == 2 && !equal || kind == 4 {
            sites.retain(|s| !matches!(s, Site::Pattern | Site::AttnScores));
        }
        if kind == 5 {
            sites.retain(|s| *s != Site::ResidPost);
        }
        let mut targets: Vec<Target> = Vec::new();
        for _ in 0..4 {
            let (site, layer) = (rng.pick(&sites), rng.below(model.spec.n_layers()));
            let heads = site.heads(&model.spec, layer);
            if heads == 0 {
                continue;
            }
            let head = (site.has_heads() && rng.chance(70)).then(|| rng.below(heads));
            let positions = match patch {
                PatchKind::Knockout(_) => destinations(&columns, pairs.len()),
                _ => pairs.iter().map(|p| (0..p.len()).filter(|_| rng.chance(60)).collect()).collect(),
            };
            targets.push(Target { site, layer, head, column: None, positions });
        }
        let columns = if kind == 7 { columns } else { Vec::new() };
        let limits = Limits { max_rows: 15, cache_bytes: 1 << 20 };
        let align = Some(Align::End);
        let mut joint = Joint { model: &model, pairs: &pairs, targets, columns, direction, patch, metric, align, limits };
        prop_assume!(joint.targets.len() > 1);
        let (fast, slow) = (joint.run().expect("it runs"), joint.reference().expect("it runs"));
        prop_assert_eq!(bits(&fast.metric), bits(&slow.metric));
        prop_assert_eq!(bits(&fast.clean), bits(&slow.clean));
        // One of them alone.
        joint.targets.truncate(1);
        let (cell, slow) = (joint.run().expect("it runs"), joint.reference().expect("it runs"));
        let tolerance = 1e-5 * largest_logit(&model, &pairs);
        for (x, y) in cell.metric.iter().zip(&slow.metric) {
            prop_assert!((x - y).abs() <= tolerance, "{:?}: {} {}", joint.targets, x, y);
        }
        let target = &joint.targets[0];
        if target.positions.iter().zip(&pairs).all(|(p, pair)| p.len() == pair.len()) && kind != 7 {
            let mut sweep = sweep(&model, &pairs, if target.head.is_some() { By::Head } else { By::Layer });
            sweep.sites.retain(|s| s.site == target.site);
            (sweep.direction, sweep.patch, sweep.metric, sweep.align) = (direction, patch, metric, align);
            let is_it = |c: &Cell| c.layer as usize == target.layer && c.head.map(|h| h as usize) == target.head;
            let at = sweep.cells().iter().position(is_it).expect("the cell");
            let all = run(&sweep).metric;
            prop_assert_eq!(bits(&all[at * pairs.len()..(at + 1) * pairs.len()]), bits(&cell.metric));
        }
    }

    /// Everything kept is the base run; nothing kept, and the embedding patched, too, is the source run. Bit for bit.
    #[test]
    fn except_everything_is_the_base_and_except_nothing_the_source(seed in any::<u64>()) {
        let model = load(random_spec(seed), seed);
        let set = set_of(random_pairs(seed, 2, model.spec.d_vocab));
        let spec = &model.spec;
        let mut all: Vec<Node> = (0..spec.n_layers()).map(|l| format!("m{l}").parse().expect("a node")).collect();
        for l in 0..spec.n_layers() {
            all.extend((0..Site::Z.heads(spec, l)).map(|h| format!("a{l}.h{h}").parse::<Node>().expect("a node")));
        }
        all.retain(|n| n.check(spec).is_ok());
        let targets: Vec<Target> = all.iter().map(|n| n.target(&set).expect("every position")).collect();
        let joint = |targets| Joint {
            model: &model,
            pairs: &set.pairs,
            targets,
            columns: Vec::new(),
            direction: Direction::Denoise,
            patch: PatchKind::Source,
            metric: Metric::LogitDiff,
            align: None,
            limits: Limits::default(),
        };
        let nothing = node::complement(&all, &targets, spec, &set).expect("heads and MLPs");
        prop_assert!(nothing.is_empty());
        let base = joint(nothing).run().expect("it runs");
        prop_assert_eq!(bits(&base.metric), bits(&base.corrupted));
        let mut everything = node::complement(&[], &[], spec, &set).expect("nothing is listed");
        prop_assert_eq!(everything.len(), all.len());
        everything.push("input".parse::<Node>().expect("a node").target(&set).expect("every position"));
        let source = joint(everything).run().expect("it runs");
        prop_assert_eq!(bits(&source.metric), bits(&source.clean));
    }
}

/// Edges in every pair, of which a destination keeps one source at least: its own position.
fn random_edges(seed: u64, pairs: &[Pair], n: usize) -> (Vec<Column>, Vec<Vec<Option<u32>>>) {
    let mut rng = Rng(seed ^ 0xed9e);
    let (mut columns, mut sources) = (Vec::new(), Vec::new());
    for i in 0..n {
        let (mut at, mut from) = (Vec::new(), Vec::new());
        for p in pairs {
            let to = 1 + rng.below(p.len() - 1);
            let to = if rng.chance(50) { p.len() - 1 } else { to };
            at.push(Some(to as u32));
            from.push(Some(rng.below(to) as u32));
        }
        columns.push(Column { label: i.to_string(), at });
        sources.push(from);
    }
    (columns, sources)
}

fn destinations(columns: &[Column], n_pairs: usize) -> Vec<Vec<usize>> {
    let of = |pair: usize| columns.iter().filter_map(|c| c.at[pair].map(|p| p as usize)).collect::<BTreeSet<_>>();
    (0..n_pairs).map(|pair| of(pair).into_iter().collect()).collect()
}

fn set_of(pairs: Vec<Pair>) -> PromptSet {
    let text: String = pairs
        .iter()
        .map(|p| {
            let (clean, corrupted) = (&p.clean, &p.corrupted);
            format!(
                "{{\"clean\": {clean:?}, \"corrupted\": {corrupted:?}, \"answer\": {:?}, \"wrong\": {:?}, \"positions\": {{\"two\": 2}}}}\n",
                p.answers[0], p.wrong[0]
            )
        })
        .collect();
    let options = patchwave::prompts::LoadOptions {
        bos: patchwave::prompts::BosPolicy::Never,
        d_vocab: 37,
        n_ctx: None,
        needs_wrong: true,
        needs_answer: true,
        needs_corrupted: true,
    };
    patchwave::prompts::parse("pairs.jsonl", text.as_bytes(), None, &options).expect("pairs")
}

/// A sweep of some sites of a model without surprises.
fn small(seed: u64) -> (Model<Cpu>, Vec<Pair>) {
    let mut spec = random_spec(seed);
    spec.embed.scale = 1.0;
    let model = load(spec, seed);
    let pairs = random_pairs(seed, 2, model.spec.d_vocab);
    (model, pairs)
}

#[test]
fn what_changes_nothing_is_not_run() {
    let (model, pairs) = small(3);
    let directions = directions(&model, Site::ALL, |width| vec![width]);
    let axis = all_columns(&pairs);
    for patch in [
        PatchKind::Noise { sigma: 0.0, draws: draws(2) },
        PatchKind::Scale(1.0),
        PatchKind::Add { directions: &directions, scale: 0.0, axis: &axis },
    ] {
        let mut sweep = sweep(&model, &pairs, By::Head);
        sweep.patch = patch;
        keep_sites(&mut sweep);
        let outcome = run(&sweep);
        assert_eq!(outcome.stats.run, 0, "{patch:?}");
        assert!(outcome.stats.unchanged > 0);
    }
}

#[test]
fn scaling_by_zero_is_a_zero_patch() {
    let (model, pairs) = small(4);
    let mut zero = sweep(&model, &pairs, By::HeadPos);
    zero.patch = PatchKind::Zero;
    zero.sites.retain(|s| s.site != Site::Pattern);
    let mut scaled = sweep(&model, &pairs, By::HeadPos);
    scaled.patch = PatchKind::Scale(0.0);
    scaled.sites.retain(|s| s.site != Site::Pattern);
    assert_eq!(run(&zero).metric.len(), run(&scaled).metric.len());
    for (x, y) in run(&zero).metric.iter().zip(&run(&scaled).metric) {
        assert!(x == y || x.is_nan() && y.is_nan(), "{x} {y}");
    }
}

/// Adding the difference of two tokens' embeddings to the embedding exchanges the tokens.
#[test]
fn steering_the_embedding_exchanges_a_token() {
    let (model, pairs) = small(5);
    let pairs = &pairs[..1];
    let (at, token) = (1, (pairs[0].clean[1] + 5) % 37);
    let mut other = pairs[0].clean.clone();
    other[at] = token;
    let keep = Keep { boundaries: [0].into(), ..Keep::default() };
    let ids = vec![pairs[0].clean.clone(), other.clone()];
    let run_of = model.run(PromptRows::new(ids), &keep, &[]).expect("it runs");
    let d = model.spec.d_model;
    let rows = model.backend.download(run_of.cache.resid(0, d));
    let len = other.len();
    let row = |prompt: usize| &rows[(prompt * len + at) * d..][..d];
    let bytes: Vec<u8> = row(1).iter().zip(row(0)).flat_map(|(new, old)| (new - old).to_le_bytes()).collect();
    let view = TensorView::new(safetensors::Dtype::F32, vec![d], &bytes).expect("a tensor");
    let file = safetensors::serialize([("v", view)], None).expect("a file");
    let directions = Directions::parse("v", &file).expect("one tensor serves every site");
    let axis = all_columns(pairs);
    let mut steered = sweep(&model, pairs, By::Pos);
    steered.sites.retain(|s| s.site == Site::ResidPre);
    (steered.direction, steered.patch) =
        (Direction::Noise, PatchKind::Add { directions: &directions, scale: 1.0, axis: &axis });
    let steered = run(&steered).metric[at];
    let exchanged = [pair(other, pairs[0].corrupted.clone(), pairs[0].answers.clone(), pairs[0].wrong.clone())];
    let mut plain = sweep(&model, &exchanged, By::Layer);
    plain.sites.retain(|s| s.site == Site::ResidPre);
    let want = run(&plain).clean[0];
    assert!((steered - want).abs() < 1e-4, "{steered} {want}");
}

/// Of two pairs each stands in for the other: its whole residual stream gives its logits.
#[test]
fn the_other_pair_stands_in() {
    let (model, _) = small(6);
    let mut rng = Rng(1);
    let mut ids = || (0..5).map(|_| rng.below(37) as u32).collect::<Vec<_>>();
    let pairs = [pair(ids(), ids(), vec![1], vec![20]), pair(ids(), ids(), vec![2], vec![21])];
    let mut resampled = sweep(&model, &pairs, By::Layer);
    resampled.sites.retain(|s| s.site == Site::ResidPre);
    resampled.patch = PatchKind::Resample { draws: draws(1) };
    let got = run(&resampled).metric; // denoise: the sources are the clean runs
    let exchanged = [
        pair(pairs[1].clean.clone(), pairs[0].corrupted.clone(), vec![1], vec![20]),
        pair(pairs[0].clean.clone(), pairs[1].corrupted.clone(), vec![2], vec![21]),
    ];
    let mut plain = sweep(&model, &exchanged, By::Layer);
    plain.sites.retain(|s| s.site == Site::ResidPre);
    let want = run(&plain).clean;
    assert_eq!(bits(&got[..2]), bits(&want));
}

/// The mean over draws is the mean of what each draw gives, and draws differ.
#[test]
fn metrics_are_averaged_over_draws() {
    let (model, pairs) = small(7);
    let of = |n| {
        let mut sweep = sweep(&model, &pairs, By::Layer);
        sweep.sites.retain(|s| s.site == Site::ResidPre);
        sweep.patch = PatchKind::Noise { sigma: 1.0, draws: Draws { seed: 1, n } };
        run(&sweep).metric[0]
    };
    // Draw i of n is draw i of any more, so the sums differ by one draw each.
    let (one, two, three) = (of(1), of(2), of(3));
    let (second, third) = (2.0 * two - one, 3.0 * three - 2.0 * two);
    assert!(one != second && second != third);
    let spread = [one, second, third];
    let (low, high) =
        (spread.iter().copied().fold(f32::MAX, f32::min), spread.iter().copied().fold(f32::MIN, f32::max));
    assert!((low..=high).contains(&two) && (low..=high).contains(&three));
}

/// z at the destination is the values' mean under the pattern without the source, which is renormalised.
#[test]
fn a_knockout_renormalises_the_pattern_without_the_source() {
    let mut seed = 20;
    // Without sinks, whose share the pattern's sum does not show.
    let model = loop {
        let spec = random_spec(seed);
        if spec.attn(0).is_some_and(|a| !a.sinks && a.window.is_none()) {
            break load(spec, seed);
        }
        seed += 1;
    };
    let ids: Vec<u32> = vec![3, 1, 4, 1, 5, 9];
    let (source, to, head) = (2, 4, 0);
    let keep = Keep { points: [(0, Point::Pattern), (0, Point::Z)].into(), ..Keep::default() };
    let patch = PatchPoint {
        site: Site::AttnScores,
        layer: 0,
        segment: 0,
        heads: Some(head..head + 1),
        positions: to..to + 1,
        value: Value::Knockout(source),
    };
    let prompts = || PromptRows::new(vec![ids.clone()]);
    let base = model.run(prompts(), &keep, &[]).expect("it runs");
    let cut = model.run(prompts(), &keep, &[patch]).expect("it runs");
    let heads = model.spec.attn(0).expect("attention").n_heads;
    let n = ids.len();
    let pattern = |cache| {
        let all = model.backend.download(patchwave::engine::Cache::<Cpu>::matrix(cache, 0, Point::Pattern, 0, heads));
        all[(to * heads + head) * n..][..n].to_vec()
    };
    let (before, after) = (pattern(&base.cache), pattern(&cut.cache));
    assert_eq!(after[source], 0.0);
    for key in (0..n).filter(|k| *k != source) {
        let want = before[key] / (1.0 - before[source]);
        assert!((after[key] - want).abs() < 1e-6, "{key}: {} {want}", after[key]);
    }
    let d = model.spec.attn(0).expect("attention").d_v;
    let z = |cache: &patchwave::engine::Cache<Cpu>| {
        model.backend.download(View::packed(cache.buffer(0, Point::Z), n, heads * d))
    };
    let (before, after) = (z(&base.cache), z(&cut.cache));
    for i in 0..n * heads * d {
        let patched = i / (heads * d) == to && i / d % heads == head;
        assert_eq!(before[i] != after[i], patched, "only that head's z of that destination changes");
    }
}

#[test]
fn directions_that_do_not_fit_say_so() {
    let (model, _) = small(8);
    let spec = &model.spec;
    let (n, d) = (spec.n_layers(), spec.d_model);
    let check = |shape: Vec<usize>, site, layer, positions| {
        let file = directions(&model, [Site::ResidPre, Site::MlpOut], |_| shape.clone());
        file.check(site, layer, spec, positions).map_err(|e| e.to_string())
    };
    assert_eq!(check(vec![d], Site::ResidPre, 0, 9), Ok(()));
    assert_eq!(check(vec![n, d], Site::ResidPre, 0, 9), Ok(()));
    assert_eq!(check(vec![n, 9, d], Site::ResidPre, 0, 9), Ok(()));
    for (shape, site, why) in [
        (vec![d + 1], Site::ResidPre, format!("[{d}]")),
        (vec![n + 1, d], Site::ResidPre, format!("[{n}, {d}]")),
        (vec![n, 8, d], Site::ResidPre, "has 8 positions".to_owned()),
        (vec![d], Site::ResidMid, "no tensor is called resid_mid; it has mlp_out, resid_pre".to_owned()),
    ] {
        let message = check(shape.clone(), site, 0, 9).unwrap_err();
        assert!(message.contains(&why) && message.contains("--patch add:directions"), "{shape:?}: {message}");
    }
    let nan: Vec<u8> = (0..d).flat_map(|_| f32::NAN.to_le_bytes()).collect();
    let view = TensorView::new(safetensors::Dtype::F32, vec![d], &nan).expect("a tensor");
    let file =
        Directions::parse("f", &safetensors::serialize([("v", view)], None).expect("a file")).expect("directions");
    assert!(file.check(Site::ResidPre, 1, spec, 9).unwrap_err().to_string().contains("not finite in layer 1"));
    let four = [0u8; 4];
    let ids = TensorView::new(safetensors::Dtype::I32, vec![1], &four).expect("a tensor");
    let file = safetensors::serialize([("v", ids)], None).expect("a file");
    assert!(Directions::parse("f", &file).unwrap_err().to_string().contains("I32"));
    assert!(Directions::parse("f", b"nonsense").unwrap_err().to_string().contains("no safetensors file"));
}

#[test]
fn patches_without_meaning_are_refused() {
    let (model, pairs) = small(9);
    let refused = |site: Site, patch| {
        let mut sweep = sweep(&model, &pairs, By::Layer);
        sweep.sites.retain(|s| s.site == site);
        sweep.patch = patch;
        let done = sweep.run(&Default::default(), &mut |_, _| std::ops::ControlFlow::Continue(()));
        done.err().expect("refused").to_string()
    };
    let noise = PatchKind::Noise { sigma: 1.0, draws: draws(1) };
    assert!(refused(Site::Pattern, noise).contains("noise has no meaning at pattern"));
    assert!(refused(Site::Result, noise).contains("attn_out"));
    assert!(refused(Site::Pattern, PatchKind::Scale(2.0)).contains("scale has no meaning at pattern"));
    assert!(refused(Site::Z, PatchKind::Knockout(&[])).contains("knocked out of attn_scores"));
    let lonely = [pairs[0].clone()];
    let mut alone = sweep(&model, &lonely, By::Layer);
    alone.patch = PatchKind::Resample { draws: draws(1) };
    let message = alone.run(&Default::default(), &mut |_, _| std::ops::ControlFlow::Continue(())).err();
    assert!(message.expect("refused").to_string().contains("pair 0"));
}

#[test]
fn nodes_that_overlap_are_refused_by_name() {
    let (model, pairs) = small(10);
    let set = set_of(pairs);
    let spec = &model.spec;
    let check = |list: &str| {
        let nodes = node::parse_list(list).expect("nodes");
        let targets: Vec<Target> = nodes.iter().map(|n| n.target(&set).expect("positions")).collect();
        node::check_overlaps(&nodes, &targets, spec, &set).map_err(|e| e.to_string())
    };
    for fine in ["z0@0,z0@1", "resid_pre0,resid_pre1", "z0,m0,q0,k0,v0", "m0<post>@two,m0@end"] {
        assert_eq!(check(fine), Ok(()), "{fine}");
    }
    for (list, why) in [
        ("a0.h0,a0.h0", "nodes a0.h0 and a0.h0 overlap"),
        ("a0.h0@two,a0.h0", "at position 2 of"),
        ("z0,a0.h0<result>@end", "nodes z0 and a0.h0<result>@end overlap"),
        ("resid_post0,resid_pre1", "both are this residual stream"),
        ("a0,a0.h0", "a0.h0 lies inside a0"),
        ("m0<pre>@end,m0", "m0<pre>@end lies inside m0"),
    ] {
        let message = check(list).unwrap_err();
        assert!(message.contains(why), "{list}: {message}");
    }
    let missing = "z0@five".parse::<Node>().expect("a node").target(&set).unwrap_err().to_string();
    assert!(missing.contains("\"five\"") && missing.contains("line 1"), "{missing}");
    let beyond = "z0@99".parse::<Node>().expect("a node").target(&set).unwrap_err().to_string();
    assert!(beyond.contains("\"99\"") && beyond.contains("tokens"), "{beyond}");
    let kept = node::complement(&["q0".parse().expect("a node")], &[], spec, &set).unwrap_err().to_string();
    assert!(kept.contains("--except"), "{kept}");
    for (text, why) in [("z99", "layers 0 to"), ("a0.h99", "heads at z"), ("a0.h99<k>", "KV heads at k")] {
        let message = text.parse::<Node>().expect("a node").check(spec).unwrap_err().to_string();
        assert!(message.contains(why), "{text}: {message}");
    }
}

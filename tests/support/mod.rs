//! Random models and pairs for property tests: every knob of the spec, tiny sizes.
#![allow(dead_code)]

use patchwave::backend::cpu::Cpu;
use patchwave::backend::{Backend, View};
use patchwave::engine::{Keep, Model, PromptRows, Site};
use patchwave::model::spec::*;
use patchwave::model::{ModelError, ModelFiles, Params};
use patchwave::prompts::Pair;
use patchwave::sweep::{By, Column, Direction, Limits, Metric, PatchKind, Selection, SiteCells, Sweep};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A small reproducible generator.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// About normal, mean 0 and deviation 1.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// Parameters drawn from a hash of their names: matrices of about unit gain, norms around 1, the rest small.
pub struct RandomParams {
    pub spec: Arc<ModelSpec>,
    pub seed: u64,
}

impl Params for RandomParams {
    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let seed = name.bytes().fold(self.seed, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3));
        let mut rng = Rng(seed);
        let shape = self.spec.params().into_iter().find(|p| p.name == name).expect("a parameter of the spec").shape;
        let is_norm = self.spec.norms().iter().any(|n| name == format!("{}.weight", n.tensor));
        let one_plus = self
            .spec
            .norms()
            .iter()
            .any(|n| name == format!("{}.weight", n.tensor) && n.weight == NormWeight::OnePlusScale);
        for x in out.iter_mut() {
            *x = match (is_norm, shape.len()) {
                (true, _) => (if one_plus { 0.0 } else { 1.0 }) + 0.3 * rng.normal(),
                (_, 2) => 1.2 / (shape[1] as f32).sqrt() * rng.normal(),
                _ => 0.3 * rng.normal(),
            };
        }
        Ok(())
    }
}

fn norm(rng: &mut Rng, tensor: String, kind: NormKind, scope: NormScope) -> NormSpec {
    let weight = rng.pick(&[NormWeight::Scale, NormWeight::Scale, NormWeight::OnePlusScale, NormWeight::None]);
    let bias = kind == NormKind::LayerNorm && weight != NormWeight::None && rng.chance(70);
    NormSpec { kind, eps: 1e-5, weight, bias, scope, tensor }
}

/// A model with any combination of knobs.
pub fn random_spec(seed: u64) -> ModelSpec {
    let mut rng = Rng(seed);
    let d_model = rng.pick(&[16, 20, 32]);
    let n_layers = 2 + rng.below(3);
    let kind = rng.pick(&[NormKind::LayerNorm, NormKind::RmsNorm]);
    let n_kv_heads = 1 + rng.below(3);
    let n_heads = n_kv_heads * (1 + rng.below(3));
    let d_qk = rng.pick(&[4, 6, 8]);
    let d_v = if rng.chance(30) { 5 } else { d_qk };
    let parallel = rng.chance(30);
    let one_norm = parallel && rng.chance(50);
    let post = !parallel && rng.chance(30);
    let resid = !parallel && !post && rng.chance(20);
    let pre = !resid && (!post || rng.chance(50));
    let learned = rng.chance(30);
    let by_length = match rng.below(4) {
        0 => Some(RopeByLength::DynamicNtk { theta: 1e4, factor: 4.0, max_positions: 5 }),
        1 => Some(RopeByLength::LongFactor { beyond: 6, inv_freq: vec![0.5, 0.02] }),
        _ => None,
    };
    let layout = rng.pick(&[RopeLayout::HalfSplit, RopeLayout::Interleaved]);
    let rope = RopeSpec { inv_freq: vec![1.0, 0.1], amplitude: rng.pick(&[1.0, 1.2]), layout, by_length };
    let other_rope = RopeSpec { inv_freq: vec![0.3, 0.05], by_length: None, ..rope.clone() };
    let qk_scope = rng.pick(&[NormScope::Full, NormScope::PerHead, NormScope::PerHeadDistinct]);
    let qk_norm = rng.chance(50);
    let qk_norm_at = rng.pick(&[QkNormAt::BeforeRope, QkNormAt::AfterRope]);
    let (bias, mlp_bias) = (rng.chance(50), rng.chance(50));
    let resid_scale = rng.pick(&[1.0, 1.0, 0.4]);
    let gated = rng.chance(60);
    let act = rng.pick(&[Act::Silu, Act::GeluErf, Act::GeluTanh, Act::Relu, Act::Relu2, Act::QuickGelu, Act::XIelu]);
    let clip = rng.chance(20).then_some(0.8);
    let (softcap, sinks) = (rng.chance(20).then_some(2.0), rng.chance(20));
    let alibi = rng.chance(20).then(|| rng.pick(&[AlibiAt::AfterScale, AlibiAt::BeforeScaleRounded]));
    let q_temperature = rng.chance(20).then_some(QTemperature { beta: 0.1, original: 3 });
    let mut blocks = Vec::new();
    for l in 0..n_layers {
        let sub_norm = |on: bool, name: &str, rng: &mut Rng| {
            on.then(|| norm(rng, format!("blocks.{l}.{name}"), kind, NormScope::Full))
        };
        let ln1 = sub_norm(pre, "ln1", &mut rng);
        let ln2 = if one_norm { ln1.clone() } else { sub_norm(pre, "ln2", &mut rng) };
        let attn = AttnSpec {
            n_heads,
            n_kv_heads,
            d_qk,
            d_v,
            scale: 1.0 / (d_qk as f32).sqrt(),
            rope: (!learned && !rng.chance(20)).then(|| rng.below(2)),
            alibi: alibi.map(|at| Alibi { slopes: (0..n_heads).map(|h| 0.7f32.powi(h as i32 + 1)).collect(), at }),
            window: rng.chance(40).then_some(3 + rng.below(3)),
            softcap,
            sinks,
            qkv_clip: clip,
            q_norm: qk_norm.then(|| norm(&mut rng, format!("blocks.{l}.attn.q_norm"), kind, qk_scope)),
            k_norm: qk_norm.then(|| norm(&mut rng, format!("blocks.{l}.attn.k_norm"), kind, qk_scope)),
            qk_norm_at,
            q_temperature,
            bias: QkvoBias { q: bias, k: bias, v: bias, o: bias && rng.chance(50) },
        };
        let mlp =
            MlpSpec { d_mlp: 24, gated, act, bias: MlpBias { gate: mlp_bias && gated, up: mlp_bias, down: mlp_bias } };
        let mut subs = vec![
            SubLayer {
                op: Op::Attn(attn),
                pre_norm: ln1,
                post_norm: sub_norm(post, "ln1_post", &mut rng),
                resid_norm: sub_norm(resid, "ln1_resid", &mut rng),
            },
            SubLayer {
                op: Op::Mlp(mlp),
                pre_norm: ln2,
                post_norm: sub_norm(post, "ln2_post", &mut rng),
                resid_norm: sub_norm(resid, "ln2_resid", &mut rng),
            },
        ];
        if !parallel && l > 0 && rng.chance(10) {
            subs.remove(rng.below(2)); // a layer without attention, or without an MLP
            if rng.chance(30) {
                subs.clear(); // or without either
            }
        }
        blocks.push(BlockSpec { subs, parallel, resid_scale });
    }
    ModelSpec {
        family: "random".into(),
        d_model,
        d_vocab: 37,
        n_ctx: Some(32),
        embed: EmbedSpec {
            projected: rng.chance(20).then_some(10),
            scale: rng.pick(&[1.0, 4.0]),
            positions: learned.then_some(LearnedPositions { rows: 34, offset: 2 }),
            norm: rng.chance(20).then(|| norm(&mut rng, "embed_norm".into(), kind, NormScope::Full)),
        },
        ropes: vec![rope, other_rope],
        blocks,
        final_norm: (!resid).then(|| norm(&mut rng, "ln_final".into(), kind, NormScope::Full)),
        unembed: UnembedSpec {
            tied: rng.chance(50),
            bias: rng.chance(30),
            scale: rng.pick(&[1.0, 0.5]),
            softcap: rng.chance(20).then_some(5.0),
        },
    }
}

pub fn load(spec: ModelSpec, seed: u64) -> Model<Cpu> {
    let spec = Arc::new(spec);
    let params = RandomParams { spec: spec.clone(), seed };
    Model::load(spec, &params, Cpu, &|_| ()).expect("a random model loads")
}

/// Pairs of several lengths and first differences.
pub fn random_pairs(seed: u64, n: usize, d_vocab: usize) -> Vec<Pair> {
    let mut rng = Rng(seed ^ 0x5eed);
    (0..n)
        .map(|_| {
            let len = 4 + rng.below(6);
            let clean: Vec<u32> = (0..len).map(|_| rng.below(d_vocab) as u32).collect();
            let mut corrupted = clean.clone();
            let first = rng.below(len);
            for (i, t) in corrupted.iter_mut().enumerate().skip(first) {
                if i == first || rng.chance(30) {
                    *t = (*t + 1 + rng.below(d_vocab - 1) as u32) % d_vocab as u32;
                }
            }
            let answers = vec![rng.below(d_vocab / 2) as u32];
            let wrong = vec![(d_vocab / 2 + rng.below(d_vocab / 2)) as u32];
            pair(clean, corrupted, answers, wrong)
        })
        .collect()
}

pub fn pair(clean: Vec<u32>, corrupted: Vec<u32>, answers: Vec<u32>, wrong: Vec<u32>) -> Pair {
    Pair { clean, corrupted, answers, wrong, ..Pair::default() }
}

/// Every position of every pair as a column of its own.
pub fn all_columns(pairs: &[Pair]) -> Vec<Column> {
    let longest = pairs.iter().map(|p| p.clean.len()).max().unwrap_or(0);
    (0..longest)
        .map(|i| Column {
            label: i.to_string(),
            at: pairs.iter().map(|p| (i < p.clean.len()).then_some(i as u32)).collect(),
        })
        .collect()
}

/// How the sites are cut in tests: all of them in one sweep.
pub fn all_sites(spec: &ModelSpec, by: By, columns: usize) -> Vec<SiteCells> {
    Site::ALL
        .into_iter()
        .filter(|s| (0..spec.n_layers()).any(|l| s.exists(spec, l)))
        .map(|s| {
            let by = match by {
                By::Head if !s.has_heads() => By::Layer,
                By::HeadPos if !s.has_heads() => By::Pos,
                by => by,
            };
            SiteCells::new(spec, s, by, columns, &Selection::default())
        })
        .collect()
}

pub fn sweep<'a, B: Backend>(model: &'a Model<B>, pairs: &'a [Pair], by: By) -> Sweep<'a, B> {
    let columns = all_columns(pairs);
    Sweep {
        model,
        pairs,
        sites: all_sites(&model.spec, by, columns.len()),
        columns,
        restricted: false,
        direction: Direction::Denoise,
        patch: PatchKind::Source,
        metric: Metric::LogitDiff,
        align: None,
        limits: Limits::default(),
        skip: true,
    }
}

pub fn run<B: Backend>(sweep: &Sweep<'_, B>) -> patchwave::sweep::Outcome {
    sweep.run(&HashMap::new(), &mut |_, _| ControlFlow::Continue(())).expect("the sweep runs")
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The largest |logit| of the unpatched runs' last tokens, over the whole vocabulary.
pub fn largest_logit(model: &Model<Cpu>, pairs: &[Pair]) -> f32 {
    let prompts = pairs.iter().flat_map(|p| [p.clean.clone(), p.corrupted.clone()]).collect();
    let run = model.run(PromptRows::new(prompts), &Keep::default(), &[]).expect("it runs");
    let h = View::packed(&run.hidden, 2 * pairs.len(), model.spec.d_embed());
    model.backend.logits(h, &model.unembedding()).iter().fold(0.0, |a, b| a.max(b.abs()))
}

/// Every item of the sweep, run again on the reference path, is within 1e-5 of the largest logit.
pub fn agrees_with_the_reference(sweep: &Sweep<'_, Cpu>) {
    let outcome = run(sweep);
    let n = sweep.pairs.len();
    let tolerance = 1e-5 * largest_logit(sweep.model, sweep.pairs);
    for (i, cell) in sweep.cells().iter().enumerate() {
        for pair in 0..n {
            let wave = outcome.metric[i * n + pair];
            if wave.is_nan() {
                let beyond = cell.column.is_some_and(|c| c as usize >= sweep.pairs[pair].clean.len());
                assert!(!cell.exists || beyond, "{cell:?} of pair {pair} is missing");
                continue;
            }
            let slow = sweep.reference(cell, pair, &outcome).expect("the reference runs");
            assert!(
                (wave - slow).abs() <= tolerance,
                "{cell:?} of pair {pair}: wave {wave}, reference {slow}, {:?} {:?}",
                sweep.direction,
                sweep.patch
            );
        }
    }
}

/// `tests/fixtures`, or where they lie on a machine that has the compiled tests and not the repository.
pub fn fixtures() -> PathBuf {
    let elsewhere = std::env::var_os("PATCHWAVE_FIXTURES").map(PathBuf::from);
    elsewhere.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"))
}

/// The cases of each family.
pub fn fixture_families() -> BTreeMap<String, Vec<PathBuf>> {
    let dir = fixtures().join("hf");
    let mut families: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("the fixtures are there") {
        let path = entry.expect("a folder").path();
        let files = ModelFiles::open(&path, &[]).expect("a model");
        families.entry(files.spec.family.clone()).or_default().push(path);
    }
    families.values_mut().for_each(|cases| cases.sort());
    families
}

/// Every way of cutting a site, direction and patch kind.
pub fn combinations() -> Vec<(By, Direction, PatchKind<'static>)> {
    let mut combinations = Vec::new();
    for by in [By::Head, By::HeadPos, By::Pos, By::Layer] {
        for direction in [Direction::Denoise, Direction::Noise] {
            for patch in [PatchKind::Source, PatchKind::Zero, PatchKind::Mean] {
                combinations.push((by, direction, patch));
            }
        }
    }
    combinations
}

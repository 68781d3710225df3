//! One knob wrong, and the test notices: for every tiny model of `tests/fixtures/hf`, each knob that its family sets is
//! changed alone, and the residuals or logits must leave Hugging Face's by more than `tests/huggingface.rs` allows.
//!
//! A knob that could be turned unnoticed would be one that no fixture holds in its place.

#[path = "support/reference.rs"]
mod reference;

use patchwave::backend::cpu::Cpu;
use patchwave::backend::{Backend, View};
use patchwave::engine::{Keep, Model, Program, PromptRows};
use patchwave::model::spec::*;
use patchwave::model::{ModelFiles, ModelSpec, Params};
use reference::{Reference, TOLERANCE, cases, distance};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Specs with one knob changed, under the knob's name. Only what needs no parameter that the model lacks.
struct Mutants<'a> {
    spec: &'a ModelSpec,
    found: Vec<(String, ModelSpec)>,
}

type AttnChange<'a> = &'a dyn Fn(&mut AttnSpec) -> bool;

impl Mutants<'_> {
    /// The whole spec; `change` tells whether there was anything to change.
    fn spec(&mut self, knob: &str, change: impl Fn(&mut ModelSpec) -> bool) {
        let mut mutant = self.spec.clone();
        if change(&mut mutant) {
            assert_ne!(&mutant, self.spec, "{knob} is as it was");
            self.found.push((knob.to_owned(), mutant));
        }
    }

    /// In every attention that has it.
    fn attn(&mut self, knob: &str, change: AttnChange<'_>) {
        self.spec(&format!("attn.{knob}"), |s| attns(s).fold(false, |any, a| change(a) | any));
    }

    fn mlp(&mut self, knob: &str, change: impl Fn(&mut MlpSpec) -> bool) {
        self.spec(&format!("mlp.{knob}"), |s| mlps(s).fold(false, |any, m| change(m) | any));
    }

    fn rope(&mut self, knob: &str, change: impl Fn(&mut RopeSpec) -> bool) {
        self.spec(&format!("rope.{knob}"), |s| s.ropes.iter_mut().fold(false, |any, r| change(r) | any));
    }

    /// The norms of one place, all layers together.
    fn norm(&mut self, place: &str, norms: impl Fn(&mut ModelSpec) -> Vec<&mut Option<NormSpec>>) {
        let mut each = |knob: &str, change: &dyn Fn(&mut Option<NormSpec>) -> bool| {
            self.spec(&format!("{place}.{knob}"), |s| norms(s).into_iter().fold(false, |any, n| change(n) | any));
        };
        each("absent", &|n| n.take().is_some());
        let inside = |change: fn(&mut NormSpec) -> bool| move |n: &mut Option<NormSpec>| n.as_mut().is_some_and(change);
        each(
            "kind",
            &inside(|n| {
                n.kind = if n.kind == NormKind::LayerNorm { NormKind::RmsNorm } else { NormKind::LayerNorm };
                true
            }),
        );
        each(
            "eps",
            &inside(|n| {
                n.eps += 1e-2;
                true
            }),
        );
        each(
            "weight",
            &inside(|n| {
                n.weight = match n.weight {
                    NormWeight::None => return false,
                    NormWeight::Scale => NormWeight::OnePlusScale,
                    NormWeight::OnePlusScale => NormWeight::Scale,
                };
                true
            }),
        );
        each("bias", &inside(|n| std::mem::take(&mut n.bias)));
    }
}

fn subs(spec: &mut ModelSpec) -> impl Iterator<Item = &mut SubLayer> {
    spec.blocks.iter_mut().flat_map(|b| &mut b.subs)
}

fn attns(spec: &mut ModelSpec) -> impl Iterator<Item = &mut AttnSpec> {
    subs(spec).filter_map(|sub| match &mut sub.op {
        Op::Attn(a) => Some(a),
        Op::Mlp(_) => None,
    })
}

fn mlps(spec: &mut ModelSpec) -> impl Iterator<Item = &mut MlpSpec> {
    subs(spec).filter_map(|sub| match &mut sub.op {
        Op::Mlp(m) => Some(m),
        Op::Attn(_) => None,
    })
}

/// `len` tokens are what the fixture ran on.
fn mutants(spec: &ModelSpec, len: usize) -> Vec<(String, ModelSpec)> {
    let mut m = Mutants { spec, found: vec![] };
    m.spec("embed.scale", |s| std::mem::replace(&mut s.embed.scale, 1.0) != 1.0);
    m.spec("embed.positions", |s| s.embed.positions.take().is_some());
    m.spec("embed.positions.offset", |s| {
        s.embed.positions.as_mut().is_some_and(|p| std::mem::take(&mut p.offset) != 0)
    });
    m.spec("unembed.tied", |s| !std::mem::replace(&mut s.unembed.tied, true));
    m.spec("unembed.bias", |s| std::mem::take(&mut s.unembed.bias));
    m.spec("unembed.scale", |s| std::mem::replace(&mut s.unembed.scale, 1.0) != 1.0);
    m.spec("unembed.softcap", |s| s.unembed.softcap.take().is_some());
    m.norm("embed.norm", |s| vec![&mut s.embed.norm]);
    m.norm("final_norm", |s| vec![&mut s.final_norm]);
    m.norm("pre_norm", |s| subs(s).map(|s| &mut s.pre_norm).collect());
    m.norm("post_norm", |s| subs(s).map(|s| &mut s.post_norm).collect());
    m.norm("resid_norm", |s| subs(s).map(|s| &mut s.resid_norm).collect());
    m.norm("q_norm", |s| attns(s).map(|a| &mut a.q_norm).collect());
    m.norm("k_norm", |s| attns(s).map(|a| &mut a.k_norm).collect());
    m.spec("block.parallel", |s| {
        let two = s.blocks.iter_mut().filter(|b| b.subs.len() == 2);
        two.fold(false, |_, b| {
            b.parallel = !b.parallel;
            true
        })
    });
    m.spec("block.resid_scale", |s| {
        s.blocks.iter_mut().fold(false, |any, b| (std::mem::replace(&mut b.resid_scale, 1.0) != 1.0) | any)
    });

    m.attn("scale", &|a| {
        a.scale *= 1.01;
        true
    });
    m.attn("rope", &|a| a.rope.take().is_some());
    let tables = spec.ropes.len();
    m.attn("rope of another layer type", &|a| {
        tables > 1
            && a.rope.as_mut().is_some_and(|r| {
                *r = (*r + 1) % tables;
                true
            })
    });
    m.attn("alibi", &|a| a.alibi.take().is_some());
    m.attn("alibi.at", &|a| {
        let Some(alibi) = &mut a.alibi else { return false };
        alibi.at = match alibi.at {
            AlibiAt::AfterScale => AlibiAt::BeforeScaleRounded,
            AlibiAt::BeforeScaleRounded => AlibiAt::AfterScale,
        };
        true
    });
    m.attn("window absent", &|a| a.window.take().is_some());
    m.attn("window + 1", &|a| a.window.as_mut().map(|w| *w += 1).is_some());
    m.attn("softcap", &|a| a.softcap.take().is_some());
    m.attn("sinks", &|a| std::mem::take(&mut a.sinks));
    m.attn("qkv_clip", &|a| a.qkv_clip.take().is_some());
    m.attn("qk_norm_at", &|a| {
        let there = (a.q_norm.is_some() || a.k_norm.is_some()) && a.rope.is_some();
        if there {
            a.qk_norm_at =
                if a.qk_norm_at == QkNormAt::BeforeRope { QkNormAt::AfterRope } else { QkNormAt::BeforeRope };
        }
        there
    });
    m.attn("q_temperature", &|a| a.q_temperature.take().is_some());
    m.attn("bias.q", &|a| std::mem::take(&mut a.bias.q));
    // q · b is the same for every key, and the softmax does not see it, unless positions or a norm or a cap follow.
    let seen =
        |a: &AttnSpec| a.rope.is_some() || a.k_norm.is_some() || a.softcap.is_some() || a.sinks || a.qkv_clip.is_some();
    m.attn("bias.k", &|a| seen(a) && std::mem::take(&mut a.bias.k));
    m.attn("bias.v", &|a| std::mem::take(&mut a.bias.v));
    m.attn("bias.o", &|a| std::mem::take(&mut a.bias.o));

    for act in [Act::Relu, Act::Relu2, Act::Silu, Act::GeluErf, Act::GeluTanh, Act::QuickGelu] {
        m.mlp(&format!("act {act:?}"), |mlp| std::mem::replace(&mut mlp.act, act) != act);
    }
    m.mlp("gated", |mlp| std::mem::take(&mut mlp.gated));
    m.mlp("bias.gate", |mlp| std::mem::take(&mut mlp.bias.gate));
    m.mlp("bias.up", |mlp| std::mem::take(&mut mlp.bias.up));
    m.mlp("bias.down", |mlp| std::mem::take(&mut mlp.bias.down));

    m.rope("inv_freq", |r| {
        // The table that this length uses.
        let used = match &mut r.by_length {
            Some(RopeByLength::LongFactor { beyond, inv_freq }) if len > *beyond => inv_freq,
            Some(RopeByLength::DynamicNtk { theta, max_positions, .. }) if len > *max_positions => {
                *theta *= 1.01;
                return true;
            }
            _ => &mut r.inv_freq,
        };
        used.iter_mut().for_each(|f| *f *= 1.01);
        true
    });
    m.rope("n_rot", |r| r.inv_freq.len() > 1 && r.inv_freq.pop().is_some());
    m.rope("amplitude", |r| std::mem::replace(&mut r.amplitude, 1.0) != 1.0);
    m.rope("layout", |r| {
        r.layout = match r.layout {
            RopeLayout::HalfSplit => RopeLayout::Interleaved,
            RopeLayout::Interleaved => RopeLayout::HalfSplit,
        };
        r.inv_freq.len() > 1
    });
    m.rope("by_length", |r| match &mut r.by_length {
        // A prompt that is short enough for the short table must not get the long one.
        Some(RopeByLength::LongFactor { beyond, .. }) if len <= *beyond => {
            *beyond = 0;
            true
        }
        other => other.take().is_some(),
    });
    m.found
}

/// The largest distance of any residual or logit from Hugging Face's.
fn worst(spec: ModelSpec, params: &dyn Params, reference: &Reference) -> f32 {
    let spec = Arc::new(spec);
    let model = Model::load(spec.clone(), params, Cpu, &|_| ()).expect("it needs no parameter that is not there");
    let (program, ids) = (Program::new(&spec), reference.ids());
    let (len, v, d) = (ids[0].len(), spec.d_vocab, spec.d_model);
    let keep = Keep { boundaries: (0..program.n_boundaries()).collect(), ..Keep::default() };
    let run = model.run(PromptRows::new(ids), &keep, &[]).expect("it runs");
    let residual = |layer: usize| {
        let got = model.backend.download(run.cache.resid(program.layer_input(layer), d));
        distance(&got, &reference.floats(&format!("resid.{layer}")).1)
    };
    let (_, all) = reference.floats("logits");
    let last: Vec<f32> = (0..2).flat_map(|row| all[(row * len + len - 1) * v..][..v].to_vec()).collect();
    let logits = distance(
        &model.backend.logits(View::packed(&run.hidden, 2, model.spec.d_embed()), &model.unembedding()),
        &last,
    );
    (0..=spec.n_layers()).map(residual).fold(logits, f32::max)
}

#[derive(Default)]
struct Knob {
    noticed: bool,
    /// Where it was turned, and how far from Hugging Face's numbers that led.
    cases: Vec<String>,
}

#[test]
fn every_knob_that_a_family_sets_is_held_by_a_fixture() {
    // A knob may be idle in one case of a family (a window longer than the prompt) and must show in another.
    let mut knobs: BTreeMap<(String, String), Knob> = BTreeMap::new();
    let mut turned = 0;
    for dir in cases() {
        let case = dir.file_name().expect("a name").to_string_lossy().into_owned();
        let files = ModelFiles::open(&dir, &[]).unwrap_or_else(|e| panic!("{case}: {e}"));
        let reference = Reference::of(&dir);
        let right = worst(files.spec.clone(), &*files.params, &reference);
        assert!(right <= TOLERANCE, "{case}: {right:e} with every knob in place");
        for (knob, mutant) in mutants(&files.spec, reference.ids()[0].len()) {
            let off = worst(mutant, &*files.params, &reference);
            turned += 1;
            let known = knobs.entry((files.spec.family.clone(), knob)).or_default();
            known.noticed |= off > TOLERANCE;
            known.cases.push(format!("{case} ({off:e})"));
        }
    }
    let unheld: Vec<String> = knobs
        .iter()
        .filter(|(_, knob)| !knob.noticed)
        .map(|((family, name), knob)| format!("{family}: {name} in {}", knob.cases.join(", ")))
        .collect();
    assert!(unheld.is_empty(), "turned unnoticed:\n{}", unheld.join("\n"));
    assert!(turned > 500, "only {turned} knobs were turned");
}

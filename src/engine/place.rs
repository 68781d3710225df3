//! Where a site lies in a given model, in words: the definitions of `docs/sites.md` with the model's knobs filled in.

use super::site::Site;
use crate::model::ModelSpec;
use crate::model::spec::{
    Act, AlibiAt, AttnSpec, BlockSpec, NormScope, NormSpec, Op, QkNormAt, RopeByLength, SubLayer,
};

impl Site {
    /// What is before and behind this site in layer `layer`, as `W_Q · ln1(resid_pre) + bias; rope on 64 of 64 follows`.
    /// `None` where the layer lacks the site.
    pub fn place(self, spec: &ModelSpec, layer: usize) -> Option<String> {
        if !self.exists(spec, layer) {
            return None;
        }
        let block = &spec.blocks[layer];
        let part = |attention: bool| block.subs.iter().find(|s| matches!(s.op, Op::Attn(_)) == attention);
        Some(match (self, spec.attn(layer).zip(part(true)), spec.mlp(layer).zip(part(false))) {
            (Site::ResidPre, ..) if layer == 0 => embedding(spec),
            (Site::ResidPre, ..) => format!("resid_post of layer {}", layer - 1),
            (Site::ResidMid, Some((_, sub)), _) => format!("resid_pre + attn_out{}", then_norm(&sub.resid_norm)),
            (Site::ResidPost, ..) => output(block),
            (Site::AttnOut, Some((a, sub)), _) => format!("W_O · z{}{}", bias(a.bias.o), branch(block, sub)),
            (Site::Z, ..) => "pattern · v, by query head; W_O follows".to_owned(),
            (Site::Q, Some((a, sub)), _) => {
                let input = input(block, sub);
                format!("W_Q · {input}{}{}", bias(a.bias.q), followed(rotation(spec, a, &a.q_norm, true)))
            }
            (Site::K, Some((a, sub)), _) => {
                let input = input(block, sub);
                format!("W_K · {input}{}{}", bias(a.bias.k), followed(rotation(spec, a, &a.k_norm, false)))
            }
            (Site::V, Some((a, sub)), _) => {
                let clip = a.qkv_clip.map(|c| format!("clip at ±{c}")).into_iter().collect();
                format!("W_V · {}{}{}", input(block, sub), bias(a.bias.v), followed(clip))
            }
            (Site::AttnScores, Some((a, _)), _) => scores(a),
            (Site::Pattern, Some((a, _)), _) if a.sinks => "softmax of attn_scores and a learned sink".to_owned(),
            (Site::Pattern, ..) => "softmax of attn_scores".to_owned(),
            (Site::Result, ..) => "W_O · z of each head, without bias".to_owned(),
            (Site::MlpPre, _, Some((m, sub))) => {
                let (name, has) = if m.gated { ("gate", m.bias.gate) } else { ("up", m.bias.up) };
                format!("W_{name} · {}{}; {} follows", input(block, sub), bias(has), m.act.name())
            }
            (Site::MlpPost, _, Some((m, sub))) if m.gated => {
                format!("{}(mlp_pre) × (W_up · {}{}); W_down follows", m.act.name(), input(block, sub), bias(m.bias.up))
            }
            (Site::MlpPost, _, Some((m, _))) => format!("{}(mlp_pre); W_down follows", m.act.name()),
            (Site::MlpOut, _, Some((m, sub))) => {
                format!("W_down · mlp_post{}{}", bias(m.bias.down), branch(block, sub))
            }
            _ => unreachable!("the layer has the site"),
        })
    }
}

impl Act {
    /// What the activation is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Act::Relu => "ReLU",
            Act::Relu2 => "ReLU²",
            Act::Silu => "SiLU",
            Act::GeluErf => "GELU",
            Act::GeluTanh => "tanh-GELU",
            Act::QuickGelu => "quick-GELU",
            Act::XIelu => "xIELU",
        }
    }
}

/// The last part of a norm's name: `ln1`.
fn short(norm: &NormSpec) -> &str {
    norm.tensor.rsplit('.').next().unwrap_or(&norm.tensor)
}

fn bias(has: bool) -> &'static str {
    if has { " + bias" } else { "" }
}

fn then_norm(norm: &Option<NormSpec>) -> String {
    norm.as_ref().map_or_else(String::new, |n| format!(", then {}", short(n)))
}

fn followed(by: Vec<String>) -> String {
    match &by[..] {
        [] => String::new(),
        [one] => format!("; {one} follows"),
        many => format!("; {} follow", many.join(", ")),
    }
}

fn embedding(spec: &ModelSpec) -> String {
    let mut text = "token embedding".to_owned();
    if spec.embed.scale != 1.0 {
        text += &format!(" × {}", spec.embed.scale);
    }
    if spec.embed.projected.is_some() {
        text += ", projected";
    }
    text += &then_norm(&spec.embed.norm);
    if spec.embed.positions.is_some() {
        text += " + learned positions";
    }
    text
}

/// What a branch reads.
fn input(block: &BlockSpec, sub: &SubLayer) -> String {
    let first = block.parallel || std::ptr::eq(sub, &block.subs[0]);
    let stream = if first { "resid_pre" } else { "resid_mid" };
    sub.pre_norm.as_ref().map_or_else(|| stream.to_owned(), |n| format!("{}({stream})", short(n)))
}

/// What happens to a branch's output before it is added.
fn branch(block: &BlockSpec, sub: &SubLayer) -> String {
    let mut text = then_norm(&sub.post_norm);
    if block.resid_scale != 1.0 {
        text += &format!(", × {}", block.resid_scale);
    }
    text
}

fn output(block: &BlockSpec) -> String {
    let name = |s: &SubLayer| if matches!(s.op, Op::Attn(_)) { "attn_out" } else { "mlp_out" };
    match &block.subs[..] {
        [] => "resid_pre: the layer does nothing".to_owned(),
        [one] => format!("resid_pre + {}{}", name(one), then_norm(&one.resid_norm)),
        subs if block.parallel => {
            format!("resid_pre + {}", subs.iter().map(name).collect::<Vec<_>>().join(" + "))
        }
        [.., last] => format!("resid_mid + {}{}", name(last), then_norm(&last.resid_norm)),
    }
}

/// What is done to q or k between the projection and the scores, in order.
fn rotation(spec: &ModelSpec, a: &AttnSpec, norm: &Option<NormSpec>, is_q: bool) -> Vec<String> {
    let mut steps = Vec::new();
    let norm_at = |at: QkNormAt| norm.as_ref().filter(|_| a.qk_norm_at == at);
    let named = |n: &NormSpec| match n.scope {
        NormScope::Full => format!("{} over all heads", short(n)),
        NormScope::PerHead | NormScope::PerHeadDistinct => format!("{} of each head", short(n)),
    };
    let clip = a.qkv_clip.map(|c| format!("clip at ±{c}"));
    let before = norm_at(QkNormAt::BeforeRope);
    steps.extend(before.filter(|n| n.scope == NormScope::Full).map(named));
    steps.extend(clip);
    steps.extend(before.filter(|n| n.scope != NormScope::Full).map(named));
    if let Some(rope) = a.rope.and_then(|r| spec.ropes.get(r)) {
        let kind = match rope.by_length {
            Some(RopeByLength::DynamicNtk { .. }) => " (dynamic NTK)",
            Some(RopeByLength::LongFactor { .. }) => " (LongRoPE)",
            None => "",
        };
        steps.push(format!("rope on {} of {}{kind}", rope.n_rot(), a.d_qk));
    }
    steps.extend(norm_at(QkNormAt::AfterRope).map(named));
    if is_q && a.q_temperature.is_some() {
        steps.push("a factor that grows with the position".to_owned());
    }
    steps
}

fn scores(a: &AttnSpec) -> String {
    let mut text = match &a.alibi {
        Some(alibi) if alibi.at == AlibiAt::BeforeScaleRounded => {
            format!("(q·k + linear biases) × {}", a.scale)
        }
        Some(_) => format!("q·k × {} + linear biases", a.scale),
        None => format!("q·k × {}", a.scale),
    };
    if let Some(cap) = a.softcap {
        text += &format!(", softcapped at {cap}");
    }
    text += ", causal";
    if let Some(window) = a.window {
        text += &format!(" within {window}");
    }
    text
}

//! `patchwave inspect`: a model's spec, its patch points, and what a sweep would take.

use super::model;
use super::terminal::{say, size, thousands};
use crate::Error;
use crate::engine::Site;
use crate::model::ModelSpec;
use crate::model::spec::{AttnSpec, NormKind, Op, RopeByLength};
use crate::sweep::{By, Needs, PatchKind, Selection, SiteCells};
use std::fmt::Write as _;

#[derive(clap::Args)]
pub struct Args {
    /// Folder in Hugging Face layout, .gguf file, or hub id (EleutherAI/pythia-70m@step1000)
    #[arg(long)]
    model: String,
    /// Accept this unknown key of config.json (may be given several times)
    #[arg(long, value_name = "KEY")]
    allow_config_key: Vec<String>,
    /// Prompt length for the memory estimate, in tokens
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    tokens: u32,
}

pub fn run(args: Args) -> Result<(), Error> {
    let files = model::open(&args.model, &args.allow_config_key)?;
    let spec = &files.spec;
    let mut text = String::new();
    let _ = writeln!(text, "{} ({})", model::name(&files), spec.family);
    let _ = writeln!(
        text,
        "  {} parameters, stored as {}; vocabulary {}, d_model {}, {} layers, {}",
        thousands(files.n_parameters),
        files.stored_as.join(", "),
        thousands(spec.d_vocab as u64),
        spec.d_model,
        spec.n_layers(),
        spec.n_ctx.map_or_else(|| "any length".to_owned(), |n| format!("up to {n} tokens")),
    );
    let tokenizer = match &files.tokenizer {
        Some(t) => match t.bos() {
            Some(id) => format!("yes, BOS {id} {:?}", t.token(id).unwrap_or_default()),
            None => "yes, without BOS".to_owned(),
        },
        None => match &files.tokenizer_refused {
            Some(reason) => format!("none, prompts are token ids: {reason}"),
            None => "none: prompts are token ids".to_owned(),
        },
    };
    let _ = writeln!(text, "  tokenizer: {tokenizer}");
    text.push_str(&layers(spec));
    text.push_str(&patch_points(spec));
    text.push_str(&memory(spec, files.n_parameters, args.tokens as usize));
    say(text.trim_end());
    Ok(())
}

/// Equal layers in one line.
fn layers(spec: &ModelSpec) -> String {
    let mut text = String::from("\nlayers\n");
    let lines: Vec<String> = (0..spec.n_layers()).map(|l| layer(spec, l)).collect();
    let mut from = 0;
    while from < lines.len() {
        let same = lines[from..].iter().take_while(|l| **l == lines[from]).count();
        let range = if same == 1 { from.to_string() } else { format!("{from}-{}", from + same - 1) };
        let _ = writeln!(text, "  {range:7} {}", lines[from]);
        from += same;
    }
    text
}

fn layer(spec: &ModelSpec, l: usize) -> String {
    let block = &spec.blocks[l];
    let mut parts = Vec::new();
    if block.parallel {
        parts.push("attention and MLP in parallel".to_owned());
    }
    for sub in &block.subs {
        let norm = |n: &Option<crate::model::spec::NormSpec>, place: &str| {
            n.as_ref().map(|n| {
                let kind = match n.kind {
                    NormKind::LayerNorm => "LayerNorm",
                    NormKind::RmsNorm => "RMSNorm",
                };
                format!(" {place} {kind} ({}, eps {:e})", n.tensor.rsplit('.').next().unwrap_or_default(), n.eps)
            })
        };
        let mut what = match &sub.op {
            Op::Attn(a) => attn(spec, a),
            Op::Mlp(m) => {
                format!("MLP {} {}{}", m.d_mlp, m.act.name(), if m.gated { " gated" } else { "" })
            }
        };
        for (n, place) in [(&sub.pre_norm, "after"), (&sub.post_norm, "before"), (&sub.resid_norm, "added, then")] {
            what.extend(norm(n, place));
        }
        parts.push(what);
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}

fn attn(spec: &ModelSpec, a: &AttnSpec) -> String {
    let mut text = format!("attention {} heads of {}", a.n_heads, a.d_qk);
    if a.n_kv_heads != a.n_heads {
        let _ = write!(text, " on {} KV heads", a.n_kv_heads);
    }
    match a.rope.and_then(|r| spec.ropes.get(r)) {
        Some(rope) => {
            let _ = write!(text, ", rope on {} of {}", rope.n_rot(), a.d_qk);
            match rope.by_length {
                Some(RopeByLength::DynamicNtk { .. }) => text.push_str(" (dynamic NTK)"),
                Some(RopeByLength::LongFactor { .. }) => text.push_str(" (LongRoPE)"),
                None => {}
            }
        }
        None => text.push_str(", no rope"),
    }
    if let Some(w) = a.window {
        let _ = write!(text, ", window {w}");
    }
    if a.q_norm.is_some() {
        text.push_str(", qk-norm");
    }
    text
}

/// Each site's shape and cuts, then its exact place; where layers differ, a line for each kind.
fn patch_points(spec: &ModelSpec) -> String {
    let mut text =
        String::from("\npatch points   per position         --by                     layers   exact place\n");
    for site in Site::ALL {
        // Layers of the same shape and place, in the order of the first of each.
        let mut kinds: Vec<(String, String, Vec<usize>)> = Vec::new();
        for layer in 0..spec.n_layers() {
            let Some(place) = site.place(spec, layer) else { continue };
            // In every layer but the first it is the layer before's output, which says the same.
            let place =
                if site == Site::ResidPre && layer > 0 { "resid_post of the layer before".into() } else { place };
            let shape = shape(spec, site, layer);
            match kinds.iter_mut().find(|(s, p, _)| *s == shape && *p == place) {
                Some((.., layers)) => layers.push(layer),
                None => kinds.push((shape, place, vec![layer])),
            }
        }
        if kinds.is_empty() {
            let _ = writeln!(text, "  {:12} this model has none", site.name());
        }
        let by = if site.has_heads() { "head head,pos pos layer" } else { "pos layer" };
        for (n, (shape, place, layers)) in kinds.iter().enumerate() {
            let (name, by) = if n == 0 { (site.name(), by) } else { ("", "") };
            let which = if layers.len() == spec.n_layers() { "all".to_owned() } else { ranges(layers) };
            let _ = writeln!(text, "  {name:12} {shape:20} {by:24} {which:8} {place}");
        }
    }
    text
}

fn shape(spec: &ModelSpec, site: Site, layer: usize) -> String {
    let heads = site.heads(spec, layer);
    match (site, spec.attn(layer), spec.mlp(layer)) {
        (Site::Z | Site::V, Some(a), _) => format!("[{heads} heads, {}]", a.d_v),
        (Site::Q | Site::K, Some(a), _) => format!("[{heads} heads, {}]", a.d_qk),
        (Site::AttnScores | Site::Pattern, ..) => format!("[{heads} heads, sources]"),
        (Site::Result, ..) => format!("[{heads} heads, {}]", spec.d_model),
        (Site::MlpPre | Site::MlpPost, _, Some(m)) => format!("[{}]", m.d_mlp),
        _ => format!("[{}]", spec.d_model),
    }
}

/// 0, 1, 2, 5 as `0-2,5`; at most three parts.
fn ranges(layers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &layer in layers {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == layer => *end = layer,
            _ => parts.push((layer, layer)),
        }
    }
    if parts.len() > 3 {
        return format!("{} of them", layers.len());
    }
    let part = |(a, b): &(usize, usize)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

fn memory(spec: &ModelSpec, n_parameters: u64, tokens: usize) -> String {
    let sites = [SiteCells::new(spec, Site::Z, By::Head, tokens, &Selection::default())];
    let needs = Needs::new(spec, n_parameters, &sites, PatchKind::Source, tokens);
    let heads: usize = sites[0].cells.iter().filter(|c| c.exists).count();
    format!(
        "\na sweep of z by head: {} cells a pair\n  weights {} in float32, {} a pair of {tokens} tokens, {:.1} KiB a row of a wave\n",
        thousands(heads as u64),
        size(needs.weights),
        size(needs.per_pair),
        needs.per_row as f64 / 1024.0
    )
}

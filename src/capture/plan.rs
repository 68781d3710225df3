//! Every tensor of a capture with its shape, before anything runs.

use super::error::CaptureError;
use super::hook::{Hook, StoreAs, WhichRun, row_shape};
use crate::engine::workspace::bytes_per_row;
use crate::engine::{Keep, Point, Program, Site};
use crate::model::ModelSpec;
use crate::prompts::Pair;
use crate::sweep::Needs;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What is to be captured.
#[derive(Debug, Clone)]
pub struct Asked {
    pub runs: Vec<WhichRun>,
    pub hooks: Vec<Hook>,
    /// All, where `None`.
    pub layers: Option<BTreeSet<usize>>,
    /// These positions of every pair, in this order; every position where `None`.
    pub positions: Option<Vec<NamedPosition>>,
    pub store_as: StoreAs,
}

/// One position in every pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPosition {
    pub label: String,
    /// `[pairs]`
    pub at: Vec<usize>,
}

/// A tensor's type in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    I64,
    F32,
    F16,
    Bf16,
    U8,
}

impl Dtype {
    /// safetensors' name.
    pub fn safetensors(self) -> &'static str {
        match self {
            Dtype::I64 => "I64",
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::U8 => "U8",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Dtype::I64 => 8,
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::U8 => 1,
        }
    }
}

impl From<StoreAs> for Dtype {
    fn from(store_as: StoreAs) -> Self {
        match store_as {
            StoreAs::Float32 => Dtype::F32,
            StoreAs::Float16 => Dtype::F16,
            StoreAs::Bfloat16 => Dtype::Bf16,
        }
    }
}

/// What a tensor holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Known before the runs.
    Integers(Vec<i64>),
    Bytes(Vec<u8>),
    /// `[rows, d_vocab]`
    Logits {
        run: WhichRun,
    },
    /// `[rows, width]`
    Rows {
        run: WhichRun,
        site: Site,
        layer: usize,
        width: usize,
    },
    /// Of each pair `[heads, destinations, sources]`.
    Matrices {
        run: WhichRun,
        site: Site,
        layer: usize,
        heads: usize,
    },
}

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub content: Content,
}

impl Tensor {
    /// Bytes of all its numbers.
    pub fn bytes(&self) -> Result<u64, CaptureError> {
        let product = self.shape.iter().try_fold(self.dtype.bytes(), |n, len| n.checked_mul(*len));
        product.ok_or(CaptureError::TooLarge)
    }
}

/// A capture, laid out.
#[derive(Debug, Clone)]
pub struct Plan {
    pub asked: Asked,
    pub tensors: Vec<Tensor>,
    /// Of the file: what the caller says about model and prompts, then what the plan says about itself.
    pub metadata: Vec<(String, String)>,
    /// What a run must keep for it.
    pub(super) keep: Keep,
    /// First captured row of every pair, and one more for the end.
    pub(super) row_starts: Vec<u64>,
    /// First entry of every pair's matrix of one head, and one more for the end.
    pub(super) square_starts: Vec<u64>,
    /// Numbers kept for one row and one entry of a square; the widest tensor's row, and the most heads of a matrix.
    per_row: usize,
    per_square: usize,
    widest: usize,
    most_heads: usize,
}

impl Plan {
    /// Lays out what is asked of `pairs`. `about` becomes the file's metadata.
    ///
    /// # Errors
    /// A site that no chosen layer has, a hook asked for twice, a pair without the prompt whose run is asked for, a file
    /// larger than files can be.
    pub fn new(
        spec: &ModelSpec,
        pairs: &[Pair],
        asked: Asked,
        about: Vec<(String, String)>,
    ) -> Result<Plan, CaptureError> {
        check(spec, pairs, &asked)?;
        let lens: Vec<u64> = pairs.iter().map(|p| p.len() as u64).collect();
        let rows: Vec<u64> = match &asked.positions {
            Some(named) => vec![named.len() as u64; pairs.len()],
            None => lens.clone(),
        };
        let squares: Vec<u64> = rows.iter().zip(&lens).map(|(r, l)| r.saturating_mul(*l)).collect();
        let layout = Layout {
            pairs: pairs.len() as u64,
            rows: same(&rows),
            len: same(&lens),
            row_starts: starts(&rows)?,
            square_starts: starts(&squares)?,
        };
        let mut tensors = layout.about_pairs(pairs, &asked)?;
        let (mut keep, program) = (Keep::default(), Program::new(spec));
        let (mut per_row, mut per_square, mut widest, mut most_heads) = (0, 0, 0, 0);
        for run in &asked.runs {
            for hook in &asked.hooks {
                let Hook::Site(site) = hook else {
                    keep.boundaries.insert(program.n_boundaries() - 1);
                    tensors.push(layout.rows(
                        format!("{}.logits", run.name()),
                        &asked,
                        &[spec.d_vocab],
                        Content::Logits { run: *run },
                    ));
                    continue;
                };
                for layer in layers(spec, &asked) {
                    let Some(boundary) = program.entry_boundary(spec, *site, layer) else { continue };
                    let name = format!("{}.{}", run.name(), site.hook_name(layer));
                    let new = match Point::of(*site) {
                        Some(point) => keep.points.insert((layer, point)),
                        None => keep.boundaries.insert(boundary),
                    };
                    if let Some(shape) = row_shape(spec, *site, layer) {
                        let width = shape.iter().product();
                        per_row += if new && Point::of(*site).is_some() { width } else { 0 };
                        widest = widest.max(width);
                        let content = Content::Rows { run: *run, site: *site, layer, width };
                        tensors.push(layout.rows(name, &asked, &shape, content));
                    } else {
                        let heads = site.heads(spec, layer);
                        per_square += if new { heads } else { 0 };
                        most_heads = most_heads.max(heads);
                        let content = Content::Matrices { run: *run, site: *site, layer, heads };
                        tensors.push(layout.matrices(name, &asked, heads, content));
                    }
                }
            }
        }
        per_row += keep.boundaries.len() * spec.d_model;
        // Wide numbers first, so that all are aligned; single bytes last.
        tensors.sort_by_key(|t| std::cmp::Reverse(t.dtype.bytes()));
        tensors.iter().try_fold(0u64, |n, t| n.checked_add(t.bytes().ok()?)).ok_or(CaptureError::TooLarge)?;
        let metadata = about.into_iter().chain(own_metadata(spec, &asked)).collect();
        let Layout { row_starts, square_starts, .. } = layout;
        Ok(Plan { asked, tensors, metadata, keep, row_starts, square_starts, per_row, per_square, widest, most_heads })
    }

    /// The activations for a terminal, equal layers together: name with `*` for the layer, how many layers, shape.
    pub fn summary(&self) -> Vec<(String, usize, &[u64])> {
        let mut lines: Vec<(String, usize, &[u64])> = Vec::new();
        for run in &self.asked.runs {
            for hook in &self.asked.hooks {
                for tensor in &self.tensors {
                    let name = match (&tensor.content, hook) {
                        (Content::Logits { run: r }, Hook::Logits) if r == run => tensor.name.clone(),
                        (
                            Content::Rows { run: r, site, layer, .. } | Content::Matrices { run: r, site, layer, .. },
                            Hook::Site(s),
                        ) if r == run && site == s => tensor.name.replacen(&format!("blocks.{layer}."), "blocks.*.", 1),
                        _ => continue,
                    };
                    match lines.last_mut().filter(|(n, _, shape)| *n == name && *shape == tensor.shape) {
                        Some((_, layers, _)) => *layers += 1,
                        None => lines.push((name, 1, &tensor.shape)),
                    }
                }
            }
        }
        lines
    }

    /// Bytes of all tensors together.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().filter_map(|t| t.bytes().ok()).sum()
    }

    /// Bytes that the run of one prompt of `len` tokens keeps, and what writing its widest tensor takes beside it.
    pub fn kept_bytes(&self, len: usize) -> usize {
        let squares = (self.per_square + 3 * self.most_heads).saturating_mul(len.saturating_mul(len));
        (self.per_row + 2 * self.widest).saturating_mul(len).saturating_add(squares).saturating_mul(4)
    }

    /// What a capture needs for prompts of up to `longest` tokens.
    pub fn needs(&self, spec: &ModelSpec, n_parameters: u64, longest: usize) -> Needs {
        Needs {
            weights: 4 * n_parameters,
            per_row: bytes_per_row(spec) as u64,
            per_pair: self.kept_bytes(longest) as u64,
            fixed: (64 << 20) + 3 * super::batch::LOGIT_BYTES as u64,
        }
    }
}

fn check(spec: &ModelSpec, pairs: &[Pair], asked: &Asked) -> Result<(), CaptureError> {
    let fail = |line: String| Err(CaptureError::Asked(line));
    if asked.hooks.is_empty() {
        return fail("--sites: none given".to_owned());
    }
    for (i, hook) in asked.hooks.iter().enumerate() {
        if asked.hooks[..i].contains(hook) {
            return fail(format!("--sites names {hook} twice"));
        }
        let Hook::Site(site) = hook else { continue };
        let has = |site: &Site| layers(spec, asked).any(|l| site.exists(spec, l));
        if !has(site) {
            let others: Vec<&str> = Site::ALL.iter().filter(|s| has(s)).map(|s| s.name()).collect();
            let which = if asked.layers.is_some() { "none of these layers" } else { "no layer" };
            return fail(format!(
                "--sites {site}: {which} of this {} model has it; there are logits, {}",
                spec.family,
                others.join(", ")
            ));
        }
    }
    if asked.runs.contains(&WhichRun::Corrupted)
        && let Some(pair) = pairs.iter().position(|p| p.corrupted.len() != p.clean.len())
    {
        return fail(format!("--run: pair {pair} (from 0) has no corrupted prompt; use --run clean"));
    }
    for named in asked.positions.iter().flatten() {
        let inside = named.at.iter().zip(pairs).all(|(at, pair)| *at < pair.len());
        if named.at.len() != pairs.len() || !inside {
            return fail(format!("--positions {}: not a position of every pair", named.label));
        }
    }
    Ok(())
}

fn layers<'a>(spec: &ModelSpec, asked: &'a Asked) -> impl Iterator<Item = usize> + use<'a> {
    let n = spec.n_layers();
    (0..n).filter(move |l| asked.layers.as_ref().is_none_or(|chosen| chosen.contains(l)))
}

fn own_metadata(spec: &ModelSpec, asked: &Asked) -> Vec<(String, String)> {
    let list = |x: Value| x.to_string();
    let chosen: Vec<usize> = layers(spec, asked).collect();
    let mut all = vec![
        ("patchwave_version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("runs".to_owned(), list(asked.runs.iter().map(|r| r.name()).collect())),
        ("sites".to_owned(), list(asked.hooks.iter().map(Hook::to_string).collect())),
        ("n_layers".to_owned(), spec.n_layers().to_string()),
        ("layers".to_owned(), list(json!(chosen))),
        ("store_as".to_owned(), asked.store_as.name().to_owned()),
    ];
    if let Some(named) = &asked.positions {
        all.push(("positions".to_owned(), list(named.iter().map(|p| p.label.as_str()).collect())));
    }
    all
}

/// The common value, where all are equal.
fn same(values: &[u64]) -> Option<u64> {
    let first = *values.first()?;
    values.iter().all(|v| *v == first).then_some(first)
}

/// Running sums, 0 first.
fn starts(lens: &[u64]) -> Result<Vec<u64>, CaptureError> {
    let mut all = vec![0u64];
    for len in lens {
        let next = all[all.len() - 1].checked_add(*len).ok_or(CaptureError::TooLarge)?;
        all.push(next);
    }
    Ok(all)
}

/// How rows and matrices of the pairs lie in their tensors.
struct Layout {
    pairs: u64,
    /// Captured rows of each pair, where that is one number.
    rows: Option<u64>,
    /// Tokens of each pair, where that is one number.
    len: Option<u64>,
    row_starts: Vec<u64>,
    square_starts: Vec<u64>,
}

impl Layout {
    fn total_rows(&self) -> u64 {
        self.row_starts.last().copied().unwrap_or(0)
    }

    fn rows(&self, name: String, asked: &Asked, row: &[usize], content: Content) -> Tensor {
        let mut shape = match self.rows {
            Some(rows) => vec![self.pairs, rows],
            None => vec![self.total_rows()],
        };
        shape.extend(row.iter().map(|n| *n as u64));
        Tensor { name, dtype: asked.store_as.into(), shape, content }
    }

    fn matrices(&self, name: String, asked: &Asked, heads: usize, content: Content) -> Tensor {
        let shape = match (self.rows, self.len) {
            (Some(rows), Some(len)) => vec![self.pairs, heads as u64, rows, len],
            _ => vec![self.square_starts.last().copied().unwrap_or(0).saturating_mul(heads as u64)],
        };
        Tensor { name, dtype: asked.store_as.into(), shape, content }
    }

    /// Tokens, lengths, offsets, positions and labels.
    fn about_pairs(&self, pairs: &[Pair], asked: &Asked) -> Result<Vec<Tensor>, CaptureError> {
        let mut tensors = Vec::new();
        let mut integers = |name: &str, shape: Vec<u64>, values: Vec<i64>| {
            let content = Content::Integers(values);
            tensors.push(Tensor { name: name.to_owned(), dtype: Dtype::I64, shape, content });
        };
        let signed = |values: &[u64]| values.iter().map(|v| *v as i64).collect::<Vec<_>>();
        let lens: Vec<i64> = pairs.iter().map(|p| p.len() as i64).collect();
        let tokens: u64 = pairs.iter().map(|p| p.len() as u64).sum();
        for run in &asked.runs {
            let ids = pairs.iter().flat_map(|p| ids_of(p, *run)).map(|id| i64::from(*id)).collect();
            let shape = self.len.map_or_else(|| vec![tokens], |len| vec![self.pairs, len]);
            integers(&format!("input_ids.{}", run.name()), shape, ids);
        }
        let offsets = vec![self.pairs + 1];
        if self.len.is_none() {
            let token_starts = starts(&lens.iter().map(|l| *l as u64).collect::<Vec<_>>())?;
            integers("token_offsets", offsets.clone(), signed(&token_starts));
        }
        integers("lengths", vec![self.pairs], lens);
        if self.rows.is_none() {
            integers("row_offsets", offsets.clone(), signed(&self.row_starts));
        }
        let matrices = |h: &Hook| matches!(h, Hook::Site(Site::AttnScores | Site::Pattern));
        if self.len.is_none() && asked.hooks.iter().any(matrices) {
            integers("matrix_offsets", offsets, signed(&self.square_starts));
        }
        if let Some(named) = &asked.positions {
            let at = (0..pairs.len()).flat_map(|pair| named.iter().map(move |n| n.at[pair] as i64)).collect();
            integers("positions", vec![self.pairs, named.len() as u64], at);
        }
        if pairs.iter().any(|p| !p.labels.is_empty()) {
            let labels: Vec<&Map<String, Value>> = pairs.iter().map(|p| &p.labels).collect();
            let text = json!(labels).to_string().into_bytes();
            let shape = vec![text.len() as u64];
            tensors.push(Tensor { name: "labels".into(), dtype: Dtype::U8, shape, content: Content::Bytes(text) });
        }
        Ok(tensors)
    }
}

/// The tokens of one of a pair's runs.
pub(super) fn ids_of(pair: &Pair, run: WhichRun) -> &[u32] {
    match run {
        WhichRun::Clean => &pair.clean,
        WhichRun::Corrupted => &pair.corrupted,
    }
}

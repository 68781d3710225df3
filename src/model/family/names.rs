//! From parameters of the spec to tensors of the checkpoint: names with a layer number in them, and a closed list of
//! ways in which a parameter may lie inside a stored tensor.

use super::{Family, Index};
use crate::model::ModelSpec;
use crate::model::config::Config;
use crate::model::error::ModelError;

/// One line of a family's table: `{l}` stands for the layer, `{p}` for the family's prefix, `{h}` for the head where each
/// has a tensor of its own. Both names lack the `.weight` or `.bias` that follows.
pub(super) struct Name {
    ours: &'static str,
    theirs: &'static str,
    layout: Layout,
}

pub(super) const fn direct(ours: &'static str, theirs: &'static str) -> Name {
    Name { ours, theirs, layout: Layout::Direct }
}

pub(super) const fn stored(ours: &'static str, theirs: &'static str, layout: Layout) -> Name {
    Name { ours, theirs, layout }
}

/// How a parameter lies in the tensor that holds it. Matrices are `[out, in]` unless transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Direct,
    /// `[in, out]`, the `Conv1D` of GPT-2.
    Transpose,
    /// All of q, then all of k, then all of v, stored `[in, out]` (GPT-2's `c_attn`).
    QkvTranspose(Part),
    /// All of q, then all of k, then all of v (Phi-3, MPT).
    Qkv(Part),
    /// For each KV head the q of its query heads, its k and its v (GPT-NeoX, Bloom, Falcon).
    PerGroupQkv(Part),
    /// The first half of the rows (GLM's and Phi-3's `gate_up_proj`).
    Gate,
    /// The second half.
    Up,
    /// One row from each of as many tensors as there are heads (StableLM's norms of k).
    PerHead(Part),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Q,
    K,
    V,
}

/// Where the numbers of one parameter are: rows `(r / len) · stride + first + r % len` of tensor `tensor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub tensor: String,
    /// The row of head h is tensor `tensor` with h in place of `{h}`, for this many heads.
    heads: Option<usize>,
    /// The stored matrix is `[in, out]`: "rows" are its columns.
    pub transposed: bool,
    rows: Rows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    All,
    Some { first: usize, len: usize, stride: usize, groups: usize },
}

impl Layout {
    fn rows(self, spec: &ModelSpec, layer: usize) -> Option<Rows> {
        let attn = || spec.attn(layer);
        match self {
            Layout::Direct | Layout::Transpose | Layout::PerHead(_) => Some(Rows::All),
            Layout::QkvTranspose(part) | Layout::Qkv(part) => {
                let a = attn()?;
                let widths = [a.n_heads * a.d_qk, a.n_kv_heads * a.d_qk, a.n_kv_heads * a.d_v];
                Some(Rows::within(part, widths, 1))
            }
            Layout::PerGroupQkv(part) => {
                let a = attn()?;
                let q = a.n_heads / a.n_kv_heads * a.d_qk;
                Some(Rows::within(part, [q, a.d_qk, a.d_v], a.n_kv_heads))
            }
            Layout::Gate | Layout::Up => {
                let len = spec.mlp(layer)?.d_mlp;
                let first = if self == Layout::Up { len } else { 0 };
                Some(Rows::Some { first, len, stride: 2 * len, groups: 1 })
            }
        }
    }
}

impl Rows {
    /// One of three parts that lie side by side in each of `groups` groups.
    fn within(part: Part, widths: [usize; 3], groups: usize) -> Rows {
        let i = part as usize;
        Rows::Some { first: widths[..i].iter().sum(), len: widths[i], stride: widths.iter().sum(), groups }
    }
}

impl Stored {
    /// Whether the parameter is what is stored, number for number.
    pub fn is_direct(&self) -> bool {
        self.rows == Rows::All && !self.transposed
    }

    /// The stored tensors, in order: one, or one for each head.
    pub fn tensors(&self) -> Vec<String> {
        match self.heads {
            None => vec![self.tensor.clone()],
            Some(n) => (0..n).map(|h| self.tensor.replace("{h}", &h.to_string())).collect(),
        }
    }

    /// Whether other parameters lie in the same tensor.
    pub fn is_fused(&self) -> bool {
        self.rows != Rows::All
    }

    /// The shape of a stored tensor, given the parameter's.
    pub fn shape(&self, param: &[usize]) -> Vec<usize> {
        let mut shape = if self.heads.is_some() { param[1..].to_vec() } else { param.to_vec() };
        if let (Rows::Some { stride, groups, .. }, Some(rows)) = (self.rows, shape.first_mut()) {
            *rows = stride * groups;
        }
        if self.transposed {
            shape.reverse();
        }
        shape
    }

    /// Row of the stored matrix (column, if transposed) that is row `r` of the parameter.
    pub fn row(&self, r: usize) -> usize {
        match self.rows {
            Rows::All => r,
            Rows::Some { first, len, stride, .. } => r / len * stride + first + r % len,
        }
    }
}

/// A family's names for one checkpoint: with the prefix its files have.
pub struct NameTable {
    pub family: &'static Family,
    prefix: &'static str,
    /// In front of every name: models of text and images hold the language model under one.
    outer: &'static str,
}

impl NameTable {
    /// Looks at the embedding's name to tell whether the checkpoint was saved with the family's prefix, without it, or
    /// inside a model of text and images (as transformers 4 and 5 name it).
    pub fn new(family: &'static Family, tensors: Option<&Index>) -> Self {
        let table = |(outer, prefix)| NameTable { family, prefix, outer };
        let usual = ("", family.prefix);
        let places = [usual, ("", ""), ("language_model.", family.prefix), ("", "model.language_model.")];
        let embeds = |index: &Index| {
            let found = |t: &NameTable| t.tensor("embed.weight").is_some_and(|n| index.contains_key(&n));
            places.into_iter().map(table).find(found)
        };
        tensors.and_then(embeds).unwrap_or_else(|| table(usual))
    }

    /// The checkpoint's name for parameter `param`.
    pub fn tensor(&self, param: &str) -> Option<String> {
        let (entry, layer, suffix) = self.entry(param)?;
        Some(self.fill(entry.theirs, layer) + suffix)
    }

    /// Where parameter `param` of `spec` lies.
    pub fn stored(&self, param: &str, spec: &ModelSpec) -> Option<Stored> {
        let (entry, layer, suffix) = self.entry(param)?;
        let rows = entry.layout.rows(spec, layer.unwrap_or(0))?;
        let transposed = suffix == ".weight" && matches!(entry.layout, Layout::Transpose | Layout::QkvTranspose(_));
        let heads = match (entry.layout, spec.attn(layer.unwrap_or(0))) {
            (Layout::PerHead(part), a) => Some(if part == Part::Q { a?.n_heads } else { a?.n_kv_heads }),
            _ => None,
        };
        Some(Stored { tensor: self.fill(entry.theirs, layer) + suffix, heads, transposed, rows })
    }

    /// The layer a tensor belongs to, if it belongs to one.
    pub fn layer_of(&self, tensor: &str) -> Option<usize> {
        let template = self.names().find_map(|n| n.theirs.split_once("{l}"))?.0;
        let rest = tensor.strip_prefix(&self.fill(template, None))?;
        rest.split('.').next()?.parse().ok()
    }

    /// (line of the table, layer, `.weight` or `.bias`)
    fn entry<'p>(&self, param: &'p str) -> Option<(&'static Name, Option<usize>, &'p str)> {
        let (stem, suffix) = param.split_at(param.rfind('.')?);
        let (stem, layer) = match stem.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => (rest, Some(layer.parse().ok()?)),
            None => (stem, None),
        };
        let ours = |n: &&Name| n.ours.strip_prefix("blocks.{l}.").map_or((n.ours, false), |rest| (rest, true));
        let entry = self.names().find(|n| ours(n) == (stem, layer.is_some()))?;
        Some((entry, layer, suffix))
    }

    fn names(&self) -> impl Iterator<Item = &'static Name> {
        self.family.names.iter().copied().flatten()
    }

    fn fill(&self, template: &str, layer: Option<usize>) -> String {
        let name = self.outer.to_owned() + &template.replace("{p}", self.prefix);
        layer.map_or(name.clone(), |l| name.replace("{l}", &l.to_string()))
    }
}

/// What a resolver may ask about the checkpoint.
pub(in crate::model) struct Tensors<'a> {
    pub names: &'a NameTable,
    pub index: Option<&'a Index>,
}

impl Tensors<'_> {
    /// Whether the checkpoint has `param`; `None` if only the config is known.
    pub fn has(&self, param: &str) -> Option<bool> {
        let index = self.index?;
        Some(self.names.tensor(param).is_some_and(|name| index.contains_key(&name)))
    }

    /// Whether projection `stem` (`attn.q`) of the layers has a bias: what config key `key` says, and the tensors of
    /// layer 0 must not contradict it; without the key what the tensors say; without them `default`.
    pub fn bias(&self, cfg: &Config, key: &str, stem: &str, default: bool) -> Result<bool, ModelError> {
        let param = format!("blocks.0.{stem}.bias");
        let tensor = self.names.tensor(&param).unwrap_or_default();
        match (cfg.flag(key)?, self.has(&param)) {
            (Some(true), Some(false)) => Err(cfg.error(key, format!("true, but the checkpoint lacks tensor {tensor}"))),
            (Some(false), Some(true)) => Err(cfg.error(key, format!("false, but the checkpoint has tensor {tensor}"))),
            (said, present) => Ok(said.or(present).unwrap_or(default)),
        }
    }

    /// Whether the unembedding is the embedding: as `tie_word_embeddings` says, and always where no unembedding is
    /// stored. A stored one beside a flag that is true is ignored, as Hugging Face does.
    pub fn tied(&self, cfg: &Config, default: bool) -> Result<bool, ModelError> {
        let flag = cfg.flag("tie_word_embeddings")?.unwrap_or(default);
        Ok(flag || self.has("unembed.weight") == Some(false))
    }
}

//! From llama.cpp's tensor names and layouts to Hugging Face's.
//!
//! llama.cpp's converter (`convert_hf_to_gguf.py`, now `conversion/*.py`) renames every tensor and rearranges some; the
//! arrangements are undone here, and each says which rule of the converter it inverts.

use super::architecture::{Architecture, Name, Part, Rule};
use super::header::Tensor;

/// How the rows of a tensor of the file become those of Hugging Face's tensor of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    AsIs,
    /// [`Rule::Interleaved`]
    InterleavedHeads {
        d_head: usize,
    },
    /// [`Rule::Transposed`]
    Transposed,
    /// [`Rule::QkvByGroup`]
    QkvBlocks {
        /// Groups of query heads that share one head of k and v.
        groups: usize,
        /// Rows of q in a group.
        q_rows: usize,
        d_head: usize,
    },
    /// [`Rule::NormPlusOne`]
    PlusOne,
}

impl Layout {
    /// Which row of the file's tensor is row `row` of Hugging Face's.
    pub fn source_row(self, row: usize) -> usize {
        match self {
            Layout::AsIs | Layout::Transposed | Layout::PlusOne => row,
            Layout::InterleavedHeads { d_head } => {
                let (head, within) = (row / d_head, row % d_head);
                let (half, i) = (within / (d_head / 2), within % (d_head / 2));
                head * d_head + 2 * i + half
            }
            Layout::QkvBlocks { groups, q_rows, d_head } => {
                let (group, within) = (row / (q_rows + 2 * d_head), row % (q_rows + 2 * d_head));
                match within.checked_sub(q_rows) {
                    None => group * q_rows + within,
                    Some(rest) => {
                        let (part, i) = (rest / d_head, rest % d_head);
                        groups * q_rows + (part * groups + group) * d_head + i
                    }
                }
            }
        }
    }
}

/// Head counts of the metadata, as far as it has them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Heads {
    pub n_heads: Option<usize>,
    pub n_kv_heads: Option<usize>,
}

/// The head counts of a model, or of each of its layers.
#[derive(Debug)]
pub(super) enum HeadsOf {
    All(Heads),
    Layers { n_heads: Vec<usize>, n_kv_heads: Vec<usize> },
}

impl HeadsOf {
    fn layer(&self, layer: &str) -> Heads {
        match self {
            HeadsOf::All(heads) => *heads,
            HeadsOf::Layers { n_heads, n_kv_heads } => {
                let of = |counts: &[usize]| match counts {
                    [all] => Some(*all),
                    _ => layer.parse::<usize>().ok().and_then(|l| counts.get(l).copied()),
                };
                Heads { n_heads: of(n_heads), n_kv_heads: of(n_kv_heads) }
            }
        }
    }
}

impl Heads {
    fn kv(self) -> Option<usize> {
        self.n_kv_heads.or(self.n_heads)
    }
}

/// A tensor of Hugging Face's and where in a tensor of the file it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub name: String,
    pub shape: Vec<usize>,
    pub layout: Layout,
    /// The row of the file's tensor at which it begins.
    pub first_row: usize,
}

/// The tensors of Hugging Face's that `tensor` holds: one, or several where the file joins what is apart there. The error
/// says why that cannot be told. A tensor that the architecture does not have keeps its name, so that whoever wants the
/// family's tensors finds it left over.
pub(super) fn hugging_face(
    architecture: &Architecture,
    heads: &HeadsOf,
    tensor: &Tensor,
) -> Result<Vec<Placed>, String> {
    let unknown = || Ok(unchanged(tensor));
    let Some((stem, suffix)) = tensor.name.rsplit_once('.') else { return unknown() };
    if !matches!(suffix, "weight" | "bias") {
        return unknown();
    }
    let (layer, stem) = match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, stem)) if layer.bytes().all(|b| b.is_ascii_digit()) => (layer, format!("blk.{stem}")),
        _ => ("", stem.to_owned()),
    };
    let heads = heads.layer(layer);
    let target = |name: &Name| format!("{}.{suffix}", name.hugging_face.replace("{l}", layer));
    let Some(name) = architecture.name_of(&stem) else {
        let parts = [Part::Q, Part::K, Part::V].map(|part| architecture.name_of(part.stem()));
        return match (stem.as_str(), parts) {
            ("blk.attn_qkv", [Some(q), Some(k), Some(v)]) => split(heads, tensor, suffix, [q, k, v], target),
            _ => unknown(),
        };
    };
    let one = |layout, shape| Ok(vec![placed(target(name), shape, layout)]);
    let whole = tensor.shape.clone();
    match name.rule {
        Rule::PerHead => {
            let [n_heads, width] = whole[..] else { return Err(not_a_matrix(tensor)) };
            let head = |h: usize| Placed {
                first_row: h,
                ..placed(target(name).replace("{h}", &h.to_string()), vec![width], Layout::AsIs)
            };
            Ok((0..n_heads).map(head).collect())
        }
        Rule::QkvByGroup => one(by_group(heads, tensor)?, whole),
        rule => {
            let layout = layout(rule, heads, &tensor.name, &whole, suffix)?;
            let shape = if layout == Layout::Transposed { whole.into_iter().rev().collect() } else { whole };
            one(layout, shape)
        }
    }
}

/// A tensor under its own name.
pub(super) fn unchanged(tensor: &Tensor) -> Vec<Placed> {
    vec![placed(tensor.name.clone(), tensor.shape.clone(), Layout::AsIs)]
}

fn placed(name: String, shape: Vec<usize>, layout: Layout) -> Placed {
    Placed { name, shape, layout, first_row: 0 }
}

/// What `rule` means for the tensor `name` of this shape.
fn layout(rule: Rule, heads: Heads, name: &str, shape: &[usize], suffix: &str) -> Result<Layout, String> {
    let of_weight = suffix == "weight";
    match rule {
        Rule::Interleaved(part) => interleaved(heads, part, name, shape),
        Rule::InterleavedWeight(part) if of_weight => interleaved(heads, part, name, shape),
        Rule::Transposed if of_weight && shape.len() != 2 => {
            Err(format!("tensor {name:?} has shape {shape:?}, a matrix was expected"))
        }
        Rule::Transposed if of_weight => Ok(Layout::Transposed),
        Rule::NormPlusOne if of_weight => Ok(Layout::PlusOne),
        _ => Ok(Layout::AsIs),
    }
}

fn interleaved(heads: Heads, part: Part, name: &str, shape: &[usize]) -> Result<Layout, String> {
    let (rows, n_heads) = (shape[0], if part == Part::Q { heads.n_heads } else { heads.kv() });
    match rows.checked_div(n_heads.unwrap_or(0)) {
        Some(d_head) if d_head > 0 && d_head.is_multiple_of(2) && rows.is_multiple_of(d_head) => {
            Ok(Layout::InterleavedHeads { d_head })
        }
        _ => Err(not_by_heads(name, rows, n_heads)),
    }
}

/// Widths of q, k and v in a tensor that holds all three, by the head counts.
fn widths(heads: Heads, tensor: &Tensor) -> Result<(usize, usize, usize), String> {
    let rows = tensor.shape[0];
    let error = || not_by_heads(&tensor.name, rows, heads.n_heads);
    let (Some(n), Some(kv)) = (heads.n_heads, heads.kv()) else { return Err(error()) };
    let all = kv.checked_mul(2).and_then(|kv| n.checked_add(kv)).unwrap_or(0);
    match rows.checked_div(all) {
        Some(d_head) if d_head > 0 && d_head * all == rows => Ok((n * d_head, kv * d_head, d_head)),
        _ => Err(error()),
    }
}

fn by_group(heads: Heads, tensor: &Tensor) -> Result<Layout, String> {
    let (q, kv, d_head) = widths(heads, tensor)?;
    let groups = kv / d_head;
    if !q.is_multiple_of(groups * d_head) {
        return Err(not_by_heads(&tensor.name, tensor.shape[0], Some(groups)));
    }
    Ok(Layout::QkvBlocks { groups, q_rows: q / groups, d_head })
}

/// One tensor of all q, all k and all v where Hugging Face has three.
fn split(
    heads: Heads,
    tensor: &Tensor,
    suffix: &str,
    names: [&Name; 3],
    target: impl Fn(&Name) -> String,
) -> Result<Vec<Placed>, String> {
    let (q, kv, _) = widths(heads, tensor)?;
    let mut first_row = 0;
    let part = |(name, rows): (&Name, usize)| {
        let mut shape = tensor.shape.clone();
        shape[0] = rows;
        let layout = layout(name.rule, heads, &tensor.name, &shape, suffix)?;
        let at = Placed { first_row, ..placed(target(name), shape, layout) };
        first_row += rows;
        Ok(at)
    };
    names.into_iter().zip([q, kv, kv]).map(part).collect()
}

fn not_a_matrix(tensor: &Tensor) -> String {
    format!("tensor {:?} has shape {:?}, a matrix was expected", tensor.name, tensor.shape)
}

fn not_by_heads(name: &str, rows: usize, n_heads: Option<usize>) -> String {
    match n_heads {
        None => format!("the number of heads is missing from the metadata, and tensor {name:?} needs it"),
        Some(n) => format!("tensor {name:?} has {rows} rows, which {n} heads cannot share evenly"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_pairs_go_back_to_halves() {
        let layout = Layout::InterleavedHeads { d_head: 6 };
        let second_head: Vec<usize> = (6..12).map(|row| layout.source_row(row)).collect();
        assert_eq!(second_head, [6, 8, 10, 7, 9, 11]);
    }

    #[test]
    fn blocks_of_q_k_and_v_go_back_to_heads() {
        let layout = Layout::QkvBlocks { groups: 2, q_rows: 2, d_head: 2 };
        let rows: Vec<usize> = (0..12).map(|row| layout.source_row(row)).collect();
        assert_eq!(rows, [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]);
    }

    #[test]
    fn heads_of_q_stay_with_the_k_and_v_that_they_share() {
        // Two groups of two heads of q, one dimension each: q0 q1 k0 v0, q2 q3 k1 v1.
        let layout = Layout::QkvBlocks { groups: 2, q_rows: 2, d_head: 1 };
        let rows: Vec<usize> = (0..8).map(|row| layout.source_row(row)).collect();
        assert_eq!(rows, [0, 1, 4, 6, 2, 3, 5, 7]);
    }
}

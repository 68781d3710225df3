//! From llama.cpp's tensor names and layouts to Hugging Face's, family by family.
//!
//! llama.cpp's converter (`convert_hf_to_gguf.py`, now `conversion/*.py`) renames every tensor and rearranges some; the
//! arrangements are undone here, and each says which rule of the converter it inverts.

use super::header::Tensor;

/// The families whose names are known, by `general.architecture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Llama and Mistral; SmolLM3 is the same with another `model_type`.
    Llama,
    SmolLm3,
    Qwen2,
    Qwen3,
    Gpt2,
    GptNeox,
}

impl Family {
    pub fn from_architecture(name: &str) -> Option<Self> {
        Some(match name {
            "llama" => Family::Llama,
            "smollm3" => Family::SmolLm3,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            "gpt2" => Family::Gpt2,
            "gptneox" => Family::GptNeox,
            _ => return None,
        })
    }

    pub const ARCHITECTURES: &str = "llama, smollm3, qwen2, qwen3, gpt2, gptneox";
}

/// How a tensor of the file becomes Hugging Face's tensor of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    AsIs,
    /// `LlamaModel.permute`: the converter turns the rows of a head from Hugging Face's halves `(0 … d/2, d/2 … d)` into
    /// interleaved pairs `(0, d/2, 1, d/2+1 …)`, because ggml's plain rope rotates neighbours.
    InterleavedHeads {
        d_head: usize,
    },
    /// `GPT2Model`: Hugging Face's Conv1D is `[in, out]`; the converter writes `[out, in]`.
    Transposed,
    /// `GPTNeoXModel`: Hugging Face keeps `[head, (q, k, v), d_head]` rows; the converter writes all q, all k, all v.
    QkvBlocks {
        n_heads: usize,
        d_head: usize,
    },
}

impl Layout {
    /// Which row of the file's tensor is row `row` of Hugging Face's.
    pub fn source_row(self, row: usize) -> usize {
        match self {
            Layout::AsIs | Layout::Transposed => row,
            Layout::InterleavedHeads { d_head } => {
                let (head, within) = (row / d_head, row % d_head);
                let (half, i) = (within / (d_head / 2), within % (d_head / 2));
                head * d_head + 2 * i + half
            }
            Layout::QkvBlocks { n_heads, d_head } => {
                let (head, part, i) = (row / (3 * d_head), row / d_head % 3, row % d_head);
                (part * n_heads + head) * d_head + i
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

/// Hugging Face's name of a tensor of `family` and how to arrange it; the error says why that cannot be done. A tensor
/// that the family does not have keeps its name, so that whoever wants the family's tensors finds it left over.
pub(super) fn hugging_face(family: Family, heads: Heads, tensor: &Tensor) -> Result<(String, Layout), String> {
    let name = tensor.name.as_str();
    let unknown = || Ok((name.to_owned(), Layout::AsIs));
    let Some((stem, suffix)) = name.rsplit_once('.') else { return unknown() };
    let (layer, stem) = match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, stem)) if layer.bytes().all(|b| b.is_ascii_digit()) => (Some(layer), stem),
        _ => (None, stem),
    };
    let Some(target) = rename(family, layer.is_some(), stem) else { return unknown() };
    if !matches!(suffix, "weight" | "bias") {
        return unknown();
    }
    let target = match layer {
        Some(layer) => format!("{}{layer}.{target}.{suffix}", layer_prefix(family)),
        None => format!("{target}.{suffix}"),
    };
    let layout = match (family, stem) {
        (Family::Llama | Family::SmolLm3, "attn_q") => interleaved(heads.n_heads, tensor)?,
        (Family::Llama | Family::SmolLm3, "attn_k") => interleaved(heads.n_kv_heads.or(heads.n_heads), tensor)?,
        (Family::Gpt2, "attn_qkv" | "attn_output" | "ffn_up" | "ffn_down") if suffix == "weight" => {
            if tensor.shape.len() != 2 {
                return Err(format!("tensor {name:?} has shape {:?}, a matrix was expected", tensor.shape));
            }
            Layout::Transposed
        }
        (Family::GptNeox, "attn_qkv") => {
            let n_heads = heads.n_heads.unwrap_or(0);
            match tensor.shape[0].checked_div(n_heads.saturating_mul(3)) {
                Some(d_head) if d_head > 0 && d_head * 3 * n_heads == tensor.shape[0] => {
                    Layout::QkvBlocks { n_heads, d_head }
                }
                _ => return Err(not_by_heads(tensor, heads.n_heads)),
            }
        }
        _ => Layout::AsIs,
    };
    Ok((target, layout))
}

fn interleaved(n_heads: Option<usize>, tensor: &Tensor) -> Result<Layout, String> {
    let rows = tensor.shape[0];
    match rows.checked_div(n_heads.unwrap_or(0)) {
        Some(d_head) if d_head > 0 && d_head.is_multiple_of(2) && rows.is_multiple_of(d_head) => {
            Ok(Layout::InterleavedHeads { d_head })
        }
        _ => Err(not_by_heads(tensor, n_heads)),
    }
}

fn not_by_heads(tensor: &Tensor, n_heads: Option<usize>) -> String {
    let (name, rows) = (&tensor.name, tensor.shape[0]);
    match n_heads {
        None => format!("the number of heads is missing from the metadata, and tensor {name:?} needs it"),
        Some(n) => format!("tensor {name:?} has {rows} rows, which {n} heads cannot share evenly"),
    }
}

fn layer_prefix(family: Family) -> &'static str {
    match family {
        Family::Llama | Family::SmolLm3 | Family::Qwen2 | Family::Qwen3 => "model.layers.",
        Family::Gpt2 => "transformer.h.",
        Family::GptNeox => "gpt_neox.layers.",
    }
}

/// llama.cpp's name of a module (`gguf-py/gguf/tensor_mapping.py`) to Hugging Face's.
fn rename(family: Family, in_layer: bool, stem: &str) -> Option<&'static str> {
    Some(match (family, in_layer, stem) {
        (Family::Gpt2, false, "token_embd") => "transformer.wte",
        (Family::Gpt2, false, "position_embd") => "transformer.wpe",
        (Family::Gpt2, false, "output_norm") => "transformer.ln_f",
        (Family::Gpt2, false, "output") => "lm_head",
        (Family::Gpt2, true, "attn_norm") => "ln_1",
        (Family::Gpt2, true, "attn_qkv") => "attn.c_attn",
        (Family::Gpt2, true, "attn_output") => "attn.c_proj",
        (Family::Gpt2, true, "ffn_norm") => "ln_2",
        (Family::Gpt2, true, "ffn_up") => "mlp.c_fc",
        (Family::Gpt2, true, "ffn_down") => "mlp.c_proj",

        (Family::GptNeox, false, "token_embd") => "gpt_neox.embed_in",
        (Family::GptNeox, false, "output_norm") => "gpt_neox.final_layer_norm",
        (Family::GptNeox, false, "output") => "embed_out",
        (Family::GptNeox, true, "attn_norm") => "input_layernorm",
        (Family::GptNeox, true, "attn_qkv") => "attention.query_key_value",
        (Family::GptNeox, true, "attn_output") => "attention.dense",
        (Family::GptNeox, true, "ffn_norm") => "post_attention_layernorm",
        (Family::GptNeox, true, "ffn_up") => "mlp.dense_h_to_4h",
        (Family::GptNeox, true, "ffn_down") => "mlp.dense_4h_to_h",
        (Family::Gpt2 | Family::GptNeox, ..) => return None,

        (_, false, "token_embd") => "model.embed_tokens",
        (_, false, "output_norm") => "model.norm",
        (_, false, "output") => "lm_head",
        (_, true, "attn_norm") => "input_layernorm",
        (_, true, "attn_q") => "self_attn.q_proj",
        (_, true, "attn_k") => "self_attn.k_proj",
        (_, true, "attn_v") => "self_attn.v_proj",
        (_, true, "attn_output") => "self_attn.o_proj",
        (Family::Qwen3, true, "attn_q_norm") => "self_attn.q_norm",
        (Family::Qwen3, true, "attn_k_norm") => "self_attn.k_norm",
        (_, true, "ffn_norm") => "post_attention_layernorm",
        (_, true, "ffn_gate") => "mlp.gate_proj",
        (_, true, "ffn_up") => "mlp.up_proj",
        (_, true, "ffn_down") => "mlp.down_proj",
        _ => return None,
    })
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
        let layout = Layout::QkvBlocks { n_heads: 2, d_head: 2 };
        let rows: Vec<usize> = (0..12).map(|row| layout.source_row(row)).collect();
        assert_eq!(rows, [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]);
    }
}

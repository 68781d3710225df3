//! The architectures of llama.cpp that patchwave reads: what each calls its tensors, how its converter rearranged them,
//! and what its metadata is in the words of `config.json`.
//!
//! Facts: `conversion/*.py` (what is written), `gguf-py/gguf/tensor_mapping.py` (names) and `src/models/*.cpp` (what
//! llama.cpp assumes where nothing is written) of llama.cpp.

mod cohere;
mod deci;
mod fused;
mod gemma;
mod glm;
mod gpt2;
mod llama;
mod nemotron;
mod phi;
mod post_norm;

use super::Gguf;
use super::config::Config;
use super::header::Tensor;
use crate::model::ModelError;

/// One value of `general.architecture`.
pub(super) struct Architecture {
    pub name: &'static str,
    /// What [`config`](Self::config) may make of it.
    pub model_types: &'static [&'static str],
    /// A tensor by which it is told from others of its name.
    pub needs: Option<&'static str>,
    /// Whether head counts may differ from layer to layer.
    pub varies: bool,
    /// Tables of names; the first line that has a name counts.
    pub names: &'static [&'static [Name]],
    /// Arrays of the metadata that hold one number for each layer: key, Hugging Face's name and shape.
    pub numbers: &'static [(&'static str, &'static str, &'static [usize])],
    /// Keys (after the architecture's name and a dot) that [`config`](Self::config) reads on top of
    /// [`UNDERSTOOD`](super::config::UNDERSTOOD).
    pub understood: &'static [&'static str],
    /// The `config.json`, without `tie_word_embeddings`.
    pub config: fn(&Gguf) -> Result<Config, ModelError>,
}

/// One line of a table: `blk.` stands for `blk.{l}.`, and both names lack the `.weight` or `.bias` that follows.
pub(super) struct Name {
    pub llama_cpp: &'static str,
    pub hugging_face: &'static str,
    pub rule: Rule,
}

/// How the converter rearranged a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    AsIs,
    /// `LlamaModel.permute`: the rows of a head from Hugging Face's halves `(0 … d/2, d/2 … d)` to interleaved pairs
    /// `(0, d/2, 1, d/2+1 …)`, because ggml's plain rope rotates neighbours.
    Interleaved(Part),
    /// The same, and biases left as they are (`OlmoModel`).
    InterleavedWeight(Part),
    /// `GPT2Model`: Hugging Face's Conv1D is `[in, out]`; the converter writes `[out, in]`.
    Transposed,
    /// `GPTNeoXModel`, `BloomModel`, `FalconModel`: Hugging Face keeps, for each KV head, the q of its query heads, its k
    /// and its v; the converter writes all q, all k, all v.
    QkvByGroup,
    /// `GemmaModel`, `NemotronModel`: weights of norms plus one, so that ggml's norm need not know.
    NormPlusOne,
    /// `StableLMModel`: one matrix of what are as many vectors, `{h}`, as there are heads.
    PerHead,
}

/// Which heads a tensor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Q,
    K,
    V,
}

impl Part {
    pub fn stem(self) -> &'static str {
        match self {
            Part::Q => "blk.attn_q",
            Part::K => "blk.attn_k",
            Part::V => "blk.attn_v",
        }
    }
}

const fn name(llama_cpp: &'static str, hugging_face: &'static str) -> Name {
    ruled(llama_cpp, hugging_face, Rule::AsIs)
}

const fn ruled(llama_cpp: &'static str, hugging_face: &'static str, rule: Rule) -> Name {
    Name { llama_cpp, hugging_face, rule }
}

const ALL: &[&Architecture] = &[
    &llama::LLAMA,
    &deci::DECI,
    &llama::SMOLLM3,
    &llama::QWEN2,
    &llama::QWEN3,
    &llama::MISTRAL3,
    &llama::GRANITE,
    &llama::SEED_OSS,
    &llama::APERTUS,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi::PHI2,
    &phi::PHI3,
    &glm::GLM4,
    &glm::CHATGLM,
    &post_norm::OLMO,
    &post_norm::OLMO2,
    &post_norm::EXAONE4,
    &cohere::COMMAND_R,
    &cohere::COHERE2,
    &nemotron::NEMOTRON,
    &nemotron::STABLELM,
    &nemotron::STARCODER2,
    &gpt2::GPT2,
    &gpt2::STARCODER,
    &fused::GPTNEOX,
    &fused::FALCON_40B,
    &fused::FALCON,
    &fused::BLOOM,
    &fused::MPT,
];

impl Architecture {
    /// The architecture of that name for a file with these tensors.
    pub fn find(name: &str, tensors: &[Tensor]) -> Option<&'static Architecture> {
        let has = |needed: &str| tensors.iter().any(|t| t.name == needed);
        ALL.iter().copied().find(|a| a.name == name && a.needs.is_none_or(has))
    }

    /// All of them, one for each name.
    pub fn all() -> impl Iterator<Item = &'static Architecture> {
        ALL.iter().copied().filter(|a| a.needs.is_none())
    }

    /// The line for a name of llama.cpp's.
    pub fn name_of(&self, llama_cpp: &str) -> Option<&'static Name> {
        self.names.iter().copied().flatten().find(|n| n.llama_cpp == llama_cpp)
    }
}

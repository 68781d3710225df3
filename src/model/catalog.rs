//! What `patchwave models` and `docs/models.md` list: every model type, and how it was checked.

use super::Gguf;
use super::family::unsupported_kinds;
use std::fmt::Write as _;

/// A model type that can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelType {
    /// `model_type` of `config.json`.
    pub name: &'static str,
    /// Models of this type.
    pub models: &'static str,
    /// What is unusual about it.
    pub remarks: &'static str,
    /// What its tiny models are compared with: logits, every residual, and the logits under a z-patch of every head.
    pub checked: &'static str,
}

impl ModelType {
    /// Its `general.architecture` in GGUF files; several, or none where llama.cpp writes none.
    pub fn gguf(&self) -> Vec<&'static str> {
        Gguf::architectures().filter(|(_, types)| types.contains(&self.name)).map(|(name, _)| name).collect()
    }
}

const HUGGING_FACE: &str = "transformers, eager";

/// (model type, models, remarks)
const ALL: &[(&str, &str, &str)] = &[
    ("gpt2", "GPT-2, DistilGPT-2", ""),
    ("gpt_neo", "GPT-Neo", "scores are not scaled"),
    ("gptj", "GPT-J", "parallel; no resid_mid"),
    ("gpt_neox", "Pythia, GPT-NeoX", "parallel, or sequential by config"),
    ("gpt_bigcode", "SantaCoder, StarCoder", "one KV head, or all"),
    ("opt", "OPT, OPT-350m", "350m: norms after the additions, projected embedding"),
    ("bloom", "Bloom", "linear position biases"),
    ("falcon", "Falcon 7B, 40B, 180B, Falcon2 11B, Falcon-RW", "parallel; RW: sequential, linear biases"),
    ("mpt", "MPT", "linear position biases"),
    ("llama", "Llama 1-3.3, TinyLlama, SmolLM, SmolLM2, DeepSeek-LLM, Yi", "every rope scaling"),
    ("mistral", "Mistral 7B, Nemo, Small", "sliding window"),
    ("ministral3", "Ministral 3", "also inside mistral3, without its images"),
    ("qwen2", "Qwen1.5, Qwen2, Qwen2.5, QwQ", ""),
    ("qwen3", "Qwen3 (dense)", "norms on q and k"),
    ("smollm3", "SmolLM3", "every fourth layer without rope"),
    ("gemma", "Gemma", "norms times 1 + w"),
    ("gemma2", "Gemma-2", "norms behind branches, softcaps, windows"),
    ("gemma3_text", "Gemma-3", "two ropes; also inside gemma3, without its images"),
    ("vaultgemma", "VaultGemma", ""),
    ("olmo", "OLMo", "norms without parameters"),
    ("olmo2", "OLMo-2", "norms only behind branches; norm over all of q"),
    ("olmo3", "OLMo-3", "as olmo2, windows"),
    ("phi", "Phi-1, Phi-1.5, Phi-2", "parallel; no resid_mid"),
    ("phi3", "Phi-3, Phi-3.5, Phi-4", "LongRoPE"),
    ("glm", "GLM-4-9B, GLM-Edge", ""),
    ("glm4", "GLM-4-0414, GLM-Z1", "norms behind branches"),
    ("nemotron", "Nemotron-4, Nemotron-Mini, Minitron", "ReLU²; norms times 1 + w"),
    ("nemotron-nas", "Llama-Nemotron Super and Ultra", "layers differ; some have no attention or no MLP"),
    ("stablelm", "StableLM-3B, StableLM-2", "12B: parallel, a norm for each head"),
    ("granite", "Granite 3", "multipliers"),
    ("cohere", "Command R, R+, Aya", "parallel; no resid_mid"),
    ("cohere2", "Command R7B, Command A", "as cohere, windows, layers without rope"),
    ("starcoder2", "StarCoder2", ""),
    ("exaone4", "EXAONE-4.0", "norms only behind branches"),
    ("seed_oss", "Seed-OSS", ""),
    ("apertus", "Apertus", "xIELU, whose numbers are learned"),
];

/// Every model type, in the order of `docs/models.md`.
pub fn catalog() -> Vec<ModelType> {
    let checked = |name: &str| match name {
        "falcon" => "transformers, eager; RW: sdpa",
        "nemotron-nas" => "transformers' Llama layers, as block_configs arranges them",
        _ => HUGGING_FACE,
    };
    ALL.iter().map(|&(name, models, remarks)| ModelType { name, models, remarks, checked: checked(name) }).collect()
}

/// The table of `docs/models.md`, as Markdown.
pub fn markdown() -> String {
    let mut text = String::from(
        "| `model_type` | models | GGUF architecture | remarks | compared with |\n|---|---|---|---|---|\n",
    );
    for t in catalog() {
        let gguf: Vec<String> = t.gguf().iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(text, "| `{}` | {} | {} | {} | {} |", t.name, t.models, gguf.join(", "), t.remarks, t.checked);
    }
    text
}

/// Known model types that cannot be opened: (what is missing, the types).
pub fn unsupported() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    unsupported_kinds()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::model_types;

    #[test]
    fn the_catalog_has_every_model_type_once() {
        let mut listed: Vec<&str> = catalog().iter().map(|t| t.name).collect();
        let mut known: Vec<&str> = model_types().collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known);
        let mut read: Vec<&str> = Gguf::architectures().flat_map(|(_, types)| types.iter().copied()).collect();
        read.retain(|name| !listed.contains(name));
        assert!(read.is_empty(), "GGUF files become {read:?}, which are in no list");
        assert!(unsupported().all(|(_, types)| types.iter().all(|t| !listed.contains(t))));
    }

    #[test]
    fn the_documentation_has_the_catalog() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/models.md")).expect("a page");
        assert!(page.contains(&markdown()), "docs/models.md: put in what `patchwave models --markdown` prints");
    }
}

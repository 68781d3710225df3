//! The families: what each `model_type` means in knobs of [`ModelSpec`], and what it calls its tensors.
//!
//! A family is a resolver (config keys to knobs) and a table of names. Everything after this module sees only the spec.

mod apertus;
mod bloom;
mod cohere;
mod cohere2;
mod exaone4;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod glm;
mod glm4;
mod gpt2;
mod gpt_bigcode;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod granite;
mod learned;
mod llama;
mod ministral3;
mod mistral;
mod mpt;
mod names;
mod nemotron;
mod nemotron_nas;
mod olmo;
mod olmo2;
mod olmo3;
mod opt;
mod parts;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod trunk;
mod unsupported;
mod vaultgemma;

pub use names::{NameTable, Stored};
pub(super) use unsupported::kinds as unsupported_kinds;

use super::config::Config;
use super::inert::Inert;
use super::{ModelError, ModelSpec};
use names::{Name, Tensors};

/// One `model_type`.
pub struct Family {
    pub model_type: &'static str,
    resolve: fn(&Config, &Tensors<'_>) -> Result<ModelSpec, ModelError>,
    /// What Hugging Face puts before the names of the decoder when a head is saved with it; absent in some files.
    prefix: &'static str,
    /// Tables of names; the first line that has a name counts.
    names: &'static [&'static [Name]],
    /// Keys that are inert in this family on top of [`inert::SHARED`](super::inert::SHARED).
    pub inert: &'static [Inert],
}

const FAMILIES: &[&Family] = &[
    &apertus::FAMILY,
    &bloom::FAMILY,
    &cohere::FAMILY,
    &cohere2::FAMILY,
    &exaone4::FAMILY,
    &falcon::FAMILY,
    &gemma::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &glm::FAMILY,
    &glm4::FAMILY,
    &gpt2::FAMILY,
    &gpt_bigcode::FAMILY,
    &gpt_neo::FAMILY,
    &gpt_neox::FAMILY,
    &gptj::FAMILY,
    &granite::FAMILY,
    &llama::FAMILY,
    &ministral3::FAMILY,
    &mistral::FAMILY,
    &mpt::FAMILY,
    &nemotron::FAMILY,
    &nemotron_nas::FAMILY,
    &olmo::FAMILY,
    &olmo2::FAMILY,
    &olmo3::FAMILY,
    &opt::FAMILY,
    &phi::FAMILY,
    &phi3::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &seed_oss::FAMILY,
    &smollm3::FAMILY,
    &stablelm::FAMILY,
    &starcoder2::FAMILY,
    &vaultgemma::FAMILY,
];

/// Every `model_type` that [`Family::find`] knows.
pub fn model_types() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|f| f.model_type)
}

impl Family {
    /// The family of `cfg`'s `model_type`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with what is missing if it is a known type, and with the list of supported types if not.
    pub fn find(cfg: &Config) -> Result<&'static Family, ModelError> {
        let known = || model_types().collect::<Vec<_>>().join(", ");
        let Some((key, name)) = cfg.text(&["model_type"])? else {
            return Err(ModelError::Config(format!("model_type: the key is missing; supported are {}", known())));
        };
        let found = FAMILIES.iter().copied().find(|f| f.model_type == name);
        found.ok_or_else(|| match unsupported::missing(&name) {
            Some(what) => cfg.error(&key, format!("{name}: {what}")),
            None => cfg.error(&key, format!("{name:?} is not supported; supported are {}", known())),
        })
    }

    /// The spec, judged by the config and, where only they can tell, by which tensors there are.
    pub fn resolve(&self, cfg: &Config, names: &NameTable, tensors: Option<&Index>) -> Result<ModelSpec, ModelError> {
        (self.resolve)(cfg, &Tensors { names, index: tensors })
    }
}

/// The names and shapes of a checkpoint.
pub type Index = std::collections::BTreeMap<String, super::TensorInfo>;

//! The families: what each `model_type` means in knobs of [`ModelSpec`], and what it calls its tensors.
//!
//! A family is a resolver (config keys to knobs) and a table of names. Everything after this module sees only the spec.

mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod names;
mod parts;
mod qwen2;
mod qwen3;
mod smollm3;

pub use names::{NameTable, Stored};

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
    names: &'static [Name],
    /// Keys that are inert in this family on top of [`inert::SHARED`](super::inert::SHARED).
    pub inert: &'static [Inert],
}

const FAMILIES: &[&Family] = &[
    &gpt2::FAMILY,
    &gpt_neox::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &smollm3::FAMILY,
];

/// Every `model_type` that [`Family::find`] knows.
pub fn model_types() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|f| f.model_type)
}

impl Family {
    /// The family of `cfg`'s `model_type`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the list of supported types if there is none.
    pub fn find(cfg: &Config) -> Result<&'static Family, ModelError> {
        let known = || model_types().collect::<Vec<_>>().join(", ");
        let Some((key, name)) = cfg.text(&["model_type"])? else {
            return Err(ModelError::Config(format!("model_type: the key is missing; supported are {}", known())));
        };
        let found = FAMILIES.iter().copied().find(|f| f.model_type == name);
        found.ok_or_else(|| cfg.error(&key, format!("{name:?} is not supported; supported are {}", known())))
    }

    /// The spec, judged by the config and, where only they can tell, by which tensors there are.
    pub fn resolve(&self, cfg: &Config, names: &NameTable, tensors: Option<&Index>) -> Result<ModelSpec, ModelError> {
        (self.resolve)(cfg, &Tensors { names, index: tensors })
    }
}

/// The names and shapes of a checkpoint.
pub type Index = std::collections::BTreeMap<String, super::TensorInfo>;

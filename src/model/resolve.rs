//! From a config (and, if there is one, the list of tensors) to a [`ModelSpec`] and the place of each parameter.

use super::config::Config;
use super::family::{Family, Index, NameTable, Stored};
use super::inert;
use super::spec::Param;
use super::{ModelError, ModelSpec, TensorInfo, wrapper};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A spec and what is needed to find its parameters in a checkpoint.
pub struct Resolved {
    pub spec: ModelSpec,
    /// The config keys that were ignored only because the caller allowed it.
    pub allowed_keys_used: Vec<String>,
    /// Numbers in all parameters together, those of a tied unembedding counted once.
    pub n_parameters: u64,
    pub(super) names: NameTable,
    /// The model is the language model of one of text and images.
    pub(super) wrapped: bool,
}

/// Resolves the text of a `config.json`. Without `tensors`, what only they could tell (biases, an untied unembedding)
/// is taken from the config and its class defaults.
///
/// # Errors
/// [`ModelError::Config`] naming the key.
pub fn resolve_config(json: &str, tensors: Option<&BTreeMap<String, TensorInfo>>) -> Result<Resolved, ModelError> {
    resolve(Config::parse(json)?, tensors, &[])
}

/// As [`resolve_config`], from a parsed config, ignoring the unknown keys in `allow`.
pub fn resolve(config: Map<String, Value>, tensors: Option<&Index>, allow: &[String]) -> Result<Resolved, ModelError> {
    let (cfg, wrapped) = wrapper::language_model(config, allow)?;
    let family = Family::find(&cfg)?;
    let names = NameTable::new(family, tensors);
    let spec = family.resolve(&cfg, &names, tensors)?;
    cfg.finish(&[family.inert, inert::SHARED])?;
    let n_parameters =
        count(&spec).ok_or_else(|| ModelError::Config("the sizes multiply to an absurd model".into()))?;
    Ok(Resolved { spec, allowed_keys_used: cfg.allowed_keys_used(), n_parameters, names, wrapped })
}

fn count(spec: &ModelSpec) -> Option<u64> {
    let size = |p: &Param| p.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    spec.params().iter().try_fold(0u64, |n, p| n.checked_add(size(p)?))
}

impl Resolved {
    /// Where parameter `param` of [`ModelSpec::params`] lies in the checkpoint.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] for a name that is none of the family's.
    pub fn stored(&self, param: &str) -> Result<Stored, ModelError> {
        self.names.stored(param, &self.spec).ok_or_else(|| ModelError::Tensor {
            name: param.to_owned(),
            reason: format!("a {} model has no such parameter", self.spec.family),
        })
    }

    /// The tensors a checkpoint of this config consists of, under Hugging Face names, as if stored in float32.
    pub fn expected_tensors(&self) -> Result<Index, ModelError> {
        let tensors = |p: Param| -> Result<Vec<_>, ModelError> {
            let stored = self.stored(&p.name)?;
            let shape = stored.shape(&p.shape);
            let info = TensorInfo { shape, dtype: "F32".into() };
            Ok(stored.tensors().into_iter().map(|name| (name, info.clone())).collect())
        };
        let each: Vec<Vec<_>> = self.spec.params().into_iter().map(tensors).collect::<Result<_, _>>()?;
        Ok(each.into_iter().flatten().collect())
    }
}

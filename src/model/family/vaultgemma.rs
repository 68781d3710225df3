//! VaultGemma (`VaultGemmaConfig`): Gemma-2 without norms of the branches' outputs.

use super::Family;
use super::gemma::{INERT, finish};
use super::gemma2::{NAMES, with_softcaps};
use super::llama;
use super::names::Tensors;
use crate::model::ModelError;
use crate::model::config::Config;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: Family =
    Family { model_type: "vaultgemma", resolve, prefix: "model.", names: &[NAMES, llama::NAMES], inert: INERT };

fn resolve(cfg: &Config, tensors: &Tensors<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = with_softcaps(cfg, tensors, &FAMILY)?;
    finish(&mut spec);
    Ok(spec)
}

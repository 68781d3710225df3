//! `--model`, which several commands share.

use super::usage;
use crate::Error;
use crate::model::ModelFiles;
use std::path::Path;

/// Opens a model from disk. Hub ids are told apart from paths so that the message can say what to do.
pub fn open(model: &str, allow_config_keys: &[String]) -> Result<ModelFiles, Error> {
    let path = Path::new(model);
    if !path.exists() {
        let looks_like_an_id = !model.starts_with(['.', '/']) && model.split('/').count() <= 2;
        return Err(usage(format!(
            "{model}: no such folder or .gguf file{}",
            if looks_like_an_id { "; a model of the hub must be downloaded first (hf download)" } else { "" }
        )));
    }
    Ok(ModelFiles::open(path, allow_config_keys)?)
}

/// The last part of a model's path, for titles and folder names.
pub fn name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if absolute.is_file() { absolute.file_stem() } else { absolute.file_name() };
    name.map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned())
}

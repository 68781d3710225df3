//! `--model`, which several commands share.

use super::terminal::{DownloadBars, warn};
use super::usage;
use crate::Error;
use crate::model::hub::{HubError, Snapshot};
use crate::model::{Hub, HubId, ModelError, ModelFiles};
use std::path::Path;

/// Opens a folder, a `.gguf` file or a model of the hub, which is fetched if it is not in the cache. What exists, or
/// begins with `.` or `/`, is a path and never an id.
pub fn open(model: &str, allow_config_keys: &[String]) -> Result<ModelFiles, Error> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(ModelFiles::open(path, allow_config_keys)?);
    }
    if model.starts_with(['.', '/']) || path.is_absolute() {
        return Err(usage(format!("{model}: no such folder or .gguf file")));
    }
    let snapshot = fetch(model).map_err(|e| match e {
        ModelError::Hub(e) if is_perhaps_a_path(&e) => {
            usage(format!("{model}: no such folder or .gguf file here, and {e}"))
        }
        e => e.into(),
    })?;
    for file in &snapshot.unknown {
        warn(&format!("{model}: the cache has no {file}, and the hub was not asked whether there is one"));
    }
    let mut files = ModelFiles::open(&snapshot.path, allow_config_keys)?;
    files.hub = Some(snapshot);
    Ok(files)
}

/// Whether a mistyped path could be behind it.
fn is_perhaps_a_path(error: &HubError) -> bool {
    matches!(error, HubError::NotAnId { .. } | HubError::NoRepository { .. } | HubError::Offline { .. })
}

fn fetch(model: &str) -> Result<Snapshot, ModelError> {
    let id: HubId = model.parse()?;
    Hub::from_env()?.fetch(&id, &DownloadBars::default())
}

/// What a model is called in titles and folder names: its name on the hub, or the last part of its path.
pub fn name(files: &ModelFiles) -> String {
    if let Some(snapshot) = &files.hub {
        return snapshot.id.name();
    }
    let absolute = files.path.canonicalize().unwrap_or_else(|_| files.path.clone());
    let name = if absolute.is_file() { absolute.file_stem() } else { absolute.file_name() };
    name.map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned())
}

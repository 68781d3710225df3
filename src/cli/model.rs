//! `--model`, `--device` and `--dtype`, which several commands share.

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

/// Checks that this build can run on `device` in `dtype`.
pub fn check_device(device: &str, dtype: &str) -> Result<(), Error> {
    match device {
        "auto" | "cpu" => {}
        "emulated" => return Err(usage("--device emulated: this build has no CUDA backend; use --device cpu")),
        d if d == "cuda" || d.strip_prefix("cuda:").is_some_and(|n| n.parse::<u32>().is_ok()) => {
            return Err(usage(format!("--device {d}: this build has no CUDA backend; use --device cpu")));
        }
        other => return Err(usage(format!("--device {other}: expected auto, cpu, cuda, cuda:N or emulated"))),
    }
    match dtype {
        "float32" => Ok(()),
        "bf16x3" | "bfloat16" => Err(usage(format!("--dtype {dtype}: the CPU computes in float32; leave --dtype out"))),
        other => Err(usage(format!("--dtype {other}: expected float32, bf16x3 or bfloat16"))),
    }
}

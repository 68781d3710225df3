//! Reading a run folder, which may come from anyone.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Axis, DERIVED_KEYS, Direction, EFFECTS_FILE, FORMAT_VERSION, PARTIAL_SUFFIX, RUN_FILE, RunResult, SiteEffects,
    TensorNames, check_axes,
};
use crate::export::error::ExportError;

/// More than any run's labels and settings take.
const MAX_RUN_JSON: u64 = 64 << 20;

/// The part of `run.json` that says what the tensors mean.
#[derive(Deserialize)]
struct Derived {
    direction: Direction,
    effect_defined: bool,
    n_pairs: usize,
    statistics: Option<Value>,
    sites: Vec<SiteEntry>,
}

#[derive(Deserialize)]
struct SiteEntry {
    site: String,
    axes: Vec<Axis>,
}

/// Reads the run in the folder `dir`.
///
/// # Errors
/// [`ExportError::NotARun`] when it is no run folder, [`ExportError::Unfinished`] when `effects.safetensors` is not
/// there yet, [`ExportError::Malformed`] when a file is damaged or contradicts `run.json`.
pub fn read(dir: &Path) -> Result<RunResult, ExportError> {
    let not_a_run = |reason: &str| ExportError::NotARun { path: dir.into(), reason: reason.into() };
    match fs::metadata(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(not_a_run("there is no such folder")),
        Err(source) => return Err(ExportError::Read { path: dir.into(), source }),
        Ok(meta) if !meta.is_dir() => {
            return Err(not_a_run("it is a file; give the folder that holds effects.safetensors and run.json"));
        }
        Ok(_) => {}
    }
    if !dir.join(EFFECTS_FILE).exists() {
        return Err(match looks_started(dir) {
            true => ExportError::Unfinished { path: dir.into() },
            false => not_a_run("it has no effects.safetensors"),
        });
    }
    if !dir.join(RUN_FILE).exists() {
        return Err(not_a_run("it has no run.json, which says what effects.safetensors means"));
    }

    let (meta, derived) = read_run_json(&dir.join(RUN_FILE))?;
    let path = dir.join(EFFECTS_FILE);
    let bytes = read_file(&path, u64::MAX)?;
    let malformed = |reason: String| ExportError::Malformed { path: path.clone(), reason };
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|e| malformed(format!("not a whole safetensors file ({e}); was it truncated?")))?;

    // Standard errors and intervals follow from the rest; runs of early versions lack them.
    let per_site = if derived.statistics.is_some() { 4 } else { 2 };
    let expected = 2 + per_site * derived.sites.len();
    if tensors.len() != expected {
        return Err(malformed(format!("{} tensors, but run.json speaks of {expected}", tensors.len())));
    }
    let take = |name: &str, shape: &[usize]| floats(&tensors, name, shape).map_err(malformed);
    let n_pairs = derived.n_pairs;
    let metric_clean = take("metric_clean", &[n_pairs])?;
    let metric_corrupted = take("metric_corrupted", &[n_pairs])?;
    let n_sites = derived.sites.len();
    let sites = derived.sites.into_iter().map(|SiteEntry { site, axes }| {
        let shape: Vec<usize> = axes.iter().map(|axis| axis.labels.len()).collect();
        let names = TensorNames::new(&site, n_sites);
        let effect = take(&names.effect, &shape)?;
        if per_site == 4 {
            take(&names.stderr, &shape)?;
            take(&names.interval, &[&shape[..], &[2]].concat())?;
        }
        let metric = take(&names.metric, &[shape, vec![n_pairs]].concat())?;
        Ok(SiteEffects { site, axes, effect, metric })
    });
    let sites = sites.collect::<Result<Vec<_>, ExportError>>()?;
    let run = RunResult {
        meta,
        sites,
        metric_clean,
        metric_corrupted,
        effect_defined: derived.effect_defined,
        direction: derived.direction,
    };
    run.check().map_err(|e| ExportError::Malformed { path: dir.join(RUN_FILE), reason: e.to_string() })?;
    Ok(run)
}

/// Whether a sweep has begun in `dir`: a file of a run is there, or one that is still being written.
fn looks_started(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.filter_map(Result::ok).any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name == RUN_FILE || name.starts_with("effects.") || name.ends_with(PARTIAL_SUFFIX)
    })
}

fn read_run_json(path: &Path) -> Result<(Map<String, Value>, Derived), ExportError> {
    let malformed = |reason: String| ExportError::Malformed { path: path.into(), reason };
    let bytes = read_file(path, MAX_RUN_JSON)?;
    let all: Value = serde_json::from_slice(&bytes).map_err(|e| malformed(format!("invalid JSON: {e}")))?;
    let Value::Object(mut meta) = all else { return Err(malformed("not a JSON object".into())) };
    // Before anything else: a later format may have other fields.
    match meta.get("format_version").and_then(Value::as_u64) {
        Some(FORMAT_VERSION) => {}
        Some(version) => {
            let reason = format!("format_version {version}; this patchwave reads {FORMAT_VERSION}, so use a newer one");
            return Err(malformed(reason));
        }
        None => return Err(malformed("no format_version, so this is not a patchwave run".into())),
    }
    let mut derived = Map::new();
    for key in DERIVED_KEYS {
        if let Some(value) = meta.shift_remove(key) {
            derived.insert(key.into(), value);
        }
    }
    let derived: Derived = serde_json::from_value(Value::Object(derived)).map_err(|e| malformed(e.to_string()))?;
    for SiteEntry { site, axes } in &derived.sites {
        check_axes(axes).map_err(|reason| malformed(format!("site {site:?}: {reason}")))?;
    }
    Ok((meta, derived))
}

/// The whole file, at most `limit` bytes of it, without ever asking for more memory than there are bytes.
fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, ExportError> {
    let read_error = |source| ExportError::Read { path: path.into(), source };
    // Asked before opening: opening a pipe would wait for whoever writes to it.
    let meta = fs::metadata(path).map_err(read_error)?;
    let malformed = |reason: String| ExportError::Malformed { path: path.into(), reason };
    if !meta.is_file() {
        return Err(malformed("not a regular file".into()));
    }
    if meta.len() > limit {
        return Err(malformed(format!("{} bytes, more than a run's can be", meta.len())));
    }
    let mut bytes = Vec::new();
    let fits = usize::try_from(meta.len()).is_ok_and(|len| bytes.try_reserve_exact(len).is_ok());
    if !fits {
        return Err(malformed(format!("{} bytes do not fit into memory", meta.len())));
    }
    let read = File::open(path).and_then(|file| file.take(meta.len()).read_to_end(&mut bytes));
    read.map_err(read_error)?;
    Ok(bytes)
}

fn floats(tensors: &SafeTensors, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let tensor = tensors.tensor(name).map_err(|_| format!("tensor {name} is missing"))?;
    if tensor.dtype() != Dtype::F32 {
        return Err(format!("tensor {name} is {:?}; it must be F32", tensor.dtype()));
    }
    if tensor.shape() != shape {
        return Err(format!("tensor {name} is {:?}, but by run.json it must be {shape:?}", tensor.shape()));
    }
    Ok(tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

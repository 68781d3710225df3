//! [`ModelFiles`]: a model on disk, checked from config to tensor names, before any weight is read.

use super::binding::BoundParams;
use super::config::Config;
use super::mapped::{FLOATS, not_a_float};
use super::resolve::resolve;
use super::safetensors::SafetensorsFolder;
use super::{Checkpoint, Gguf, ModelError, ModelSpec, Params, PickledFolder, Snapshot, Tokenizer};
use crate::hex::hex;
use rayon::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONFIG: &str = "config.json";
/// Far more than any config; a longer file is something else.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A model whose config resolves and whose tensors fit it.
pub struct ModelFiles {
    pub spec: ModelSpec,
    pub params: Arc<dyn Params>,
    /// `None` where the folder has no `tokenizer.json`: prompts are token ids then.
    pub tokenizer: Option<Tokenizer>,
    /// Why a GGUF file's vocabulary cannot be used, where it cannot: text is refused with this line, token ids are not.
    pub tokenizer_refused: Option<String>,
    /// Unknown config keys that were ignored because the caller allowed it, for `run.json`.
    pub allowed_keys_used: Vec<String>,
    /// The folder or file that was opened.
    pub path: PathBuf,
    /// The model of the hub that `path` is, where it is one.
    pub hub: Option<Snapshot>,
    /// Numbers in all parameters together, those of a tied unembedding counted once.
    pub n_parameters: u64,
    /// The storage types of the parameters, as the files spell them, sorted.
    pub stored_as: Vec<String>,
    /// What [`sha256`](Self::sha256) covers.
    files: Vec<PathBuf>,
    /// The same for a model that is part of the program.
    embedded: &'static [&'static [u8]],
}

impl ModelFiles {
    /// Opens a folder in Hugging Face layout (`config.json` and safetensors files, or else `pytorch_model.bin`) or a
    /// `.gguf` file. No weight is read.
    ///
    /// # Errors
    /// One line about the file, the config key or the tensor that is wrong; see [`ModelError`].
    pub fn open(path: &Path, allow_config_keys: &[String]) -> Result<ModelFiles, ModelError> {
        let unsupported = |reason: &str| ModelError::Unsupported { path: path.to_owned(), reason: reason.to_owned() };
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let gguf = Arc::new(Gguf::open(path)?);
            let (tokenizer, tokenizer_refused) = match gguf.tokenizer() {
                Ok(tokenizer) => (tokenizer, None),
                Err(e @ ModelError::Unsupported { .. }) => (None, Some(e.to_string())),
                Err(e) => return Err(e),
            };
            let model = Self::from_parts(gguf.config()?, gguf, path, allow_config_keys)?;
            return Ok(ModelFiles { tokenizer, tokenizer_refused, ..model });
        }
        let about = std::fs::metadata(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
        if !about.is_dir() {
            return Err(unsupported("neither a folder in Hugging Face layout nor a .gguf file"));
        }
        let config_path = path.join(CONFIG);
        if !config_path.is_file() {
            return Err(unsupported("has no config.json, so it is not a model folder in Hugging Face layout"));
        }
        let config = read_config(&config_path)?;
        let (checkpoint, weights) = open_weights(path)?;
        let files = std::iter::once(config_path).chain(weights).collect();
        let (model, bound) = Self::bind(config, Arc::clone(&checkpoint), path, allow_config_keys)?;
        require_floats(&*checkpoint, bound.tensors())?;
        Ok(ModelFiles { files, params: bound, tokenizer: Tokenizer::from_folder(path)?, ..model })
    }

    /// A model from a config in Hugging Face's spelling and a checkpoint under Hugging Face's names. `path` is the
    /// file that holds both; [`sha256`](Self::sha256) hashes it if it is one.
    pub fn from_parts(
        config: Map<String, Value>,
        checkpoint: Arc<dyn Checkpoint>,
        path: &Path,
        allow_config_keys: &[String],
    ) -> Result<ModelFiles, ModelError> {
        Ok(Self::bind(config, checkpoint, path, allow_config_keys)?.0)
    }

    /// A model that is part of the program: its config, its safetensors bytes and its tokenizer.
    pub(crate) fn embedded(
        config: &str,
        checkpoint: Arc<dyn Checkpoint>,
        tokenizer: Option<Tokenizer>,
        contents: &'static [&'static [u8]],
    ) -> Result<ModelFiles, ModelError> {
        let model = Self::from_parts(Config::parse(config)?, checkpoint, Path::new("the bundled demo model"), &[])?;
        Ok(ModelFiles { tokenizer, embedded: contents, ..model })
    }

    fn bind(
        config: Map<String, Value>,
        checkpoint: Arc<dyn Checkpoint>,
        path: &Path,
        allow: &[String],
    ) -> Result<(ModelFiles, Arc<BoundParams>), ModelError> {
        let resolved = resolve(config, Some(checkpoint.tensors()), allow)?;
        let bound = Arc::new(resolved.bind(Arc::clone(&checkpoint))?);
        let mut stored_as: Vec<String> =
            bound.tensors().iter().filter_map(|t| checkpoint.tensors().get(t)).map(|t| t.dtype.clone()).collect();
        stored_as.sort();
        stored_as.dedup();
        let model = ModelFiles {
            spec: resolved.spec,
            params: bound.clone(),
            tokenizer: None,
            tokenizer_refused: None,
            allowed_keys_used: resolved.allowed_keys_used,
            path: path.to_owned(),
            hub: None,
            n_parameters: resolved.n_parameters,
            stored_as,
            embedded: &[],
            files: if path.is_file() { vec![path.to_owned()] } else { vec![] },
        };
        Ok((model, bound))
    }

    /// The SHA-256, in hexadecimal, of the names, lengths and contents of the config and the weight files. Reads every
    /// byte of them, so it takes as long as the disk does.
    ///
    /// # Errors
    /// [`ModelError::Io`] naming the file.
    pub fn sha256(&self) -> Result<String, ModelError> {
        let parts: Vec<[u8; 32]> = self.files.par_iter().map(|f| hash_file(f)).collect::<Result<_, _>>()?;
        let mut all = Sha256::new();
        parts.iter().for_each(|part| all.update(part));
        self.embedded.iter().for_each(|part| all.update(Sha256::digest(part)));
        Ok(hex(&all.finalize()))
    }
}

/// The checkpoint of a folder and its files. Where both are there, safetensors, as in transformers.
fn open_weights(folder: &Path) -> Result<(Arc<dyn Checkpoint>, Vec<PathBuf>), ModelError> {
    let owned = |files: Vec<&Path>| files.into_iter().map(Path::to_owned).collect();
    if PickledFolder::is(folder) && !SafetensorsFolder::is(folder) {
        let pickled = PickledFolder::open(folder)?;
        let files = owned(pickled.files());
        return Ok((Arc::new(pickled), files));
    }
    let safetensors = SafetensorsFolder::open(folder)?;
    let files = owned(safetensors.files());
    Ok((Arc::new(safetensors), files))
}

/// What is read must widen to float32; a checkpoint may hold other tensors that are not read.
fn require_floats(checkpoint: &dyn Checkpoint, names: BTreeSet<String>) -> Result<(), ModelError> {
    for name in names {
        let Some(info) = checkpoint.tensors().get(&name) else { continue };
        if !FLOATS.iter().any(|f| f.to_string() == info.dtype) {
            return Err(ModelError::Tensor { name, reason: not_a_float(&info.dtype) });
        }
    }
    Ok(())
}

fn read_config(path: &Path) -> Result<Map<String, Value>, ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let malformed = |reason: &str| ModelError::Malformed { path: path.to_owned(), reason: reason.to_owned() };
    if std::fs::metadata(path).map_err(io)?.len() > MAX_CONFIG_BYTES {
        return Err(malformed("too long for a config.json"));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    Config::parse(std::str::from_utf8(&bytes).map_err(|_| malformed("not UTF-8"))?)
}

/// Of the file's name, its length and its bytes, streamed: a map would count every page as ours.
fn hash_file(path: &Path) -> Result<[u8; 32], ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut hash = Sha256::new();
    hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    hash.update([0]);
    hash.update(file.metadata().map_err(io)?.len().to_le_bytes());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(e)),
        }
    }
}

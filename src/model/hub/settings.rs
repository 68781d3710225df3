//! [`Hub`]: where the hub and its cache are, by the environment variables that `huggingface_hub` reads.

use super::HubError;
use std::env;
use std::path::{Path, PathBuf};

const ENDPOINT: &str = "https://huggingface.co";

/// A hub and a cache of it in the standard layout (`models--OWNER--NAME/{blobs,refs,snapshots}`).
#[derive(Clone)]
pub struct Hub {
    /// The folder that holds `models--…`.
    pub cache: PathBuf,
    /// Without a slash at its end.
    pub endpoint: String,
    pub token: Option<String>,
    /// Ask nobody; what is not in the cache is not there.
    pub offline: bool,
}

impl Hub {
    /// By `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`; `HF_ENDPOINT`; `HF_TOKEN`, the file `HF_TOKEN_PATH` or
    /// `HF_HOME/token`; `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`HubError::Setting`] naming the variable that cannot be used. The token itself is never in a message.
    pub fn from_env() -> Result<Hub, HubError> {
        let home = match set("HF_HOME") {
            Some(home) => PathBuf::from(home),
            None => cache_home()?.join("huggingface"),
        };
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let file = set("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            token_in(&file)
        });
        let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        if token.as_ref().is_some_and(|t| !t.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(HubError::Setting { name: "HF_TOKEN", reason: "the token has characters that no token has" });
        }
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned();
        let address = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        if !address.is_some_and(|a| !a.is_empty() && a.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(HubError::Setting { name: "HF_ENDPOINT", reason: "not an address: https://… is one" });
        }
        Ok(Hub {
            cache: cache.map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint,
            token,
            offline: flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE"),
        })
    }
}

/// Empty counts as not set.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// What `huggingface_hub` takes for true.
fn flag(name: &str) -> bool {
    set(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_ascii_uppercase().as_str()))
}

fn cache_home() -> Result<PathBuf, HubError> {
    if let Some(folder) = set("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(folder));
    }
    let home = env::home_dir().filter(|h| !h.as_os_str().is_empty());
    home.map(|h| h.join(".cache"))
        .ok_or(HubError::Setting { name: "HF_HOME", reason: "must be set where there is no home folder" })
}

fn token_in(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok()
}

//! What can be wrong between a hub id and files on disk.

use std::path::PathBuf;

/// Why a model of the hub is not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    #[error("{text:?} is not a hub id: {reason}")]
    NotAnId { text: String, reason: &'static str },
    /// The hub does not tell a private repository from one that does not exist.
    #[error("{repository}: no such repository on {endpoint}{}", private_hint(*.had_token))]
    NoRepository { repository: String, endpoint: String, had_token: bool },
    #[error("{repository}: no revision {revision:?} on {endpoint}; its branches and tags are on the page of its files")]
    NoRevision { repository: String, revision: String, endpoint: String },
    #[error("{repository}: {endpoint} does not let us read it: {}", gate_hint(*.had_token))]
    Gated { repository: String, endpoint: String, had_token: bool },
    #[error("{id}: the repository has no {file}; it has {has}")]
    NoFile { id: String, file: String, has: String },
    #[error("{id}: the repository has only GGUF files; name one: {example} (it has {has})")]
    OnlyGguf { id: String, example: String, has: String },
    #[error("{id}: the repository has neither safetensors nor pytorch_model.bin; it has {has}")]
    NoWeights { id: String, has: String },
    /// `HF_HUB_OFFLINE` is set.
    #[error(
        "{id}: HF_HUB_OFFLINE is set and the cache {cache} lacks {missing}; download it without HF_HUB_OFFLINE first"
    )]
    Offline { id: String, cache: PathBuf, missing: String },
    #[error("{name}: {reason}")]
    Setting { name: &'static str, reason: &'static str },
    #[error("{id}: {endpoint} cannot be reached ({reason}), and the cache {cache} lacks {missing}")]
    Unreachable { id: String, endpoint: String, reason: String, cache: PathBuf, missing: String },
    #[error("{file}: the download broke off ({reason}); the same command goes on where it stopped")]
    Interrupted { file: String, reason: String },
    /// Downloaded in full, and not what the hub has.
    #[error("{file}: what was downloaded is not the hub's file ({reason}) and was thrown away; try again")]
    Corrupted { file: String, reason: String },
    #[error("{endpoint}: {reason}, which is not how a hub answers; is HF_ENDPOINT right?")]
    Answer { endpoint: String, reason: String },
    #[error("{path}: no space left for {file}; HF_HOME or HF_HUB_CACHE puts the cache elsewhere")]
    DiskFull { path: PathBuf, file: String },
    #[error("{file}: another process is downloading it; wait for that one")]
    Busy { file: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

impl HubError {
    /// 1 for what may go well the next time, 2 for what the input must change.
    pub fn exit_code(&self) -> u8 {
        match self {
            HubError::Unreachable { .. }
            | HubError::Interrupted { .. }
            | HubError::Corrupted { .. }
            | HubError::DiskFull { .. }
            | HubError::Busy { .. }
            | HubError::Io { .. } => 1,
            _ => 2,
        }
    }
}

fn private_hint(had_token: bool) -> &'static str {
    if had_token { ", or the token may not see it" } else { "; if it is private, set HF_TOKEN" }
}

fn gate_hint(had_token: bool) -> &'static str {
    if had_token {
        "the account of this HF_TOKEN has not been given access; ask for it on the model's page"
    } else {
        "it is gated or private; ask for access on its page and set HF_TOKEN"
    }
}

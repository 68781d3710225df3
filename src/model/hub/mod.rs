//! Models of the Hugging Face hub: an id ([`HubId`]) becomes files in the standard cache ([`Hub::fetch`]).
//!
//! What is complete in the cache is used without asking anybody. Otherwise the hub is asked once for the commit and the
//! list of files, and what the model is made of is fetched: `config.json`, the tokenizer's files, and one set of weights.

mod error;
mod id;
mod remote;
mod settings;
mod store;
mod wanted;

pub use error::HubError;
pub use id::HubId;
pub use settings::Hub;

use super::ModelError;
use super::shards::{read_index, shard_names};
use remote::{Remote, tidy};
use std::path::PathBuf;
use store::Store;
use wanted::{CONFIG, OPTIONAL, Weights, weights};

/// Hears of downloads.
pub trait Progress {
    /// `file` of so many bytes begins, or begins anew after a broken connection.
    fn begin(&self, file: &str, bytes: u64);
    /// So many more bytes are here.
    fn advance(&self, bytes: u64);
    /// The file is done, or given up.
    fn end(&self);
}

/// Nobody listens.
impl Progress for () {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// A model of the hub on this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: HubId,
    /// The commit that the revision was at when it was fetched.
    pub commit: String,
    /// A folder in Hugging Face layout, or a `.gguf` file.
    pub path: PathBuf,
    /// Files that the repository may have and the cache has not, where nobody could be asked.
    pub unknown: Vec<&'static str>,
}

impl Hub {
    /// The files of `id`: from the cache if it has them all, else from the hub.
    ///
    /// # Errors
    /// [`ModelError::Hub`]: see [`HubError`]. A file that was cut off is never part of a snapshot.
    pub fn fetch(&self, id: &HubId, progress: &dyn Progress) -> Result<Snapshot, ModelError> {
        let store = Store::new(&self.cache, id);
        let known = store.commit(&id.revision);
        let lacking = known.as_ref().map(|commit| store.lacking(commit, id)).transpose()?;
        let snapshot = |commit: &str, unknown| {
            let folder = store.snapshot(commit);
            let path = id.file.as_ref().map_or_else(|| folder.clone(), |file| folder.join(file));
            Snapshot { id: id.clone(), commit: commit.to_owned(), path, unknown }
        };
        // The commit, and the optional files that it may lack.
        let usable = match (&known, &lacking) {
            (Some(commit), Some(lacking)) if lacking.required.is_empty() => Some((commit, lacking.optional.clone())),
            _ => None,
        };
        if let Some((commit, unknown)) = &usable
            && (unknown.is_empty() || self.offline)
        {
            return Ok(snapshot(commit, unknown.clone()));
        }
        let missing = || match &lacking {
            Some(lacking) => lacking.required.join(", "),
            None => format!("{id}"),
        };
        if self.offline {
            let (id, cache) = (id.to_string(), self.cache.clone());
            return Err(HubError::Offline { id, cache, missing: missing() }.into());
        }
        let remote = match (Remote::connect(self, id, &store), usable) {
            (Ok(remote), _) => remote,
            (Err(HubError::Unreachable { .. }), Some((commit, unknown))) => return Ok(snapshot(commit, unknown)),
            (Err(HubError::Unreachable { id, endpoint, reason, cache, .. }), None) => {
                return Err(HubError::Unreachable { id, endpoint, reason, cache, missing: missing() }.into());
            }
            (Err(e), _) => return Err(e.into()),
        };
        fetch_all(&remote, id, &store, progress)?;
        store.set_commit(&id.revision, &remote.commit)?;
        tidy(&store);
        Ok(snapshot(&remote.commit, vec![]))
    }
}

/// Every file that the model is made of.
fn fetch_all(remote: &Remote<'_>, id: &HubId, store: &Store, progress: &dyn Progress) -> Result<(), ModelError> {
    let no_file = |file: &str| {
        let has = remote.shown_names(|_| true);
        ModelError::from(HubError::NoFile { id: id.to_string(), file: file.to_owned(), has })
    };
    if let Some(file) = &id.file {
        if !remote.names.contains(file) {
            return Err(no_file(file));
        }
        return Ok(remote.fetch(file, progress)?);
    }
    let weights = weights(&remote.names);
    if weights.is_none() || !remote.names.contains(CONFIG) {
        if let Some(example) = remote.names.iter().find(|n| n.ends_with(".gguf")) {
            let has = remote.shown_names(|n| n.ends_with(".gguf"));
            return Err(HubError::OnlyGguf { id: id.to_string(), example: format!("{id}:{example}"), has }.into());
        }
        if !remote.names.contains(CONFIG) {
            return Err(no_file(CONFIG));
        }
    }
    let Some(weights) = weights else {
        return Err(HubError::NoWeights { id: id.to_string(), has: remote.shown_names(|_| true) }.into());
    };
    // Small files first: what is wrong with a model is mostly wrong there.
    remote.fetch(CONFIG, progress)?;
    for file in OPTIONAL {
        match remote.names.contains(file) {
            true => remote.fetch(file, progress)?,
            false => store.set_absent(&remote.commit, file)?,
        }
    }
    match weights {
        Weights::Single(file) => remote.fetch(&file, progress)?,
        Weights::Sharded(index, extension) => {
            remote.fetch(index, progress)?;
            let assigned = read_index(&store.snapshot(&remote.commit).join(index), extension)?;
            for shard in shard_names(&assigned) {
                remote.fetch(shard, progress)?;
            }
        }
    }
    Ok(())
}

//! [`Remote`]: one revision of a repository on the hub, through the hf-hub crate.
//!
//! hf-hub knows the hub's addresses, headers and redirects, resumes a partial file, and locks it. What it does not do is
//! done here: it believes that a file is complete when the connection ends, and cannot say why a request was refused.

use super::store::{Store, failed, is_commit, make_parent};
use super::{Hub, HubError, HubId, Progress};
use crate::hex::hex;
use crate::quiet::quietly;
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

/// A connection that breaks is taken up again so often, before the command fails.
const RETRIES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);
/// The list of a repository's files: some hundred bytes each.
const MAX_LIST_BYTES: u64 = 64 << 20;
/// Of the hub's file names that a message shows.
const MAX_SHOWN: usize = 8;

pub(super) struct Remote<'h> {
    hub: &'h Hub,
    id: &'h HubId,
    store: &'h Store,
    api: Api,
    pub commit: String,
    /// Every file of the repository.
    pub names: BTreeSet<String>,
}

impl<'h> Remote<'h> {
    /// Asks the hub which commit the revision is and what files it has.
    ///
    /// # Errors
    /// [`HubError::Unreachable`] (`missing` still empty), or why the hub refuses.
    pub fn connect(hub: &'h Hub, id: &'h HubId, store: &'h Store) -> Result<Remote<'h>, HubError> {
        let api = ApiBuilder::from_cache(Cache::new(store.partial()))
            .with_endpoint(hub.endpoint.clone())
            .with_token(hub.token.clone())
            .with_retries(RETRIES)
            .with_user_agent("patchwave", env!("CARGO_PKG_VERSION"))
            .build();
        let answer = |reason: String| HubError::Answer { endpoint: hub.endpoint.clone(), reason };
        let api = api.map_err(|e| answer(e.to_string()))?;
        let repo = api.repo(Repo::with_revision(id.repository.clone(), RepoType::Model, id.revision.clone()));
        let request = repo.info_request().config().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        let mut response = request.call().map_err(|e| unreachable(hub, id, &e))?;
        let (status, code) = (response.status().as_u16(), response.headers().get("x-error-code"));
        let code = code.and_then(|c| c.to_str().ok()).unwrap_or_default().to_owned();
        if status != 200 {
            return Err(refusal(hub, id, status, &code));
        }
        let list = response.body_mut().with_config().limit(MAX_LIST_BYTES).read_to_vec();
        let list = list.map_err(|e| unreachable(hub, id, &e))?;
        let info: RepoInfo =
            serde_json::from_slice(&list).map_err(|e| answer(format!("the description of {id} is not one ({e})")))?;
        if !is_commit(&info.sha) {
            return Err(answer(format!("the commit of {id} is {:?}", info.sha)));
        }
        let names = info.siblings.into_iter().map(|s| s.rfilename).collect();
        Ok(Remote { hub, id, store, api, commit: info.sha, names })
    }

    /// Some of the repository's files, for a message.
    pub fn shown_names(&self, which: impl Fn(&str) -> bool) -> String {
        let of: Vec<&str> = self.names.iter().map(String::as_str).filter(|n| which(n)).collect();
        match of.len() {
            0 => "nothing".to_owned(),
            n if n > MAX_SHOWN => format!("{} and {} more", of[..MAX_SHOWN].join(", "), n - MAX_SHOWN),
            _ => of.join(", "),
        }
    }

    /// Brings `file` into the cache, if it is not there. When this returns, the whole file is.
    ///
    /// # Errors
    /// Why it is not; what was downloaded so far is kept and taken up again the next time.
    pub fn fetch(&self, file: &str, progress: &dyn Progress) -> Result<(), HubError> {
        if self.store.has(&self.commit, file) {
            return Ok(());
        }
        // By the commit, not the branch: a branch may move while files are fetched.
        let repository = Repo::with_revision(self.id.repository.clone(), RepoType::Model, self.commit.clone());
        let repo = self.api.repo(repository.clone());
        let about = quietly(|| self.api.metadata(&repo.url(file)));
        let about = about.ok_or_else(|| self.answer(file))?.map_err(|e| self.explain(file, e))?;
        let size = about.size() as u64;
        // It becomes the name of a file. A weak one (`W/"…"`, what a compressing proxy makes of it) says the same.
        let etag = about.etag().strip_prefix("W/").unwrap_or(about.etag());
        let plain = etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if etag.is_empty() || etag.len() > 128 || !plain || about.commit_hash() != self.commit {
            return Err(self.answer(file));
        }
        let blob = self.store.blob(etag);
        if !fs::metadata(&blob).is_ok_and(|b| b.is_file() && b.len() == size) {
            let staged = Cache::new(self.store.partial()).repo(repository).blob_path(about.etag());
            self.download(&repo, file, &staged, size, progress)?;
            if let Err(reason) = check(&staged, size, etag)? {
                let _ = fs::remove_file(&staged);
                return Err(HubError::Corrupted { file: file.to_owned(), reason });
            }
            make_parent(&blob)?;
            fs::rename(&staged, &blob).map_err(|e| failed(&blob, e))?;
            let _ = fs::remove_file(staged.with_extension("lock"));
        }
        self.store.link(&self.commit, file, etag)
    }

    fn download(
        &self,
        repo: &ApiRepo,
        file: &str,
        staged: &Path,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let part = staged.with_extension("part");
        let len = || fs::metadata(&part).map_or(0, |p| p.len());
        if len() > size {
            fs::remove_file(&part).map_err(|e| failed(&part, e))?;
        }
        // hf-hub asks for what comes after the part; after a whole one nothing comes, and it would fail for ever.
        if len() < size {
            let done = quietly(|| repo.download_with_progress(file, Shown(progress)));
            progress.end();
            match done.ok_or_else(|| self.answer(file))? {
                // The staged link has served.
                Ok(pointer) => return fs::remove_file(&pointer).map_err(|e| failed(&pointer, e)),
                // It gives up after the last retry, even if that one brought the rest.
                Err(_) if len() == size => {}
                Err(e) => return Err(self.explain(file, e)),
            }
        }
        fs::rename(&part, staged).map_err(|e| failed(staged, e))
    }

    fn answer(&self, file: &str) -> HubError {
        HubError::Answer {
            endpoint: self.hub.endpoint.clone(),
            reason: format!("the headers of {file} are missing or make no sense"),
        }
    }

    fn explain(&self, file: &str, error: ApiError) -> HubError {
        let broke = |reason: String| HubError::Interrupted { file: file.to_owned(), reason };
        match error {
            ApiError::TooManyRetries(inner) => self.explain(file, *inner),
            ApiError::RequestError(e) => match *e {
                ureq::Error::StatusCode(status @ (401 | 403)) => refusal(self.hub, self.id, status, "GatedRepo"),
                ureq::Error::StatusCode(404) => {
                    HubError::NoFile { id: self.id.to_string(), file: file.to_owned(), has: self.shown_names(|_| true) }
                }
                e => broke(e.to_string()),
            },
            ApiError::IoError(e) => {
                use io::ErrorKind::{NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
                match e.kind() {
                    StorageFull | QuotaExceeded => {
                        HubError::DiskFull { path: self.hub.cache.clone(), file: file.to_owned() }
                    }
                    PermissionDenied | ReadOnlyFilesystem | NotADirectory => {
                        HubError::Io { path: self.hub.cache.clone(), source: e }
                    }
                    _ => broke(e.to_string()),
                }
            }
            ApiError::LockAcquisition(_) => HubError::Busy { file: file.to_owned() },
            ApiError::InvalidResume => broke("the part is longer than the file".to_owned()),
            _ => self.answer(file),
        }
    }
}

/// Removes what staging left, if nothing is under way there.
pub(super) fn tidy(store: &Store) {
    fn remove_empty(folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            remove_empty(&entry.path());
        }
        // Fails where a part of another download is kept, and shall.
        let _ = fs::remove_dir(folder);
    }
    let staging = store.partial();
    let Ok(repositories) = fs::read_dir(&staging) else { return };
    for repository in repositories.flatten() {
        let _ = fs::remove_dir_all(repository.path().join("refs"));
    }
    remove_empty(&staging);
}

fn unreachable(hub: &Hub, id: &HubId, error: &ureq::Error) -> HubError {
    HubError::Unreachable {
        id: id.to_string(),
        endpoint: hub.endpoint.clone(),
        reason: error.to_string(),
        cache: hub.cache.clone(),
        missing: String::new(),
    }
}

/// Why the hub says no: its status and, where it sends one, its `X-Error-Code`
/// (the codes are those that `huggingface_hub.utils.hf_raise_for_status` tells apart).
fn refusal(hub: &Hub, id: &HubId, status: u16, code: &str) -> HubError {
    let (repository, endpoint, had_token) = (id.repository.clone(), hub.endpoint.clone(), hub.token.is_some());
    match (status, code) {
        (_, "RevisionNotFound") => HubError::NoRevision { repository, revision: id.revision.clone(), endpoint },
        (_, "GatedRepo") | (403, _) => HubError::Gated { repository, endpoint, had_token },
        // Without a token the hub answers 401 for a repository that does not exist.
        (_, "RepoNotFound") | (401 | 404, _) => HubError::NoRepository { repository, endpoint, had_token },
        (408 | 429 | 500.., _) => HubError::Unreachable {
            id: id.to_string(),
            endpoint,
            reason: format!("it answers with status {status}"),
            cache: hub.cache.clone(),
            missing: String::new(),
        },
        _ => HubError::Answer { endpoint, reason: format!("status {status} for {id}") },
    }
}

/// Whether a file is `size` bytes long and has the hash that its ETag is. Large files' are SHA-256; those of small ones
/// are git's SHA-1, which says no more about a download than its length.
fn check(path: &Path, size: u64, etag: &str) -> Result<Result<(), String>, HubError> {
    let io = |e| failed(path, e);
    let mut file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    if len != size {
        return Ok(Err(format!("{len} bytes instead of {size}")));
    }
    file.sync_all().map_err(io)?;
    if etag.len() != 64 || !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(Ok(()));
    }
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(e)),
        }
    }
    let found = hex(&hash.finalize());
    Ok(if found.eq_ignore_ascii_case(etag) { Ok(()) } else { Err(format!("its SHA-256 is not {etag}")) })
}

/// Our progress as hf-hub's.
struct Shown<'p>(&'p dyn Progress);

impl hf_hub::api::Progress for Shown<'_> {
    fn init(&mut self, size: usize, file: &str) {
        self.0.begin(file, size as u64);
    }

    fn update(&mut self, bytes: usize) {
        self.0.advance(bytes as u64);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Hub {
        Hub { cache: "cache".into(), endpoint: "https://hub".into(), token: None, offline: false }
    }

    #[test]
    fn a_full_disk_is_said_to_be_full() {
        let full = failed(Path::new("cache/blobs/1"), io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(&full, HubError::DiskFull { .. }) && full.exit_code() == 1, "{full}");
        let id = "a/b".parse().expect("an id");
        let (hub, store) = (hub(), Store::new(Path::new("cache"), &id));
        let api = ApiBuilder::from_cache(Cache::new("cache".into())).build().expect("no request yet");
        let remote = Remote { hub: &hub, id: &id, store: &store, api, commit: String::new(), names: BTreeSet::new() };
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = ApiError::TooManyRetries(Box::new(ApiError::IoError(kind.into())));
            let text = remote.explain("model.safetensors", error).to_string();
            assert_eq!(
                text,
                "cache: no space left for model.safetensors; HF_HOME or HF_HUB_CACHE puts the cache elsewhere"
            );
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let id: HubId = "a/b@v2".parse().expect("an id");
        let said = |status, code| refusal(&hub(), &id, status, code);
        assert!(matches!(said(404, "RevisionNotFound"), HubError::NoRevision { .. }));
        assert!(matches!(said(404, "RepoNotFound"), HubError::NoRepository { .. }));
        assert!(matches!(said(401, ""), HubError::NoRepository { .. }));
        assert!(matches!(said(401, "GatedRepo"), HubError::Gated { .. }));
        assert!(matches!(said(403, ""), HubError::Gated { .. }));
        assert!(matches!(said(503, ""), HubError::Unreachable { .. }));
        assert!(matches!(said(418, ""), HubError::Answer { .. }));
    }
}

//! Where a run goes: a new folder, an empty one, or one that is to be finished or replaced.

use super::error::ExportError;
use super::journal::{JOURNAL_FILE, Journal, same_plan};
use super::run::{self, EFFECTS_FILE, RunResult};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What to do with a run that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Resume,
    Replace,
}

/// A folder that a sweep may write to.
pub struct RunFolder {
    pub path: PathBuf,
    /// Metrics that an earlier attempt has already found, by item.
    pub known: HashMap<u64, f32>,
    pub journal: Journal,
    /// The folders that were made for this run, the innermost first.
    created: Vec<PathBuf>,
}

/// What [`open`] finds.
pub enum Opened {
    Ready(Box<RunFolder>),
    /// `--resume` of a run that is complete and has the same plan.
    Complete(Box<RunResult>, PathBuf),
}

/// Opens `path` for a sweep with this plan. Nothing that exists is touched before it is clear that it may be.
///
/// # Errors
/// Exit code 2: a folder that holds something else, a run without leave to go on or replace it, a run with another
/// plan, a place that cannot be written.
pub fn open(path: &Path, existing: Existing, plan: &Map<String, Value>) -> Result<Opened, ExportError> {
    let cannot_write = |source| ExportError::Write { path: path.to_owned(), source };
    let taken = |reason: &str| ExportError::Taken { path: path.to_owned(), reason: reason.to_owned() };
    let mut created = Vec::new();
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if existing == Existing::Resume {
                return Err(taken("there is no run to resume; leave --resume out to start one"));
            }
            created = make(path).map_err(cannot_write)?;
        }
        Err(source) => return Err(cannot_write(source)),
        Ok(meta) if !meta.is_dir() => return Err(taken("is a file; --output names a folder")),
        Ok(_) => {}
    }
    let (complete, started) = (path.join(EFFECTS_FILE).exists(), path.join(JOURNAL_FILE).exists());
    if complete || started {
        match existing {
            Existing::Refuse => {
                return Err(taken("holds a run; --resume finishes it, --force replaces it"));
            }
            Existing::Resume if complete && !started => {
                let run = run::read(path)?;
                let nothing = Map::new();
                let theirs = run.meta.get("plan").and_then(Value::as_object).unwrap_or(&nothing);
                same_plan(path, theirs, plan)?;
                return Ok(Opened::Complete(Box::new(run), path.to_owned()));
            }
            Existing::Resume => {
                let (journal, known) = Journal::resume(path, plan)?;
                return Ok(Opened::Ready(Box::new(RunFolder { path: path.to_owned(), known, journal, created })));
            }
            // The old run stays until the new one is complete, and for good if the new one fails.
            Existing::Replace => {}
        }
    } else if created.is_empty() && fs::read_dir(path).map_err(cannot_write)?.next().is_some() {
        return Err(taken("is not empty and holds no run; name another folder"));
    } else if existing == Existing::Resume {
        return Err(taken("there is no run to resume; leave --resume out to start one"));
    }
    let journal = Journal::create(path, plan).inspect_err(|_| unmake(&created))?;
    Ok(Opened::Ready(Box::new(RunFolder { path: path.to_owned(), known: HashMap::new(), journal, created })))
}

impl RunFolder {
    /// Leaves no trace of a run that failed before it found anything.
    pub fn abandon(self) {
        self.journal.remove();
        unmake(&self.created);
    }
}

/// Makes the folder `path` and those above it; all that were missing, the innermost first.
fn make(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let named = path.ancestors().filter(|p| !p.as_os_str().is_empty());
    let missing: Vec<PathBuf> = named.take_while(|p| !p.exists()).map(Path::to_owned).collect();
    fs::create_dir_all(path).inspect_err(|_| unmake(&missing))?;
    Ok(missing)
}

/// Removes what [`make`] made, as far as nothing else has been put there meanwhile.
fn unmake(made: &[PathBuf]) {
    for folder in made {
        // Fails, rightly, for a folder that is not empty.
        let _ = fs::remove_dir(folder);
    }
}

/// `parent/stem-n` with the smallest n from 1 on that does not exist.
pub fn next_free(parent: &Path, stem: &str) -> PathBuf {
    (1u32..).map(|n| parent.join(format!("{stem}-{n}"))).find(|p| !p.exists()).expect("some number is free")
}

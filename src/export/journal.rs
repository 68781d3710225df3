//! The blocks of an unfinished sweep on disk, so that a killed one loses at most the wave it was in.
//!
//! `effects.blocks.partial` begins with one line of JSON, the plan: everything that decides what the numbers mean. Then
//! follow blocks: the number of items (u32), the items (u64 index and f32 metric each), and a checksum (u64, FNV-1a);
//! all little-endian. A block that was cut off or damaged ends the file.

use super::error::ExportError;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The journal's name in a run folder.
pub const JOURNAL_FILE: &str = "effects.blocks.partial";

/// An open journal; blocks are appended as waves finish.
pub struct Journal {
    path: PathBuf,
    file: File,
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

impl Journal {
    /// Starts a journal in the folder `dir`, replacing one that is there.
    pub fn create(dir: &Path, plan: &Map<String, Value>) -> Result<Journal, ExportError> {
        let path = dir.join(JOURNAL_FILE);
        let fail = |source| ExportError::Write { path: path.clone(), source };
        let mut file = File::create(&path).map_err(fail)?;
        let mut line = serde_json::to_vec(plan).map_err(|e| fail(e.into()))?;
        line.push(b'\n');
        file.write_all(&line).map_err(fail)?;
        Ok(Journal { path, file })
    }

    /// Goes on with the journal in `dir`: everything it has, and the place to append. A damaged tail is cut off.
    ///
    /// # Errors
    /// [`ExportError::OtherPlan`] naming what differs, if it belongs to another sweep.
    pub fn resume(dir: &Path, plan: &Map<String, Value>) -> Result<(Journal, HashMap<u64, f32>), ExportError> {
        let path = dir.join(JOURNAL_FILE);
        let read_error = |source| ExportError::Read { path: path.clone(), source };
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(read_error)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(read_error)?;
        let malformed =
            || ExportError::Malformed { path: path.clone(), reason: "it does not begin with a plan".into() };
        let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(malformed)?;
        let theirs: Map<String, Value> = serde_json::from_slice(&bytes[..end]).map_err(|_| malformed())?;
        same_plan(dir, &theirs, plan)?;
        let mut known = HashMap::new();
        let mut at = end + 1;
        while let Some(next) = read_block(&bytes, at, &mut known) {
            at = next;
        }
        let write_error = |source| ExportError::Write { path: path.clone(), source };
        file.set_len(at as u64).map_err(write_error)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at as u64)).map_err(write_error)?;
        Ok((Journal { path, file }, known))
    }

    /// Appends the metrics of a finished wave.
    pub fn append(&mut self, items: &[(u64, f32)]) -> Result<(), ExportError> {
        let mut block = Vec::with_capacity(12 + 12 * items.len());
        block.extend((items.len() as u32).to_le_bytes());
        for (item, value) in items {
            block.extend(item.to_le_bytes());
            block.extend(value.to_le_bytes());
        }
        let sum = checksum(&block);
        block.extend(sum.to_le_bytes());
        let written = self.file.write_all(&block).and_then(|()| self.file.flush());
        written.map_err(|source| ExportError::Write { path: self.path.clone(), source })
    }

    /// Removes the journal of a sweep that is complete, or that has not begun.
    pub fn remove(self) {
        let path = self.path.clone();
        drop(self);
        // A journal that stays behind is harmless: effects.safetensors is what says that a run is complete.
        let _ = std::fs::remove_file(path);
    }
}

/// Reads the block at `at` into `known`; the place after it, or `None` where no whole block follows.
fn read_block(bytes: &[u8], at: usize, known: &mut HashMap<u64, f32>) -> Option<usize> {
    let n = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
    let end = at.checked_add(4)?.checked_add(n.checked_mul(12)?)?;
    let sum = u64::from_le_bytes(bytes.get(end..end.checked_add(8)?)?.try_into().ok()?);
    if checksum(&bytes[at..end]) != sum {
        return None;
    }
    for entry in bytes[at + 4..end].chunks_exact(12) {
        let item = u64::from_le_bytes(entry[..8].try_into().ok()?);
        known.insert(item, f32::from_le_bytes(entry[8..].try_into().ok()?));
    }
    Some(end + 8)
}

/// Two plans must agree in everything; the first key that differs is named.
pub(super) fn same_plan(dir: &Path, theirs: &Map<String, Value>, ours: &Map<String, Value>) -> Result<(), ExportError> {
    let keys: Vec<&String> = theirs.keys().chain(ours.keys()).collect();
    match keys.into_iter().find(|k| theirs.get(*k) != ours.get(*k)) {
        None => Ok(()),
        Some(key) => Err(ExportError::OtherPlan { path: dir.to_owned(), key: key.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(metric: &str) -> Map<String, Value> {
        serde_json::json!({"model": "abc", "metric": metric}).as_object().unwrap().clone()
    }

    #[test]
    fn a_cut_off_block_is_dropped_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path(), &plan("kl")).unwrap();
        journal.append(&[(3, 0.5), (9, -1.0)]).unwrap();
        journal.append(&[(4, 2.0)]).unwrap();
        let path = dir.path().join(JOURNAL_FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..20 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (mut journal, known) = Journal::resume(dir.path(), &plan("kl")).unwrap();
            assert_eq!(known, HashMap::from([(3, 0.5), (9, -1.0)]), "{cut} bytes lost");
            journal.append(&[(5, 7.0)]).unwrap();
            let (_, known) = Journal::resume(dir.path(), &plan("kl")).unwrap();
            assert_eq!(known.len(), 3);
        }
    }

    #[test]
    fn a_damaged_block_ends_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path(), &plan("kl")).unwrap();
        journal.append(&[(3, 0.5)]).unwrap();
        let path = dir.path().join(JOURNAL_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let n = bytes.len();
        bytes[n - 10] ^= 1;
        bytes.extend([0xff; 3]);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Journal::resume(dir.path(), &plan("kl")).unwrap().1, HashMap::new());
    }

    #[test]
    fn another_plan_is_refused_by_the_key_that_differs() {
        let dir = tempfile::tempdir().unwrap();
        Journal::create(dir.path(), &plan("kl")).unwrap();
        let error = Journal::resume(dir.path(), &plan("prob")).err().expect("refused");
        assert!(error.to_string().contains("metric"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

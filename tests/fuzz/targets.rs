//! What the fuzzers drive, and what `tests/fuzz_seeds.rs` drives with the committed seeds: every file that patchwave did
//! not write is opened, resolved and read. An error is fine; a panic, an overflow or an allocation of what a header
//! merely claims is a finding.
#![allow(dead_code)] // each target uses one of these

use patchwave::model::{Checkpoint, Gguf, ModelFiles, SafetensorsFolder, resolve_config};
use std::path::{Path, PathBuf};

/// The most numbers that are read of one tensor: real data ends long before.
const MOST: usize = 1 << 20;

/// A folder of this process in memory, where there is one: files are mapped, so they must be files.
fn folder() -> PathBuf {
    let shm = Path::new("/dev/shm");
    let root = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let thread = std::thread::current().id();
    let folder = root.join(format!("patchwave-fuzz-{}-{thread:?}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the input");
    folder
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("the input as a file");
}

/// Reads every tensor, as loading would.
fn read_all(checkpoint: &dyn Checkpoint) {
    for (name, info) in checkpoint.tensors() {
        let numbers = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if let Some(numbers) = numbers.filter(|n| *n <= MOST) {
            let _ = checkpoint.read(name, &mut vec![0.0; numbers]);
        }
    }
}

/// The first byte chooses what the rest is: a file of tensors, or the index of two files that are there.
pub fn safetensors(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let folder = folder();
    let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
    if choice % 2 == 0 {
        write(&single, rest);
        let _ = std::fs::remove_file(&index);
    } else {
        // {"a": F32 [2]} and {"b": F32 [1]}
        let shard = |name: &str, len: usize| {
            let header =
                format!("{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":[{len}],\"data_offsets\":[0,{}]}}}}", 4 * len);
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; 4 * len]].concat()
        };
        let _ = std::fs::remove_file(&single);
        write(&folder.join("model-00001-of-00002.safetensors"), &shard("a", 2));
        write(&folder.join("model-00002-of-00002.safetensors"), &shard("b", 1));
        write(&index, rest);
    }
    if let Ok(checkpoint) = SafetensorsFolder::open(&folder) {
        read_all(&checkpoint);
    }
}

/// A whole GGUF file: header, config, tokenizer, spec, tensors.
pub fn gguf(bytes: &[u8]) {
    let path = folder().join("model.gguf");
    write(&path, bytes);
    if let Ok(gguf) = Gguf::open(&path) {
        let _ = gguf.config();
        let _ = gguf.tokenizer();
        read_all(&gguf);
        let _ = ModelFiles::open(&path, &[]);
    }
}

/// The text of a `config.json`.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(resolved) = resolve_config(text, None) {
        let _ = resolved.expected_tensors();
    }
}

//! The fuzzers' seeds, and whatever they have found so far, go through the same code on every test run.
//! `tests/fuzz/README.md` tells how to look for more.

#[path = "fuzz/targets.rs"]
mod targets;

use std::path::Path;

/// Runs `target` on every file of its folder of seeds; a panic names the file.
fn replay(name: &str, target: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(name);
    let mut seeds: Vec<_> = std::fs::read_dir(&folder).expect("seeds").map(|e| e.expect("a seed").path()).collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "{} has {} seeds", folder.display(), seeds.len());
    for seed in seeds {
        let bytes = std::fs::read(&seed).expect("a seed");
        let whole = std::panic::catch_unwind(|| target(&bytes));
        assert!(whole.is_ok(), "{} panics", seed.display());
        // Cut anywhere, it is an error and no more.
        for end in [bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
            assert!(
                std::panic::catch_unwind(|| target(&bytes[..end])).is_ok(),
                "{} cut at {end} panics",
                seed.display()
            );
        }
    }
}

#[test]
fn safetensors_files_and_indexes() {
    replay("safetensors", targets::safetensors);
}

#[test]
fn gguf_files() {
    replay("gguf", targets::gguf);
}

#[test]
fn configs() {
    replay("config", targets::config);
}

//! What Hugging Face computed for a tiny model of `tests/fixtures/hf`.
#![allow(dead_code)] // not every test reads all of it

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Of the largest |logit| or residual of the case.
pub const TOLERANCE: f32 = 1e-5;

/// The folders of `tests/fixtures/hf`, in order.
pub fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf");
    let mut cases: Vec<_> =
        std::fs::read_dir(dir).expect("the fixtures are there").map(|e| e.unwrap().path()).collect();
    cases.sort();
    cases
}

/// `ref.safetensors` of a case.
pub struct Reference {
    bytes: Vec<u8>,
}

impl Reference {
    pub fn of(case: &Path) -> Reference {
        Reference { bytes: std::fs::read(case.join("ref.safetensors")).expect("a reference") }
    }

    /// A tensor's shape and numbers: `logits` `[2, len, d_vocab]`, `resid.L` `[2, len, d_model]`, `z_patched` and
    /// `z_patched_pos` `[n_layers, n_heads, d_vocab]`.
    pub fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let t = file.tensor(name).unwrap_or_else(|_| panic!("{name}"));
        let numbers = t.data().chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
        (t.shape().to_vec(), numbers)
    }

    /// Token ids of the two prompts, `[2, len]`.
    pub fn ids(&self) -> Vec<Vec<u32>> {
        let file = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let t = file.tensor("ids").expect("ids");
        let ids: Vec<u32> =
            t.data().chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().unwrap()) as u32).collect();
        ids.chunks_exact(t.shape()[1]).map(|r| r.to_vec()).collect()
    }

    /// The position that `z_patched_pos` patches.
    pub fn position(&self) -> usize {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).expect("a safetensors header");
        metadata.metadata().as_ref().and_then(|m| m["position"].parse().ok()).expect("a position")
    }
}

/// Largest |got − want| as a share of the largest |want|; infinite where something is not a number.
pub fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let worst =
        got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0f32, |a, b| if b.is_nan() { b } else { a.max(b) });
    if worst.is_nan() { f32::INFINITY } else { worst / scale }
}

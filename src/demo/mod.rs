//! The bundled demo: a small transformer that we trained on induction, and pairs whose keys are exchanged.
//!
//! `README.md` beside this file tells the task and the training (`tools/train-demo.py`).

use crate::model::{Checkpoint, ModelError, ModelFiles, TensorInfo, Tokenizer};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::sync::Arc;

const CONFIG: &str = include_str!("config.json");
const WEIGHTS: &[u8] = include_bytes!("model.safetensors");
const TOKENIZER: &[u8] = include_bytes!("tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("tokenizer_config.json");

const CONTENTS: &[&[u8]] = &[CONFIG.as_bytes(), WEIGHTS];

/// The demo's pairs, as JSONL.
pub const PAIRS: &str = include_str!("pairs.jsonl");

/// Safetensors that are part of the program.
struct Embedded(BTreeMap<String, TensorInfo>);

/// The demo model, opened.
///
/// # Errors
/// None that a released program can meet; the test suite opens it.
pub fn model() -> Result<ModelFiles, ModelError> {
    let file = parse()?;
    let info = |t: safetensors::tensor::TensorView<'_>| TensorInfo {
        shape: t.shape().to_vec(),
        dtype: format!("{:?}", t.dtype()),
    };
    let tensors = file.tensors().into_iter().map(|(name, t)| (name, info(t))).collect();
    let about: serde_json::Value =
        serde_json::from_str(TOKENIZER_CONFIG).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
    let mut tokenizer = Tokenizer::from_definition(TOKENIZER, None)?;
    if let Some(bos) = about["bos_token"].as_str() {
        let id = tokenizer.encode(bos)?.first().copied();
        tokenizer = Tokenizer::from_definition(TOKENIZER, id)?;
    }
    ModelFiles::embedded(CONFIG, Arc::new(Embedded(tensors)), Some(tokenizer), CONTENTS)
}

fn parse() -> Result<SafeTensors<'static>, ModelError> {
    let wrong = |e: safetensors::SafeTensorError| ModelError::Malformed {
        path: "the bundled demo model".into(),
        reason: e.to_string(),
    };
    SafeTensors::deserialize(WEIGHTS).map_err(wrong)
}

impl Checkpoint for Embedded {
    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.0
    }

    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let wrong = |reason: &str| ModelError::Tensor { name: name.to_owned(), reason: reason.to_owned() };
        let file = parse()?;
        let tensor = file.tensor(name).map_err(|_| wrong("missing"))?;
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => {
                for (x, b) in out.iter_mut().zip(data.chunks_exact(4)) {
                    *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Dtype::BF16 => {
                for (x, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                    *x = half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            Dtype::F16 => {
                for (x, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                    *x = half::f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            _ => return Err(wrong("unexpected storage type")),
        }
        Ok(())
    }
}

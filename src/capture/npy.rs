//! A folder with one `.npy` file for each tensor, for readers that know numpy and nothing else.
//!
//! The format is numpy's NEP 1, version 1.0 (`numpy/lib/format.py`).

use super::error::CaptureError;
use super::plan::{Dtype, Plan, Tensor};
use super::store::{Partial, Store};
use serde_json::{Map, Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What the plan's metadata is called in the folder.
pub const METADATA_FILE: &str = "metadata.json";

/// A folder of `.npy` files that is being written.
pub struct NpyFolder {
    partial: Partial,
    /// Name and header length of every tensor's file.
    files: Vec<(PathBuf, u64)>,
}

impl NpyFolder {
    /// Makes the folder and every file in it, at full length.
    ///
    /// # Errors
    /// The folder is there already or cannot be made; bfloat16, which numpy does not have.
    pub fn create(path: &Path, plan: &Plan) -> Result<NpyFolder, CaptureError> {
        let partial = Partial::new(path)?;
        let mut files = Vec::with_capacity(plan.tensors.len());
        fs::create_dir(partial.temporary()).map_err(|e| partial.failed(e))?;
        for tensor in &plan.tensors {
            let header = header(tensor)?;
            let at = header.len() as u64;
            let len = tensor.bytes()?.checked_add(at).ok_or(CaptureError::TooLarge)?;
            let path = partial.temporary().join(format!("{}.npy", tensor.name));
            let made = File::create(&path).and_then(|mut file| {
                file.write_all(&header)?;
                file.set_len(len)
            });
            made.map_err(|e| partial.failed(e))?;
            files.push((path, at));
        }
        let about: Map<String, Value> = plan.metadata.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let text = format!("{:#}\n", Value::Object(about));
        fs::write(partial.temporary().join(METADATA_FILE), text).map_err(|e| partial.failed(e))?;
        Ok(NpyFolder { partial, files })
    }
}

/// Magic, version, length, and a Python dictionary, padded with spaces so that the numbers begin at a multiple of 64.
fn header(tensor: &Tensor) -> Result<Vec<u8>, CaptureError> {
    let descr = match tensor.dtype {
        Dtype::F32 => "<f4",
        Dtype::F16 => "<f2",
        Dtype::I64 => "<i8",
        Dtype::U8 => "|u1",
        Dtype::Bf16 => {
            let line =
                "--format npy: numpy has no bfloat16; use --store-as float32 or float16, or --format safetensors";
            return Err(CaptureError::Asked(line.to_owned()));
        }
    };
    let shape: String = tensor.shape.iter().map(|n| format!("{n}, ")).collect();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    let before = 10;
    let padded = (before + text.len() + 1).next_multiple_of(64) - before;
    text.extend(std::iter::repeat_n(' ', padded - text.len() - 1));
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    Ok(bytes)
}

impl Store for NpyFolder {
    fn write(&mut self, tensor: usize, at: u64, bytes: &[u8]) -> Result<(), CaptureError> {
        // Opened each time: a capture may have more tensors than a process may have open files.
        let (path, data_at) = &self.files[tensor];
        let write = |path: &Path| -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).open(path)?;
            file.seek(SeekFrom::Start(data_at + at))?;
            file.write_all(bytes)
        };
        write(path).map_err(|e| self.partial.failed(e))
    }

    fn finish(self: Box<Self>) -> Result<(), CaptureError> {
        for (path, _) in &self.files {
            File::open(path).and_then(|f| f.sync_all()).map_err(|e| self.partial.failed(e))?;
        }
        self.partial.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Content;
    use super::*;

    #[test]
    fn the_header_is_numpys() {
        let tensor = |shape: &[u64]| Tensor {
            name: "x".into(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            content: Content::Bytes(Vec::new()),
        };
        for (shape, text) in [(&[3u64, 4][..], "(3, 4,)"), (&[7], "(7,)"), (&[], "()")] {
            let bytes = header(&tensor(shape)).unwrap();
            assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
            assert_eq!(bytes.len() % 64, 0);
            assert_eq!(u16::from_le_bytes([bytes[8], bytes[9]]) as usize, bytes.len() - 10);
            let dict = std::str::from_utf8(&bytes[10..]).unwrap();
            assert!(dict.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': "), "{dict}");
            assert!(dict.contains(text) && dict.ends_with('\n'), "{dict}");
        }
    }
}

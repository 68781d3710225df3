//! One safetensors file. Its header is known before the first number is, so that every piece has its place.

use super::error::CaptureError;
use super::plan::{Plan, Tensor};
use super::store::{Partial, Store};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// A safetensors file that is being written.
pub struct SafetensorsFile {
    partial: Partial,
    file: File,
    /// First byte of every tensor in the file.
    starts: Vec<u64>,
}

impl SafetensorsFile {
    /// Writes the header and reserves the file's length.
    ///
    /// # Errors
    /// The file is there already, cannot be made, or would be longer than files can be.
    pub fn create(path: &Path, plan: &Plan) -> Result<SafetensorsFile, CaptureError> {
        let partial = Partial::new(path)?;
        let (header, mut starts, len) = header(&plan.tensors, &plan.metadata)?;
        let data_at = header.len() as u64;
        for start in &mut starts {
            *start = start.checked_add(data_at).ok_or(CaptureError::TooLarge)?;
        }
        let total = len.checked_add(data_at).ok_or(CaptureError::TooLarge)?;
        let made = File::create(partial.temporary()).and_then(|mut file| {
            file.write_all(&header)?;
            file.set_len(total)?;
            Ok(file)
        });
        match made {
            Ok(file) => Ok(SafetensorsFile { partial, file, starts }),
            Err(e) => Err(partial.failed(e)),
        }
    }
}

/// Eight bytes of length and the header as JSON, padded to a multiple of eight; the first byte of every tensor behind
/// it; the bytes of all.
#[allow(clippy::type_complexity)]
fn header(tensors: &[Tensor], metadata: &[(String, String)]) -> Result<(Vec<u8>, Vec<u64>, u64), CaptureError> {
    let about: Map<String, Value> = metadata.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(about))]);
    let (mut starts, mut at) = (Vec::with_capacity(tensors.len()), 0u64);
    for tensor in tensors {
        let end = at.checked_add(tensor.bytes()?).ok_or(CaptureError::TooLarge)?;
        header.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype.safetensors(), "shape": tensor.shape, "data_offsets": [at, end]}),
        );
        starts.push(at);
        at = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok((bytes, starts, at))
}

impl Store for SafetensorsFile {
    fn write(&mut self, tensor: usize, at: u64, bytes: &[u8]) -> Result<(), CaptureError> {
        let at = SeekFrom::Start(self.starts[tensor] + at);
        let written = self.file.seek(at).and_then(|_| self.file.write_all(bytes));
        written.map_err(|e| self.partial.failed(e))
    }

    fn finish(self: Box<Self>) -> Result<(), CaptureError> {
        self.file.sync_all().map_err(|e| self.partial.failed(e))?;
        let SafetensorsFile { partial, file, .. } = *self;
        drop(file);
        partial.finish()
    }
}

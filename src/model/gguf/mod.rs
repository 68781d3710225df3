//! GGUF files: one memory-mapped file that holds configuration, weights and vocabulary.
//!
//! [`Gguf`] shows it as the three things a Hugging Face folder would have: [`config`](Gguf::config) is its
//! `config.json`, [`Checkpoint`] its tensors under Hugging Face's names and layouts, widened to float32, and
//! [`tokenizer`](Gguf::tokenizer) its `tokenizer.json`.
//!
//! The file is the writer's word against the reader's: see `header.rs` for what is checked before anything is believed.

mod architecture;
mod config;
mod ggml;
mod header;
mod layout;
mod vocabulary;

use super::{Checkpoint, ModelError, TensorInfo, Tokenizer};
use architecture::Architecture;
use header::{Array, Fault, Header, Tensor, Value};
use layout::{Heads, HeadsOf, Layout, Placed};
use memmap2::Mmap;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Pages are given back at least as often as this many bytes of the file have been read.
const GIVE_BACK_EVERY: usize = 32 << 20;
/// Numbers below which one thread widens a tensor faster than several.
const WORTH_SHARING: usize = 1 << 16;
/// Rows that are widened at a time before they are transposed.
const TRANSPOSE_ROWS: usize = 64;

/// An open GGUF file. Only its header has been read; tensors are widened when they are asked for.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    header: Header,
    infos: BTreeMap<String, TensorInfo>,
    sources: BTreeMap<String, Source>,
}

/// Tensors that are configuration, not parameters: the config has them.
const CONFIGURATION: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// Where a tensor with a Hugging Face name comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// Rows of a tensor of the file, from `first_row` on.
    Tensor { index: usize, first_row: usize, layout: Layout },
    /// One number of the metadata.
    Number(f32),
}

impl Gguf {
    /// Opens and checks the file. Nothing of the weights is read.
    ///
    /// A file of an architecture that patchwave does not know opens too, with its tensors under llama.cpp's names; its
    /// [`config`](Gguf::config) is the error.
    ///
    /// The file must not be changed or cut off while it is open (its pages are the file's).
    ///
    /// # Errors
    /// [`ModelError::Io`] if it cannot be opened, [`ModelError::Malformed`] if its header is wrong in any way,
    /// [`ModelError::Unsupported`] for GGUF version 1, big-endian files, one part of a split model, and tensor types that
    /// cannot be read.
    pub fn open(path: &Path) -> Result<Gguf, ModelError> {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let malformed = |reason: String| ModelError::Malformed { path: path.to_owned(), reason };
        if !metadata.is_file() {
            return Err(malformed("is not a file; a GGUF model is one file".into()));
        }
        if metadata.len() == 0 {
            return Err(malformed("is empty".into()));
        }
        // SAFETY: the map is only read. That nobody shortens the file meanwhile is the caller's promise above; the
        // worst that breaking it can do is a fault of the process or other numbers, as with every mapped model file.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let header = header::parse(&map).map_err(|fault| match fault {
            Fault::Malformed(reason) => malformed(reason),
            Fault::Unsupported(reason) => ModelError::Unsupported { path: path.to_owned(), reason },
        })?;
        let mut gguf = Gguf { path: path.to_owned(), map, header, infos: BTreeMap::new(), sources: BTreeMap::new() };
        if let Some(parts) = gguf.unsigned("split.count")?.filter(|parts| *parts > 1) {
            return Err(gguf.unsupported(format!(
                "is one part of {parts}; put them together first: llama-gguf-split --merge FIRST-PART WHOLE.gguf"
            )));
        }
        gguf.name_tensors()?;
        Ok(gguf)
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn name_tensors(&mut self) -> Result<(), ModelError> {
        let architecture = match self.header.metadata.get("general.architecture") {
            Some(Value::String(name)) => Architecture::find(name, &self.header.tensors),
            _ => None,
        };
        let heads = match architecture {
            Some(a) if a.varies => HeadsOf::Layers {
                n_heads: self.per_layer("attention.head_count")?.unwrap_or_default(),
                n_kv_heads: self.per_layer("attention.head_count_kv")?.unwrap_or_default(),
            },
            Some(_) => HeadsOf::All(Heads {
                n_heads: self.uniform("attention.head_count")?,
                n_kv_heads: self.uniform("attention.head_count_kv")?,
            }),
            None => HeadsOf::All(Heads::default()),
        };
        let mut named = Vec::new();
        for (index, tensor) in self.header.tensors.iter().enumerate() {
            if CONFIGURATION.contains(&tensor.name.as_str()) {
                continue;
            }
            let placed = match architecture {
                Some(a) => layout::hugging_face(a, &heads, tensor).map_err(|r| self.malformed(r))?,
                None => layout::unchanged(tensor),
            };
            for Placed { name, shape, layout, first_row } in placed {
                let info = TensorInfo { shape, dtype: tensor.kind.name().to_owned() };
                named.push((name, info, Source::Tensor { index, first_row, layout }));
            }
        }
        for (name, shape, x) in architecture.map_or(Ok(Vec::new()), |a| self.numbers(a))? {
            named.push((name, TensorInfo { shape, dtype: "F32".to_owned() }, Source::Number(x)));
        }
        for (name, info, source) in named {
            if self.sources.insert(name.clone(), source).is_some() {
                return Err(self.malformed(format!("two tensors are {name:?} in Hugging Face's names")));
            }
            self.infos.insert(name, info);
        }
        Ok(())
    }

    /// Parameters that are metadata here: name, shape and value.
    fn numbers(&self, architecture: &Architecture) -> Result<Vec<(String, Vec<usize>, f32)>, ModelError> {
        let mut numbers = Vec::new();
        for (key, name, shape) in architecture.numbers {
            let Some(array) = self.array(key)? else { continue };
            let values = header::floats(&self.map, array).ok_or_else(|| self.wrong_type(key, "an array of floats"))?;
            if values.len() > self.header.tensors.len() {
                return Err(self.malformed(format!("has {} numbers in {key}, one for each layer", values.len())));
            }
            let named = |(l, x): (usize, f64)| (name.replace("{l}", &l.to_string()), shape.to_vec(), x as f32);
            numbers.extend(values.into_iter().enumerate().map(named));
        }
        Ok(numbers)
    }

    /// Gives the pages of `tensor` back to the system; they come again from the file if they are needed.
    fn give_back(&self, tensor: &Tensor) {
        // Failing costs nothing but memory. On other systems the pages are the system's to reclaim.
        #[cfg(unix)]
        // SAFETY: the map is shared with nobody, is never written to, and is backed by the file, so pages that are
        // dropped come back with the same bytes.
        let _ = unsafe {
            self.map.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                tensor.bytes.start,
                tensor.bytes.end - tensor.bytes.start,
            )
        };
        #[cfg(not(unix))]
        let _ = tensor;
    }

    fn malformed(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Malformed { path: self.path.clone(), reason: reason.into() }
    }

    fn unsupported(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Unsupported { path: self.path.clone(), reason: reason.into() }
    }
}

impl Checkpoint for Gguf {
    fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.infos
    }

    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let wrong = |reason: String| ModelError::Tensor { name: name.to_owned(), reason };
        let Some(source) = self.sources.get(name) else {
            return Err(wrong(format!("is not in {}", self.path.display())));
        };
        let n_elements = self.infos.get(name).map_or(0, TensorInfo::len);
        if out.len() != n_elements {
            return Err(wrong(format!("has {n_elements} elements; room for {} was given", out.len())));
        }
        let (index, first_row, layout) = match *source {
            Source::Tensor { index, first_row, layout } => (index, first_row, layout),
            Source::Number(x) => {
                out.fill(x);
                return Ok(());
            }
        };
        let tensor = &self.header.tensors[index];
        let rows = Rows { bytes: &self.map[tensor.bytes.clone()], tensor };
        if tensor.shape.len() == 1 && (layout != Layout::AsIs || out.len() != tensor.columns()) {
            // A bias: its rows are single numbers, which may share a block.
            let mut whole = vec![0.0; tensor.columns()];
            rows.widen(0, &mut whole);
            for (row, o) in out.iter_mut().enumerate() {
                *o = whole[first_row + layout.source_row(row)];
            }
        } else if layout == Layout::Transposed {
            self.read_transposed(&rows, out);
        } else {
            self.read_rows(&rows, first_row, layout, out);
        }
        if layout == Layout::PlusOne {
            out.iter_mut().for_each(|x| *x -= 1.0);
        }
        self.give_back(tensor);
        Ok(())
    }
}

impl Gguf {
    fn read_rows(&self, rows: &Rows, first_row: usize, layout: Layout, out: &mut [f32]) {
        let columns = rows.tensor.columns();
        let together = rows.at_a_time();
        for (slice, out) in out.chunks_mut(together * columns).enumerate() {
            if slice > 0 {
                self.give_back(rows.tensor);
            }
            let first = slice * together;
            let widen = |(i, out): (usize, &mut [f32])| rows.widen(first_row + layout.source_row(first + i), out);
            if out.len() < WORTH_SHARING {
                out.chunks_mut(columns).enumerate().for_each(widen);
            } else {
                out.par_chunks_mut(columns).enumerate().for_each(widen);
            }
        }
    }

    /// `rows` `[n_out, n_in]` into `out` `[n_in, n_out]`, some rows at a time so that no second copy is needed.
    fn read_transposed(&self, rows: &Rows, out: &mut [f32]) {
        let (n_out, n_in) = (rows.tensor.shape[0], rows.tensor.columns());
        let mut panel = vec![0.0; TRANSPOSE_ROWS.min(n_out) * n_in];
        for first in (0..n_out).step_by(TRANSPOSE_ROWS) {
            let n = TRANSPOSE_ROWS.min(n_out - first);
            panel[..n * n_in].par_chunks_mut(n_in).enumerate().for_each(|(i, row)| rows.widen(first + i, row));
            let panel = &panel[..n * n_in];
            out.par_chunks_mut(n_out).enumerate().for_each(|(column, out)| {
                for (i, o) in out[first..first + n].iter_mut().enumerate() {
                    *o = panel[i * n_in + column];
                }
            });
        }
    }
}

/// The rows of a tensor in the file. Every row is a whole number of blocks.
struct Rows<'a> {
    bytes: &'a [u8],
    tensor: &'a Tensor,
}

impl Rows<'_> {
    fn row_bytes(&self) -> usize {
        let (block, block_bytes) = self.tensor.kind.block();
        self.tensor.columns() / block * block_bytes
    }

    /// Rows to read before giving pages back.
    fn at_a_time(&self) -> usize {
        (GIVE_BACK_EVERY / self.row_bytes()).max(1)
    }

    fn widen(&self, row: usize, out: &mut [f32]) {
        let n = self.row_bytes();
        self.tensor.kind.widen(&self.bytes[row * n..(row + 1) * n], out);
    }
}

/// Typed looks at the metadata. A key that is there with another type is an error, one that is missing is `None`.
impl Gguf {
    fn architecture(&self) -> Result<&str, ModelError> {
        match self.string("general.architecture")? {
            Some(name) => Ok(name),
            None => Err(self.malformed("has no general.architecture in its metadata")),
        }
    }

    fn key_of_family(&self, key: &str) -> Result<String, ModelError> {
        Ok(format!("{}.{key}", self.architecture()?))
    }

    fn wrong_type(&self, key: &str, wanted: &str) -> ModelError {
        self.malformed(format!("metadata key {key:?} is not {wanted}"))
    }

    fn string(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(self.wrong_type(key, "a string")),
        }
    }

    fn unsigned(&self, key: &str) -> Result<Option<u64>, ModelError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(*n)),
            Some(Value::Signed(n)) if *n >= 0 => Ok(Some(n.unsigned_abs())),
            Some(_) => Err(self.wrong_type(key, "a number that is not negative")),
        }
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(_) => Err(self.wrong_type(key, "a boolean")),
        }
    }

    /// A float, as the shortest decimal that means the same float32: `1e-05`, not `9.999999747378752e-06`.
    fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::F32(x)) if x.is_finite() => Ok(Some(config::shortest(*x))),
            Some(Value::F64(x)) if x.is_finite() => Ok(Some(*x)),
            Some(_) => Err(self.wrong_type(key, "a finite float")),
        }
    }

    fn array(&self, key: &str) -> Result<Option<&Array>, ModelError> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(_) => Err(self.wrong_type(key, "an array")),
        }
    }

    /// Integers of the family, one for each layer; a single number is a list of one.
    fn per_layer(&self, key: &str) -> Result<Option<Vec<usize>>, ModelError> {
        let key = self.key_of_family(key)?;
        let Some(Value::Array(array)) = self.header.metadata.get(&key) else {
            let Some(n) = self.unsigned(&key)? else { return Ok(None) };
            let n = usize::try_from(n).map_err(|_| self.malformed(format!("{key} is {n}")))?;
            return Ok(Some(vec![n]));
        };
        let Some(values) = header::integers(&self.map, array) else {
            return Err(self.wrong_type(&key, "a number or an array of numbers"));
        };
        let sizes = values.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>();
        sizes.map(Some).map_err(|_| self.wrong_type(&key, "an array of numbers that are not negative"))
    }

    /// An integer of the family that may be given once or per layer; layers that differ are refused.
    fn uniform(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(values) = self.per_layer(key)? else { return Ok(None) };
        let first = values.first().copied().unwrap_or(0);
        if values.iter().any(|v| *v != first) {
            return Err(self.unsupported(format!(
                "{} differs from layer to layer; of this architecture only uniform models are known",
                self.key_of_family(key)?
            )));
        }
        Ok(Some(first))
    }
}

//! The header of a GGUF file: metadata and the table of tensors.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian. Every number in
//! it is the writer's word and nothing more: each count is held against the bytes that are left before anything is
//! allocated, arrays stay in the file until somebody asks for them, and no size is computed without a check.

use super::ggml::GgmlType;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Real files have some tens of keys (a thousand with many chat templates).
const MAX_KEYS: u64 = 65_536;
/// Real files have some thousands of tensors.
const MAX_TENSORS: u64 = 1 << 20;
/// `general.alignment` beyond this would only waste disk.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Longest key the format allows.
const MAX_KEY_BYTES: usize = 65_535;
/// `GGML_MAX_NAME`, the longest tensor name llama.cpp reads.
const MAX_NAME_BYTES: usize = 64;
/// `GGML_MAX_DIMS`.
const MAX_DIMS: u32 = 4;

/// What is wrong with a header.
#[derive(Debug)]
pub(super) enum Fault {
    Malformed(String),
    Unsupported(String),
}

fn malformed<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Malformed(reason.into()))
}

/// One value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    /// Left where it is; [`strings`], [`integers`] and [`floats`] read it.
    Array(Array),
}

/// An array of the metadata: `len` elements of type `element` in `bytes` of the file. Its extent has been walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Array {
    pub element: u32,
    pub len: usize,
    pub bytes: Range<usize>,
}

/// One tensor of the table, as it lies in the file.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub name: String,
    /// Slowest dimension first (numpy order; the file has them the other way round). At least one, none of them zero.
    pub shape: Vec<usize>,
    pub kind: GgmlType,
    /// In the file. Whole blocks, inside the file, overlapping no other tensor.
    pub bytes: Range<usize>,
}

impl Tensor {
    /// Length of the fastest dimension, a multiple of the type's block.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

#[derive(Debug)]
pub(super) struct Header {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: Vec<Tensor>,
}

/// Reads and checks the header of `file`, the whole of the file's bytes.
pub(super) fn parse(file: &[u8]) -> Result<Header, Fault> {
    let mut cursor = Cursor { file, at: 0 };
    if cursor.take(4, "the magic number")? != b"GGUF" {
        return malformed("is not a GGUF file: it does not begin with the letters GGUF");
    }
    match cursor.u32("the version")? {
        2 | 3 => {}
        1 => return Err(Fault::Unsupported("is GGUF version 1, from 2023; convert the model again".into())),
        v if (1..=3).contains(&v.swap_bytes()) => {
            return Err(Fault::Unsupported("is a big-endian GGUF file; patchwave reads little-endian ones".into()));
        }
        v => return Err(Fault::Unsupported(format!("is GGUF version {v}; patchwave reads versions 2 and 3"))),
    }
    let n_tensors = cursor.u64("the number of tensors")?;
    let n_keys = cursor.u64("the number of metadata keys")?;
    // The shortest key: its length, one letter, a type, one byte. The shortest tensor: the same and four numbers.
    cursor.expect(n_keys, MAX_KEYS, 14, "metadata keys")?;
    cursor.expect(n_tensors, MAX_TENSORS, 33, "tensors")?;

    let mut metadata = BTreeMap::new();
    for _ in 0..n_keys {
        let key = cursor.string("a metadata key", MAX_KEY_BYTES)?;
        let kind = cursor.u32("the type of a metadata value")?;
        let value = cursor.value(kind, &key)?;
        if metadata.contains_key(&key) {
            return malformed(format!("metadata key {key:?} occurs twice"));
        }
        metadata.insert(key, value);
    }

    let mut declared = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..n_tensors {
        let tensor = cursor.tensor()?;
        if !names.insert(tensor.name.clone()) {
            return malformed(format!("tensor {:?} occurs twice", tensor.name));
        }
        declared.push(tensor);
    }

    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Value::Unsigned(a)) if a.is_power_of_two() && *a <= MAX_ALIGNMENT => *a,
        Some(other) => {
            return malformed(format!(
                "general.alignment is {other:?}; it must be a power of two up to {MAX_ALIGNMENT}"
            ));
        }
    };
    let data = (cursor.at as u64).next_multiple_of(alignment);
    let tensors = declared.into_iter().map(|d| d.place(data, alignment, file.len())).collect::<Result<Vec<_>, _>>()?;
    no_overlap(&tensors)?;
    Ok(Header { metadata, tensors })
}

fn no_overlap(tensors: &[Tensor]) -> Result<(), Fault> {
    let mut by_offset: Vec<&Tensor> = tensors.iter().collect();
    by_offset.sort_by_key(|t| t.bytes.start);
    for pair in by_offset.windows(2) {
        if pair[0].bytes.end > pair[1].bytes.start {
            return malformed(format!("tensors {:?} and {:?} overlap", pair[0].name, pair[1].name));
        }
    }
    Ok(())
}

/// A line of the tensor table before its place in the file is known.
struct Declared {
    name: String,
    shape: Vec<usize>,
    n_elements: usize,
    kind: u32,
    offset: u64,
}

impl Declared {
    fn place(self, data: u64, alignment: u64, file_len: usize) -> Result<Tensor, Fault> {
        let name = self.name;
        let Some(kind) = GgmlType::from_id(self.kind) else {
            return Err(Fault::Unsupported(format!(
                "tensor {name:?} is of type {}; patchwave reads {}",
                GgmlType::describe(self.kind),
                GgmlType::all_names()
            )));
        };
        let columns = self.shape.last().copied().unwrap_or(1);
        let (block, block_bytes) = kind.block();
        if !columns.is_multiple_of(block) {
            let kind = kind.name();
            return malformed(format!(
                "tensor {name:?} has rows of {columns} numbers, but {kind} packs them by {block}"
            ));
        }
        if !self.offset.is_multiple_of(alignment) {
            return malformed(format!(
                "tensor {name:?} begins at {}, which is not aligned to {alignment}",
                self.offset
            ));
        }
        let size = (self.n_elements / block).checked_mul(block_bytes);
        let start = data.checked_add(self.offset).and_then(|s| usize::try_from(s).ok());
        let end = start.zip(size).and_then(|(start, size)| start.checked_add(size));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len => {
                Ok(Tensor { name, shape: self.shape, kind, bytes: start..end })
            }
            _ => malformed(format!(
                "tensor {name:?} {:?} at offset {} lies beyond the end of the file ({file_len} bytes): the file is cut \
                 off, download it again",
                self.shape, self.offset
            )),
        }
    }
}

struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.file.len() - self.at
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], Fault> {
        if n > self.left() {
            return malformed(format!(
                "ends within {what} (byte {} of {}): the file is cut off, download it again",
                self.at,
                self.file.len()
            ));
        }
        let bytes = &self.file[self.at..self.at + n];
        self.at += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Refuses a count that no real file has, or that the bytes left cannot hold.
    fn expect(&self, count: u64, at_most: u64, bytes_each: u64, what: &str) -> Result<(), Fault> {
        match count.checked_mul(bytes_each) {
            _ if count > at_most => {
                malformed(format!("claims {count} {what}; the most patchwave accepts is {at_most}"))
            }
            Some(bytes) if bytes <= self.left() as u64 => Ok(()),
            _ => malformed(format!("claims {count} {what}, which {} bytes cannot hold", self.left())),
        }
    }

    fn str(&mut self, what: &str, max_bytes: usize) -> Result<&'a str, Fault> {
        let len = self.u64(what)?;
        match usize::try_from(len) {
            Ok(n) if n <= self.left() && n <= max_bytes => {
                let at = self.at;
                match std::str::from_utf8(self.take(n, what)?) {
                    Ok(s) => Ok(s),
                    Err(_) => malformed(format!("has bytes that are not UTF-8 in {what} (at byte {at})")),
                }
            }
            Ok(n) if n <= self.left() => {
                malformed(format!("has {len} bytes in {what}; at most {max_bytes} are allowed"))
            }
            _ => malformed(format!("claims {len} bytes for {what}, {} are left", self.left())),
        }
    }

    fn string(&mut self, what: &str, max_bytes: usize) -> Result<String, Fault> {
        Ok(self.str(what, max_bytes)?.to_owned())
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, Fault> {
        let what = &format!("metadata key {key:?}");
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.array(what)?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(what)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(what)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(what)?).into()),
            4 => Value::Unsigned(self.u32(what)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(what)?).into()),
            6 => Value::F32(f32::from_le_bytes(self.array(what)?)),
            7 => match self.array(what)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [b] => return malformed(format!("has the boolean {b} in {what}; 0 and 1 are the only ones")),
            },
            8 => Value::String(self.string(what, usize::MAX)?),
            9 => Value::Array(self.skip_array(what)?),
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            _ => return malformed(format!("has the unknown value type {kind} in {what}")),
        })
    }

    fn skip_array(&mut self, what: &str) -> Result<Array, Fault> {
        let element = self.u32(what)?;
        let len = self.u64(what)?;
        let width = match element {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8, // A string is at least its length.
            9 => return malformed(format!("has an array of arrays in {what}, which no model file needs")),
            _ => return malformed(format!("has an array of the unknown type {element} in {what}")),
        };
        self.expect(len, u64::MAX, width, &format!("elements in {what}"))?;
        let (start, len) = (self.at, len as usize);
        if element == 8 {
            for _ in 0..len {
                self.str(what, usize::MAX)?;
            }
        } else {
            self.take(len * width as usize, what)?;
        }
        Ok(Array { element, len, bytes: start..self.at })
    }

    fn tensor(&mut self) -> Result<Declared, Fault> {
        let name = self.string("a tensor's name", MAX_NAME_BYTES)?;
        let what = &format!("the entry of tensor {name:?}");
        let n_dims = self.u32(what)?;
        if n_dims == 0 || n_dims > MAX_DIMS {
            return malformed(format!("tensor {name:?} has {n_dims} dimensions; 1 to {MAX_DIMS} are possible"));
        }
        let mut shape = Vec::new();
        let mut n_elements = 1usize;
        for _ in 0..n_dims {
            let d = self.u64(what)?;
            let product = usize::try_from(d).ok().and_then(|d| n_elements.checked_mul(d));
            match product {
                Some(0) => return malformed(format!("tensor {name:?} has a dimension of zero")),
                Some(product) => n_elements = product,
                None => return malformed(format!("tensor {name:?} has more elements than a machine can address")),
            }
            shape.push(d as usize);
        }
        shape.reverse();
        Ok(Declared { shape, n_elements, kind: self.u32(what)?, offset: self.u64(what)?, name })
    }
}

/// The elements of an array of strings, straight from the file; `None` if they are of another type.
pub(super) fn strings<'a>(file: &'a [u8], array: &Array) -> Option<Vec<&'a str>> {
    if array.element != 8 {
        return None;
    }
    let mut cursor = Cursor { file: &file[..array.bytes.end], at: array.bytes.start };
    (0..array.len).map(|_| cursor.str("an array", usize::MAX).ok()).collect()
}

/// The elements of an array of integers of any width; `None` if they are of another type.
pub(super) fn integers(file: &[u8], array: &Array) -> Option<Vec<i64>> {
    fn read<const N: usize>(bytes: &[u8], of: impl Fn([u8; N]) -> Option<i64>) -> Option<Vec<i64>> {
        bytes.as_chunks::<N>().0.iter().map(|b| of(*b)).collect()
    }
    let bytes = file.get(array.bytes.clone())?;
    match array.element {
        0 => read::<1>(bytes, |b| Some(b[0].into())),
        1 => read(bytes, |b| Some(i8::from_le_bytes(b).into())),
        2 => read(bytes, |b| Some(u16::from_le_bytes(b).into())),
        3 => read(bytes, |b| Some(i16::from_le_bytes(b).into())),
        4 => read(bytes, |b| Some(u32::from_le_bytes(b).into())),
        5 => read(bytes, |b| Some(i32::from_le_bytes(b).into())),
        10 => read(bytes, |b| i64::try_from(u64::from_le_bytes(b)).ok()),
        11 => read(bytes, |b| Some(i64::from_le_bytes(b))),
        _ => None,
    }
}

/// The elements of an array of booleans; `None` if they are of another type, or one is neither.
pub(super) fn booleans(file: &[u8], array: &Array) -> Option<Vec<bool>> {
    let boolean = |byte: &u8| match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    let bytes = file.get(array.bytes.clone()).filter(|_| array.element == 7)?;
    bytes.iter().map(boolean).collect()
}

/// The elements of an array of float32 or float64; `None` if they are of another type.
pub(super) fn floats(file: &[u8], array: &Array) -> Option<Vec<f64>> {
    let bytes = file.get(array.bytes.clone())?;
    match array.element {
        6 => Some(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect()),
        12 => Some(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
        _ => None,
    }
}

//! Writes what `torch.save` writes, and what it never would: a zip container of stored entries around a pickle.

/// One tensor as the pickle describes it.
#[derive(Clone)]
pub struct Tensor {
    pub name: &'static str,
    /// `FloatStorage`
    pub storage: &'static str,
    pub key: &'static str,
    pub numel: i64,
    pub offset: i64,
    pub size: Vec<i64>,
    pub stride: Vec<i64>,
}

/// A float32 matrix that is all of storage `key`.
pub fn matrix(name: &'static str, key: &'static str, rows: i64, columns: i64) -> Tensor {
    let (size, stride) = (vec![rows, columns], vec![columns, 1]);
    Tensor { name, storage: "FloatStorage", key, numel: rows * columns, offset: 0, size, stride }
}

/// The pickle of a dictionary of tensors.
pub fn state_dict(tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    for t in tensors {
        text(&mut out, t.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{}\n", t.storage).into_bytes());
        text(&mut out, t.key);
        text(&mut out, "cpu");
        int(&mut out, t.numel);
        out.extend(b"tQ");
        int(&mut out, t.offset);
        ints(&mut out, &t.size);
        ints(&mut out, &t.stride);
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn int(out: &mut Vec<u8>, n: i64) {
    out.extend([0x8a, 8]);
    out.extend(n.to_le_bytes());
}

fn ints(out: &mut Vec<u8>, of: &[i64]) {
    out.push(b'(');
    of.iter().for_each(|n| int(out, *n));
    out.push(b't');
}

/// An entry of the container and what its headers say of it.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    /// In the directory, instead of the truth: unpacked bytes, packed bytes, offset of the header.
    pub unpacked: Option<u32>,
    pub packed: Option<u32>,
    pub offset: Option<u32>,
    /// Its lengths are where those of more than 4 GiB would be.
    pub large: bool,
}

pub fn entry(name: &str, data: &[u8]) -> Entry {
    let (name, data) = (name.to_owned(), data.to_vec());
    Entry { name, data, method: 0, unpacked: None, packed: None, offset: None, large: false }
}

/// The container; as PyTorch does, only the directory has the lengths.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (vec![], vec![]);
    for e in entries {
        let (at, len) = (out.len() as u32, e.data.len() as u32);
        out.extend(b"PK\x03\x04\0\0\x08\x08");
        out.extend([0; 18]);
        out.extend((e.name.len() as u16).to_le_bytes());
        out.extend([0; 2]);
        out.extend(e.name.as_bytes());
        out.extend(&e.data);
        directory.extend(b"PK\x01\x02\0\0\0\0\x08\x08");
        directory.extend(e.method.to_le_bytes());
        directory.extend([0; 8]);
        let (packed, unpacked) = if e.large { (u32::MAX, u32::MAX) } else { (len, len) };
        directory.extend(e.packed.unwrap_or(packed).to_le_bytes());
        directory.extend(e.unpacked.unwrap_or(unpacked).to_le_bytes());
        directory.extend((e.name.len() as u16).to_le_bytes());
        directory.extend([if e.large { 20 } else { 0 }, 0]);
        directory.extend([0; 10]);
        directory.extend(e.offset.unwrap_or(at).to_le_bytes());
        directory.extend(e.name.as_bytes());
        if e.large {
            directory.extend([1, 0, 16, 0]);
            directory.extend([u64::from(len).to_le_bytes(); 2].concat());
        }
    }
    let start = out.len() as u32;
    out.extend(&directory);
    let large = entries.iter().any(|e| e.large);
    if large {
        let at = out.len() as u64;
        out.extend(b"PK\x06\x06");
        out.extend([0; 36]);
        out.extend((directory.len() as u64).to_le_bytes());
        out.extend(u64::from(start).to_le_bytes());
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(at.to_le_bytes());
        out.extend([1, 0, 0, 0]);
    }
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([(entries.len() as u16).to_le_bytes(); 2].concat());
    out.extend(if large { u32::MAX } else { directory.len() as u32 }.to_le_bytes());
    out.extend(if large { u32::MAX } else { start }.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// A file with this pickle and these storages.
pub fn torch_file(pickle: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut entries = vec![entry("archive/data.pkl", pickle), entry("archive/byteorder", b"little")];
    entries.extend(storages.iter().map(|(key, data)| entry(&format!("archive/data/{key}"), data)));
    zip(&entries)
}

/// The bytes of so many float32 numbers, 0, 1, 2 …
pub fn floats(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

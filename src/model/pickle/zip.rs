//! The zip container of `torch.save`: where each entry lies in the file. Entries are stored, never compressed, so that
//! nothing can unfold into more than the file holds.
//!
//! Records as in PKWARE's APPNOTE, 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end, ZIP64).
//! Lengths are taken from the directory, because PyTorch writes them behind the data and leaves local headers empty.

use super::PickleError;
use std::collections::BTreeMap;
use std::ops::Range;

const LOCAL: u32 = 0x0403_4b50;
const DIRECTORY: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;

const LOCAL_BYTES: usize = 30;
const DIRECTORY_BYTES: usize = 46;
const END_BYTES: usize = 22;
const LOCATOR_64_BYTES: usize = 20;
/// The comment after the end record is at most so long.
const MAX_COMMENT: usize = 0xffff;
/// In a 32-bit field: the number is in the ZIP64 record.
const ELSEWHERE: u64 = 0xffff_ffff;

/// Name → bytes of the file.
///
/// # Errors
/// [`PickleError`] for a container that is cut off, contradicts itself, is compressed or encrypted, or whose entries
/// overlap.
pub(super) fn entries(file: &[u8]) -> Result<BTreeMap<String, Range<usize>>, PickleError> {
    let end = find_end(file).ok_or(PickleError::NotZip)?;
    let directory = directory(file, end).ok_or_else(|| broken("the record at its end lies about the directory"))?;
    let mut found = BTreeMap::new();
    let mut at = directory.start;
    while at < directory.end {
        let header = Record { file, at, end: directory.end };
        if header.u32(0) != Some(DIRECTORY) {
            return Err(broken("the directory is cut off or no directory"));
        }
        let (name, entry, next) = header.entry(directory.start)?;
        if found.insert(name.clone(), entry).is_some() {
            return Err(broken(&format!("{name:?} is there twice")));
        }
        at = next;
    }
    let mut places: Vec<_> = found.iter().filter(|(_, r)| !r.is_empty()).collect();
    places.sort_by_key(|(_, range)| range.start);
    match places.windows(2).find(|w| w[1].1.start < w[0].1.end) {
        Some(w) => Err(broken(&format!("{:?} and {:?} overlap", w[0].0, w[1].0))),
        None => Ok(found),
    }
}

fn broken(reason: &str) -> PickleError {
    PickleError::Container(reason.to_owned())
}

/// A record that begins at `at` and must not reach beyond `end`.
#[derive(Clone, Copy)]
struct Record<'f> {
    file: &'f [u8],
    at: usize,
    end: usize,
}

impl<'f> Record<'f> {
    fn bytes(self, offset: usize, len: usize) -> Option<&'f [u8]> {
        let start = self.at.checked_add(offset)?;
        let end = start.checked_add(len)?;
        if end > self.end { None } else { self.file.get(start..end) }
    }

    fn array<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.bytes(offset, N)?.try_into().ok()
    }

    fn u16(self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(self, offset: usize) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }

    /// Of a header in the directory: the entry's name, where its bytes lie, and where the next header begins.
    fn entry(self, directory: usize) -> Result<(String, Range<usize>, usize), PickleError> {
        let cut = || broken("a header of the directory is cut off");
        let short = |offset| self.u16(offset).map(usize::from).ok_or_else(cut);
        let (flags, method) = (short(8)?, short(10)?);
        let (name_len, extra_len, comment_len) = (short(28)?, short(30)?, short(32)?);
        let name = self.bytes(DIRECTORY_BYTES, name_len).ok_or_else(cut)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| broken("an entry's name is not UTF-8"))?;
        let wrong = |reason: &str| broken(&format!("{name:?} {reason}"));
        let sizes = self.sizes(DIRECTORY_BYTES + name_len, extra_len).ok_or_else(|| wrong("has no lengths"))?;
        let (unpacked, packed, local) = sizes;
        if flags & 1 != 0 {
            return Err(wrong("is encrypted"));
        }
        if method != 0 {
            return Err(PickleError::Compressed { entry: name });
        }
        if unpacked != packed {
            return Err(wrong(&format!("is stored, but claims to grow from {packed} to {unpacked} bytes")));
        }
        let outside = || wrong(&format!("claims {packed} bytes, which do not lie within the file"));
        let local = usize::try_from(local).map_err(|_| outside())?;
        let header = Record { file: self.file, at: local, end: directory };
        if header.u32(0) != Some(LOCAL) {
            return Err(wrong("is not where the directory says"));
        }
        let skip = header.u16(26).zip(header.u16(28)).map(|(name, extra)| usize::from(name) + usize::from(extra));
        let start = skip.and_then(|skip| local.checked_add(LOCAL_BYTES + skip)).ok_or_else(outside)?;
        let end = usize::try_from(packed).ok().and_then(|len| start.checked_add(len)).ok_or_else(outside)?;
        if end > directory {
            return Err(outside());
        }
        let next = self.at + DIRECTORY_BYTES + name_len + extra_len + comment_len;
        Ok((name, start..end, next))
    }

    /// (unpacked bytes, packed bytes, offset of the local header); in the ZIP64 extra field (4.5.3) are those of them, in
    /// this order, that are too large for the header.
    fn sizes(self, extra: usize, extra_len: usize) -> Option<(u64, u64, u64)> {
        let mut fields = [u64::from(self.u32(24)?), u64::from(self.u32(20)?), u64::from(self.u32(42)?)];
        let (mut at, end) = (extra, extra + extra_len);
        let mut large = None;
        while at + 4 <= end {
            let (id, len) = (self.u16(at)?, usize::from(self.u16(at + 2)?));
            if id == 1 {
                large = Some((at + 4, (at + 4 + len).min(end)));
            }
            at += 4 + len;
        }
        for field in fields.iter_mut().filter(|f| **f == ELSEWHERE) {
            let (from, to) = large.as_mut()?;
            if *from + 8 > *to {
                return None;
            }
            *field = self.u64(*from)?;
            *from += 8;
        }
        Some((fields[0], fields[1], fields[2]))
    }
}

/// The last end record whose comment reaches exactly to the end of the file.
fn find_end(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(END_BYTES)?;
    (last.saturating_sub(MAX_COMMENT)..=last).rev().find(|&at| {
        let record = Record { file, at, end: file.len() };
        record.u32(0) == Some(END) && record.u16(20).is_some_and(|n| at + END_BYTES + usize::from(n) == file.len())
    })
}

/// Where the directory is, by the end record at `end` or the ZIP64 one before it.
fn directory(file: &[u8], end: usize) -> Option<Range<usize>> {
    let record = Record { file, at: end, end: file.len() };
    let (mut len, mut start) = (u64::from(record.u32(12)?), u64::from(record.u32(16)?));
    let mut limit = end;
    if let Some(at) = end.checked_sub(LOCATOR_64_BYTES) {
        let locator = Record { file, at, end };
        if locator.u32(0) == Some(LOCATOR_64) {
            limit = usize::try_from(locator.u64(8)?).ok()?;
            let large = Record { file, at: limit, end: at };
            if large.u32(0) != Some(END_64) {
                return None;
            }
            (len, start) = (large.u64(40)?, large.u64(48)?);
        }
    }
    let start = usize::try_from(start).ok()?;
    let stop = start.checked_add(usize::try_from(len).ok()?)?;
    (stop <= limit).then_some(start..stop)
}

//! Headers of parquet pages, read before anything is decompressed.
//!
//! A column chunk is a sequence of pages, each behind a `PageHeader` (parquet.thrift of apache/parquet-format). Decoders
//! allocate what it says.

use super::thrift::{Item, Thrift, int};

/// The most bytes of one page, decompressed.
const MAX_PAGE: i64 = 64 << 20;
/// The most bytes of all pages, decompressed.
const MAX_BYTES: i64 = 1 << 30;
/// The most values of all pages: a run-length code can claim any number in a few bytes.
const MAX_VALUES: i64 = 32 << 20;
/// PLAIN, PLAIN_DICTIONARY, RLE and RLE_DICTIONARY, which every writer uses unless told otherwise.
const ENCODINGS: [i64; 4] = [0, 2, 3, 8];

/// What a file may still unpack to.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    bytes: i64,
    values: i64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { bytes: MAX_BYTES, values: MAX_VALUES }
    }
}

impl Budget {
    /// Goes through the pages of one column chunk.
    pub(super) fn check(&mut self, chunk: &[u8]) -> Result<(), String> {
        let mut rest = chunk;
        while !rest.is_empty() {
            let mut thrift = Thrift { rest };
            let header = thrift.structure(4).ok_or("a page header that cannot be read")?;
            rest = thrift.rest;
            let sizes = (int(&header, 2), int(&header, 3));
            let (Some(unpacked @ 0..=MAX_PAGE), Some(packed)) = sizes else {
                return Err(format!("a page whose size is not 0 to {MAX_PAGE} bytes"));
            };
            // Of data, a dictionary, or data in the second layout; their first two fields agree, but for the encoding.
            let kinds = [(5, 2), (7, 2), (8, 4)];
            let about = kinds.iter().find_map(|&(id, encoding)| match header.iter().find(|(field, _)| *field == id) {
                Some((_, Item::Structure(fields))) => Some((int(fields, 1), int(fields, encoding))),
                _ => None,
            });
            let Some((Some(values), Some(encoding))) = about else {
                return Err("a page that holds no values".into());
            };
            if !ENCODINGS.contains(&encoding) {
                return Err(format!("encoding {encoding}; write the file with plain or dictionary encoding"));
            }
            self.bytes = self.bytes.checked_sub(unpacked).filter(|left| *left >= 0).ok_or("too large once unpacked")?;
            let left = self.values.checked_sub(values).filter(|left| values >= 0 && *left >= 0);
            self.values = left.ok_or("too many values")?;
            let page = usize::try_from(packed).ok().and_then(|len| rest.get(len..));
            rest = page.ok_or("a page that ends beyond its column; is the file whole?")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data page of `unpacked` bytes and `values` values in `encoding`, with `body`.
    fn page(unpacked: u8, values: u8, encoding: u8, body: &[u8]) -> Vec<u8> {
        // type 0, sizes, then data_page_header {num_values, encoding, 3, 3}; numbers are zigzag.
        let mut bytes = vec![0x15, 0, 0x15, unpacked * 2, 0x15, body.len() as u8 * 2];
        bytes.extend([0x2c, 0x15, values * 2, 0x15, encoding * 2, 0x15, 6, 0x15, 6, 0, 0]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn pages_are_walked_to_the_end_of_the_column() {
        let two = [page(10, 3, 0, b"abc"), page(20, 4, 8, b"")].concat();
        let mut budget = Budget::default();
        budget.check(&two).expect("both are fine");
        assert_eq!((MAX_BYTES - budget.bytes, MAX_VALUES - budget.values), (30, 7));
        let cut = budget.check(&two[..two.len() - 1]).unwrap_err();
        assert!(cut.contains("cannot be read"), "{cut}");
        assert!(Budget::default().check(&page(1, 1, 5, b"")).unwrap_err().contains("encoding 5"));
        assert!(Budget { bytes: 9, values: 9 }.check(&two).unwrap_err().contains("too large"));
        assert!(Budget { bytes: 99, values: 2 }.check(&two).unwrap_err().contains("too many values"));
    }

    #[test]
    fn a_page_of_two_gigabytes_is_refused() {
        let mut bytes = vec![0x15, 0, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x15, 0];
        bytes.extend([0x2c, 0x15, 2, 0x15, 0, 0, 0]);
        assert!(Budget::default().check(&bytes).unwrap_err().contains("a page whose size"));
    }

    #[test]
    fn hostile_headers_end() {
        assert!(Budget::default().check(&[0x1c; 1 << 16]).is_err());
        assert!(Budget::default().check(&[0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
        assert!(Budget::default().check(&[0xff; 64]).is_err());
    }
}

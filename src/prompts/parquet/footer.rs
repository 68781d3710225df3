//! The footer of a parquet file, read before the library does: it descends into nested columns without counting.

use super::thrift::{Item, Thrift, int};

/// The most bytes of the footer. A file of prompts has some kilobytes.
const MAX_FOOTER: usize = 4 << 20;
/// The most columns, groups and the root counted.
const MAX_COLUMNS: usize = 1_000;
/// The most groups inside each other; a list of structures takes four.
const MAX_DEPTH: usize = 16;

/// The schema is neither wide nor deep.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let cut = "it does not end as a parquet file does; is the file whole?";
    let (before, end) = bytes.split_last_chunk::<8>().ok_or(cut)?;
    let [a, b, c, d, magic @ ..] = *end;
    let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| cut)?;
    let start = before.len().checked_sub(len).filter(|_| magic == *super::MAGIC).ok_or(cut)?;
    if len > MAX_FOOTER {
        return Err(format!("a footer of {len} bytes; at most {MAX_FOOTER} are read"));
    }
    let footer = Thrift { rest: &before[start..] }.structure(MAX_DEPTH).ok_or("a footer that cannot be read")?;
    let schema = footer.iter().find_map(|(id, item)| match item {
        Item::List(elements) if *id == 2 => Some(elements),
        _ => None,
    });
    let schema = schema.ok_or("no schema")?;
    if schema.len() > MAX_COLUMNS {
        return Err(format!("{} columns; at most {MAX_COLUMNS} are read", schema.len()));
    }
    // Depth first: each element says how many of those that follow are its own.
    let mut open: Vec<i64> = Vec::new();
    for element in schema {
        let Item::Structure(fields) = element else { return Err("no schema".into()) };
        while open.pop_if(|left| *left == 0).is_some() {}
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        open.push(int(fields, 5).unwrap_or(0).max(0));
        if open.len() > MAX_DEPTH {
            return Err("columns nested too deeply".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is a footer only, with a schema of these numbers of children.
    fn file(children: &[u8]) -> Vec<u8> {
        // FileMetaData {2: list<SchemaElement>}, SchemaElement {5: num_children}.
        let mut footer = vec![0x29, 0xfc];
        let mut len = children.len();
        while len >= 0x80 {
            footer.push(len as u8 | 0x80);
            len >>= 7;
        }
        footer.push(len as u8);
        children.iter().for_each(|n| footer.extend([0x55, n * 2, 0]));
        footer.push(0);
        let len = footer.len() as u32;
        [&footer[..], &len.to_le_bytes(), super::super::MAGIC].concat()
    }

    #[test]
    fn depth_and_number_of_columns_are_bounded() {
        assert_eq!(check(&file(&[2, 0, 1, 0])), Ok(()));
        assert_eq!(check(&file(&[20, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0])), Ok(()));
        assert_eq!(check(&file(&[1; 100])), Err("columns nested too deeply".into()));
        assert!(check(&file(&[0; 2_000])).unwrap_err().contains("2000 columns"));
    }

    #[test]
    fn a_footer_that_is_not_there() {
        for bytes in [&b""[..], b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"PAR1\0\0\0\0PAR2"] {
            assert!(check(bytes).unwrap_err().contains("is the file whole?"));
        }
    }
}

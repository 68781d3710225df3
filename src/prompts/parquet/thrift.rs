//! As much of Thrift's compact protocol as parquet's headers need (thrift-compact-protocol.md of apache/thrift).

/// A field of a Thrift structure, as far as it matters here.
#[derive(Debug)]
pub(super) enum Item {
    Int(i64),
    Structure(Vec<(i16, Item)>),
    /// The structures of a list, if it is one of structures.
    List(Vec<Item>),
    Other,
}

/// The integer field `id`.
pub(super) fn int(fields: &[(i16, Item)], id: i16) -> Option<i64> {
    fields.iter().find_map(|(field, item)| match item {
        Item::Int(n) if *field == id => Some(*n),
        _ => None,
    })
}

/// A reader of Thrift's compact protocol. `None` wherever the bytes are not what they should be.
pub(super) struct Thrift<'a> {
    /// What was not read yet.
    pub rest: &'a [u8],
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.rest = self.rest.get(len..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let n = self.varint()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// The fields of a structure with at most `depth` levels of nesting below it. A field that is there twice is refused: readers differ in which one they keep.
    pub(super) fn structure(&mut self, depth: usize) -> Option<Vec<(i16, Item)>> {
        let mut fields: Vec<(i16, Item)> = Vec::new();
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(fields);
            }
            id = match head >> 4 {
                0 => i16::try_from(self.zigzag()?).ok()?,
                delta => id.checked_add(i16::from(delta))?,
            };
            if fields.iter().any(|(other, _)| *other == id) {
                return None;
            }
            // In a structure the value of a boolean is its type.
            let item = match head & 0x0f {
                1 | 2 => Item::Other,
                kind => self.item(kind, depth)?,
            };
            fields.push((id, item));
        }
    }

    fn item(&mut self, kind: u8, depth: usize) -> Option<Item> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1..=3 => self.byte().map(|_| Item::Other),
            4..=6 => self.zigzag().map(Item::Int),
            7 => self.skip(8).map(|()| Item::Other),
            8 => {
                let len = usize::try_from(self.varint()?).ok()?;
                self.skip(len).map(|()| Item::Other)
            }
            9 | 10 => {
                let head = self.byte()?;
                let len = match head >> 4 {
                    15 => self.varint()?,
                    short => u64::from(short),
                };
                // Every element takes a byte at least, so that this ends with the bytes.
                let mut structures = Vec::new();
                for _ in 0..len {
                    if let item @ Item::Structure(_) = self.item(head & 0x0f, depth)? {
                        structures.push(item);
                    }
                }
                Some(Item::List(structures))
            }
            12 => self.structure(depth).map(Item::Structure),
            _ => None,
        }
    }
}

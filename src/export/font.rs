//! The bundled font, and just enough of its tables to know which characters it has and how wide they are.
//!
//! Pictures use a font of our own so that they look the same on every machine. The tables read here (`head`, `hhea`,
//! `hmtx`, `cmap` format 4) are those of the OpenType specification, chapters of the same names.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// DejaVu Sans cut down to Latin, Greek, Cyrillic and a few symbols; see `font/README.md`.
pub(super) const DATA: &[u8] = include_bytes!("font/DejaVuSans-subset.ttf");

/// The family name to ask a renderer for.
pub(super) const FAMILY: &str = "DejaVu Sans";

/// Advance of each character of the bundled font, in units of the em.
static ADVANCES: LazyLock<BTreeMap<char, f64>> = LazyLock::new(|| advances(DATA).unwrap_or_default());

/// Whether the bundled font can draw `c`.
pub(super) fn has(c: char) -> bool {
    ADVANCES.contains_key(&c)
}

/// Width of `text` in pixels at `size` pixels to the em; a character that the font lacks counts as one em.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(|c| ADVANCES.get(&c).copied().unwrap_or(1.0)).sum::<f64>() * size
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_be_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize)
}

/// The table named `tag`, from its first byte to the end of the font.
fn table<'a>(font: &'a [u8], tag: &[u8; 4]) -> Option<&'a [u8]> {
    let entries = usize::from(u16_at(font, 4)?);
    let entry = (0..entries).map(|i| 12 + 16 * i).find(|&at| font.get(at..at + 4) == Some(tag))?;
    font.get(u32_at(font, entry + 8)?..)
}

fn advances(font: &[u8]) -> Option<BTreeMap<char, f64>> {
    let units_per_em = f64::from(u16_at(table(font, b"head")?, 18)?);
    let last_metric = usize::from(u16_at(table(font, b"hhea")?, 34)?).checked_sub(1)?;
    let hmtx = table(font, b"hmtx")?;
    let cmap = table(font, b"cmap")?;
    let subtables = usize::from(u16_at(cmap, 2)?);
    let offsets = (0..subtables).filter_map(|i| u32_at(cmap, 4 + 8 * i + 4));
    let format4 = offsets.filter_map(|at| cmap.get(at..)).find(|t| u16_at(t, 0) == Some(4))?;

    let segments = usize::from(u16_at(format4, 6)?) / 2;
    let (ends, starts) = (14, 16 + 2 * segments);
    let (deltas, ranges) = (starts + 2 * segments, starts + 4 * segments);
    let mut advances = BTreeMap::new();
    for segment in 0..segments {
        let (start, end) = (u16_at(format4, starts + 2 * segment)?, u16_at(format4, ends + 2 * segment)?);
        let delta = u16_at(format4, deltas + 2 * segment)?;
        let range_at = ranges + 2 * segment;
        let range = usize::from(u16_at(format4, range_at)?);
        for code in start..=end {
            let glyph = match range {
                0 => code.wrapping_add(delta),
                // The offset counts from its own place in the table.
                _ => match u16_at(format4, range_at + range + 2 * usize::from(code - start))? {
                    0 => 0,
                    glyph => glyph.wrapping_add(delta),
                },
            };
            if let (1.., Some(c)) = (glyph, char::from_u32(u32::from(code))) {
                let metric = usize::from(glyph).min(last_metric);
                advances.insert(c, f64::from(u16_at(hmtx, 4 * metric)?) / units_per_em);
            }
        }
    }
    Some(advances)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_font_has_what_token_labels_need() {
        for c in "azAZ09_ .,<>&\"'␣⏎▁ĠĊéßЖλ−·…\u{FFFD}".chars() {
            assert!(has(c), "{c}");
        }
        assert!(!has('中') && !has('🙂') && !has('\n'));
    }

    #[test]
    fn widths_are_the_fonts_own() {
        // DejaVu Sans: 2048 units to the em; `M` advances 1767 of them, `i` 569.
        assert_eq!(width("M", 2048.0), 1767.0);
        assert_eq!(width("iM", 2048.0), 569.0 + 1767.0);
        assert_eq!(width("中", 10.0), 10.0);
    }

    #[test]
    fn a_damaged_font_has_no_characters() {
        assert!(advances(&DATA[..40]).is_none());
        assert!(advances(b"").is_none());
    }
}

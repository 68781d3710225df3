//! Tokens and JSON values as people read them in messages and on axes.

use super::Encode;
use serde_json::Value;
use std::fmt::Write;

/// A token's text with everything invisible made visible: a leading space is `␣`, a newline `⏎`, a tab `⇥`, other
/// control characters (terminal escapes among them) and invisible formatting characters their code point.
pub fn show_piece(piece: &str) -> String {
    let mut out = String::with_capacity(piece.len() + 2);
    let mut leading = true;
    for c in piece.chars() {
        leading &= c == ' ';
        match c {
            ' ' if leading => out.push('␣'),
            '\n' => out.push('⏎'),
            '\t' => out.push('⇥'),
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Zero-width and bidirectional formatting characters: they would hide or reorder the text around them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The text of token `id` made visible, or the id itself without a tokenizer that knows it.
pub(super) fn show_token(tokenizer: Option<&dyn Encode>, id: u32) -> String {
    match tokenizer.and_then(|t| t.piece(id)) {
        Some(piece) => show_piece(&piece),
        None => id.to_string(),
    }
}

/// The most tokens of a text that a message shows.
const WINDOW: usize = 24;

/// The tokens separated by `|`: [`WINDOW`] of them at most, from shortly before token `focus` on.
pub(super) fn show_split(tokenizer: Option<&dyn Encode>, ids: &[u32], focus: usize) -> String {
    let start = if ids.len() <= WINDOW { 0 } else { focus.saturating_sub(4).min(ids.len() - WINDOW) };
    let end = ids.len().min(start + WINDOW);
    let before = if start > 0 { "…|" } else { "" };
    let after = if end < ids.len() { "|…" } else { "" };
    let pieces: Vec<String> = ids[start..end].iter().map(|&id| show_token(tokenizer, id)).collect();
    format!("{before}{}{after}", pieces.join("|"))
}

/// The most characters of a user's text that a message repeats.
const EXCERPT: usize = 60;

/// `text` in quotes, escaped and cut to a length that fits one line.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

/// What a JSON value is, short enough for a message: numbers as they are, anything longer by its kind.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("the string {}", quote(s)),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_become_visible() {
        assert_eq!(show_piece(" Mary"), "␣Mary");
        assert_eq!(show_piece("  a b"), "␣␣a b");
        assert_eq!(show_piece("\n\t"), "⏎⇥");
        assert_eq!(show_piece("\u{1b}[31m"), "\\u{1b}[31m");
        assert_eq!(show_piece("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn a_long_split_is_cut_around_the_place_that_matters() {
        let ids: Vec<u32> = (0..100).collect();
        let shown = show_split(None, &ids, 50);
        assert!(shown.starts_with("…|46|47|48|49|50|"), "{shown}");
        assert!(shown.ends_with("|69|…"), "{shown}");
        assert_eq!(show_split(None, &[7, 8], 1), "7|8");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(quote("é\n"), "\"é\\n\"");
        assert!(quote(&"é".repeat(1000)).chars().count() < 70);
    }
}

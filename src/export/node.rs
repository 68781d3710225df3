//! How a cell is called: `a9.h6`, `a9.h6<q>@␣Mary_10`, `m3`, `resid_pre5`.

use std::fmt::Write as _;

/// The name of a cell's node, split where the numbers go: `a` layer `.h` head `<q>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodePattern {
    pub before_layer: String,
    pub before_head: &'static str,
    pub suffix: String,
}

impl NodePattern {
    pub(super) fn new(site: &str, by_head: bool) -> Self {
        let site = visible(site);
        let angled = |s: &str| format!("<{s}>");
        if by_head {
            // z and result are the head's output before and after W_O: the head itself.
            let suffix = if matches!(site.as_str(), "z" | "result") { String::new() } else { angled(&site) };
            return NodePattern { before_layer: "a".into(), before_head: ".h", suffix };
        }
        let (before_layer, suffix) = match site.as_str() {
            "mlp_out" => ("m".into(), String::new()),
            mlp if mlp.starts_with("mlp_") => ("m".into(), angled(&mlp["mlp_".len()..])),
            _ => (site, String::new()),
        };
        NodePattern { before_layer, before_head: "", suffix }
    }

    pub(super) fn name(&self, layer: usize, head: Option<usize>, pos: Option<&str>) -> String {
        let mut name = format!("{}{layer}", self.before_layer);
        if let Some(head) = head {
            let _ = write!(name, "{}{head}", self.before_head);
        }
        name += &self.suffix;
        if let Some(pos) = pos {
            let _ = write!(name, "@{}", visible_token(pos));
        }
        name
    }
}

/// The node that a cell patches: `a{layer}.h{head}` for head sites (with `<q>`, `<k>`, `<pattern>` … but nothing for `z`
/// and `result`), `m{layer}` for `mlp_out` (`m{layer}<pre>`, `m{layer}<post>` for the two inside), `{site}{layer}` for
/// the rest; `@label` when the cell is one position. Names as EAP-IG and MIB write them.
pub fn node_name(site: &str, layer: usize, head: Option<usize>, pos: Option<&str>) -> String {
    NodePattern::new(site, head.is_some()).name(layer, head, pos)
}

/// `text` on one line and harmless to a terminal or a picture: control characters, line breaks and invisible or
/// direction-changing format characters become escapes such as `\n` and `\u{200b}`.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => out.extend(c.escape_debug()),
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => {
                out.extend(c.escape_unicode())
            }
            '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => out.extend(c.escape_unicode()),
            // Noncharacters that XML 1.0 does not allow (§2.2, production Char).
            '\u{fffe}' | '\u{ffff}' => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// As [`visible`], for a token: its spaces matter, so they are drawn as `␣`.
pub fn visible_token(label: &str) -> String {
    visible(label).replace(' ', "␣")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_the_names_of_the_field() {
        assert_eq!(node_name("z", 9, Some(6), None), "a9.h6");
        assert_eq!(node_name("result", 9, Some(6), None), "a9.h6");
        assert_eq!(node_name("q", 9, Some(6), None), "a9.h6<q>");
        assert_eq!(node_name("pattern", 0, Some(11), Some("end")), "a0.h11<pattern>@end");
        assert_eq!(node_name("z", 9, Some(6), Some(" Mary_10")), "a9.h6@␣Mary_10");
        assert_eq!(node_name("mlp_out", 3, None, None), "m3");
        assert_eq!(node_name("mlp_post", 3, None, Some("S2")), "m3<post>@S2");
        assert_eq!(node_name("resid_pre", 5, None, Some("S2")), "resid_pre5@S2");
        assert_eq!(node_name("z", 5, None, None), "z5");
    }

    #[test]
    fn labels_cannot_move_the_cursor() {
        assert_eq!(visible("a\nb\x1b[31m\t\u{200b}\u{202e}\u{7f}"), "a\\nb\\u{1b}[31m\\t\\u{200b}\\u{202e}\\u{7f}");
        assert_eq!(visible("Marie-Thérèse 中"), "Marie-Thérèse 中");
        assert_eq!(visible_token(" the\n"), "␣the\\n");
    }
}

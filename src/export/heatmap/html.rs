//! The heat map as one HTML file: data inside, no request to anywhere, values on hover, light and dark.

use serde_json::{Value, json};

use super::geometry::{Bar, Figure, Place, Ticks};
use super::{Heatmap, Layout, Panel, color};

/// The page; the data take the place of `{{data}}`.
const PAGE: &str = include_str!("page.html");

impl Heatmap {
    /// The heat map as a self-contained HTML page.
    pub fn to_html(&self) -> String {
        let figure = Figure::new(self);
        let panels = self.panels.iter().zip(&figure.panels).map(|(panel, place)| panel_data(panel, place));
        let bar = |bar: &Bar| {
            let colors: Vec<String> = bar.scale.colors().into_iter().map(color::hex).collect();
            let missing = bar.missing.is_some();
            json!({"height": bar.height, "ticks": bar.ticks, "colors": colors, "ends": bar.scale.ends(), "missing": missing})
        };
        let data = json!({
            "title": self.title,
            "notes": self.notes,
            "quantity": self.quantity,
            "details": self.details,
            "interval": self.interval,
            "missing": color::hex(color::MISSING),
            "columns": self.columns,
            "bars": figure.bars.iter().map(bar).collect::<Value>(),
            "panels": panels.collect::<Value>(),
        });
        PAGE.replacen("{{data}}", &json_in_html(&data), 1)
    }
}

fn panel_data(panel: &Panel, place: &Place) -> Value {
    let layout = match panel.layout {
        Layout::Layer => "layer",
        Layout::LayerHead => "layer,head",
        Layout::LayerPos => "layer,pos",
        Layout::LayerPosHead { .. } => "layer,pos,head",
    };
    let spread = panel.stderr.iter().any(|v| !v.is_nan());
    let spread = spread.then(|| [&panel.stderr, &panel.low, &panel.high].map(|values| base64(values)));
    json!({
        "site": panel.site,
        "layout": layout,
        "transposed": panel.transposed,
        "node": [panel.node.before_layer, panel.node.before_head, panel.node.suffix],
        "rows": panel.rows(),
        "cols": panel.cols(),
        "perLayer": panel.per_layer(),
        "cell": [place.cell_width, place.cell_height],
        "margins": place.margins,
        "x": axis(panel.x_name(), place.x_name, &place.x),
        "y": axis(panel.y_name(), place.y_name, &place.y),
        "labels": panel.positions(),
        "values": base64(&panel.values),
        "details": panel.details.iter().map(|values| base64(values)).collect::<Vec<_>>(),
        "spread": spread,
    })
}

fn axis(name: &str, name_at: f64, ticks: &Ticks) -> Value {
    json!({"name": name, "nameAt": name_at, "size": ticks.size, "slanted": ticks.slanted, "ticks": ticks.labels})
}

/// JSON that is safe inside a `<script>`: `<`, `>`, `&` and the two line separators that old JavaScript rejects are
/// escaped.
fn json_in_html(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Little-endian float32, in base64 (RFC 4648): exact, and shorter than digits.
fn base64(values: &[f32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0, |word, (i, &byte)| word | u32::from(byte) << (16 - 8 * i));
        for i in 0..4 {
            let digit = (word >> (18 - 6 * i)) & 63;
            out.push(if i <= chunk.len() { char::from(ALPHABET[digit as usize]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_standard_one() {
        assert_eq!(base64(&[]), "");
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.0]), "AACAPwAAAMA=");
        assert_eq!(base64(&[1.0, -2.0, 0.5]), "AACAPwAAAMAAAAA/");
    }

    #[test]
    fn json_cannot_end_its_script() {
        assert_eq!(json_in_html(&json!("</script>&\u{2028}")), r#""\u003c/script\u003e\u0026\u2028""#);
    }
}

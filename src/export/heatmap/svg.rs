//! The heat map as SVG, by hand: no script, no external reference, the value of each cell in its `<title>`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::color;
use super::geometry::{
    BAR_SIZE, BAR_WIDTH, Figure, HEADING_SIZE, MARGIN, MISSING, NAME_SIZE, NOTE_SIZE, Place, TITLE_SIZE, Ticks,
};
use super::{Heatmap, Panel};
use crate::export::font;

/// Above this many cells a picture gives up its titles and draws all cells of one colour at once.
const MAX_TITLED_CELLS: usize = 20_000;

const INK: &str = "#1f2328";
const SOFT_INK: &str = "#57606a";
const FRAME: &str = "#8c959f";
const GRID: &str = "#dfe3e8";

/// Which characters may appear in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Glyphs {
    /// Any: a browser finds a font.
    Any,
    /// Those of the bundled font; others become their code point, `\u{4e2d}`.
    Bundled,
}

impl Heatmap {
    /// The heat map as an SVG document.
    pub fn to_svg(&self) -> String {
        self.svg(Glyphs::Any)
    }

    pub(super) fn svg(&self, glyphs: Glyphs) -> String {
        let escaped;
        let heatmap = match glyphs {
            Glyphs::Any => self,
            Glyphs::Bundled => {
                escaped = self.map_text(drawable);
                &escaped
            }
        };
        let figure = Figure::new(heatmap);
        let mut out = Svg::open(figure.width, figure.height);
        out.header(heatmap, &figure);
        for (panel, place) in heatmap.panels.iter().zip(&figure.panels) {
            out.panel(heatmap, panel, place);
        }
        out.bars(heatmap, &figure);
        out.text.push_str("</svg>\n");
        out.text
    }

    /// All texts changed by `f` before they are measured.
    fn map_text(&self, f: fn(&str) -> String) -> Self {
        let mut heatmap = self.clone();
        heatmap.title = f(&heatmap.title);
        let texts = heatmap.notes.iter_mut().chain(&mut heatmap.details);
        texts.for_each(|text| *text = f(text));
        for panel in &mut heatmap.panels {
            panel.site = f(&panel.site);
            panel.row_labels.iter_mut().chain(&mut panel.col_labels).for_each(|label| *label = f(label));
        }
        heatmap
    }
}

/// `text` with what the bundled font lacks as code points.
fn drawable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if font::has(c) { out.push(c) } else { out.extend(c.escape_unicode()) }
    }
    out
}

/// `text` for the inside of an element or an attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A coordinate with at most two decimals.
fn at(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The document so far.
struct Svg {
    text: String,
}

impl Svg {
    fn open(width: f64, height: f64) -> Self {
        let (width, height) = (at(width), at(height));
        let mut svg = Svg { text: String::new() };
        svg.line(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"'{}', Verdana, Helvetica, Arial, sans-serif\">",
            font::FAMILY
        ));
        svg.line(format_args!("<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>"));
        svg
    }

    fn line(&mut self, content: std::fmt::Arguments) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{content}");
    }

    /// `anchor` is start, middle or end; `turn` in degrees about the text's own place.
    fn label(&mut self, (x, y): (f64, f64), size: f64, (fill, anchor): (&str, &str), turn: i32, text: &str) {
        let turn = match turn {
            0 => String::new(),
            degrees => format!(" transform=\"rotate({degrees} {} {})\"", at(x), at(y)),
        };
        let (x, y, size, text) = (at(x), at(y), at(size), escape(text));
        self.line(format_args!(
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"{fill}\" text-anchor=\"{anchor}\"{turn}>{text}</text>"
        ));
    }

    fn rule(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
        let (x, y, width, height) = (at(x), at(y), at(width), at(height));
        self.line(format_args!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>"));
    }

    /// A one-pixel frame just outside the given box.
    fn frame(&mut self, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let (x, y, width, height) = (at(x - 0.5), at(y - 0.5), at(width + 1.0), at(height + 1.0));
        self.line(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"{FRAME}\"/>"
        ));
    }

    fn header(&mut self, heatmap: &Heatmap, figure: &Figure) {
        self.line(format_args!("<title>{}</title>", escape(&heatmap.title)));
        let mut y = MARGIN + TITLE_SIZE * 0.8;
        for line in &figure.title {
            self.label((MARGIN, y), TITLE_SIZE, (INK, "start"), 0, line);
            y += TITLE_SIZE * 1.45;
        }
        for line in &figure.notes {
            self.label((MARGIN, y), NOTE_SIZE, (SOFT_INK, "start"), 0, line);
            y += NOTE_SIZE * 1.45;
        }
    }

    fn panel(&mut self, heatmap: &Heatmap, panel: &Panel, place: &Place) {
        let (left, top) = (place.left, place.top);
        let (width, height) = (place.cell_width * panel.cols() as f64, place.cell_height * panel.rows() as f64);
        if heatmap.panels.len() > 1 {
            self.label((left, top - 8.0), HEADING_SIZE, (INK, "start"), 0, &panel.site);
        }
        self.line(format_args!("<g transform=\"translate({} {})\" shape-rendering=\"crispEdges\">", at(left), at(top)));
        // A thin line between cells where they are large enough to afford it.
        let gap = if place.cell_width.min(place.cell_height) >= 12.0 { 1.0 } else { 0.0 };
        if gap > 0.0 {
            self.rule((0.0, 0.0), (width, height), GRID);
        }
        if heatmap.cells() <= MAX_TITLED_CELLS {
            self.titled_cells(heatmap, panel, place, gap);
        } else {
            self.cells_by_color(panel, place, gap);
        }
        let heads = panel.per_layer();
        if heads > 1 && panel.transposed {
            for col in (heads..panel.cols()).step_by(heads) {
                let thickness = if place.cell_width >= 4.0 { 1.0 } else { 0.5 };
                self.rule((col as f64 * place.cell_width - thickness, 0.0), (thickness, height), FRAME);
            }
        } else if heads > 1 {
            for row in (heads..panel.rows()).step_by(heads) {
                let thickness = if place.cell_height >= 4.0 { 1.0 } else { 0.5 };
                self.rule((0.0, row as f64 * place.cell_height - thickness), (width, thickness), FRAME);
            }
        }
        self.line(format_args!("</g>"));
        self.frame((left, top), (width, height));
        self.x_axis(panel, place, width, height);
        self.y_axis(panel, place, height);
    }

    fn titled_cells(&mut self, heatmap: &Heatmap, panel: &Panel, place: &Place, gap: f64) {
        for cell in 0..panel.values.len() {
            let (row, col) = (cell / panel.cols(), cell % panel.cols());
            let (x, y) = (at(col as f64 * place.cell_width), at(row as f64 * place.cell_height));
            let (width, height) = (at(place.cell_width - gap), at(place.cell_height - gap));
            let fill = color::hex(panel.scale.color(panel.values[cell]));
            let name = escape(&panel.cell_name(row, col));
            let value = escape(&heatmap.cell_texts(panel, cell).join(", "));
            self.line(format_args!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"><title>{name}: {value}</title></rect>"
            ));
        }
    }

    /// One path per colour, each cell a closed box of it, neighbours of one colour joined.
    fn cells_by_color(&mut self, panel: &Panel, place: &Place, gap: f64) {
        let mut paths: BTreeMap<color::Rgb, String> = BTreeMap::new();
        for (row, values) in panel.values.chunks(panel.cols()).enumerate() {
            let y = at(row as f64 * place.cell_height);
            let height = at(place.cell_height - gap);
            let mut start = 0;
            while start < values.len() {
                let fill = panel.scale.color(values[start]);
                let same = values[start..].iter().take_while(|v| panel.scale.color(**v) == fill).count();
                let run = if gap > 0.0 { 1 } else { same };
                let (x, width) = (at(start as f64 * place.cell_width), at(run as f64 * place.cell_width - gap));
                let _ = write!(paths.entry(fill).or_default(), "M{x} {y}h{width}v{height}h-{width}z");
                start += run;
            }
        }
        for (fill, path) in paths {
            self.line(format_args!("<path fill=\"{}\" d=\"{path}\"/>", color::hex(fill)));
        }
    }

    fn x_axis(&mut self, panel: &Panel, place: &Place, width: f64, height: f64) {
        let bottom = place.top + height;
        let Ticks { size, slanted, labels } = &place.x;
        for (x, label) in labels {
            let x = place.left + x;
            if *slanted {
                self.rule((x.floor(), bottom + 1.0), (1.0, 3.0), FRAME);
                self.label((x + size * 0.35, bottom + 5.0 + size * 0.5), *size, (INK, "end"), -45, label);
            } else {
                self.label((x, bottom + 5.0 + size * 0.8), *size, (INK, "middle"), 0, label);
            }
        }
        if !panel.x_name().is_empty() {
            let middle = (place.left + width / 2.0, bottom + place.x_name);
            self.label(middle, NAME_SIZE, (SOFT_INK, "middle"), 0, panel.x_name());
        }
    }

    fn y_axis(&mut self, panel: &Panel, place: &Place, height: f64) {
        for (y, label) in &place.y.labels {
            let size = place.y.size;
            self.label((place.left - 6.0, place.top + y + size * 0.36), size, (INK, "end"), 0, label);
        }
        let middle = (place.left - place.y_name + NAME_SIZE * 0.36, place.top + height / 2.0);
        self.label(middle, NAME_SIZE, (SOFT_INK, "middle"), -90, panel.y_name());
    }

    fn bars(&mut self, heatmap: &Heatmap, figure: &Figure) {
        for (i, bar) in figure.bars.iter().enumerate() {
            self.line(format_args!("<defs><linearGradient id=\"scale{i}\" x1=\"0\" y1=\"0\" x2=\"0\" y2=\"1\">"));
            let (stops, colors) = (16, bar.scale.colors());
            for stop in 0..=stops {
                let fill = color::hex(colors[(stops - stop) * (color::STEPS - 1) / stops]);
                let offset = at(stop as f64 / stops as f64 * 100.0);
                self.line(format_args!("<stop offset=\"{offset}%\" stop-color=\"{fill}\"/>"));
            }
            self.line(format_args!("</linearGradient></defs>"));
            self.rule((bar.left, bar.top), (BAR_WIDTH, bar.height), &format!("url(#scale{i})"));
            self.frame((bar.left, bar.top), (BAR_WIDTH, bar.height));
            let right = bar.left + BAR_WIDTH;
            for (share, label) in &bar.ticks {
                let y = bar.top + (1.0 - share) * bar.height;
                self.rule((right + 1.0, y.floor()), (4.0, 1.0), FRAME);
                self.label((right + 8.0, y + 4.0), BAR_SIZE, (INK, "start"), 0, label);
            }
            let name = (bar.left + bar.name, bar.top + bar.height / 2.0);
            self.label(name, NAME_SIZE, (SOFT_INK, "middle"), -90, &heatmap.quantity);
            if let Some(top) = bar.missing {
                self.rule((bar.left, top), (BAR_WIDTH, BAR_WIDTH), &color::hex(color::MISSING));
                self.frame((bar.left, top), (BAR_WIDTH, BAR_WIDTH));
                self.label((right + 6.0, top + 11.0), BAR_SIZE, (INK, "start"), 0, MISSING);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape(r#"<script>"a" & 'b'"#), "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;");
    }

    #[test]
    fn what_the_font_lacks_becomes_a_code_point() {
        assert_eq!(drawable("Ġthe 中"), "Ġthe \\u{4e2d}");
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!([at(3.0), at(2.5), at(1.0 / 3.0), at(100.0)], ["3", "2.5", "0.33", "100"]);
    }
}

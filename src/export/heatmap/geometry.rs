//! Where everything of a figure goes, in pixels. Plots, cells and bars have whole-number places, so cells are crisp.

use super::{Heatmap, Layout, Panel, SEPARATOR, Scale};
use crate::export::font;

pub(super) const TITLE_SIZE: f64 = 16.0;
pub(super) const NOTE_SIZE: f64 = 12.0;
pub(super) const NAME_SIZE: f64 = 12.0;
pub(super) const HEADING_SIZE: f64 = 13.0;
pub(super) const BAR_WIDTH: f64 = 14.0;

/// Space around the figure.
pub(super) const MARGIN: f64 = 24.0;
const LINE: f64 = 1.45;
const PANEL_GAP: f64 = 26.0;
const BAR_GAP: f64 = 28.0;
/// Between a panel and a bar of its own.
const OWN_BAR_GAP: f64 = 14.0;
pub(super) const BAR_SIZE: f64 = 11.0;
pub(super) const MISSING: &str = "no such cell";
/// A token longer than this is cut short; hovering shows all of it.
const MAX_LABEL: usize = 18;
/// A title may widen a narrow figure to this; beyond it wraps.
const WIDE_ENOUGH: f64 = 480.0;
/// cos 45° = sin 45°, the slant of long labels.
const SLANT: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// A figure's measures. Everything is in pixels from the top left.
pub(super) struct Figure {
    pub width: f64,
    pub height: f64,
    /// The title, wrapped.
    pub title: Vec<String>,
    pub notes: Vec<String>,
    pub panels: Vec<Place>,
    /// One, or one for each panel.
    pub bars: Vec<Bar>,
}

/// Where a panel's cells begin, how large they are, and which labels there is room for.
pub(super) struct Place {
    pub left: f64,
    pub top: f64,
    pub cell_width: f64,
    pub cell_height: f64,
    pub x: Ticks,
    pub y: Ticks,
    /// Distance from the bottom edge to the baseline of the x axis' name.
    pub x_name: f64,
    /// Distance from the left edge to the middle of the y axis' name.
    pub y_name: f64,
    /// Room that the labels need left of the cells, right of them and below.
    pub margins: [f64; 3],
}

/// The labels of one axis.
pub(super) struct Ticks {
    pub size: f64,
    pub slanted: bool,
    /// (distance from the axis' start, label)
    pub labels: Vec<(f64, String)>,
}

/// A colour bar.
pub(super) struct Bar {
    pub scale: Scale,
    pub left: f64,
    pub top: f64,
    pub height: f64,
    /// (share of the bar's height from below, label)
    pub ticks: Vec<(f64, String)>,
    /// Distance from the bar's left edge to the middle of its name.
    pub name: f64,
    /// Top of the note on missing cells, where there are any.
    pub missing: Option<f64>,
    /// Width of all of it.
    pub width: f64,
}

impl Bar {
    /// A bar at the origin.
    fn new(scale: Scale, height: f64, missing: bool, quantity: &str) -> Self {
        // No higher than its name is long would cut the name off.
        let height = height.max(font::width(quantity, NAME_SIZE) + 4.0).ceil();
        let ticks = scale.ticks((height / 50.0).clamp(2.0, 4.5));
        let widest = ticks.iter().map(|(_, label)| font::width(label, BAR_SIZE)).fold(0.0, f64::max);
        let name = BAR_WIDTH + 8.0 + widest + 14.0;
        let note = if missing { BAR_WIDTH + 6.0 + font::width(MISSING, BAR_SIZE) } else { 0.0 };
        let missing = missing.then_some(height + 18.0);
        Bar { scale, left: 0.0, top: 0.0, height, ticks, name, missing, width: (name + 8.0).max(note).ceil() }
    }

    /// Where all of it ends.
    fn bottom(&self) -> f64 {
        self.missing.map_or(self.top + self.height + 6.0, |top| top + BAR_WIDTH)
    }

    fn at(mut self, left: f64, top: f64) -> Self {
        (self.left, self.top) = (left, top);
        self.missing = self.missing.map(|y| y + top);
        self
    }
}

impl Figure {
    pub(super) fn new(heatmap: &Heatmap) -> Self {
        let grid = Grid::new(heatmap);
        let plot_height = grid.boxes.first().map_or(0.0, |first| first.plot.1);
        let scale = heatmap.panels.first().map(|panel| panel.scale).filter(|_| heatmap.shared_scale);
        let bar = |scale| Bar::new(scale, plot_height.clamp(120.0, 360.0), heatmap.has_missing(), &heatmap.quantity);
        let shared = scale.map(bar);
        let bar_block = shared.as_ref().map_or(0.0, |bar| BAR_GAP + bar.width);

        let title_width = font::width(&heatmap.title, TITLE_SIZE).min(WIDE_ENOUGH);
        let parts = heatmap.title.split(SEPARATOR).map(|part| font::width(part, TITLE_SIZE));
        let title_width = parts.fold(title_width, f64::max).min(2.0 * WIDE_ENOUGH);
        let content = (grid.width + bar_block).max(title_width);
        let notes_width = heatmap.notes.iter().map(|note| font::width(note, NOTE_SIZE)).fold(0.0, f64::max);
        let content = content.max(notes_width.min(2.0 * WIDE_ENOUGH)).ceil();
        let title = wrap(&heatmap.title, TITLE_SIZE, content);
        let notes: Vec<String> = heatmap.notes.iter().flat_map(|note| wrap(note, NOTE_SIZE, content)).collect();
        let text = title.len() as f64 * TITLE_SIZE * LINE + notes.len() as f64 * NOTE_SIZE * LINE;
        let top = (MARGIN + text + 14.0).ceil();
        // A part that does not wrap may be wider still.
        let content = title.iter().map(|line| font::width(line, TITLE_SIZE)).fold(content, f64::max);
        let content = notes.iter().map(|line| font::width(line, NOTE_SIZE)).fold(content, f64::max).ceil();

        // Narrow panels under a wide title stand in the middle.
        let left = MARGIN + ((content - grid.width - bar_block) / 2.0).floor();
        let (grid_width, grid_height) = (grid.width, grid.height);
        let (panels, own) = grid.place(left, top);
        let bar_top = panels.first().map_or(top, |place| place.top);
        let shared = shared.map(|bar| bar.at(left + grid_width + BAR_GAP, bar_top));
        let bars: Vec<Bar> = shared.into_iter().chain(own).collect();
        let lowest = bars.iter().map(Bar::bottom).fold(0.0, f64::max);
        Figure {
            width: content + 2.0 * MARGIN,
            height: (top + grid_height).max(lowest).ceil() + MARGIN - 4.0,
            title,
            notes,
            panels,
            bars,
        }
    }
}

/// Panels side by side, each with the room its labels need.
struct Grid {
    columns: usize,
    boxes: Vec<PanelBox>,
    width: f64,
    height: f64,
}

/// A panel's own measures.
struct PanelBox {
    cell_width: f64,
    cell_height: f64,
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
    plot: (f64, f64),
    x: Ticks,
    y: Ticks,
    x_name: f64,
    y_name: f64,
    /// A bar of its own, at the origin.
    bar: Option<Bar>,
}

impl Grid {
    fn new(heatmap: &Heatmap) -> Self {
        let panels = &heatmap.panels;
        let budget = match panels.len() {
            0 | 1 => (960.0, 620.0),
            2..=4 => (600.0, 420.0),
            _ => (440.0, 340.0),
        };
        let boxes: Vec<PanelBox> = panels.iter().map(|panel| PanelBox::new(panel, heatmap, budget)).collect();
        let largest = |side: fn(&PanelBox) -> f64| boxes.iter().map(side).fold(1.0, f64::max);
        let (width, height) = (largest(PanelBox::width) + PANEL_GAP, largest(PanelBox::height) + PANEL_GAP);
        // As near to the shape of a screen as whole columns get.
        let shape = |columns: usize| {
            let rows = boxes.len().div_ceil(columns);
            let empty = (columns * rows - boxes.len()) as f64;
            let aspect = columns as f64 * width / (rows as f64 * height);
            (aspect / 1.6).max(1.6 / aspect) + 0.3 * empty
        };
        let most = boxes.len().max(1);
        let best = (1..=most).min_by(|&a, &b| shape(a).total_cmp(&shape(b))).unwrap_or(1);
        let columns = heatmap.columns.map_or(best, |columns| columns.clamp(1, most));
        let mut grid = Grid { columns, boxes, width: 0.0, height: 0.0 };
        let rows = grid.boxes.len().div_ceil(columns);
        grid.width = (0..columns).map(|c| grid.column(c).iter().sum::<f64>() + PANEL_GAP).sum::<f64>() - PANEL_GAP;
        grid.height = (0..rows).map(|r| grid.row(r).iter().sum::<f64>() + PANEL_GAP).sum::<f64>() - PANEL_GAP;
        grid
    }

    /// Widths left of the plots, of the plots and right of them, in one column.
    fn column(&self, column: usize) -> [f64; 3] {
        let boxes = self.boxes.iter().skip(column).step_by(self.columns);
        boxes.fold([0.0; 3], |[l, p, r], b| [b.left.max(l), b.plot.0.max(p), b.right.max(r)])
    }

    /// Heights above the plots, of the plots and below them, in one row.
    fn row(&self, row: usize) -> [f64; 3] {
        let boxes = self.boxes.iter().skip(row * self.columns).take(self.columns);
        boxes.fold([0.0; 3], |[t, p, b], x| [x.top.max(t), x.plot.1.max(p), x.bottom.max(b)])
    }

    /// The panels' places, and their own bars.
    fn place(self, left: f64, top: f64) -> (Vec<Place>, Vec<Bar>) {
        let mut places: Vec<(f64, f64)> = Vec::with_capacity(self.boxes.len());
        let mut y = top;
        for row in 0..self.boxes.len().div_ceil(self.columns) {
            let heights = self.row(row);
            let mut x = left;
            for column in 0..self.columns.min(self.boxes.len() - row * self.columns) {
                let widths = self.column(column);
                places.push((x + widths[0], y + heights[0]));
                x += widths.iter().sum::<f64>() + PANEL_GAP;
            }
            y += heights.iter().sum::<f64>() + PANEL_GAP;
        }
        let mut bars = Vec::new();
        let place = |(b, (left, top)): (PanelBox, (f64, f64))| {
            bars.extend(b.bar.map(|bar| bar.at(left + b.plot.0 + OWN_BAR_GAP, top)));
            Place {
                left,
                top,
                cell_width: b.cell_width,
                cell_height: b.cell_height,
                x: b.x,
                y: b.y,
                x_name: b.x_name,
                y_name: b.y_name,
                margins: [b.left, b.right, b.bottom],
            }
        };
        let panels = self.boxes.into_iter().zip(places).map(place).collect();
        (panels, bars)
    }
}

impl PanelBox {
    fn new(panel: &Panel, heatmap: &Heatmap, budget: (f64, f64)) -> Self {
        let panels = &heatmap.panels;
        // Panels of one kind share the cell size, so that 8 KV heads are seen to be fewer than 32 heads.
        let same = panels.iter().filter(|p| std::mem::discriminant(&p.layout) == std::mem::discriminant(&panel.layout));
        let (rows, cols) = same.fold((1, 1), |(r, c), p| (r.max(p.rows()), c.max(p.cols())));
        let (cell_width, cell_height) = cell_size(panel, rows as f64, cols as f64, budget);
        let plot = (cell_width * panel.cols() as f64, cell_height * panel.rows() as f64);
        let y = y_ticks(panel, cell_height);
        let x = x_ticks(panel, cell_width);
        let y_labels = y.labels.iter().map(|(_, label)| font::width(label, y.size)).fold(0.0, f64::max).ceil();
        let y_name = y_labels + 10.0 + 10.0;
        let mut left = y_name + 10.0;
        let (mut x_labels, mut right) = (0.0_f64, 2.0_f64);
        for (at, label) in &x.labels {
            let width = font::width(label, x.size);
            if x.slanted {
                left = left.max(width * SLANT - at + 4.0);
                x_labels = x_labels.max((width + x.size) * SLANT + 4.0);
            } else {
                right = right.max(at + width / 2.0 - plot.0);
                x_labels = x_labels.max(x.size + 4.0);
            }
        }
        let x_name = (x_labels + 4.0 + NAME_SIZE + 2.0).ceil();
        let mut bottom = if panel.x_name().is_empty() { x_labels } else { x_name + 4.0 };
        // The axis' names are centred on the plot, which may be shorter than they.
        let x_over = (font::width(panel.x_name(), NAME_SIZE) - plot.0) / 2.0;
        (left, right) = (left.max(x_over), right.max(x_over));
        let y_over = (font::width(panel.y_name(), NAME_SIZE) - plot.1) / 2.0;
        bottom = bottom.max(y_over);
        let bar = (!heatmap.shared_scale)
            .then(|| Bar::new(panel.scale, plot.1.clamp(100.0, 360.0), panel.has_missing(), &heatmap.quantity));
        if let Some(bar) = &bar {
            right = right.max(OWN_BAR_GAP + bar.width);
            bottom = bottom.max(bar.bottom() - plot.1);
        }
        // A heading wider than its plot pushes the next panel away.
        let heading = if panels.len() > 1 { font::width(&panel.site, HEADING_SIZE) } else { 0.0 };
        let top = if panels.len() > 1 { 22.0 } else { 0.0 };
        let top = y_over.max(top).ceil();
        right = right.max(heading - plot.0).ceil();
        PanelBox {
            cell_width,
            cell_height,
            left: left.ceil(),
            top,
            right,
            bottom: bottom.ceil(),
            plot,
            x,
            y,
            x_name,
            y_name,
            bar,
        }
    }

    fn width(&self) -> f64 {
        self.left + self.plot.0 + self.right
    }

    fn height(&self) -> f64 {
        self.top + self.plot.1 + self.bottom
    }
}

/// Width and height of a cell: whole pixels, as large as `budget` allows but neither clumsy nor too small to see.
fn cell_size(panel: &Panel, rows: f64, cols: f64, (width, height): (f64, f64)) -> (f64, f64) {
    let fit = |room: f64, n: f64, least: f64, most: f64| (room / n).floor().clamp(least, most);
    match (panel.layout, panel.transposed) {
        (Layout::Layer, _) => (56.0, fit(height, rows, 4.0, 28.0)),
        (Layout::LayerHead, _) => {
            let side = (width / cols).min(height / rows).floor().clamp(5.0, 40.0);
            (side, side)
        }
        (Layout::LayerPos, false) => (fit(width, cols, 3.0, 40.0), fit(height, rows, 4.0, 28.0)),
        (Layout::LayerPos, true) => (fit(width, cols, 6.0, 28.0), fit(1.6 * height, rows, 3.0, 22.0)),
        (Layout::LayerPosHead { .. }, false) => (fit(width, cols, 3.0, 40.0), fit(2.4 * height, rows, 2.0, 22.0)),
        (Layout::LayerPosHead { .. }, true) => (fit(1.6 * width, cols, 2.0, 22.0), fit(1.6 * height, rows, 3.0, 22.0)),
    }
}

/// The smallest of 1, 2, 5, 10, 20, 50, … that is at least `least`.
fn step(least: f64) -> usize {
    let decades = (0..6).map(|d| 10_usize.pow(d));
    decades.flat_map(|d| [d, 2 * d, 5 * d]).find(|&s| s as f64 >= least).unwrap_or(1_000_000)
}

fn cut(label: &str) -> String {
    if label.chars().count() <= MAX_LABEL {
        return label.to_owned();
    }
    // The end has the position's number in it, so the middle goes.
    let chars: Vec<char> = label.chars().collect();
    let tail = &chars[chars.len() - MAX_LABEL / 2..];
    chars[..MAX_LABEL / 2 - 1].iter().chain(['…'].iter()).chain(tail).collect()
}

fn ticks(labels: &[String], cell: f64, every: usize, size: f64, slanted: bool) -> Ticks {
    let labels = labels.iter().enumerate().step_by(every);
    Ticks { size, slanted, labels: labels.map(|(i, label)| ((i as f64 + 0.5) * cell, cut(label))).collect() }
}

/// The layer beside the middle of its heads, where there is no room for each head.
fn layer_ticks(panel: &Panel, cell: f64, n: usize, least: impl Fn(f64) -> f64, size: f64) -> Ticks {
    let heads = panel.per_layer();
    let block = heads as f64 * cell;
    let layers = n / heads;
    let widest = font::width(&format!("L{layers}"), size);
    let labels = (0..layers).step_by(step(least(widest) / block));
    let labels = labels.map(|l| ((l as f64 + 0.5) * block, format!("L{l}"))).collect();
    Ticks { size, slanted: false, labels }
}

fn y_ticks(panel: &Panel, cell: f64) -> Ticks {
    let size = if cell >= 12.0 { 11.0 } else { 9.0 };
    if panel.per_layer() > 1 && cell < 9.5 && !panel.transposed {
        return layer_ticks(panel, cell, panel.rows(), |_| 12.0, 10.0);
    }
    ticks(&panel.row_labels, cell, step((size + 1.5) / cell), size, false)
}

fn x_ticks(panel: &Panel, cell: f64) -> Ticks {
    let size = if cell >= 12.0 { 11.0 } else { 10.0 };
    let widest = panel.col_labels.iter().map(|label| font::width(&cut(label), size)).fold(0.0, f64::max);
    let numbers = matches!(panel.layout, Layout::LayerHead) || panel.transposed && panel.per_layer() == 1;
    match panel.layout {
        Layout::Layer => Ticks { size, slanted: false, labels: Vec::new() },
        _ if numbers => ticks(&panel.col_labels, cell, step((widest + 4.0) / cell), size, false),
        _ if widest + 4.0 <= cell => ticks(&panel.col_labels, cell, 1, size, false),
        _ if panel.transposed => layer_ticks(panel, cell, panel.cols(), |widest| widest + 6.0, 10.0),
        // A slanted line of text takes √2 of its height along the axis.
        _ => ticks(&panel.col_labels, cell, step((size + 1.5) / SLANT / cell), size, true),
    }
}

/// Lines no wider than `width`, broken between the parts of a title.
fn wrap(text: &str, size: f64, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in text.split(SEPARATOR) {
        match lines.last_mut() {
            Some(line) if font::width(line, size) + font::width(SEPARATOR, size) + font::width(part, size) <= width => {
                line.push_str(SEPARATOR);
                line.push_str(part);
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_tokens_keep_their_beginning_and_their_position() {
        assert_eq!(cut("␣Mary_10"), "␣Mary_10");
        assert_eq!(cut("␣antidisestablishmentarianism_123"), "␣antidis…anism_123");
    }

    #[test]
    fn thinning_uses_round_steps() {
        assert_eq!([step(0.2), step(1.0), step(1.1), step(4.3), step(7.0), step(130.0)], [1, 1, 2, 5, 10, 200]);
    }

    #[test]
    fn a_title_wraps_between_its_parts() {
        assert_eq!(wrap("one two · three · 4 pairs", 10.0, 90.0), ["one two · three", "4 pairs"]);
        assert_eq!(wrap("", 10.0, 5.0), [""]);
    }
}

//! Where everything of a figure goes, in pixels. Plots, cells and bars have whole-number places, so cells are crisp.

use super::{Heatmap, Layout, Panel, SEPARATOR, readable};
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
    pub bar: Bar,
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

/// The colour bar.
pub(super) struct Bar {
    pub left: f64,
    pub top: f64,
    pub height: f64,
    /// (value as a share of the limit, label)
    pub ticks: Vec<(f64, String)>,
    /// Distance from the bar's left edge to the middle of its name.
    pub name: f64,
    /// Top of the note on missing cells, where there are any.
    pub missing: Option<f64>,
}

impl Figure {
    pub(super) fn new(heatmap: &Heatmap) -> Self {
        let grid = Grid::new(&heatmap.panels);
        let bar_height = grid.boxes.first().map_or(0.0, |first| first.plot.1).clamp(120.0, 360.0);
        let ticks = bar_ticks(heatmap.limit, (bar_height / 50.0).min(4.5));
        let widest = ticks.iter().map(|(_, label)| font::width(label, 11.0)).fold(0.0, f64::max);
        let name = BAR_WIDTH + 8.0 + widest + 14.0;
        let missing_width = if heatmap.has_missing() { 18.0 + font::width("no such cell", 11.0) } else { 0.0 };
        let bar_block = (name + 8.0).max(missing_width);

        let title_width = font::width(&heatmap.title, TITLE_SIZE).min(WIDE_ENOUGH);
        let parts = heatmap.title.split(SEPARATOR).map(|part| font::width(part, TITLE_SIZE));
        let title_width = parts.fold(title_width, f64::max).min(2.0 * WIDE_ENOUGH);
        let notes_width = heatmap.notes.iter().map(|note| font::width(note, NOTE_SIZE)).fold(0.0, f64::max);
        let text_width = notes_width.max(title_width);
        let content = (grid.width + BAR_GAP + bar_block).max(text_width).ceil();
        let title = wrap(&heatmap.title, TITLE_SIZE, content);
        let text = title.len() as f64 * TITLE_SIZE * LINE + heatmap.notes.len() as f64 * NOTE_SIZE * LINE;
        let top = (MARGIN + text + 14.0).ceil();

        // Narrow panels under a wide title stand in the middle.
        let left = MARGIN + ((content - grid.width - BAR_GAP - bar_block) / 2.0).floor();
        let (grid_width, grid_height) = (grid.width, grid.height);
        let panels = grid.place(left, top);
        let bar_top = panels.first().map_or(top, |place| place.top);
        let missing = heatmap.has_missing().then_some(bar_top + bar_height + 18.0);
        let bar_bottom = missing.map_or(bar_top + bar_height + 6.0, |top| top + 14.0);
        let bar = Bar { left: left + grid_width + BAR_GAP, top: bar_top, height: bar_height, ticks, name, missing };
        Figure {
            width: content + 2.0 * MARGIN,
            height: (top + grid_height).max(bar_bottom).ceil() + MARGIN - 4.0,
            title,
            notes: heatmap.notes.clone(),
            panels,
            bar,
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
}

impl Grid {
    fn new(panels: &[Panel]) -> Self {
        let budget = match panels.len() {
            0 | 1 => (960.0, 620.0),
            2..=4 => (600.0, 420.0),
            _ => (440.0, 340.0),
        };
        let boxes: Vec<PanelBox> = panels.iter().map(|panel| PanelBox::new(panel, panels, budget)).collect();
        let largest = |side: fn(&PanelBox) -> f64| boxes.iter().map(side).fold(1.0, f64::max);
        let (width, height) = (largest(PanelBox::width) + PANEL_GAP, largest(PanelBox::height) + PANEL_GAP);
        // As near to the shape of a screen as whole columns get.
        let shape = |columns: usize| {
            let rows = boxes.len().div_ceil(columns);
            let empty = (columns * rows - boxes.len()) as f64;
            let aspect = columns as f64 * width / (rows as f64 * height);
            (aspect / 1.6).max(1.6 / aspect) + 0.3 * empty
        };
        let columns = (1..=boxes.len().max(1)).min_by(|&a, &b| shape(a).total_cmp(&shape(b))).unwrap_or(1);
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

    fn place(self, left: f64, top: f64) -> Vec<Place> {
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
        let boxes = self.boxes.into_iter().zip(places);
        let place = |(b, (left, top)): (PanelBox, (f64, f64))| Place {
            left,
            top,
            cell_width: b.cell_width,
            cell_height: b.cell_height,
            x: b.x,
            y: b.y,
            x_name: b.x_name,
            y_name: b.y_name,
            margins: [b.left, b.right, b.bottom],
        };
        boxes.map(place).collect()
    }
}

impl PanelBox {
    fn new(panel: &Panel, panels: &[Panel], budget: (f64, f64)) -> Self {
        // Panels of one kind share the cell size, so that 8 KV heads are seen to be fewer than 32 heads.
        let same = panels.iter().filter(|p| std::mem::discriminant(&p.layout) == std::mem::discriminant(&panel.layout));
        let (rows, cols) = same.fold((1, 1), |(r, c), p| (r.max(p.rows()), c.max(p.cols())));
        let (cell_width, cell_height) = cell_size(panel.layout, rows as f64, cols as f64, budget);
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
        let bottom = if panel.x_name().is_empty() { x_labels } else { x_name + 4.0 };
        // A heading wider than its plot pushes the next panel away.
        let heading = if panels.len() > 1 { font::width(&panel.site, HEADING_SIZE) } else { 0.0 };
        let top = if panels.len() > 1 { 22.0 } else { 0.0 };
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
fn cell_size(layout: Layout, rows: f64, cols: f64, (width, height): (f64, f64)) -> (f64, f64) {
    match layout {
        Layout::Layer => (56.0, (height / rows).floor().clamp(4.0, 28.0)),
        Layout::LayerHead => {
            let side = (width / cols).min(height / rows).floor().clamp(5.0, 40.0);
            (side, side)
        }
        Layout::LayerPos => ((width / cols).floor().clamp(3.0, 40.0), (height / rows).floor().clamp(4.0, 28.0)),
        Layout::LayerPosHead { .. } => {
            ((width / cols).floor().clamp(3.0, 40.0), (2.4 * height / rows).floor().clamp(2.0, 22.0))
        }
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

fn y_ticks(panel: &Panel, cell: f64) -> Ticks {
    let size = if cell >= 12.0 { 11.0 } else { 9.0 };
    let heads = panel.rows_per_layer();
    if heads > 1 && cell < 9.5 {
        // No room for each head: the layer, beside the middle of its rows.
        let block = heads as f64 * cell;
        let layers = panel.rows() / heads;
        let labels = (0..layers).step_by(step(12.0 / block));
        let labels = labels.map(|l| ((l as f64 + 0.5) * block, format!("L{l}"))).collect();
        return Ticks { size: 10.0, slanted: false, labels };
    }
    ticks(&panel.row_labels, cell, step((size + 0.5) / cell), size, false)
}

fn x_ticks(panel: &Panel, cell: f64) -> Ticks {
    let size = if cell >= 12.0 { 11.0 } else { 10.0 };
    let widest = panel.col_labels.iter().map(|label| font::width(&cut(label), size)).fold(0.0, f64::max);
    match panel.layout {
        Layout::Layer => Ticks { size, slanted: false, labels: Vec::new() },
        Layout::LayerHead => ticks(&panel.col_labels, cell, step((widest + 3.0) / cell), size, false),
        _ if widest + 4.0 <= cell => ticks(&panel.col_labels, cell, 1, size, false),
        // A slanted line of text takes √2 of its height along the axis.
        _ => ticks(&panel.col_labels, cell, step((size + 0.5) / SLANT / cell), size, true),
    }
}

/// Three or more round numbers from −`limit` to `limit`, at most `most` (≥ 2) on either side of zero.
fn bar_ticks(limit: f32, most: f64) -> Vec<(f64, String)> {
    let limit = f64::from(limit);
    // Powers of ten by repeated multiplication: no libm, so the same everywhere.
    let (mut decade, mut exponent) = (1.0_f64, 0_i32);
    while decade > limit && exponent > -60 {
        (decade, exponent) = (decade / 10.0, exponent - 1);
    }
    while decade * 10.0 <= limit {
        (decade, exponent) = (decade * 10.0, exponent + 1);
    }
    // Shares of the decade, and the decimals that they need beyond its own.
    let steps = [(0.25, 2), (0.5, 1), (1.0, 0), (2.0, 0), (2.5, 1), (5.0, 0)];
    let (share, decimals) = steps.into_iter().find(|(share, _)| limit / (share * decade) <= most).unwrap_or((5.0, 0));
    let step = share * decade;
    let label = |value: f64| match (decimals - exponent).max(0) {
        digits @ 0..=5 if exponent < 5 => format!("{value:.0$}", digits as usize).replace('-', "−"),
        _ => readable(value as f32),
    };
    let each_side = (limit / step) as i32;
    (-each_side..=each_side).map(|i| f64::from(i) * step).map(|value| (value / limit, label(value))).collect()
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
    fn the_bars_ticks_are_round_and_symmetric() {
        let labels = |limit, most| bar_ticks(limit, most).into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(1.0, 4.5), ["−1.00", "−0.75", "−0.50", "−0.25", "0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(labels(0.43, 4.5), ["−0.4", "−0.3", "−0.2", "−0.1", "0.0", "0.1", "0.2", "0.3", "0.4"]);
        assert_eq!(labels(0.43, 2.4), ["−0.4", "−0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(labels(17.0, 4.5), ["−15", "−10", "−5", "0", "5", "10", "15"]);
        for limit in [f32::MIN_POSITIVE, 1e-30, 3e-5, 0.07, 9.99, 1234.5, 1e30, f32::MAX] {
            let ticks = bar_ticks(limit, 4.5);
            assert!((3..=9).contains(&ticks.len()), "{limit}: {ticks:?}");
            assert!(ticks.iter().all(|(at, _)| at.abs() <= 1.0 + 1e-9), "{limit}: {ticks:?}");
            assert_eq!(ticks[ticks.len() / 2].0, 0.0);
        }
    }

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

//! Heat maps: layer on y with 0 at the top, head or position on x, red-white-blue centred on zero with blue positive.
//!
//! A [`Heatmap`] is what to draw, the same for SVG, PNG and HTML; how, is in a file for each. Conventions are
//! those of TransformerLens' demos (plotly's `RdBu`), so figures can be laid side by side.

pub mod color;
mod geometry;
mod html;
mod png;
mod scores;
mod svg;

pub use scores::ScorePanel;

use std::path::Path;

use super::error::ExportError;
use super::node::{NodePattern, visible, visible_token};
use super::run::{Axis, RunResult, SiteEffects};

/// The picture formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Svg,
    Png,
    Html,
}

impl Format {
    /// The format that a file's name asks for: `.svg`, `.png` or `.html` (`.htm`), in any case.
    pub fn from_path(path: &Path) -> Result<Self, ExportError> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("svg") => Ok(Format::Svg),
            Some("png") => Ok(Format::Png),
            Some("html" | "htm") => Ok(Format::Html),
            _ => Err(ExportError::UnknownFormat { path: path.into() }),
        }
    }
}

/// Draws `run`; the same run gives the same bytes.
///
/// # Errors
/// [`ExportError::Inconsistent`] when the result's parts do not fit, [`ExportError::Render`] when the picture is too
/// large for a PNG.
pub fn render(run: &RunResult, format: Format) -> Result<Vec<u8>, ExportError> {
    let heatmap = Heatmap::new(run)?;
    match format {
        Format::Svg => Ok(heatmap.to_svg().into_bytes()),
        Format::Png => heatmap.to_png(),
        Format::Html => Ok(heatmap.to_html().into_bytes()),
    }
}

/// Between the parts of a title, which may wrap there.
const SEPARATOR: &str = " · ";

/// Everything that a picture of a run shows.
#[derive(Debug, Clone)]
pub struct Heatmap {
    /// Model, sites, direction, metric, number of pairs.
    pub title: String,
    /// Mean metrics of the two runs, and what the numbers are when they are not effects.
    pub notes: Vec<String>,
    /// What the colours show: `effect`, or `m − m_base` where effects are undefined.
    pub quantity: &'static str,
    /// Name of the metric, for hovering.
    pub metric: String,
    /// The colour scale ends at ±`limit`: the largest finite |value|, 1 if all are zero.
    pub limit: f32,
    pub panels: Vec<Panel>,
}

/// What a panel's rows and columns are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One column, a row per layer.
    Layer,
    /// Rows are layers, columns heads.
    LayerHead,
    /// Rows are layers, columns positions.
    LayerPos,
    /// Rows are heads in layer order (`L9H6`), columns positions.
    LayerPosHead { n_heads: usize },
}

/// One site's heat map.
#[derive(Debug, Clone)]
pub struct Panel {
    pub site: String,
    pub layout: Layout,
    /// `[rows, cols]` row-major; NaN where there is no such cell.
    pub values: Vec<f32>,
    /// `[rows, cols]`: mean metric over the pairs.
    pub metrics: Vec<f32>,
    pub row_labels: Vec<String>,
    pub col_labels: Vec<String>,
    node: NodePattern,
}

impl Heatmap {
    /// The picture of a run: one panel for each site.
    ///
    /// # Errors
    /// [`ExportError::Inconsistent`] when the result's parts do not fit.
    pub fn new(run: &RunResult) -> Result<Self, ExportError> {
        run.check()?;
        let panels: Vec<Panel> = run.sites.iter().map(|site| Panel::new(run, site)).collect();
        let values = panels.iter().flat_map(|panel| &panel.values);
        let largest = values.filter(|v| v.is_finite()).fold(0.0_f32, |max, v| max.max(v.abs()));
        let limit = if largest > 0.0 { largest } else { 1.0 };
        Ok(Heatmap {
            title: title(run),
            notes: notes(run),
            quantity: match (run.effect_defined, run.direction.base()) {
                (true, _) => "effect",
                (false, "clean") => "m − m_clean",
                (false, _) => "m − m_corrupted",
            },
            metric: visible(run.meta_text("metric").unwrap_or("metric")),
            limit,
            panels,
        })
    }

    /// Whether any cell does not exist.
    pub fn has_missing(&self) -> bool {
        self.panels.iter().any(|panel| panel.values.iter().any(|v| v.is_nan()))
    }

    fn cells(&self) -> usize {
        self.panels.iter().map(|panel| panel.values.len()).sum()
    }
}

impl Panel {
    fn new(run: &RunResult, site: &SiteEffects) -> Self {
        let shape = site.shape();
        let labels = |axis: usize| site.axes[axis].labels.iter().map(|l| visible(l)).collect::<Vec<_>>();
        let tokens = |axis: &Axis| axis.labels.iter().map(|l| visible_token(l)).collect::<Vec<_>>();
        let names: Vec<&str> = site.axes.iter().map(|axis| axis.name.as_str()).collect();
        let (layout, row_labels, col_labels) = match names[..] {
            [_, "head"] => (Layout::LayerHead, labels(0), labels(1)),
            [_, "pos"] => (Layout::LayerPos, labels(0), tokens(&site.axes[1])),
            [_, "pos", "head"] => {
                let heads = labels(2);
                let rows = labels(0).iter().flat_map(|l| heads.iter().map(move |h| format!("L{l}H{h}"))).collect();
                (Layout::LayerPosHead { n_heads: shape[2] }, rows, tokens(&site.axes[1]))
            }
            _ => (Layout::Layer, labels(0), vec![String::new()]),
        };
        let (rows, cols) = (row_labels.len(), col_labels.len());
        let mut panel = Panel {
            site: visible(&site.site),
            layout,
            values: Vec::with_capacity(rows * cols),
            metrics: Vec::with_capacity(rows * cols),
            row_labels,
            col_labels,
            node: NodePattern::new(&site.site, names.contains(&"head")),
        };
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            let cell = match layout {
                // [layer, pos, head] is drawn as [layer · head, pos].
                Layout::LayerPosHead { n_heads } => ((row / n_heads) * cols + col) * n_heads + row % n_heads,
                _ => row * cols + col,
            };
            let metric = run.cell_metric(site, cell);
            panel.values.push(if run.effect_defined { site.effect[cell] } else { metric.mean_change });
            panel.metrics.push(metric.mean);
        }
        panel
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.row_labels.len()
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.col_labels.len()
    }

    /// What the rows are: `layer`, or `head` where each row is one.
    pub fn y_name(&self) -> &'static str {
        if self.rows_per_layer() > 1 { "layer and head" } else { "layer" }
    }

    /// What the columns are; empty for a single column.
    pub fn x_name(&self) -> &'static str {
        match self.layout {
            Layout::Layer => "",
            Layout::LayerHead => "head",
            Layout::LayerPos | Layout::LayerPosHead { .. } => "position",
        }
    }

    /// 1, or the number of heads where each head has a row.
    pub fn rows_per_layer(&self) -> usize {
        match self.layout {
            Layout::LayerPosHead { n_heads } => n_heads,
            _ => 1,
        }
    }

    /// The node of a cell, such as `a9.h6@␣Mary_10`.
    pub fn cell_name(&self, row: usize, col: usize) -> String {
        let (layer, head, pos) = match self.layout {
            Layout::Layer => (row, None, None),
            Layout::LayerHead => (row, Some(col), None),
            Layout::LayerPos => (row, None, Some(col)),
            Layout::LayerPosHead { n_heads } => (row / n_heads, Some(row % n_heads), Some(col)),
        };
        self.node.name(layer, head, pos.map(|pos| self.col_labels[pos].as_str()))
    }
}

fn title(run: &RunResult) -> String {
    // A folder's path says less than its last name; a hub id is short enough to stay whole.
    let model = run.meta_text("model").map(|model| match model {
        hub if hub.matches('/').count() <= 1 && !hub.starts_with(['/', '.']) => hub,
        path => path.trim_end_matches('/').rsplit('/').next().unwrap_or(path),
    });
    let sites = run.sites.iter().map(|site| site.site.as_str()).collect::<Vec<_>>().join(", ");
    let patch = run.meta_text("patch").filter(|patch| *patch != "source");
    let pairs = match run.n_pairs() {
        1 => "1 pair".to_owned(),
        n => format!("{n} pairs"),
    };
    let parts = [model, Some(&sites), patch, Some(run.direction.as_str()), run.meta_text("metric"), Some(&pairs)];
    parts.into_iter().flatten().map(visible).collect::<Vec<_>>().join(SEPARATOR)
}

fn notes(run: &RunResult) -> Vec<String> {
    let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let (clean, corrupted) = (mean(&run.metric_clean), mean(&run.metric_corrupted));
    let mut notes = vec![format!("m_clean {} · m_corrupted {}", readable(clean as f32), readable(corrupted as f32))];
    if !run.effect_defined {
        let base = run.direction.base();
        notes.push(format!("effect undefined (m_clean ≈ m_corrupted) · colours show m − m_{base}"));
    }
    notes
}

/// A number as people read it: four significant digits, `−` for minus.
fn readable(value: f32) -> String {
    let digits = match value.abs() {
        0.0 => return "0".into(),
        a if !(1e-4..1e6).contains(&a) => return format!("{value:.3e}").replace('-', "−"),
        a if a >= 1000.0 => 0,
        a if a >= 100.0 => 1,
        a if a >= 10.0 => 2,
        a if a >= 1.0 => 3,
        _ => 4,
    };
    format!("{value:.digits$}").replace('-', "−")
}

/// As [`readable`], with `+` before what is not negative.
fn signed(value: f32) -> String {
    if value > 0.0 { format!("+{}", readable(value)) } else { readable(value) }
}

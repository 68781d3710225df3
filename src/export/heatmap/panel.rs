//! One site's cells as rows and columns.

use super::{Scale, Style};
use crate::export::node::{NodePattern, visible, visible_token};
use crate::export::run::Axis;
use crate::sweep::statistics::Spread;

/// What a panel's cells are cut by.
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
    /// Rows and columns are exchanged: positions downward, layers across.
    pub transposed: bool,
    pub scale: Scale,
    /// `[rows, cols]` row-major; NaN where there is no such cell.
    pub values: Vec<f32>,
    /// What else is known of each cell, each `[rows, cols]`: of a run the mean metric over the pairs.
    pub details: Vec<Vec<f32>>,
    /// `[rows, cols]`: standard errors; NaN where there is none.
    pub stderr: Vec<f32>,
    /// `[rows, cols]`: lower ends of the intervals.
    pub low: Vec<f32>,
    /// `[rows, cols]`: upper ends.
    pub high: Vec<f32>,
    pub row_labels: Vec<String>,
    pub col_labels: Vec<String>,
    pub(super) node: NodePattern,
}

/// A site's cells as a run has them, all `[cells…]`.
pub(in crate::export) struct PanelCells<'a> {
    pub site: &'a str,
    pub axes: &'a [Axis],
    pub values: &'a [f32],
    pub details: Vec<&'a [f32]>,
    pub spread: &'a Spread,
    pub transposed: bool,
}

impl PanelCells<'_> {
    /// The panel, its scale still that of no values at all.
    pub fn panel(&self) -> Panel {
        let axes = self.axes;
        let labels = |axis: usize| axes[axis].labels.iter().map(|l| visible(l)).collect::<Vec<_>>();
        let tokens = |axis: &Axis| axis.labels.iter().map(|l| visible_token(l)).collect::<Vec<_>>();
        let names: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
        let (layout, row_labels, col_labels) = match names[..] {
            [_, "head"] => (Layout::LayerHead, labels(0), labels(1)),
            [_, "pos"] => (Layout::LayerPos, labels(0), tokens(&axes[1])),
            [_, "pos", "head"] => {
                let heads = labels(2);
                let rows = labels(0).iter().flat_map(|l| heads.iter().map(move |h| format!("L{l}H{h}"))).collect();
                (Layout::LayerPosHead { n_heads: heads.len() }, rows, tokens(&axes[1]))
            }
            _ => (Layout::Layer, labels(0), vec![String::new()]),
        };
        let (rows, cols) = (row_labels.len(), col_labels.len());
        let place = |row: usize, col: usize| match layout {
            // [layer, pos, head] is drawn as [layer · head, pos].
            Layout::LayerPosHead { n_heads } => ((row / n_heads) * cols + col) * n_heads + row % n_heads,
            _ => row * cols + col,
        };
        let order: Vec<usize> = match self.transposed {
            false => (0..rows).flat_map(|row| (0..cols).map(move |col| place(row, col))).collect(),
            true => (0..cols).flat_map(|col| (0..rows).map(move |row| place(row, col))).collect(),
        };
        let drawn = |values: &[f32]| order.iter().map(|cell| values[*cell]).collect::<Vec<f32>>();
        let (row_labels, col_labels) =
            if self.transposed { (col_labels, row_labels) } else { (row_labels, col_labels) };
        Panel {
            site: visible(self.site),
            layout,
            transposed: self.transposed,
            scale: Scale::of(Style::Default, std::iter::empty()),
            values: drawn(self.values),
            details: self.details.iter().map(|values| drawn(values)).collect(),
            stderr: drawn(&self.spread.stderr),
            low: drawn(&self.spread.low),
            high: drawn(&self.spread.high),
            row_labels,
            col_labels,
            node: NodePattern::new(self.site, names.contains(&"head")),
        }
    }
}

impl Panel {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.row_labels.len()
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.col_labels.len()
    }

    /// Whether any cell does not exist.
    pub fn has_missing(&self) -> bool {
        self.values.iter().any(|v| v.is_nan())
    }

    /// What the rows are: `layer`, `layer and head` where each head is one, `position` where positions go downward.
    pub fn y_name(&self) -> &'static str {
        if self.transposed { self.names().1 } else { self.names().0 }
    }

    /// What the columns are; empty for a single column.
    pub fn x_name(&self) -> &'static str {
        if self.transposed { self.names().0 } else { self.names().1 }
    }

    fn names(&self) -> (&'static str, &'static str) {
        match self.layout {
            Layout::Layer => ("layer", ""),
            Layout::LayerHead => ("layer", "head"),
            Layout::LayerPos => ("layer", "position"),
            Layout::LayerPosHead { .. } => ("layer and head", "position"),
        }
    }

    /// Rows or columns of one layer: 1, or the number of heads where each is one.
    pub fn per_layer(&self) -> usize {
        match self.layout {
            Layout::LayerPosHead { n_heads } => n_heads,
            _ => 1,
        }
    }

    /// The labels of the positions, where there are any.
    pub(super) fn positions(&self) -> &[String] {
        if self.transposed { &self.row_labels } else { &self.col_labels }
    }

    /// The node of a cell, such as `a9.h6@␣Mary_10`.
    pub fn cell_name(&self, row: usize, col: usize) -> String {
        let (row, col) = if self.transposed { (col, row) } else { (row, col) };
        let (layer, head, pos) = match self.layout {
            Layout::Layer => (row, None, None),
            Layout::LayerHead => (row, Some(col), None),
            Layout::LayerPos => (row, None, Some(col)),
            Layout::LayerPosHead { n_heads } => (row / n_heads, Some(row % n_heads), Some(col)),
        };
        self.node.name(layer, head, pos.map(|pos| self.positions()[pos].as_str()))
    }
}

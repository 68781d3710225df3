//! The cells of a sweep: every activation that is patched on its own, laid out along the axes of the result.

use crate::engine::Site;
use crate::model::ModelSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What one cell covers: how finely a site is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The whole site of a layer: `[layer]`.
    Layer,
    /// One position, all heads: `[layer, pos]`.
    Pos,
    /// One head, all positions: `[layer, head]`.
    Head,
    /// One head at one position: `[layer, pos, head]`.
    HeadPos,
}

impl By {
    pub fn has_heads(self) -> bool {
        matches!(self, By::Head | By::HeadPos)
    }

    pub fn has_positions(self) -> bool {
        matches!(self, By::Pos | By::HeadPos)
    }

    /// As `--by` spells it.
    pub fn name(self) -> &'static str {
        match self {
            By::Layer => "layer",
            By::Pos => "pos",
            By::Head => "head",
            By::HeadPos => "head,pos",
        }
    }
}

/// Which run is patched, and with activations of which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Clean activations into the corrupted run; an effect of 1 restores the clean run.
    #[default]
    Denoise,
    /// Corrupted activations into the clean run; an effect of −1 destroys it.
    Noise,
}

impl Direction {
    /// `denoise` or `noise`.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Denoise => "denoise",
            Direction::Noise => "noise",
        }
    }

    /// The run that is patched: `corrupted` or `clean`.
    pub fn base(self) -> &'static str {
        match self {
            Direction::Denoise => "corrupted",
            Direction::Noise => "clean",
        }
    }
}

/// One column of the position axis: where it lies in each pair, `None` where the pair has no such position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub label: String,
    /// One per pair.
    pub at: Vec<Option<u32>>,
}

/// One patched activation: a site of a layer, perhaps one head of it, perhaps one column of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub site: Site,
    pub layer: u32,
    pub head: Option<u32>,
    /// Index into the position columns.
    pub column: Option<u32>,
    /// The model has this activation and the selection includes it.
    pub exists: bool,
}

/// The cells of one site, row-major along `[layer, (pos), (head)]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteCells {
    pub site: Site,
    pub by: By,
    /// Length of the head axis; 1 where there is none.
    pub n_heads: usize,
    /// Length of the position axis; 1 where there is none.
    pub n_columns: usize,
    pub cells: Vec<Cell>,
}

/// Everything the user may leave out of a sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    pub layers: Option<BTreeSet<usize>>,
    /// (layer, head)
    pub heads: Option<BTreeSet<(usize, usize)>>,
}

impl SiteCells {
    /// All cells of `site`: the layer axis has every layer, the head axis the most heads that any layer has there.
    pub fn new(spec: &ModelSpec, site: Site, by: By, n_columns: usize, selection: &Selection) -> SiteCells {
        let n_heads =
            if by.has_heads() { (0..spec.n_layers()).map(|l| site.heads(spec, l)).max().unwrap_or(0) } else { 1 };
        let n_columns = if by.has_positions() { n_columns } else { 1 };
        let mut cells = Vec::with_capacity(spec.n_layers() * n_columns * n_heads);
        for layer in 0..spec.n_layers() {
            let here = site.heads(spec, layer);
            let layer_selected = selection.layers.as_ref().is_none_or(|l| l.contains(&layer));
            for column in 0..n_columns {
                for head in 0..n_heads {
                    let selected = match &selection.heads {
                        Some(heads) if by.has_heads() => heads.contains(&(layer, head)),
                        _ => true,
                    };
                    cells.push(Cell {
                        site,
                        layer: layer as u32,
                        head: by.has_heads().then_some(head as u32),
                        column: by.has_positions().then_some(column as u32),
                        exists: layer_selected && selected && head < here,
                    });
                }
            }
        }
        SiteCells { site, by, n_heads, n_columns, cells }
    }

    /// Lengths of the axes, `[layer, (pos), (head)]`.
    pub fn shape(&self) -> Vec<usize> {
        let layers = self.cells.len() / (self.n_columns * self.n_heads).max(1);
        let mut shape = vec![layers];
        if self.by.has_positions() {
            shape.push(self.n_columns);
        }
        if self.by.has_heads() {
            shape.push(self.n_heads);
        }
        shape
    }
}

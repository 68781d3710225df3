//! Heat maps of scores that are no patching effects: how well a probe reads something at each layer and position.

use super::super::node::{NodePattern, visible, visible_token};
use super::{Heatmap, Layout, Panel, Scale};

/// One site's scores.
#[derive(Debug, Clone)]
pub struct ScorePanel<'a> {
    pub site: &'a str,
    /// Number of layers.
    pub rows: usize,
    pub positions: &'a [String],
    /// `[layers, positions]`; NaN where there is none.
    pub scores: Vec<f32>,
    /// `[layers, positions]`: what guessing would score, shown on hover.
    pub baselines: Vec<f32>,
}

impl Heatmap {
    /// A picture of scores whose best is 1; the colours end at ±1.
    pub fn of_scores(title: &str, quantity: &'static str, panels: Vec<ScorePanel<'_>>) -> Heatmap {
        let panel = |p: ScorePanel<'_>| Panel {
            site: visible(p.site),
            layout: Layout::LayerPos,
            transposed: false,
            scale: Scale::Diverging { limit: 1.0 },
            stderr: vec![f32::NAN; p.scores.len()],
            low: vec![f32::NAN; p.scores.len()],
            high: vec![f32::NAN; p.scores.len()],
            values: p.scores,
            details: vec![p.baselines],
            row_labels: (0..p.rows).map(|l| l.to_string()).collect(),
            col_labels: p.positions.iter().map(|l| visible_token(l)).collect(),
            node: NodePattern::new(p.site, false),
        };
        Heatmap {
            title: visible(title),
            notes: Vec::new(),
            quantity: quantity.to_owned(),
            details: vec!["guessing".into()],
            interval: String::new(),
            shared_scale: true,
            columns: None,
            panels: panels.into_iter().map(panel).collect(),
        }
    }
}

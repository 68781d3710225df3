//! Heat maps: layer on y with 0 at the top, head or position on x, red-white-blue centred on zero with blue positive.
//!
//! A [`Heatmap`] is what to draw, the same for SVG, PNG and HTML; how, is in a file for each. Conventions are
//! those of TransformerLens' demos (plotly's `RdBu`), so figures can be laid side by side.

pub mod color;
mod geometry;
mod html;
#[cfg(test)]
mod legible;
mod panel;
mod png;
mod scale;
mod scores;
mod svg;

pub use panel::{Layout, Panel};
pub use scale::Scale;
pub use scores::ScorePanel;

use std::path::Path;

use super::error::ExportError;
use super::node::visible;
use super::run::{CellMetric, RunResult, SiteEffects};
use crate::sweep::statistics::{Bootstrap, Spread};
pub(super) use panel::PanelCells;

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

/// How rows, columns and colours are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Style {
    /// Layers downward, heads or positions across; red-white-blue around zero
    #[default]
    Default,
    /// Tokens downward, layers across; light to dark. The causal traces of Meng et al. 2022 (ROME), figure 1
    Rome,
}

/// Which panels share a colour scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ScaleBy {
    /// One scale for all sites, so that colours can be compared
    #[default]
    Run,
    /// Each site its own, so that weak sites can be read
    Site,
}

/// What may be chosen about a picture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    pub style: Style,
    pub scale: ScaleBy,
    /// The sites to draw, in this order; all if empty.
    pub sites: Vec<String>,
    /// Panels side by side; as many as suit a screen if not given.
    pub columns: Option<usize>,
}

impl Options {
    /// Positions go downward.
    pub(super) fn is_transposed(&self) -> bool {
        self.style == Style::Rome
    }

    /// The places of the sites to draw.
    pub(super) fn chosen(&self, sites: &[&SiteEffects]) -> Result<Vec<usize>, ExportError> {
        let fail = |reason: String| Err(ExportError::Render(reason));
        let names = || sites.iter().map(|site| visible(&site.site)).collect::<Vec<_>>().join(", ");
        let mut chosen = Vec::new();
        for name in &self.sites {
            match sites.iter().position(|site| site.site == *name) {
                Some(at) if chosen.contains(&at) => return fail(format!("site {} is named twice", visible(name))),
                Some(at) => chosen.push(at),
                None => return fail(format!("this run has no site {}; it has {}", visible(name), names())),
            }
        }
        let by_position = |at: &usize| sites[*at].axis("pos").is_some();
        if self.style == Style::Rome {
            if let Some(at) = chosen.iter().find(|at| !by_position(at)) {
                let site = visible(&sites[*at].site);
                return fail(format!("style rome needs positions, which site {site} of this run has not"));
            }
            if chosen.is_empty() {
                chosen = (0..sites.len()).filter(by_position).collect();
            }
            if chosen.is_empty() {
                return fail(format!(
                    "style rome needs positions, and no site of this run ({}) is cut by position; sweep with --by pos",
                    names()
                ));
            }
        } else if chosen.is_empty() {
            chosen = (0..sites.len()).collect();
        }
        Ok(chosen)
    }
}

/// Draws `run`; the same run gives the same bytes.
///
/// # Errors
/// [`ExportError::Inconsistent`] when the result's parts do not fit, [`ExportError::Render`] when the picture is too
/// large for a PNG.
pub fn render(run: &RunResult, format: Format) -> Result<Vec<u8>, ExportError> {
    Heatmap::new(run)?.render(format)
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
    pub quantity: String,
    /// What else hovering tells: the names of [`Panel::details`].
    pub details: Vec<String>,
    /// What the interval is called: `95 % interval`.
    pub interval: String,
    /// All panels have one scale, and there is one bar for it.
    pub shared_scale: bool,
    /// Panels side by side.
    pub columns: Option<usize>,
    pub panels: Vec<Panel>,
}

impl Heatmap {
    /// The picture of a run: one panel for each site.
    ///
    /// # Errors
    /// [`ExportError::Inconsistent`] when the result's parts do not fit.
    pub fn new(run: &RunResult) -> Result<Self, ExportError> {
        Heatmap::with(run, &Options::default())
    }

    /// The picture of a run as the options ask for it.
    ///
    /// # Errors
    /// [`ExportError::Inconsistent`] when the result's parts do not fit, [`ExportError::Render`] when it has not what
    /// the options ask for.
    pub fn with(run: &RunResult, options: &Options) -> Result<Self, ExportError> {
        Heatmap::with_spreads(run, &run.spreads(&Bootstrap::default())?, options)
    }

    /// As [`with`](Heatmap::with), with the spreads of the run's sites.
    pub(super) fn with_spreads(run: &RunResult, spreads: &[Spread], options: &Options) -> Result<Self, ExportError> {
        run.check()?;
        let mut title_sites = Vec::new();
        let mut panels = Vec::new();
        let mut notes = notes(run);
        let sites: Vec<&SiteEffects> = run.sites.iter().collect();
        for index in options.chosen(&sites)? {
            let site = &run.sites[index];
            let means: Vec<CellMetric> = (0..site.effect.len()).map(|cell| run.cell_metric(site, cell)).collect();
            let changes: Vec<f32> = means.iter().map(|m| m.mean_change).collect();
            let metrics: Vec<f32> = means.iter().map(|m| m.mean).collect();
            title_sites.push(site.site.as_str());
            panels.push(
                PanelCells {
                    site: &site.site,
                    axes: &site.axes,
                    values: if run.effect_defined { &site.effect } else { &changes },
                    details: vec![&metrics],
                    spread: &spreads[index],
                    transposed: options.is_transposed(),
                }
                .panel(),
            );
        }
        let left_out = run.sites.iter().map(|site| site.site.as_str()).filter(|site| !title_sites.contains(site));
        let left_out = left_out.map(visible).collect::<Vec<_>>().join(", ");
        if options.sites.is_empty() && !left_out.is_empty() {
            notes.push(format!("not shown, for want of positions: {left_out}"));
        }
        let quantity = match (run.effect_defined, run.direction.base()) {
            (true, _) => "effect",
            (false, "clean") => "m − m_clean",
            (false, _) => "m − m_corrupted",
        };
        let title = title(run, &title_sites);
        let details = vec![visible(run.meta_text("metric").unwrap_or("metric"))];
        Ok(Heatmap::of_panels((title, notes), quantity, details, panels, options, options.style))
    }

    /// The picture of differences, which are red and blue in every style.
    pub(super) fn of_differences(
        title: String,
        notes: Vec<String>,
        details: Vec<String>,
        panels: Vec<Panel>,
        options: &Options,
    ) -> Self {
        Heatmap::of_panels((title, notes), "difference", details, panels, options, Style::Default)
    }

    /// Gives the panels their scales.
    fn of_panels(
        (title, notes): (String, Vec<String>),
        quantity: &str,
        details: Vec<String>,
        mut panels: Vec<Panel>,
        options: &Options,
        colors: Style,
    ) -> Self {
        let shared_scale = options.scale == ScaleBy::Run || panels.len() < 2;
        let of = |panels: &[Panel]| Scale::of(colors, panels.iter().flat_map(|panel| &panel.values).copied());
        let all = of(&panels);
        for panel in &mut panels {
            panel.scale = if shared_scale { all } else { of(std::slice::from_ref(panel)) };
        }
        let interval = format!("{} % interval", (Bootstrap::default().level * 100.0).round());
        let columns = options.columns;
        Heatmap { title, notes, quantity: quantity.to_owned(), details, interval, shared_scale, columns, panels }
    }

    /// The picture in the given format.
    ///
    /// # Errors
    /// [`ExportError::Render`] when it is too large for a PNG.
    pub fn render(&self, format: Format) -> Result<Vec<u8>, ExportError> {
        match format {
            Format::Svg => Ok(self.to_svg().into_bytes()),
            Format::Png => self.to_png(),
            Format::Html => Ok(self.to_html().into_bytes()),
        }
    }

    /// Whether any cell does not exist.
    pub fn has_missing(&self) -> bool {
        self.panels.iter().any(Panel::has_missing)
    }

    fn cells(&self) -> usize {
        self.panels.iter().map(|panel| panel.values.len()).sum()
    }

    /// What hovering over a cell says after its name, in parts: the value, its standard error and interval, the rest.
    fn cell_texts(&self, panel: &Panel, cell: usize) -> Vec<String> {
        let value = panel.values[cell];
        if value.is_nan() && panel.details.iter().all(|values| values[cell].is_nan()) {
            return vec!["no such cell".into()];
        }
        let mut texts = vec![format!("{} {}", self.quantity, signed(value))];
        if !panel.stderr[cell].is_nan() {
            let [stderr, low, high] = [readable(panel.stderr[cell]), signed(panel.low[cell]), signed(panel.high[cell])];
            texts[0].push_str(&format!(" ± {stderr}"));
            texts.push(format!("{} {low} to {high}", self.interval));
        }
        texts.extend(self.details.iter().zip(&panel.details).map(|(name, v)| format!("{name} {}", readable(v[cell]))));
        texts
    }
}

fn title(run: &RunResult, sites: &[&str]) -> String {
    // A folder's path says less than its last name; a hub id is short enough to stay whole.
    let model = run.meta_text("model").map(|model| match model {
        hub if hub.matches('/').count() <= 1 && !hub.starts_with(['/', '.']) => hub,
        path => path.trim_end_matches('/').rsplit('/').next().unwrap_or(path),
    });
    let sites = sites.join(", ");
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

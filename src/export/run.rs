//! A finished run: effects, every pair's metric, and what is known about both.

mod read;
mod write;

pub use read::read;
pub use write::{Written, write};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::ExportError;
use crate::sweep::statistics::{self, Bootstrap, Sample, Spread};

/// Version of the run folder's format, in `run.json` as `format_version`.
pub const FORMAT_VERSION: u64 = 1;

/// The file whose presence means that a run is complete.
pub const EFFECTS_FILE: &str = "effects.safetensors";
/// One row per cell, for spreadsheets.
pub const CSV_FILE: &str = "effects.csv";
/// Everything that is known about the run, with axes and labels.
pub const RUN_FILE: &str = "run.json";
/// The picture that every run has.
pub const HEATMAP_FILE: &str = "heatmap.svg";
/// A file with this ending is still being written.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// The keys of `run.json` that come from the result itself; [`RunResult::meta`] must not have them.
pub const DERIVED_KEYS: [&str; 8] = [
    "format_version",
    "direction",
    "effect_defined",
    "n_pairs",
    "mean_metric_clean",
    "mean_metric_corrupted",
    "statistics",
    "sites",
];

/// One axis of a site's effects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// `layer`, `head` or `pos`.
    pub name: String,
    /// One label for each entry: the number of a layer or head, `token_i` or a named position.
    pub labels: Vec<String>,
}

impl Axis {
    /// An axis labelled 0, 1, …, `len` − 1.
    pub fn numbered(name: &str, len: usize) -> Self {
        Axis { name: name.into(), labels: (0..len).map(|i| i.to_string()).collect() }
    }
}

pub use crate::sweep::Direction;

/// Effects of patching one site, `cells…` being the lengths of `axes`.
#[derive(Debug, Clone)]
pub struct SiteEffects {
    /// `z`, `resid_pre`, …
    pub site: String,
    /// `[layer]`, `[layer, head]`, `[layer, pos]` or `[layer, pos, head]`.
    pub axes: Vec<Axis>,
    /// `[cells…]` row-major; NaN where there is no such cell.
    pub effect: Vec<f32>,
    /// `[cells…, pair]` row-major: the metric of each patched run; NaN where there is no such cell in that pair.
    pub metric: Vec<f32>,
}

impl SiteEffects {
    /// Lengths of the axes.
    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.labels.len()).collect()
    }

    pub(super) fn axis(&self, name: &str) -> Option<usize> {
        self.axes.iter().position(|axis| axis.name == name)
    }

    /// The place of flat cell `cell` on each axis.
    pub(super) fn index(&self, mut cell: usize) -> Vec<usize> {
        let mut index = vec![0; self.axes.len()];
        for (place, axis) in index.iter_mut().zip(&self.axes).rev() {
            *place = cell % axis.labels.len();
            cell /= axis.labels.len();
        }
        index
    }
}

/// Everything a finished sweep knows.
#[derive(Debug, Clone)]
pub struct RunResult {
    /// Everything of `run.json` except [`DERIVED_KEYS`]. Pictures take their titles from `model` (a string, or an
    /// object with `name`), `metric` and `patch`.
    pub meta: Map<String, Value>,
    pub sites: Vec<SiteEffects>,
    /// `[pair]`: the metric of the clean run.
    pub metric_clean: Vec<f32>,
    /// `[pair]`: the metric of the corrupted run.
    pub metric_corrupted: Vec<f32>,
    /// False when clean and corrupted runs are within the noise floor of each other, so that effects are NaN.
    pub effect_defined: bool,
    pub direction: Direction,
}

impl RunResult {
    /// Number of prompt pairs.
    pub fn n_pairs(&self) -> usize {
        self.metric_clean.len()
    }

    /// `[pair]`: the metric of the run that was patched.
    pub fn metric_base(&self) -> &[f32] {
        match self.direction {
            Direction::Denoise => &self.metric_corrupted,
            Direction::Noise => &self.metric_clean,
        }
    }

    /// The metrics of one site's cells with those of the unpatched runs.
    pub(super) fn sample<'a>(&'a self, site: &'a SiteEffects) -> Sample<'a> {
        let (clean, corrupted) = (&self.metric_clean, &self.metric_corrupted);
        Sample { metric: &site.metric, clean, corrupted, direction: self.direction }
    }

    /// Standard errors and intervals of the effects, site by site; NaN where the effect is, and where fewer than two
    /// pairs have the cell.
    ///
    /// # Errors
    /// [`ExportError::Inconsistent`] when the result's parts do not fit.
    pub fn spreads(&self, bootstrap: &Bootstrap) -> Result<Vec<Spread>, ExportError> {
        self.check()?;
        let spread = |site: &SiteEffects| {
            if !self.effect_defined {
                let none = vec![f32::NAN; site.effect.len()];
                return Spread { stderr: none.clone(), low: none.clone(), high: none };
            }
            let mut spread = statistics::spread(&self.sample(site), bootstrap);
            spread.mask(|cell| !site.effect[cell].is_nan());
            spread
        };
        Ok(self.sites.iter().map(spread).collect())
    }

    /// A word from `meta`: `meta[key]`, or `meta[key]["name"]` where that is an object.
    pub(super) fn meta_text(&self, key: &str) -> Option<&str> {
        let value = self.meta.get(key)?;
        value.as_str().or_else(|| value.get("name")?.as_str())
    }

    /// Mean metric of one cell, and mean of metric − base, over the `n` pairs that have the cell.
    pub(super) fn cell_metric(&self, site: &SiteEffects, cell: usize) -> CellMetric {
        let n_pairs = self.n_pairs();
        let patched = site.metric.get(cell * n_pairs..).unwrap_or_default();
        let (mut n, mut metric, mut change) = (0_usize, 0.0, 0.0);
        for (&patched, &base) in patched.iter().zip(self.metric_base()).filter(|(m, _)| !m.is_nan()) {
            n += 1;
            metric += f64::from(patched);
            change += f64::from(patched) - f64::from(base);
        }
        // 0/0 is NaN: a cell that no pair has.
        CellMetric { n, mean: (metric / n as f64) as f32, mean_change: (change / n as f64) as f32 }
    }

    /// Checks that shapes, axes and names fit together.
    pub(super) fn check(&self) -> Result<(), ExportError> {
        let fail = |reason: String| Err(ExportError::Inconsistent(reason));
        if let Some(key) = DERIVED_KEYS.iter().find(|key| self.meta.contains_key(**key)) {
            return fail(format!("meta has `{key}`, which run.json derives from the result"));
        }
        let n_pairs = self.n_pairs();
        if n_pairs == 0 {
            return fail("no pairs: metric_clean is empty".into());
        }
        if self.metric_corrupted.len() != n_pairs {
            return fail(format!("metric_clean has {n_pairs} pairs, metric_corrupted {}", self.metric_corrupted.len()));
        }
        if self.sites.is_empty() {
            return fail("no sites".into());
        }
        for (i, site) in self.sites.iter().enumerate() {
            let name = &site.site;
            if name.is_empty() || self.sites[..i].iter().any(|other| other.site == *name) {
                return fail(format!("site {name:?} is empty or there twice"));
            }
            check_axes(&site.axes).map_err(|reason| ExportError::Inconsistent(format!("site {name:?}: {reason}")))?;
            let cells = site.shape().iter().try_fold(1_usize, |n, &len| n.checked_mul(len));
            let metrics = cells.and_then(|n| n.checked_mul(n_pairs));
            if cells != Some(site.effect.len()) || metrics != Some(site.metric.len()) {
                return fail(format!(
                    "site {name:?}: axes {:?} and {n_pairs} pairs, but {} effects and {} metrics",
                    site.shape(),
                    site.effect.len(),
                    site.metric.len()
                ));
            }
        }
        Ok(())
    }
}

/// What the pairs say about one cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct CellMetric {
    /// Pairs that have the cell.
    pub n: usize,
    pub mean: f32,
    /// Mean of m − m_base.
    pub mean_change: f32,
}

fn check_axes(axes: &[Axis]) -> Result<(), String> {
    let names: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
    if !matches!(names[..], ["layer"] | ["layer", "head"] | ["layer", "pos"] | ["layer", "pos", "head"]) {
        return Err(format!("axes {names:?}; known are [layer], [layer, head], [layer, pos] and [layer, pos, head]"));
    }
    match axes.iter().find(|axis| axis.labels.is_empty()) {
        Some(axis) => Err(format!("axis {} has no entries", axis.name)),
        None => Ok(()),
    }
}

/// The names of a site's tensors.
struct TensorNames {
    effect: String,
    metric: String,
    stderr: String,
    interval: String,
}

impl TensorNames {
    /// `effect`, … or `effect.<site>`, … when there are several sites.
    fn new(site: &str, n_sites: usize) -> Self {
        let name = |kind: &str| if n_sites == 1 { kind.to_owned() } else { format!("{kind}.{site}") };
        TensorNames {
            effect: name("effect"),
            metric: name("metric"),
            stderr: name("stderr"),
            interval: name("interval"),
        }
    }
}

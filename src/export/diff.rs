//! Two runs over the same cells: how each effect differs, and how alike the two pictures are.

use super::cells_csv::{self, number};
use super::error::ExportError;
use super::heatmap::{Heatmap, Options, PanelCells};
use super::node::{visible, visible_token};
use super::run::{Axis, RunResult, SiteEffects};
use super::table;
use crate::sweep::statistics::{Bootstrap, Spread, spread_of_difference};
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// How the effects of a second run differ from those of a first.
pub struct Diff<'a> {
    pub sites: Vec<SiteDiff<'a>>,
    /// Both runs have the same pairs, so intervals are of paired differences.
    pub paired: bool,
    /// Pairs of the first and of the second run.
    pub n_pairs: (usize, usize),
    /// What else is not the same, as people call it: `model`, `patch (source, mean)`.
    pub other: Vec<String>,
}

/// One site of two runs.
pub struct SiteDiff<'a> {
    pub first: &'a SiteEffects,
    pub second: &'a SiteEffects,
    /// `[cells…]`: second − first; NaN where either has no effect.
    pub difference: Vec<f32>,
    /// Standard errors and intervals of the differences.
    pub spread: Spread,
    /// Cells with an effect in both.
    pub cells: usize,
    /// Correlation of the effects over those cells; NaN where one of the two does not vary.
    pub pearson: f64,
    /// Correlation of their ranks, equal effects having the mean of theirs.
    pub spearman: f64,
}

/// Compares two runs, cell by cell.
///
/// # Errors
/// [`ExportError::OtherCells`], which names the first thing that differs, unless sites, axes and direction are the same
/// and both runs' effects are defined; [`ExportError::Inconsistent`] when a result's parts do not fit.
pub fn compare<'a>(first: &'a RunResult, second: &'a RunResult) -> Result<Diff<'a>, ExportError> {
    first.check()?;
    second.check()?;
    let fail = |reason: String| Err(ExportError::OtherCells(reason));
    let names = |run: &RunResult| run.sites.iter().map(|site| visible(&site.site)).collect::<Vec<_>>().join(", ");
    let paired = same_pairs(first, second);
    if first.sites.len() != second.sites.len() {
        return fail(format!("sites: {} in the first run, {} in the second", names(first), names(second)));
    }
    if first.direction != second.direction {
        let (a, b) = (first.direction.as_str(), second.direction.as_str());
        return fail(format!("direction: {a} in the first run, {b} in the second"));
    }
    for (run, which) in [(first, "first"), (second, "second")] {
        if !run.effect_defined {
            return Err(ExportError::Undefined { which });
        }
    }
    let mut sites = Vec::new();
    for a in &first.sites {
        let Some(b) = second.sites.iter().find(|site| site.site == a.site) else {
            return fail(format!("sites: {} in the first run, {} in the second", names(first), names(second)));
        };
        if let Some(reason) = axes_differ(&a.axes, &b.axes) {
            return fail(format!("site {}, {reason}", visible(&a.site)));
        }
        sites.push(SiteDiff::new((first, a), (second, b), paired));
    }
    Ok(Diff { sites, paired, n_pairs: (first.n_pairs(), second.n_pairs()), other: other(first, second) })
}

impl<'a> SiteDiff<'a> {
    fn new(first: (&'a RunResult, &'a SiteEffects), second: (&'a RunResult, &'a SiteEffects), paired: bool) -> Self {
        let ((run_a, a), (run_b, b)) = (first, second);
        let mut spread = spread_of_difference(&run_a.sample(a), &run_b.sample(b), paired, &Bootstrap::default());
        let difference: Vec<f32> = a.effect.iter().zip(&b.effect).map(|(a, b)| b - a).collect();
        spread.mask(|cell| !difference[cell].is_nan());
        let both = a.effect.iter().zip(&b.effect).filter(|(a, b)| a.is_finite() && b.is_finite());
        let (x, y): (Vec<f64>, Vec<f64>) = both.map(|(a, b)| (f64::from(*a), f64::from(*b))).unzip();
        let (pearson, spearman) = (correlation(&x, &y), correlation(&ranks(&x), &ranks(&y)));
        SiteDiff { first: a, second: b, difference, spread, cells: x.len(), pearson, spearman }
    }
}

/// Same prompts by their hash, all of them used.
fn same_pairs(first: &RunResult, second: &RunResult) -> bool {
    let of = |run: &RunResult| {
        let prompts = run.meta.get("prompts")?;
        let hash = prompts.get("sha256")?.as_str()?.to_owned();
        (prompts.get("pairs_dropped")?.as_u64()? == 0).then_some(hash)
    };
    first.n_pairs() == second.n_pairs() && of(first).is_some_and(|hash| of(second) == Some(hash))
}

fn axes_differ(first: &[Axis], second: &[Axis]) -> Option<String> {
    let names = |axes: &[Axis]| axes.iter().map(|axis| visible(&axis.name)).collect::<Vec<_>>().join(", ");
    if !first.iter().map(|a| &a.name).eq(second.iter().map(|a| &a.name)) {
        return Some(format!("axes: [{}] in the first run, [{}] in the second", names(first), names(second)));
    }
    first.iter().zip(second).find_map(|(a, b)| {
        let name = visible(&a.name);
        if a.labels.len() != b.labels.len() {
            let (a, b) = (a.labels.len(), b.labels.len());
            return Some(format!("axis {name}: {a} entries in the first run, {b} in the second"));
        }
        let at = a.labels.iter().zip(&b.labels).position(|(a, b)| a != b)?;
        let (a, b) = (visible_token(&a.labels[at]), visible_token(&b.labels[at]));
        Some(format!("axis {name}, entry {at}: {a} in the first run, {b} in the second"))
    })
}

/// Keys of the two plans, and the device, that have other values.
fn other(first: &RunResult, second: &RunResult) -> Vec<String> {
    let nothing = Map::new();
    let plan = |run: &'_ RunResult| {
        let mut plan = run.meta.get("plan").and_then(Value::as_object).unwrap_or(&nothing).clone();
        for key in ["metric", "patch", "dtype", "device"] {
            if let Some(value) = run.meta.get(key) {
                plan.insert(key.to_owned(), value.clone());
            }
        }
        plan
    };
    let (a, b) = (plan(first), plan(second));
    let keys: Vec<&String> = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).collect();
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "default".to_owned(),
        Some(Value::String(text)) => visible(text),
        Some(other) => visible(&other.to_string()),
    };
    let differs = keys.into_iter().filter(|key| a.get(*key) != b.get(*key)).map(|key| {
        let (one, two) = (text(a.get(key)), text(b.get(key)));
        match key.as_str() {
            "model_sha256" => match (first.meta_text("model"), second.meta_text("model")) {
                (Some(one), Some(two)) if one != two => format!("model ({}, {})", visible(one), visible(two)),
                _ => "model".to_owned(),
            },
            "prompts_sha256" => "prompts".to_owned(),
            "patchwave" => format!("version ({one}, {two})"),
            key => format!("{} ({one}, {two})", visible(key)),
        }
    });
    differs.collect()
}

/// Pearson's correlation; NaN where one side does not vary.
fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len() as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    if xx > 0.0 && yy > 0.0 { xy / (xx.sqrt() * yy.sqrt()) } else { f64::NAN }
}

/// Ranks from 1, equal values having the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let equal = order[start..].iter().take_while(|i| values[**i] == values[order[start]]).count();
        let rank = start as f64 + (equal as f64 + 1.0) / 2.0;
        order[start..start + equal].iter().for_each(|i| ranks[*i] = rank);
        start += equal;
    }
    ranks
}

fn correlation_text(value: f64) -> String {
    if value.is_nan() { "undefined".to_owned() } else { format!("{value:.4}") }
}

impl Diff<'_> {
    /// Correlations by site, then the `n` cells whose effect changed most. Every line ends in a newline.
    pub fn table(&self, n: usize) -> String {
        let mut rows = vec![["site", "cells", "pearson", "spearman", "mean |difference|"].map(String::from).to_vec()];
        for site in &self.sites {
            let finite = || site.difference.iter().filter(|d| d.is_finite());
            let mean = finite().map(|d| f64::from(d.abs())).sum::<f64>() / finite().count() as f64;
            let mean = if mean.is_nan() { "none".to_owned() } else { format!("{mean:.4}") };
            let correlations = [site.pearson, site.spearman].map(correlation_text);
            let mut row = vec![visible(&site.first.site), site.cells.to_string()];
            row.extend(correlations);
            row.push(mean);
            rows.push(row);
        }
        let mut out = columns(&rows, 1);

        let cells = self.sites.iter().flat_map(|site| (0..site.difference.len()).map(move |cell| (site, cell)));
        let mut changed: Vec<(&SiteDiff<'_>, usize)> =
            cells.filter(|(site, cell)| !matches!(site.difference[*cell], d if d.is_nan() || d == 0.0)).collect();
        // Stable: equal differences stay in the order of sites, layers, positions and heads.
        let size = |(site, cell): &(&SiteDiff<'_>, usize)| site.difference[*cell].abs();
        changed.sort_by(|a, b| size(b).total_cmp(&size(a)));
        if changed.is_empty() {
            out.push_str("\nNo effect differs.\n");
            return out;
        }
        let shown = &changed[..n.min(changed.len())];
        let mut rows = vec![["node", "first", "second", "difference", "95 % interval"].map(String::from).to_vec()];
        for (site, cell) in shown {
            let (low, high) = (site.spread.low[*cell], site.spread.high[*cell]);
            let interval = match low.is_nan() {
                true => "none".to_owned(),
                false => format!("{} to {}", table::signed(low), table::signed(high)),
            };
            let numbers = [site.first.effect[*cell], site.second.effect[*cell], site.difference[*cell]];
            let mut row = vec![table::cell_name(site.first, *cell)];
            row.extend(numbers.map(table::signed));
            row.push(interval);
            rows.push(row);
        }
        if self.sites.len() > 1 {
            rows[0].insert(0, "site".to_owned());
            rows[1..].iter_mut().zip(shown).for_each(|(row, (site, _))| row.insert(0, visible(&site.first.site)));
        }
        out.push('\n');
        if !shown.is_empty() {
            out.push_str(&columns(&rows, if self.sites.len() > 1 { 2 } else { 1 }));
        }
        if changed.len() > shown.len() {
            let _ = writeln!(out, "and {} more that differ", changed.len() - shown.len());
        }
        out
    }

    /// The heat map of the differences, blue where the second run's effect is higher. `names` are those of the runs.
    ///
    /// # Errors
    /// [`ExportError::Render`] when the runs have not what the options ask for.
    pub fn heatmap(&self, names: (&str, &str), options: &Options) -> Result<Heatmap, ExportError> {
        let sites: Vec<&SiteEffects> = self.sites.iter().map(|site| site.first).collect();
        let chosen = options.chosen(&sites)?;
        let panels = chosen.iter().map(|at| {
            let site = &self.sites[*at];
            PanelCells {
                site: &site.first.site,
                axes: &site.first.axes,
                values: &site.difference,
                details: vec![&site.first.effect, &site.second.effect],
                spread: &site.spread,
                transposed: options.is_transposed(),
            }
            .panel()
        });
        let panels = panels.collect();
        let named = chosen.iter().map(|at| visible(&self.sites[*at].first.site)).collect::<Vec<_>>().join(", ");
        let title = format!("{} − {} · {named} · difference of effects", visible(names.1), visible(names.0));
        let correlations = chosen.iter().map(|at| {
            let site = &self.sites[*at];
            let [pearson, spearman] = [site.pearson, site.spearman].map(correlation_text);
            format!("{}: Pearson {pearson}, Spearman {spearman}", visible(&site.first.site))
        });
        let mut notes = vec![correlations.collect::<Vec<_>>().join(" · ")];
        if !self.other.is_empty() {
            notes.push(format!("differ in {}", self.other.join(" · ")));
        }
        let details = vec!["first".to_owned(), "second".to_owned()];
        Ok(Heatmap::of_differences(title, notes, details, panels, options))
    }

    /// One line a cell: its place, `first`, `second`, `difference`, `stderr`, `interval_low`, `interval_high`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_csv(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        let sites: Vec<&SiteEffects> = self.sites.iter().map(|site| site.first).collect();
        let names = ["first", "second", "difference", "stderr", "interval_low", "interval_high"];
        cells_csv::write(out, &sites, &names, |site, cell| {
            let site = &self.sites[site];
            let Spread { stderr, low, high } = &site.spread;
            let columns = [&site.first.effect, &site.second.effect, &site.difference, stderr, low, high];
            columns.map(|values| number(values[cell])).to_vec()
        })
    }
}

/// Columns two spaces apart, the first `left` flush left, the others flush right.
fn columns(rows: &[Vec<String>], left: usize) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (text, width))| match column < left {
            true => format!("{text:<width$}"),
            false => format!("{text:>width$}"),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_are_scipys() {
        // numpy.corrcoef([1, 2, 3, 4, 10], [2, 1, 4, 3, 30]), and of the ranks
        let (x, y) = ([1.0, 2.0, 3.0, 4.0, 10.0], [2.0, 1.0, 4.0, 3.0, 30.0]);
        assert!((correlation(&x, &y) - 0.961_965_201_647).abs() < 1e-12);
        assert!((correlation(&ranks(&x), &ranks(&y)) - 0.8).abs() < 1e-12);
        assert!((correlation(&x, &x.map(|v| -3.0 * v)) + 1.0).abs() < 1e-12);
        assert!(correlation(&x, &[1.0; 5]).is_nan() && correlation(&[], &[]).is_nan());
    }

    #[test]
    fn equal_values_share_their_rank() {
        // As scipy.stats.rankdata does.
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 0.0, 3.0]), [4.0, 2.0, 4.0, 1.0, 4.0]);
        assert_eq!(ranks(&[0.0, -0.0]), [1.5, 1.5]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [["node", "x"], ["a0.h1", "+1.5"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(columns(&rows, 1), "node      x\na0.h1  +1.5\n");
    }
}

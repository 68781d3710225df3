//! A probe at every layer and position of every site.

use super::activations::{Activations, SiteRows};
use super::error::ProbeError;
use super::fit::{Penalty, Scores, cross_validate, directions, fit};
use super::folds::Folds;
use super::labels::Target;
use crate::capture::WhichRun;
use crate::engine::Site;
use rayon::prelude::*;

/// What is probed, and how.
#[derive(Debug, Clone)]
pub struct Options {
    pub run: WhichRun,
    /// All that the file has, where `None`.
    pub sites: Option<Vec<Site>>,
    pub penalty: Penalty,
    pub folds: Folds,
}

/// Directions of one site, `[n_layers, n_positions, width]`, zeros in layers that were not probed.
#[derive(Debug, Clone, PartialEq)]
pub struct Direction {
    /// The class that it leads to, where there are more than two.
    pub class: Option<String>,
    pub values: Vec<f32>,
}

/// What the probes of one site found. Layers are all of the model's.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteReport {
    pub site: Site,
    pub positions: Vec<String>,
    pub width: usize,
    /// `[n_layers, n_positions]`: mean over the folds; NaN in layers that were not probed.
    pub score: Vec<f64>,
    /// Deviation over the folds.
    pub deviation: Vec<f64>,
    /// The score of guessing.
    pub baseline: Vec<f64>,
    pub directions: Vec<Direction>,
}

/// What all probes found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub n_layers: usize,
    pub sites: Vec<SiteReport>,
    /// Cells in which the search for some minimum was ended before it arrived.
    pub unconverged: usize,
}

/// Fits all probes, several at once. `finished` is called after each and may stop the rest.
///
/// # Errors
/// Sites that are not there, activations that are not finite, [`ProbeError::Interrupted`].
pub fn run(
    activations: &Activations,
    target: &Target,
    options: &Options,
    finished: &(dyn Fn() -> bool + Sync),
) -> Result<Report, ProbeError> {
    let sites = activations.sites(options.run, options.sites.as_deref())?;
    let mut report = Report { n_layers: activations.n_layers, sites: Vec::new(), unconverged: 0 };
    for site in &sites {
        let cells: Vec<(usize, &String, usize)> = site
            .layers
            .iter()
            .flat_map(|(layer, name)| (0..site.positions.len()).map(move |p| (*layer, name, p)))
            .collect();
        let probe = |(layer, name, position): &(usize, &String, usize)| {
            let x = activations.matrix(site, name, *position)?;
            let scores = cross_validate(&x, target, &options.folds, options.penalty);
            let linear = fit(&x, target, options.penalty);
            let directions = directions(&x, target, &linear);
            if !finished() {
                return Err(ProbeError::Interrupted);
            }
            let converged = scores.converged && linear.converged;
            Ok(Cell { at: layer * site.positions.len() + position, scores, directions, converged })
        };
        let cells: Vec<Cell> = cells.par_iter().map(probe).collect::<Result<_, ProbeError>>()?;
        report.unconverged += cells.iter().filter(|c| !c.converged).count();
        report.sites.push(gather(site, activations.n_layers, target, &cells));
    }
    Ok(report)
}

/// One layer and position.
struct Cell {
    at: usize,
    scores: Scores,
    directions: Vec<Vec<f32>>,
    converged: bool,
}

fn gather(site: &SiteRows, n_layers: usize, target: &Target, cells: &[Cell]) -> SiteReport {
    let n = n_layers * site.positions.len();
    let names: Vec<Option<String>> = match target {
        Target::Classes { names, .. } if names.len() > 2 => names.iter().cloned().map(Some).collect(),
        _ => vec![None],
    };
    let empty = |class: Option<String>| Direction { class, values: vec![0.0; n * site.width] };
    let mut report = SiteReport {
        site: site.site,
        positions: site.positions.clone(),
        width: site.width,
        score: vec![f64::NAN; n],
        deviation: vec![f64::NAN; n],
        baseline: vec![f64::NAN; n],
        directions: names.into_iter().map(empty).collect(),
    };
    for cell in cells {
        report.score[cell.at] = cell.scores.mean();
        report.deviation[cell.at] = cell.scores.deviation();
        report.baseline[cell.at] = cell.scores.baseline;
        for (all, one) in report.directions.iter_mut().zip(&cell.directions) {
            all.values[cell.at * site.width..][..site.width].copy_from_slice(one);
        }
    }
    report
}

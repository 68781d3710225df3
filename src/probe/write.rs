//! What probes leave behind: a folder with scores as table, JSON and picture, and the directions.

use super::error::ProbeError;
use super::labels::Kind;
use super::run::Report;
use crate::capture::Partial;
use crate::export::heatmap::{Heatmap, ScorePanel};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

pub const DIRECTION_FILE: &str = "directions.safetensors";
pub const CSV_FILE: &str = "probe.csv";
pub const JSON_FILE: &str = "probe.json";
pub const HEATMAP_FILE: &str = "heatmap.svg";

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub heatmap: PathBuf,
    pub directions: PathBuf,
}

/// Fills `folder`, which exists under its temporary name, and renames it to `path`. `about` goes into `probe.json` before
/// the scores, `title` above the picture.
pub fn write(
    folder: Partial,
    path: &Path,
    report: &Report,
    kind: Kind,
    title: &str,
    about: Map<String, Value>,
) -> Result<Written, ProbeError> {
    let put = |name: &str, bytes: &[u8]| {
        let written = File::create(folder.temporary().join(name)).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|source| ProbeError::Write { path: path.join(name), source })
    };
    put(CSV_FILE, &csv(report, kind))?;
    put(JSON_FILE, format!("{:#}\n", Value::Object(with_scores(report, about))).as_bytes())?;
    put(HEATMAP_FILE, picture(report, kind, title).to_svg().as_bytes())?;
    put(DIRECTION_FILE, &directions(report)?)?;
    folder.finish()?;
    Ok(Written { heatmap: path.join(HEATMAP_FILE), directions: path.join(DIRECTION_FILE) })
}

/// The names of the directions of one site: the site's, or `site.class` for each of several classes.
fn names(site: &super::run::SiteReport) -> Vec<String> {
    let name = |class: &Option<String>| match class {
        Some(class) => format!("{}.{class}", site.site),
        None => site.site.to_string(),
    };
    site.directions.iter().map(|d| name(&d.class)).collect()
}

fn directions(report: &Report) -> Result<Vec<u8>, ProbeError> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for site in &report.sites {
        // One position is every position: the axis would only be in the way of whoever steers with it.
        let shape = match site.positions.len() {
            1 => vec![report.n_layers, site.width],
            n => vec![report.n_layers, n, site.width],
        };
        for (name, direction) in names(site).into_iter().zip(&site.directions) {
            let bytes = direction.values.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.push((name, shape.clone(), bytes));
        }
    }
    let wrong = |e: safetensors::SafeTensorError| ProbeError::Asked(format!("directions: {e}"));
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(wrong)?;
    // One key only: several would come out in another order each time.
    let positions: Map<String, Value> = report.sites.iter().map(|s| (s.site.to_string(), json!(s.positions))).collect();
    let about = HashMap::from([("positions".to_owned(), Value::Object(positions).to_string())]);
    safetensors::serialize(views, Some(about)).map_err(wrong)
}

fn with_scores(report: &Report, mut all: Map<String, Value>) -> Map<String, Value> {
    // JSON has no NaN; a cell that was not probed is null.
    let table = |values: &[f64], columns: usize| -> Value {
        let number = |v: &f64| if v.is_finite() { json!(v) } else { Value::Null };
        values.chunks(columns.max(1)).map(|row| Value::Array(row.iter().map(number).collect())).collect()
    };
    let sites: Vec<Value> = report
        .sites
        .iter()
        .map(|site| {
            let n = site.positions.len();
            json!({
                "site": site.site.name(), "positions": site.positions, "score": table(&site.score, n),
                "deviation": table(&site.deviation, n), "baseline": table(&site.baseline, n),
                "directions": names(site),
            })
        })
        .collect();
    all.insert("unconverged".into(), json!(report.unconverged));
    all.insert("sites".into(), json!(sites));
    all
}

fn csv(report: &Report, kind: Kind) -> Vec<u8> {
    let score = if kind == Kind::Ridge { "r2" } else { "accuracy" };
    let mut out = ::csv::Writer::from_writer(Vec::new());
    // Writing into memory does not fail.
    let mut line = |cells: &[&str]| {
        let _ = out.write_record(cells);
    };
    line(&["site", "layer", "pos", "pos_label", score, "deviation", "baseline"]);
    for site in &report.sites {
        let n = site.positions.len();
        for (cell, score) in site.score.iter().enumerate() {
            let text = |x: f64| if x.is_nan() { String::new() } else { x.to_string() };
            line(&[
                site.site.name(),
                &(cell / n).to_string(),
                &(cell % n).to_string(),
                &site.positions[cell % n],
                &text(*score),
                &text(site.deviation[cell]),
                &text(site.baseline[cell]),
            ]);
        }
    }
    out.into_inner().unwrap_or_default()
}

fn picture(report: &Report, kind: Kind, title: &str) -> Heatmap {
    let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect();
    let panels = report.sites.iter().map(|site| ScorePanel {
        site: site.site.name(),
        rows: report.n_layers,
        positions: &site.positions,
        scores: single(&site.score),
        baselines: single(&site.baseline),
    });
    Heatmap::of_scores(title, kind.score(), panels.collect())
}

//! A finished run on disk and in pictures: what numpy, a spreadsheet, a browser and a terminal get to see.

mod differences;
mod files;
mod hostile_folders;
mod pictures;
mod roofline;
mod table;

use std::fs;
use std::path::Path;

use patchwave::export::heatmap::{Format, Heatmap, Options, Scale, ScaleBy, Style, color, render};
use patchwave::export::run::{read, write};
use patchwave::export::{Axis, Direction, ExportError, RunResult, SiteEffects, top_cells};
use resvg::tiny_skia::Pixmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const NAN: f32 = f32::NAN;

fn pos(labels: &[&str]) -> Axis {
    Axis { name: "pos".into(), labels: labels.iter().map(|l| l.to_string()).collect() }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

/// A site over two pairs whose runs give −2 (corrupted) and 2 (clean), so that an effect of e is a metric of 4e − 2.
fn site(name: &str, axes: Vec<Axis>, effect: &[f32]) -> SiteEffects {
    let metric = effect.iter().flat_map(|e| [4.0 * e - 2.0; 2]).collect();
    SiteEffects { site: name.into(), axes, effect: effect.to_vec(), metric }
}

fn run(sites: Vec<SiteEffects>) -> RunResult {
    RunResult {
        meta: object(json!({"model": "tiny", "metric": "logit_diff", "patch": "source", "rows_computed": 1234})),
        sites,
        metric_clean: vec![2.0, 2.0],
        metric_corrupted: vec![-2.0, -2.0],
        effect_defined: true,
        direction: Direction::Denoise,
    }
}

/// z by head of a model with 2 layers of 3 heads, the last head of layer 1 missing.
fn heads() -> RunResult {
    let axes = vec![Axis::numbered("layer", 2), Axis::numbered("head", 3)];
    run(vec![site("z", axes, &[0.25, 0.0, -0.5, 0.0, 0.75, NAN])])
}

fn written(run: &RunResult) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), run).expect("a run that can be written");
    dir
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn read_error(dir: &Path) -> (String, u8) {
    let error = read(dir).expect_err("not a readable run");
    (error.to_string(), error.exit_code())
}

fn edit_json(dir: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    let path = dir.join("run.json");
    let mut all = object(serde_json::from_slice(&fs::read(&path).expect("run.json")).expect("JSON"));
    edit(&mut all);
    fs::write(path, Value::Object(all).to_string()).expect("written");
}

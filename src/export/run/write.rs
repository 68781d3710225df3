//! Writing a run folder so that a half-written one can never be taken for a finished one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{
    CSV_FILE, EFFECTS_FILE, FORMAT_VERSION, HEATMAP_FILE, PARTIAL_SUFFIX, RUN_FILE, RunResult, SiteEffects,
    tensor_names,
};
use crate::export::error::ExportError;
use crate::export::heatmap::{self, Format};

/// Where the files of a run are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub effects: PathBuf,
    pub csv: PathBuf,
    pub run_json: PathBuf,
    pub heatmap: PathBuf,
}

/// Writes `run` into the folder `dir`, which is made if there is none.
///
/// All files are first written under temporary names in that folder and synced. Then the old `effects.safetensors`, if
/// any, goes, the others are renamed, and `effects.safetensors` comes last: where it is, the run is complete.
///
/// # Errors
/// [`ExportError::Inconsistent`] when the result's parts do not fit; [`ExportError::Write`] otherwise, with the
/// temporary files removed.
pub fn write(dir: &Path, run: &RunResult) -> Result<Written, ExportError> {
    run.check()?;
    fs::create_dir_all(dir).map_err(|source| ExportError::Write { path: dir.into(), source })?;
    let picture = heatmap::render(run, Format::Svg)?;

    let mut files = Partials::default();
    let effects = files.add(dir, EFFECTS_FILE, |out| write_effects(out, run))?;
    let csv = files.add(dir, CSV_FILE, |out| write_csv(out, run))?;
    let run_json = files.add(dir, RUN_FILE, |out| {
        serde_json::to_writer_pretty(&mut *out, &run_json(run))?;
        out.write_all(b"\n")
    })?;
    let heatmap = files.add(dir, HEATMAP_FILE, |out| out.write_all(&picture))?;
    files.commit(dir)?;
    Ok(Written { effects, csv, run_json, heatmap })
}

/// Files under temporary names; those that are not committed are removed.
#[derive(Default)]
struct Partials {
    /// (temporary name, final name), first the one that makes the run complete.
    files: Vec<(PathBuf, PathBuf)>,
}

impl Partials {
    fn add(
        &mut self,
        dir: &Path,
        name: &str,
        fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<PathBuf, ExportError> {
        let (partial, path) = (dir.join(format!("{name}{PARTIAL_SUFFIX}")), dir.join(name));
        self.files.push((partial.clone(), path.clone()));
        let written = File::create(&partial).and_then(|file| {
            let mut out = BufWriter::new(&file);
            fill(&mut out)?;
            out.flush()?;
            drop(out);
            file.sync_all()
        });
        written.map_err(|source| ExportError::Write { path: path.clone(), source })?;
        Ok(path)
    }

    fn commit(mut self, dir: &Path) -> Result<(), ExportError> {
        let write_error = |path: &Path| {
            let path = path.to_owned();
            move |source| ExportError::Write { path, source }
        };
        if let Some((_, complete)) = self.files.first() {
            match fs::remove_file(complete) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(write_error(complete)(source)),
                _ => {}
            }
        }
        while let Some((partial, path)) = self.files.last() {
            fs::rename(partial, path).map_err(write_error(path))?;
            self.files.pop();
        }
        // The renames themselves are only safe once the folder is; not every file system can sync one.
        if let Ok(folder) = File::open(dir) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Partials {
    fn drop(&mut self) {
        for (partial, _) in &self.files {
            let _ = fs::remove_file(partial);
        }
    }
}

/// The safetensors layout: eight bytes of header length, the header as JSON padded to a multiple of eight, the data.
fn write_effects(out: &mut impl Write, run: &RunResult) -> io::Result<()> {
    let n_pairs = run.n_pairs();
    let mut tensors: Vec<(String, Vec<usize>, &[f32])> = vec![
        ("metric_clean".into(), vec![n_pairs], &run.metric_clean),
        ("metric_corrupted".into(), vec![n_pairs], &run.metric_corrupted),
    ];
    for site in &run.sites {
        let (effect, metric) = tensor_names(&site.site, run.sites.len());
        tensors.push((effect, site.shape(), &site.effect));
        tensors.push((metric, [site.shape(), vec![n_pairs]].concat(), &site.metric));
    }
    let mut header = Map::new();
    let mut at = 0;
    for (name, shape, data) in &tensors {
        let end = at + 4 * data.len();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for value in tensors.iter().flat_map(|(_, _, data)| data.iter()) {
        out.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

fn run_json(run: &RunResult) -> Value {
    let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let sites = run.sites.iter().map(|site| {
        let (effect, metric) = tensor_names(&site.site, run.sites.len());
        json!({"site": site.site, "effect": effect, "metric": metric, "shape": site.shape(), "axes": site.axes})
    });
    let mut all = Map::from_iter([("format_version".to_owned(), json!(FORMAT_VERSION))]);
    all.extend(run.meta.clone());
    all.extend([
        ("direction".to_owned(), json!(run.direction)),
        ("effect_defined".to_owned(), json!(run.effect_defined)),
        ("n_pairs".to_owned(), json!(run.n_pairs())),
        ("mean_metric_clean".to_owned(), json!(mean(&run.metric_clean))),
        ("mean_metric_corrupted".to_owned(), json!(mean(&run.metric_corrupted))),
        ("sites".to_owned(), sites.collect()),
    ]);
    Value::Object(all)
}

fn write_csv(out: &mut impl Write, run: &RunResult) -> io::Result<()> {
    let used: BTreeSet<&str> = run.sites.iter().flat_map(|s| &s.axes).map(|axis| axis.name.as_str()).collect();
    let axes = ["layer", "head", "pos"].into_iter().filter(|name| used.contains(name)).collect::<Vec<_>>();
    let mut csv = csv::Writer::from_writer(out);
    let mut columns = vec!["site"];
    columns.extend(&axes);
    columns.extend(used.contains("pos").then_some("pos_label"));
    columns.extend(["effect", "mean_metric", "n_pairs"]);
    csv.write_record(&columns)?;

    let number = |v: f32| if v.is_nan() { String::new() } else { v.to_string() };
    let mut record = Vec::with_capacity(columns.len());
    for site in &run.sites {
        for (cell, &effect) in site.effect.iter().enumerate() {
            let index = site.index(cell);
            record.clear();
            record.push(site.site.clone());
            record.extend(axes.iter().map(|name| site.axis(name).map_or(String::new(), |a| index[a].to_string())));
            record.extend(used.contains("pos").then(|| pos_label(site, &index)));
            let metric = run.cell_metric(site, cell);
            record.extend([number(effect), number(metric.mean), metric.n.to_string()]);
            csv.write_record(&record)?;
        }
    }
    csv.flush()
}

fn pos_label(site: &SiteEffects, index: &[usize]) -> String {
    site.axis("pos").map_or(String::new(), |axis| site.axes[axis].labels[index[axis]].clone())
}

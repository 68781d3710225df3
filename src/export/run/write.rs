//! Writing a run folder so that a half-written one can never be taken for a finished one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{
    CSV_FILE, EFFECTS_FILE, FORMAT_VERSION, HEATMAP_FILE, PARTIAL_SUFFIX, RUN_FILE, RunResult, SiteEffects, TensorNames,
};
use crate::export::cells_csv::{self, number};
use crate::export::error::ExportError;
use crate::export::heatmap::{Format, Heatmap, Options};
use crate::sweep::statistics::{Bootstrap, Spread};

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
    let bootstrap = Bootstrap::default();
    let spreads = run.spreads(&bootstrap)?;
    let picture = Heatmap::with_spreads(run, &spreads, &Options::default())?.render(Format::Svg)?;

    let mut files = Partials::default();
    let effects = files.add(dir, EFFECTS_FILE, |out| write_effects(out, run, &spreads))?;
    let csv = files.add(dir, CSV_FILE, |out| write_csv(out, run, &spreads))?;
    let run_json = files.add(dir, RUN_FILE, |out| {
        serde_json::to_writer_pretty(&mut *out, &run_json(run, &bootstrap))?;
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
fn write_effects(out: &mut impl Write, run: &RunResult, spreads: &[Spread]) -> io::Result<()> {
    let n_pairs = run.n_pairs();
    let ends = |spread: &Spread| spread.low.iter().zip(&spread.high).flat_map(|(l, h)| [*l, *h]).collect::<Vec<f32>>();
    let intervals: Vec<Vec<f32>> = spreads.iter().map(ends).collect();
    let mut tensors: Vec<(String, Vec<usize>, &[f32])> = vec![
        ("metric_clean".into(), vec![n_pairs], &run.metric_clean),
        ("metric_corrupted".into(), vec![n_pairs], &run.metric_corrupted),
    ];
    for (site, (spread, interval)) in run.sites.iter().zip(spreads.iter().zip(&intervals)) {
        let names = TensorNames::new(&site.site, run.sites.len());
        tensors.push((names.effect, site.shape(), &site.effect));
        tensors.push((names.metric, [site.shape(), vec![n_pairs]].concat(), &site.metric));
        tensors.push((names.stderr, site.shape(), &spread.stderr));
        tensors.push((names.interval, [site.shape(), vec![2]].concat(), interval));
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

fn run_json(run: &RunResult, bootstrap: &Bootstrap) -> Value {
    let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let sites = run.sites.iter().map(|site| {
        let names = TensorNames::new(&site.site, run.sites.len());
        json!({
            "site": site.site, "effect": names.effect, "metric": names.metric, "stderr": names.stderr,
            "interval": names.interval, "shape": site.shape(), "axes": site.axes,
        })
    });
    let mut all = Map::from_iter([("format_version".to_owned(), json!(FORMAT_VERSION))]);
    all.extend(run.meta.clone());
    all.extend([
        ("direction".to_owned(), json!(run.direction)),
        ("effect_defined".to_owned(), json!(run.effect_defined)),
        ("n_pairs".to_owned(), json!(run.n_pairs())),
        ("mean_metric_clean".to_owned(), json!(mean(&run.metric_clean))),
        ("mean_metric_corrupted".to_owned(), json!(mean(&run.metric_corrupted))),
        (
            "statistics".to_owned(),
            json!({
                "stderr": "delta method", "interval": "percentile bootstrap over pairs", "draws": bootstrap.draws,
                "level": bootstrap.level, "seed": bootstrap.seed,
            }),
        ),
        ("sites".to_owned(), sites.collect()),
    ]);
    Value::Object(all)
}

fn write_csv(out: &mut impl Write, run: &RunResult, spreads: &[Spread]) -> io::Result<()> {
    let sites: Vec<&SiteEffects> = run.sites.iter().collect();
    let columns = ["effect", "mean_metric", "n_pairs", "stderr", "interval_low", "interval_high"];
    cells_csv::write(out, &sites, &columns, |site, cell| {
        let (site, spread) = (&run.sites[site], &spreads[site]);
        let metric = run.cell_metric(site, cell);
        let mut values = vec![number(site.effect[cell]), number(metric.mean), metric.n.to_string()];
        values.extend([&spread.stderr, &spread.low, &spread.high].map(|values| number(values[cell])));
        values
    })
}

//! Captured activations as probes read them: one matrix `[pairs, width]` for each site, layer and position.

use super::error::ProbeError;
use super::labels::Labelled;
use super::matrix::Matrix;
use crate::capture::WhichRun;
use crate::engine::Site;
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// No model has as many; a file that says so is damaged.
const MAX_LAYERS: usize = 1024;

/// A file written by `patchwave capture`, mapped into memory.
pub struct Activations {
    pub path: PathBuf,
    map: Mmap,
    /// First byte behind the header.
    data_at: usize,
    header: Metadata,
    pub n_pairs: usize,
    /// Of the model, not of the file.
    pub n_layers: usize,
}

/// One site of a run, in the layers that the file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRows {
    pub site: Site,
    /// Layer → tensor.
    pub layers: BTreeMap<usize, String>,
    pub positions: Vec<String>,
    /// Numbers of one row, heads together.
    pub width: usize,
}

impl Activations {
    /// # Errors
    /// No file, or none that `patchwave capture` wrote.
    pub fn open(path: &Path) -> Result<Activations, ProbeError> {
        let io = |source| ProbeError::Read { path: path.to_owned(), source };
        let malformed = |reason: String| ProbeError::Malformed { path: path.to_owned(), reason };
        let about = std::fs::metadata(path).map_err(io)?;
        if about.is_dir() {
            return Err(malformed("a folder; probes read what capture writes with --format safetensors".into()));
        }
        if !about.is_file() || about.len() < 8 {
            return Err(malformed("not a safetensors file".into()));
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the file is only read; that nobody truncates it meanwhile is the assumption of every memory map.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (header_len, header) = SafeTensors::read_metadata(&map)
            .map_err(|e| malformed(format!("not a whole safetensors file ({e}); was it truncated?")))?;
        let data_at = header_len.saturating_add(8);
        let word = |key: &str| header.metadata().as_ref().and_then(|m| m.get(key)).cloned();
        let Some(n_layers) = word("n_layers").filter(|_| word("patchwave_version").is_some()) else {
            return Err(malformed("not written by `patchwave capture`".into()));
        };
        let n_layers: usize = n_layers.parse().unwrap_or(0);
        if n_layers == 0 || n_layers > MAX_LAYERS {
            return Err(malformed("its header's n_layers is no number of layers".into()));
        }
        let n_pairs = match header.info("lengths").map(|t| &t.shape[..]) {
            Some([n]) if *n > 0 => *n,
            _ => return Err(malformed("it has no tensor `lengths`, so it is no capture".into())),
        };
        Ok(Activations { path: path.to_owned(), map, data_at, header, n_pairs, n_layers })
    }

    /// What the file says of itself under `key`.
    pub fn about(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    fn malformed(&self, reason: impl Into<String>) -> ProbeError {
        ProbeError::Malformed { path: self.path.clone(), reason: reason.into() }
    }

    /// The labels that came with the pairs; without any, empty ones.
    pub fn labels(&self) -> Result<Vec<Labelled>, ProbeError> {
        let mut all = vec![Map::new(); self.n_pairs];
        if let Some(info) = self.header.info("labels") {
            let bytes = self.data(info).filter(|_| info.dtype == Dtype::U8);
            let bytes = bytes.ok_or_else(|| self.malformed("its labels are not bytes"))?;
            let wrong = || self.malformed("its labels are not one JSON object a pair");
            all = serde_json::from_slice::<Vec<Map<String, Value>>>(bytes).map_err(|_| wrong())?;
            if all.len() != self.n_pairs {
                return Err(wrong());
            }
        }
        let place = |i: usize| format!("{}: pair {i} (from 0)", self.path.display());
        Ok(all.into_iter().enumerate().map(|(i, labels)| Labelled { place: place(i), labels }).collect())
    }

    /// The sites of `run` that a probe can read, in the order of [`Site::ALL`]: all of them, or `wanted`.
    ///
    /// # Errors
    /// A wanted site that is not there, matrices of attention, prompts without common positions, nothing at all.
    pub fn sites(&self, run: WhichRun, wanted: Option<&[Site]>) -> Result<Vec<SiteRows>, ProbeError> {
        let prefix = format!("{}.", run.name());
        let mut names: Vec<String> = self.header.tensors().into_keys().filter(|n| n.starts_with(&prefix)).collect();
        names.sort();
        let mut found: BTreeMap<Site, BTreeMap<usize, String>> = BTreeMap::new();
        for name in names {
            let Some((layer, rest)) =
                name[prefix.len()..].strip_prefix("blocks.").and_then(|rest| rest.split_once('.'))
            else {
                continue;
            };
            let (Ok(layer), Ok(site)) = (layer.parse::<usize>(), rest.parse::<Site>()) else { continue };
            if layer < self.n_layers {
                found.entry(site).or_default().insert(layer, name);
            }
        }
        let is_matrix = |site: &Site| matches!(site, Site::AttnScores | Site::Pattern);
        let there: Vec<&str> = found.keys().filter(|s| !is_matrix(s)).map(|s| s.name()).collect();
        let has = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        for site in wanted.unwrap_or_default() {
            if is_matrix(site) {
                return Err(ProbeError::Asked(format!("--sites {site}: a probe reads rows, and these are matrices")));
            }
            if !found.contains_key(site) {
                return Err(ProbeError::Asked(format!(
                    "--sites {site}: {} has no {} activations of it; it has {has}",
                    self.path.display(),
                    run.name()
                )));
            }
        }
        if there.is_empty() {
            return Err(self.malformed(format!("no activations of the {} run that a probe could read", run.name())));
        }
        if self.header.info("row_offsets").is_some() {
            return Err(ProbeError::Asked(
                "prompts of different lengths have no positions in common; choose some: --positions end, or names or \
                 numbers (also of `capture`)"
                    .into(),
            ));
        }
        let wanted = |site: &Site| wanted.map_or(!is_matrix(site), |w| w.contains(site));
        found.into_iter().filter(|(site, _)| wanted(site)).map(|(site, layers)| self.site(site, layers)).collect()
    }

    fn site(&self, site: Site, layers: BTreeMap<usize, String>) -> Result<SiteRows, ProbeError> {
        let mut shape: Option<(usize, usize)> = None;
        for name in layers.values() {
            let rows = self.header.info(name).and_then(|t| match &t.shape[..] {
                [pairs, positions, row @ ..] if *pairs == self.n_pairs && *positions > 0 && !row.is_empty() => {
                    let width = row.iter().try_fold(1usize, |n, k| n.checked_mul(*k)).filter(|w| *w > 0)?;
                    Some((*positions, width))
                }
                _ => None,
            });
            let rows = rows.ok_or_else(|| self.malformed(format!("{name} is not [pair, pos, …]")))?;
            if *shape.get_or_insert(rows) != rows {
                return Err(ProbeError::Asked(format!(
                    "--sites {site}: its layers have different shapes; choose layers that are alike with --layers"
                )));
            }
        }
        let (n_positions, width) = shape.unwrap_or((0, 0));
        let labels = |key: &str| serde_json::from_str::<Vec<String>>(self.about(key)?).ok();
        let positions = labels("positions").or_else(|| labels("position_labels"));
        let positions = positions.filter(|p| p.len() == n_positions);
        let positions = positions.unwrap_or_else(|| (0..n_positions).map(|i| format!("pos_{i}")).collect());
        Ok(SiteRows { site, layers, positions, width })
    }

    fn data(&self, info: &TensorInfo) -> Option<&[u8]> {
        let (from, to) = info.data_offsets;
        self.map.get(self.data_at.checked_add(from)?..self.data_at.checked_add(to)?)
    }

    /// The rows of tensor `name` at position number `position`, `[pairs, width]`.
    ///
    /// # Errors
    /// An activation that is not finite, a file that is cut off.
    pub fn matrix(&self, rows: &SiteRows, name: &str, position: usize) -> Result<Matrix, ProbeError> {
        let cut_off = || self.malformed(format!("{name} is cut off"));
        let info = self.header.info(name).ok_or_else(cut_off)?;
        let data = self.data(info).ok_or_else(cut_off)?;
        let (number, read): (usize, fn(&[u8]) -> f64) = match info.dtype {
            Dtype::F32 => (4, |b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Dtype::F16 => (2, |b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()),
            Dtype::BF16 => (2, |b| half::bf16::from_le_bytes([b[0], b[1]]).to_f64()),
            _ => return Err(self.malformed(format!("{name} holds no floating-point numbers"))),
        };
        let row = rows.width * number;
        let mut x = Vec::new();
        for pair in 0..self.n_pairs {
            let at = (pair * rows.positions.len() + position) * row;
            let bytes = data.get(at..at + row).ok_or_else(cut_off)?;
            let before = x.len();
            x.extend(bytes.chunks_exact(number).map(read));
            if !x[before..].iter().all(|x| x.is_finite()) {
                return Err(ProbeError::NonFinite { tensor: name.to_owned(), pair });
            }
        }
        Ok(Matrix { rows: self.n_pairs, cols: rows.width, data: x })
    }
}

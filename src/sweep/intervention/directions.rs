//! Steering directions from a safetensors file.

use super::InterventionError;
use crate::engine::Site;
use crate::hex::hex;
use crate::model::ModelSpec;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// The most bytes that are read of a file of directions.
const MAX_FILE: u64 = 1 << 30;

/// Directions by site. A site's tensor has the site's short name (`resid_post`, `z`); a file with one tensor serves every
/// site that it fits. Shapes: `[width]` for every layer and position, `[n_layers, width]`, or
/// `[n_layers, positions, width]`, where width may be `n_heads, d_head` at sites with heads.
#[derive(Debug, Clone, PartialEq)]
pub struct Directions {
    /// The file, for messages.
    pub file: String,
    /// Of the file's bytes, in hexadecimal.
    pub sha256: String,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Clone, PartialEq)]
struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

/// What a tensor has of a position axis, and numbers in a row.
struct Layout {
    positions: Option<usize>,
    width: usize,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers {:?}", self.data.len(), self.shape)
    }
}

impl Directions {
    /// Reads a file.
    ///
    /// # Errors
    /// It is none, or too large, or holds numbers of a type that does not widen to float32.
    pub fn open(path: &Path) -> Result<Directions, InterventionError> {
        let file = path.display().to_string();
        let fail = |reason: String| InterventionError::Directions { file: file.clone(), reason };
        let mut bytes = Vec::new();
        let opened = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
        opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| fail(e.to_string()))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(fail("larger than 1 GiB, which no set of directions is".to_owned()));
        }
        Directions::parse(&file, &bytes)
    }

    /// Reads a file from memory; `file` is what messages call it.
    ///
    /// # Errors
    /// As [`Directions::open`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Directions, InterventionError> {
        let fail = |reason: String| InterventionError::Directions { file: file.to_owned(), reason };
        let parsed = SafeTensors::deserialize(bytes).map_err(|e| fail(format!("no safetensors file: {e}")))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in parsed.tensors() {
            let data = match view.dtype() {
                Dtype::F32 => {
                    view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
                }
                Dtype::F64 => {
                    let wide = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32;
                    view.data().chunks_exact(8).map(wide).collect()
                }
                Dtype::F16 => {
                    view.data().chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
                }
                Dtype::BF16 => {
                    view.data().chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
                }
                other => {
                    return Err(fail(format!("tensor {name:?} is stored as {other}; expected F64, F32, F16 or BF16")));
                }
            };
            tensors.insert(name, Tensor { shape: view.shape().to_vec(), data });
        }
        let sha256 = hex(&Sha256::digest(bytes));
        Ok(Directions { file: file.to_owned(), sha256, tensors })
    }

    fn fail(&self, reason: String) -> InterventionError {
        InterventionError::Directions { file: self.file.clone(), reason }
    }

    fn tensor(&self, site: Site) -> Result<(&str, &Tensor), InterventionError> {
        let mut all = self.tensors.iter().map(|(name, t)| (name.as_str(), t));
        match (self.tensors.get_key_value(site.name()), self.tensors.len()) {
            (Some((name, tensor)), _) => Ok((name, tensor)),
            (None, 1) => Ok(all.next().expect("one tensor")),
            (None, _) => {
                let names: Vec<&str> = all.map(|(name, _)| name).collect();
                let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                Err(self.fail(format!("no tensor is called {site}; it has {has}")))
            }
        }
    }

    /// Checks the tensor of `site` against the model, with `n_positions` places on the position axis.
    ///
    /// # Errors
    /// It is missing, its shape is none of those above, or a number of it in `layer` is not finite.
    pub fn check(
        &self,
        site: Site,
        layer: usize,
        spec: &ModelSpec,
        n_positions: usize,
    ) -> Result<(), InterventionError> {
        let (name, tensor) = self.tensor(site)?;
        let layout = self.layout(name, tensor, site, layer, spec)?;
        if let Some(has) = layout.positions.filter(|has| *has != n_positions) {
            return Err(self.fail(format!(
                "tensor {name:?} has {has} positions {:?}, and the position axis of this run has {n_positions}",
                tensor.shape
            )));
        }
        for position in 0..layout.positions.unwrap_or(1) {
            let row = self.row(site, layer, position, layout.width);
            if row.iter().any(|x| !x.is_finite()) {
                return Err(self.fail(format!("tensor {name:?} is not finite in layer {layer}")));
            }
        }
        Ok(())
    }

    /// Whether the directions of a residual site differ between two layers. [`Directions::check`] has passed.
    pub(super) fn differ(&self, site: Site, layers: (usize, usize), spec: &ModelSpec) -> bool {
        let width = spec.d_model;
        let (_, tensor) = self.tensor(site).expect("checked");
        let positions = tensor.data.len() / width.max(1) / tensor.shape[0].max(1);
        let rows = |layer| (0..positions.max(1)).map(move |p| self.row(site, layer, p, width));
        rows(layers.0).ne(rows(layers.1))
    }

    fn layout(
        &self,
        name: &str,
        tensor: &Tensor,
        site: Site,
        layer: usize,
        spec: &ModelSpec,
    ) -> Result<Layout, InterventionError> {
        let width = crate::sweep::group::site_width(spec, site, layer);
        let heads = site.heads(spec, layer);
        let shape = &tensor.shape[..];
        let lead = match shape {
            [lead @ .., last] if *last == width => Some(lead),
            [lead @ .., h, d] if site.has_heads() && *h == heads && h.checked_mul(*d) == Some(width) => Some(lead),
            _ => None,
        };
        match lead {
            Some([]) => Ok(Layout { positions: None, width }),
            Some([layers]) if *layers == spec.n_layers() => Ok(Layout { positions: None, width }),
            Some([layers, positions]) if *layers == spec.n_layers() => Ok(Layout { positions: Some(*positions), width }),
            _ => Err(self.fail(format!(
                "tensor {name:?} is {shape:?}; {site} of layer {layer} takes [{width}], [{n}, {width}] or [{n}, positions, {width}]",
                n = spec.n_layers()
            ))),
        }
    }

    /// The direction of `site` in `layer` at place `position` of the position axis. [`Directions::check`] has passed.
    pub(super) fn row(&self, site: Site, layer: usize, position: usize, width: usize) -> &[f32] {
        let (_, tensor) = self.tensor(site).expect("checked");
        // One row serves all; where there are more, the layers come first.
        let rows = tensor.data.len() / width.max(1);
        let per_layer = if rows <= 1 { 1 } else { rows / tensor.shape[0] };
        let at = if rows <= 1 { 0 } else { layer * per_layer + position.min(per_layer - 1) };
        &tensor.data[at * width..(at + 1) * width]
    }
}

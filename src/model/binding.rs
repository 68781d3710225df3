//! Holds a checkpoint to its spec, tensor by tensor, and reads parameters through the layouts in between.

use super::family::{Index, NameTable, Stored};
use super::resolve::Resolved;
use super::{Checkpoint, ModelError, Params, wrapper};
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Numbers that one thread checks at a time.
const FINITE_CHUNK: usize = 1 << 14;

/// The parameters of a spec, read from a checkpoint that was found to fit it.
pub struct BoundParams {
    checkpoint: Arc<dyn Checkpoint>,
    params: HashMap<String, Bound>,
    /// The fused tensor that was read last, until all its parts have been handed out: never more than one is kept.
    fused: Mutex<Option<Fused>>,
}

struct Bound {
    stored: Stored,
    shape: Vec<usize>,
    /// Parameters that lie in the same tensor, this one included.
    parts: usize,
}

struct Fused {
    tensor: String,
    values: Vec<f32>,
    parts_left: usize,
}

impl Resolved {
    /// Binds every parameter of the spec to its tensor.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] naming a tensor that is missing, has another shape than the config asks for, or that
    /// nothing in the model reads.
    pub fn bind(&self, checkpoint: Arc<dyn Checkpoint>) -> Result<BoundParams, ModelError> {
        let index = checkpoint.tensors();
        let mut params = HashMap::new();
        let mut parts: HashMap<String, usize> = HashMap::new();
        for p in self.spec.params() {
            let stored = self.stored(&p.name)?;
            let expected = stored.shape(&p.shape);
            for tensor in stored.tensors() {
                let error = |reason| Err(ModelError::Tensor { name: tensor.clone(), reason });
                let Some(found) = index.get(&tensor) else { return error(self.missing(&tensor, index)) };
                if found.shape != expected {
                    return error(format!("shape {:?} in the checkpoint, {expected:?} by config.json", found.shape));
                }
                *parts.entry(tensor).or_default() += 1;
            }
            params.insert(p.name, Bound { stored, shape: p.shape, parts: 1 });
        }
        for bound in params.values_mut() {
            bound.parts = parts.get(&bound.stored.tensor).copied().unwrap_or(1);
        }
        self.nothing_left_over(index, &parts.keys().map(String::as_str).collect())?;
        Ok(BoundParams { checkpoint, params, fused: Mutex::new(None) })
    }

    fn missing(&self, tensor: &str, index: &Index) -> String {
        let layers = n_layers_in(&self.names, index);
        let asked = self.spec.n_layers();
        match self.names.layer_of(tensor) {
            Some(layer) if layer >= layers => {
                format!("missing: config.json has {asked} layers, the checkpoint {layers}")
            }
            _ => "missing from the checkpoint".to_owned(),
        }
    }

    fn nothing_left_over(&self, index: &Index, used: &BTreeSet<&str>) -> Result<(), ModelError> {
        // A stored unembedding is ignored when the config ties it to the embedding, as Hugging Face does.
        let tied = self.spec.unembed.tied.then(|| self.names.tensor("unembed.weight")).flatten();
        let aside = |name: &str| is_buffer(name) || (self.wrapped && wrapper::is_of_images(name));
        let left = |name: &&String| !used.contains(name.as_str()) && !aside(name) && Some(*name) != tied.as_ref();
        let mut rest = index.keys().filter(left);
        let Some(name) = rest.next() else { return Ok(()) };
        let others = match rest.count() {
            0 => String::new(),
            n => format!(" (nor {n} more)"),
        };
        let asked = self.spec.n_layers();
        let reason = match self.names.layer_of(name) {
            Some(layer) if layer >= asked => {
                format!("left over: config.json has {asked} layers, the checkpoint {}", n_layers_in(&self.names, index))
            }
            _ => format!("left over: a {} model with this config does not read it{others}", self.spec.family),
        };
        Err(ModelError::Tensor { name: name.clone(), reason })
    }
}

fn n_layers_in(names: &NameTable, index: &Index) -> usize {
    index.keys().filter_map(|name| names.layer_of(name)).max().map_or(0, |last| last.saturating_add(1))
}

/// Tensors that are not parameters: causal masks and rotary tables that older versions saved, heads for predicting
/// several tokens, scales of activations.
fn is_buffer(name: &str) -> bool {
    const ENDS: &[&str] = &[
        ".attn.bias",
        ".attn.masked_bias",
        ".attention.bias",
        ".attention.masked_bias",
        ".rotary_emb.inv_freq",
        ".k_scale",
        ".v_scale",
        ".input_scale",
    ];
    name.starts_with("mtp.") || ENDS.iter().any(|end| name.ends_with(end))
}

impl BoundParams {
    /// Names of the tensors that hold parameters, each once.
    pub fn tensors(&self) -> BTreeSet<String> {
        self.params.values().flat_map(|b| b.stored.tensors()).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Option<Fused>> {
        self.fused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_stored(&self, tensor: &str, out: &mut [f32]) -> Result<(), ModelError> {
        self.checkpoint.read(tensor, out)?;
        let bad = |(chunk, values): (usize, &[f32])| {
            values.iter().position(|x| !x.is_finite()).map(|i| chunk * FINITE_CHUNK + i)
        };
        match out.par_chunks(FINITE_CHUNK).enumerate().find_map_first(bad) {
            Some(index) => Err(ModelError::NonFinite { name: tensor.to_owned(), index, value: out[index] }),
            None => Ok(()),
        }
    }
}

impl Params for BoundParams {
    /// # Errors
    /// What the checkpoint's reader says, [`ModelError::NonFinite`] naming the stored tensor and the index in it, and
    /// [`ModelError::Tensor`] if there is no such parameter or `out` has not its size.
    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let error = |reason| Err(ModelError::Tensor { name: name.to_owned(), reason });
        let Some(bound) = self.params.get(name) else { return error("the spec has no such parameter".to_owned()) };
        let len: usize = bound.shape.iter().product();
        if out.len() != len {
            return error(format!("read into {} numbers, but it has {len}", out.len()));
        }
        if bound.stored.is_direct() {
            let tensors = bound.stored.tensors();
            let width = len / tensors.len().max(1);
            return tensors.iter().zip(out.chunks_mut(width)).try_for_each(|(t, part)| self.read_stored(t, part));
        }
        // The lock is never held across parallel work: a waiting thread of the pool may take up another `read`.
        let tensor = &bound.stored.tensor;
        let kept = self.kept().take();
        let mut fused = match kept.filter(|f| f.tensor == *tensor) {
            Some(fused) => fused,
            None => {
                let mut values = vec![0.0; bound.stored.shape(&bound.shape).iter().product()];
                self.read_stored(tensor, &mut values)?;
                Fused { tensor: tensor.clone(), values, parts_left: bound.parts }
            }
        };
        gather(&bound.stored, &fused.values, &bound.shape, out);
        fused.parts_left -= 1;
        if fused.parts_left > 0 {
            *self.kept() = Some(fused);
        }
        Ok(())
    }
}

/// Copies the rows of a parameter out of the stored tensor, turning it if it is stored transposed.
fn gather(stored: &Stored, values: &[f32], shape: &[usize], out: &mut [f32]) {
    let width: usize = shape[1..].iter().product();
    if !stored.transposed {
        out.par_chunks_mut(width).enumerate().for_each(|(r, row)| {
            let from = stored.row(r) * width;
            row.copy_from_slice(&values[from..from + width]);
        });
        return;
    }
    // Bands of 16 rows: each line of the stored matrix that is touched is used in full.
    const BAND: usize = 16;
    let stride = values.len() / width;
    out.par_chunks_mut(BAND * width).enumerate().for_each(|(band, rows)| {
        let n = rows.len() / width;
        for i in 0..width {
            for r in 0..n {
                rows[r * width + i] = values[i * stride + stored.row(band * BAND + r)];
            }
        }
    });
}

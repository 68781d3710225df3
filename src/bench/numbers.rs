//! Numbers by chance, each a function of its own index: no matrix has to be kept to know an entry of it.

use crate::backend::{Backend, BackendError, Combine, RowIndex, View, ViewMut};
use crate::model::spec::{Act, NormWeight, XIELU};
use crate::model::{ModelError, ModelSpec, Params};
use crate::random::SplitMix64;
use rayon::prelude::*;
use std::collections::HashMap;

/// Rows of a large matrix repeat after so many: fewer numbers to make and to send.
pub const PERIOD: usize = 256;

/// The `index`-th number of the sequence `seed`: uniform between −1 and 1, variance 1/3.
pub fn number(seed: u64, index: usize) -> f32 {
    let state = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add((index as u64).wrapping_mul(SplitMix64::STEP));
    let bits = SplitMix64(state).next() >> 40; // 24 bits
    bits as f32 / (1u64 << 23) as f32 - 1.0
}

/// The numbers `from ..` of a sequence, times `scale`.
pub fn fill(seed: u64, from: usize, scale: f32, out: &mut [f32]) {
    const CHUNK: usize = 1 << 14;
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(c, out)| {
        let first = from + c * CHUNK;
        out.iter_mut().enumerate().for_each(|(i, x)| *x = scale * number(seed, first + i));
    });
}

/// A matrix `[rows, cols]` on the device; row i is that of [`matrix_row`].
///
/// # Errors
/// No memory.
pub fn matrix<B: Backend>(backend: &B, rows: usize, cols: usize, seed: u64) -> Result<B::Buf, BackendError> {
    let len = rows.min(PERIOD).saturating_mul(cols);
    let mut some = Vec::new();
    some.try_reserve_exact(len).map_err(|_| BackendError::OutOfMemory { bytes: len.saturating_mul(4) })?;
    some.resize(len, 0.0);
    fill(seed, 0, 1.0, &mut some);
    if rows <= PERIOD {
        return backend.upload(some);
    }
    let some = backend.upload(some)?;
    let mut all = backend.zeros(rows * cols)?;
    let from: Vec<u32> = (0..rows).map(|i| (i % PERIOD) as u32).collect();
    let (some, to) = (View::packed(&some, PERIOD, cols), ViewMut::packed(&mut all, rows, cols));
    backend.copy_rows(some, RowIndex::List(&from), to, RowIndex::All, Combine::Set, 1.0);
    backend.synchronize()?;
    Ok(all)
}

/// Row `i` of a [`matrix`].
pub fn matrix_row(cols: usize, seed: u64, i: usize) -> Vec<f32> {
    (0..cols).map(|c| number(seed, (i % PERIOD) * cols + c)).collect()
}

/// A model's parameters by chance: matrices of about unit gain, the weights of norms around 1, biases small, and an
/// xIELU's numbers where they leave x as it is for large x.
pub struct RandomParams {
    shapes: HashMap<String, Vec<usize>>,
    /// Weights of norms, and what they are at rest.
    norms: HashMap<String, f32>,
}

impl RandomParams {
    pub fn new(spec: &ModelSpec) -> Self {
        let rest = |w: NormWeight| if w == NormWeight::OnePlusScale { 0.0 } else { 1.0 };
        RandomParams {
            shapes: spec.params().into_iter().map(|p| (p.name, p.shape)).collect(),
            norms: spec.norms().into_iter().map(|n| (format!("{}.weight", n.tensor), rest(n.weight))).collect(),
        }
    }
}

impl Params for RandomParams {
    fn read(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        match (self.norms.get(name), self.shapes.get(name).map(Vec::as_slice)) {
            (Some(rest), _) => {
                fill(seed, 0, 0.1, out);
                out.iter_mut().for_each(|x| *x += rest);
            }
            // Uniform numbers have variance 1/3.
            (None, Some([_, n_in])) => fill(seed, 0, (3.0 / *n_in as f32).sqrt(), out),
            _ if XIELU.iter().any(|(number, _)| name.ends_with(number)) => out.fill(0.5),
            _ => fill(seed, 0, 0.1, out),
        }
        Ok(())
    }
}

/// An input that an activation leaves as it is, so that it can be applied in place any number of times without its numbers
/// vanishing or growing.
pub fn fixed_point(act: Act) -> f32 {
    match act {
        Act::Relu2 => 1.0,
        Act::XIelu => 0.0,
        _ => 20.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::XIelu;
    use crate::backend::cpu::Cpu;

    #[test]
    fn a_matrix_is_what_its_rows_say() {
        let (rows, cols) = (PERIOD + 3, 5);
        let all = matrix(&Cpu, rows, cols, 7).expect("memory");
        for i in [0, PERIOD - 1, PERIOD, rows - 1] {
            assert_eq!(all[i * cols..(i + 1) * cols], matrix_row(cols, 7, i));
        }
        assert!(all.iter().all(|x| (-1.0..1.0).contains(x)));
        let square: f64 = (0..30_000).map(|i| f64::from(number(7, i)).powi(2)).sum::<f64>() / 3e4;
        assert!((square - 1.0 / 3.0).abs() < 0.01, "{square}");
    }

    #[test]
    fn a_fixed_point_stays() {
        for act in [Act::Relu, Act::Relu2, Act::Silu, Act::GeluErf, Act::GeluTanh, Act::QuickGelu, Act::XIelu] {
            let mut row = vec![fixed_point(act), 1.0];
            for _ in 0..1000 {
                Cpu.activation(ViewMut::packed(&mut row, 1, 2), act, XIelu::default(), true);
            }
            assert_eq!(row[0], fixed_point(act), "{act:?}");
        }
    }
}

//! Rotary tables for a set of prompts. Scalings that depend on the length give every length its own rows, so that
//! prompts of different lengths share one batch.

use super::cache::PromptRows;
use crate::backend::{Backend, BackendError, RopeTable};
use crate::model::ModelSpec;

/// cos and sin of every rotary spec of a model, for every position of every prompt.
pub struct RopeTables<B: Backend> {
    tables: Vec<RopeTable<B::Buf>>,
    /// `[rope][prompt]`: the row of position 0.
    starts: Vec<Vec<u32>>,
}

impl<B: Backend> RopeTables<B> {
    /// Angles are products in float32, as Hugging Face computes them (`modeling_llama.py`, `LlamaRotaryEmbedding`).
    pub fn new(backend: &B, spec: &ModelSpec, prompts: &PromptRows) -> Result<Self, BackendError> {
        let (mut tables, mut starts) = (Vec::new(), Vec::new());
        for rope in &spec.ropes {
            let mut table: Vec<f32> = Vec::new();
            // (frequencies, first row)
            let mut known: Vec<(Vec<f32>, usize)> = Vec::new();
            let lengths: Vec<usize> = (0..prompts.n_prompts()).map(|p| prompts.len_of(p)).collect();
            let longest = lengths.iter().copied().max().unwrap_or(0);
            let mut start = Vec::with_capacity(lengths.len());
            for len in &lengths {
                let frequencies = rope.inv_freq_for(*len);
                let at = match known.iter().find(|(f, _)| *f == frequencies) {
                    Some((_, at)) => *at,
                    None => {
                        let at = table.len() / rope.n_rot();
                        for position in 0..longest {
                            let angle = |f: &f32| (position as f32 * f) as f64;
                            table.extend(frequencies.iter().map(|f| angle(f).cos() as f32 * rope.amplitude));
                            table.extend(frequencies.iter().map(|f| angle(f).sin() as f32 * rope.amplitude));
                        }
                        known.push((frequencies, at));
                        at
                    }
                };
                start.push(at as u32);
            }
            tables.push(RopeTable { table: backend.upload(table)?, n_rot: rope.n_rot(), layout: rope.layout });
            starts.push(start);
        }
        Ok(RopeTables { tables, starts })
    }

    pub fn table(&self, rope: usize) -> &RopeTable<B::Buf> {
        &self.tables[rope]
    }

    /// The table rows of (prompt, position) pairs.
    pub fn rows(&self, rope: usize, at: &[(usize, usize)]) -> Vec<u32> {
        at.iter().map(|(prompt, position)| self.starts[rope][*prompt] + *position as u32).collect()
    }
}

//! Whole prompts from the embedding on: base and source runs, and the reference path.

use super::cache::{Cache, Keep, PromptRows};
use super::forward::Forward;
use super::patch::PatchPoint;
use super::program::Program;
use super::recorder::{Recorder, copy_of};
use super::rope::RopeTables;
use super::segment::Segment;
use super::weights::Model;
use super::workspace::Workspace;
use crate::backend::{Backend, BackendError, Combine, Epilogue, RowIndex, View, ViewMut, WeightSlice};

/// A finished run: what was kept, and the final hidden row of every prompt's last token.
pub struct Run<B: Backend> {
    pub cache: Cache<B>,
    /// What the unembedding reads: after the final norm, `[n_prompts, d_embed]`.
    pub hidden: B::Buf,
}

impl<B: Backend> Model<B> {
    /// Runs every prompt whole, with `patches` applied where their activations are computed.
    pub fn run(&self, prompts: PromptRows, keep: &Keep, patches: &[PatchPoint<'_, B>]) -> Result<Run<B>, BackendError> {
        self.run_from(prompts, None, keep, patches)
    }

    /// As [`Model::run`], from boundary `start.0` on, where the residual stream is `start.1` `[rows, d_model]`. No patch may
    /// lie before that boundary, and nothing before it is kept. The numbers behind it are those of a whole run, bit for bit.
    pub(crate) fn run_from(
        &self,
        prompts: PromptRows,
        start: Option<(usize, View<'_, B::Buf>)>,
        keep: &Keep,
        patches: &[PatchPoint<'_, B>],
    ) -> Result<Run<B>, BackendError> {
        let program = Program::new(&self.spec);
        let ropes = RopeTables::new(&self.backend, &self.spec, &prompts)?;
        let mut ws = Workspace::new(self, prompts.n_rows())?;
        let mut cache = Cache::empty(prompts.clone());
        let forward = Forward {
            model: self,
            program: &program,
            prompts: &prompts,
            ropes: &ropes,
            base: None,
            drop_dead_rows: false,
        };
        let mut segments: Vec<Segment> = (0..prompts.n_prompts())
            .map(|prompt| Segment { item: prompt, prompt, first: 0, len: prompts.len_of(prompt) })
            .collect();
        let first = match start {
            None => {
                self.embed(&prompts, &mut ws.x)?;
                0
            }
            Some((boundary, x)) => {
                let to = ViewMut::packed(&mut ws.x, prompts.n_rows(), self.spec.d_model);
                self.backend.copy_rows(x, RowIndex::All, to, RowIndex::All, Combine::Set, 1.0);
                boundary
            }
        };
        for boundary in first..program.n_boundaries() {
            if keep.boundaries.contains(&boundary) {
                let x = View::packed(&ws.x, prompts.n_rows(), self.spec.d_model);
                cache.insert_resid(boundary, copy_of(&self.backend, x)?);
            }
            forward.apply_at_boundary(boundary, patches, &segments, &mut ws.x);
            if boundary < program.steps.len() {
                let mut recorder = Some(Recorder { keep, cache: &mut cache });
                forward.step(boundary, &mut segments, &mut ws, patches, &mut recorder)?;
            }
        }
        let hidden = self.final_hidden(&segments, &ws.x)?;
        Ok(Run { cache, hidden })
    }

    /// x `[rows, d_model]` of every token of every prompt.
    fn embed(&self, prompts: &PromptRows, x: &mut B::Buf) -> Result<(), BackendError> {
        let (d, spec, n) = (self.spec.d_model, &self.spec, prompts.n_rows());
        let ids: Vec<u32> = prompts.ids.iter().flatten().copied().collect();
        let d_embed = spec.d_embed();
        let table = View::packed(&self.embed, spec.d_vocab, d_embed);
        match &self.proj_in {
            None => self.backend.embed(table, &ids, spec.embed.scale, ViewMut::packed(x, n, d)),
            Some(proj_in) => {
                let mut narrow = self.backend.zeros(n * d_embed)?;
                self.backend.embed(table, &ids, spec.embed.scale, ViewMut::packed(&mut narrow, n, d_embed));
                let slice = WeightSlice { k: 0..d_embed, n: 0..d };
                let x = ViewMut::packed(x, n, d);
                self.backend.gemm(View::packed(&narrow, n, d_embed), proj_in, slice, Epilogue::none(), x);
            }
        }
        if let Some(norm) = &spec.embed.norm {
            self.backend.norm_in_place(ViewMut::packed(x, n, d), &self.norm(norm, 1));
        }
        if let (Some(p), Some(table)) = (&spec.embed.positions, &self.positions) {
            let rows: Vec<u32> =
                prompts.ids.iter().flat_map(|ids| (0..ids.len()).map(|i| (i + p.offset) as u32)).collect();
            let (table, x) = (View::packed(table, p.rows, d), ViewMut::packed(x, n, d));
            self.backend.copy_rows(table, RowIndex::List(&rows), x, RowIndex::All, Combine::Add, 1.0);
        }
        Ok(())
    }

    /// Every segment's last row, through the final norm and the projection that may follow, `[segments, d_embed]`.
    pub(crate) fn final_hidden(&self, segments: &[Segment], x: &B::Buf) -> Result<B::Buf, BackendError> {
        let (d, n) = (self.spec.d_model, segments.len());
        let mut end = 0;
        let mut last = Vec::with_capacity(n);
        for s in segments {
            end += s.len;
            last.push((end - 1) as u32);
        }
        let mut hidden = self.backend.zeros(n * d)?;
        let (x, to) = (View::packed(x, end, d), ViewMut::packed(&mut hidden, n, d));
        self.backend.copy_rows(x, RowIndex::List(&last), to, RowIndex::All, Combine::Set, 1.0);
        self.finish(hidden, n)
    }

    /// From residual rows `[n, d_model]` to what the unembedding reads `[n, d_embed]`.
    pub(crate) fn finish(&self, mut hidden: B::Buf, n: usize) -> Result<B::Buf, BackendError> {
        let d = self.spec.d_model;
        if let Some(norm) = &self.spec.final_norm {
            self.backend.norm_in_place(ViewMut::packed(&mut hidden, n, d), &self.norm(norm, 1));
        }
        let Some(proj_out) = &self.proj_out else { return Ok(hidden) };
        let d_embed = self.spec.d_embed();
        let mut narrow = self.backend.zeros(n * d_embed)?;
        let slice = WeightSlice { k: 0..d, n: 0..d_embed };
        let to = ViewMut::packed(&mut narrow, n, d_embed);
        self.backend.gemm(View::packed(&hidden, n, d), proj_out, slice, Epilogue::none(), to);
        Ok(narrow)
    }
}

//! The runs, batch by batch: what each keeps is written to its place and let go before the next begins.

use super::error::CaptureError;
use super::hook::WhichRun;
use super::plan::{Content, Plan, Tensor, ids_of};
use super::store::Store;
use crate::backend::{Backend, BackendError, Combine, RowIndex, View, ViewMut};
use crate::engine::{Model, Point, Program, PromptRows, Run, Site};
use crate::prompts::Pair;
use crate::sweep::Limits;
use std::ops::{ControlFlow, Range};

/// Logits that are in memory at once, in bytes.
pub(super) const LOGIT_BYTES: usize = 16 << 20;

/// Where a capture stands, told after every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Prompts finished, of all.
    pub done: u64,
    pub total: u64,
    /// Token rows so far.
    pub rows: u64,
}

/// Sees the progress and may stop the capture.
pub type Observer<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Runs every prompt of `pairs` and writes what `plan` asks for. `limits` bounds a batch: rows, and bytes kept; a single
/// prompt may exceed them. How batches are cut changes no bit of what is written.
///
/// # Errors
/// An activation that is not finite or that the storage type cannot hold, a full disk, a device that fails, an observer
/// that asked to stop. The store is dropped, and with it what was written.
pub fn capture<B: Backend>(
    model: &Model<B>,
    pairs: &[Pair],
    plan: &Plan,
    mut store: Box<dyn Store>,
    limits: Limits,
    observe: &mut Observer<'_>,
) -> Result<(), CaptureError> {
    for (i, tensor) in plan.tensors.iter().enumerate() {
        match &tensor.content {
            Content::Integers(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                store.write(i, 0, &bytes)?;
            }
            Content::Bytes(bytes) => store.write(i, 0, bytes)?,
            _ => {}
        }
    }
    let total = (plan.asked.runs.len() * pairs.len()) as u64;
    let mut progress = Progress { done: 0, total, rows: 0 };
    for run in &plan.asked.runs {
        for range in batches(plan, pairs, limits) {
            let n = range.len() as u64;
            let mut batch = Batch::new(model, plan, pairs, *run, range)?;
            progress.rows += batch.run.cache.prompts.n_rows() as u64;
            for (i, tensor) in plan.tensors.iter().enumerate() {
                batch.write(i, tensor, &mut *store)?;
            }
            progress.done += n;
            if observe(progress).is_break() {
                return Err(CaptureError::Interrupted);
            }
        }
    }
    store.finish()
}

/// Consecutive pairs whose prompts run together.
fn batches(plan: &Plan, pairs: &[Pair], limits: Limits) -> Vec<Range<usize>> {
    let (mut all, mut from, mut rows, mut bytes) = (Vec::new(), 0, 0, 0);
    for (i, pair) in pairs.iter().enumerate() {
        let more = plan.kept_bytes(pair.len());
        if i > from && (rows + pair.len() > limits.max_rows || bytes + more > limits.cache_bytes) {
            all.push(from..i);
            (from, rows, bytes) = (i, 0, 0);
        }
        rows += pair.len();
        bytes += more;
    }
    all.push(from..pairs.len());
    all
}

/// One finished run of some prompts.
struct Batch<'a, B: Backend> {
    model: &'a Model<B>,
    plan: &'a Plan,
    which: WhichRun,
    /// Of all pairs.
    pairs: Range<usize>,
    run: Run<B>,
    /// Rows of the run that are captured; `None` is all of them.
    rows: Option<Vec<u32>>,
    /// Captured positions of each prompt.
    positions: Vec<Vec<usize>>,
    /// Numbers on their way to the store.
    bytes: Vec<u8>,
}

impl<'a, B: Backend> Batch<'a, B> {
    fn new(
        model: &'a Model<B>,
        plan: &'a Plan,
        pairs: &[Pair],
        which: WhichRun,
        range: Range<usize>,
    ) -> Result<Self, CaptureError> {
        let prompts = PromptRows::new(pairs[range.clone()].iter().map(|p| ids_of(p, which).to_vec()).collect());
        let positions: Vec<Vec<usize>> = range
            .clone()
            .map(|pair| match &plan.asked.positions {
                Some(named) => named.iter().map(|n| n.at[pair]).collect(),
                None => (0..pairs[pair].len()).collect(),
            })
            .collect();
        let rows = plan.asked.positions.as_ref().map(|_| {
            let row = |(prompt, at): (usize, &Vec<usize>)| {
                let first = prompts.offsets[prompt];
                at.iter().map(|p| (first + p) as u32).collect::<Vec<_>>()
            };
            positions.iter().enumerate().flat_map(row).collect()
        });
        let run = model.run(prompts, &plan.keep, &[])?;
        model.backend.check()?;
        Ok(Batch { model, plan, which, pairs: range, run, rows, positions, bytes: Vec::new() })
    }

    fn write(&mut self, index: usize, tensor: &Tensor, store: &mut dyn Store) -> Result<(), CaptureError> {
        let spec = &self.model.spec;
        match tensor.content {
            Content::Logits { run } if run == self.which => self.write_logits(index, tensor, store),
            Content::Rows { run, site, layer, width } if run == self.which => {
                let x = match Point::of(site) {
                    Some(point) => self.run.cache.point(layer, point, width),
                    None => {
                        let boundary = Program::new(spec).entry_boundary(spec, site, layer).unwrap_or(0);
                        self.run.cache.resid(boundary, width)
                    }
                };
                let numbers = self.download(x)?;
                let first = self.plan.row_starts[self.pairs.start];
                self.put(index, tensor, first * width as u64, &numbers, |i| i / width, store)
            }
            Content::Matrices { run, site, layer, heads } if run == self.which => {
                self.write_matrices(index, tensor, (site, layer, heads), store)
            }
            _ => Ok(()),
        }
    }

    /// The captured rows of `x`.
    fn download(&self, x: View<'_, B::Buf>) -> Result<Vec<f32>, BackendError> {
        let backend = &self.model.backend;
        let Some(rows) = &self.rows else { return Ok(backend.download(x)) };
        let some = self.gather(x, rows)?;
        Ok(backend.download(View::packed(&some, rows.len(), x.cols)))
    }

    fn gather(&self, x: View<'_, B::Buf>, rows: &[u32]) -> Result<B::Buf, BackendError> {
        let backend = &self.model.backend;
        let mut some = backend.zeros(rows.len() * x.cols)?;
        let to = ViewMut::packed(&mut some, rows.len(), x.cols);
        backend.copy_rows(x, RowIndex::List(rows), to, RowIndex::All, Combine::Set, 1.0);
        Ok(some)
    }

    /// The final norm and the unembedding of the captured rows, a few at a time.
    fn write_logits(&mut self, index: usize, tensor: &Tensor, store: &mut dyn Store) -> Result<(), CaptureError> {
        let (model, spec) = (self.model, &self.model.spec);
        let (d, v) = (spec.d_model, spec.d_vocab);
        let last = Program::new(spec).n_boundaries() - 1;
        let n_rows = self.run.cache.prompts.n_rows();
        let rows: Vec<u32> = self.rows.clone().unwrap_or_else(|| (0..n_rows as u32).collect());
        let some = (LOGIT_BYTES / (4 * v)).max(1);
        let mut first = self.plan.row_starts[self.pairs.start];
        let mut row = 0;
        for rows in rows.chunks(some) {
            let hidden = model.finish(self.gather(self.run.cache.resid(last, d), rows)?, rows.len())?;
            let numbers = model.backend.logits(View::packed(&hidden, rows.len(), spec.d_embed()), &model.unembedding());
            self.put(index, tensor, first * v as u64, &numbers, |i| row + i / v, store)?;
            first += rows.len() as u64;
            row += rows.len();
        }
        Ok(())
    }

    /// Scores or patterns, `[heads, destinations, sources]` for each pair.
    fn write_matrices(
        &mut self,
        index: usize,
        tensor: &Tensor,
        (site, layer, heads): (Site, usize, usize),
        store: &mut dyn Store,
    ) -> Result<(), CaptureError> {
        let Some(point) = Point::of(site) else { return Ok(()) };
        let mut row = 0;
        for prompt in 0..self.pairs.len() {
            let len = self.run.cache.prompts.len_of(prompt);
            // As the engine keeps them: `[destinations, heads, sources]`.
            let kept = self.model.backend.download(self.run.cache.matrix(layer, point, prompt, heads));
            let destinations = &self.positions[prompt];
            let mut numbers = Vec::with_capacity(heads * destinations.len() * len);
            for head in 0..heads {
                for to in destinations {
                    numbers.extend_from_slice(&kept[(to * heads + head) * len..][..len]);
                }
            }
            let (first, n) = (self.plan.square_starts[self.pairs.start + prompt], destinations.len());
            self.put(index, tensor, first * heads as u64, &numbers, |_| row, store)?;
            row += n;
        }
        Ok(())
    }

    /// Checks and encodes `numbers`, which begin at number `first` of the tensor, and hands them to the store. `row_of`
    /// tells which captured row of the batch a number belongs to.
    fn put(
        &mut self,
        index: usize,
        tensor: &Tensor,
        first: u64,
        numbers: &[f32],
        row_of: impl Fn(usize) -> usize,
        store: &mut dyn Store,
    ) -> Result<(), CaptureError> {
        let pair = |number: usize| {
            let row = self.plan.row_starts[self.pairs.start] + row_of(number) as u64;
            self.plan.row_starts.partition_point(|start| *start <= row) - 1
        };
        let masked = matches!(tensor.content, Content::Matrices { site: Site::AttnScores, .. });
        let good = |x: &f32| x.is_finite() || (masked && *x == f32::NEG_INFINITY);
        if let Some(at) = numbers.iter().position(|x| !good(x)) {
            return Err(CaptureError::NonFinite { tensor: tensor.name.clone(), pair: pair(at) });
        }
        let store_as = self.plan.asked.store_as;
        self.bytes.clear();
        if let Err(at) = store_as.encode(numbers, &mut self.bytes) {
            let (tensor, pair, store_as) = (tensor.name.clone(), pair(at), store_as.name());
            return Err(CaptureError::Overflow { tensor, pair, value: numbers[at], store_as });
        }
        store.write(index, first * store_as.bytes() as u64, &self.bytes)
    }
}

//! The wave: all cells of all pairs of a group, as rows of one growing matrix, through the layers once.

use super::cells::Cell;
use super::entry::{Entry, moment_bytes};
use super::group::Group;
use super::metric::Metric;
use super::plan::{PlannedItem, Positions};
use super::run::SweepError;
use crate::backend::{Backend, LOGITS_AT_ONCE};
use crate::engine::{Forward, Model, Program, RowCount, Segment, Workspace};

/// What all waves of a group share.
pub(crate) struct Wave<'a, 'g, B: Backend> {
    pub model: &'a Model<B>,
    pub program: &'a Program,
    pub group: &'a Group<'g, B>,
    pub cells: &'a [Cell],
    pub columns: Positions<'a>,
    pub first_pair: usize,
    pub metric: Metric,
    /// See [`super::PatchKind::Knockout`].
    pub knockout: Option<&'a [Vec<Option<u32>>]>,
}

/// Rows that an item brings along.
pub(crate) fn rows_of<B: Backend>(group: &Group<'_, B>, item: &PlannedItem) -> usize {
    group.base_prompts.len_of(item.pair as usize) - item.first as usize
}

impl<B: Backend> Wave<'_, '_, B> {
    /// Bytes that [`Wave::run`] takes for moments beside the workspace, at most. (Attention over thousands of keys takes
    /// more on some devices.)
    pub fn moment_bytes(&self, items: &[PlannedItem]) -> usize {
        let (spec, prompts) = (&self.model.spec, &self.group.base_prompts);
        let entry = moment_bytes(spec, self.cells, items, |pair| prompts.len_of(pair as usize));
        // A step's lists: a few numbers a row, a segment an item.
        let rows = items.iter().map(|i| prompts.len_of(i.pair as usize)).sum::<usize>();
        let lists = 16 * rows + 128 * items.len();
        // Hidden rows, and what the metric makes of them: products of two blocks, the clean rows, sums, tokens.
        let (some, tokens) = (items.len().min(LOGITS_AT_ONCE.0), spec.d_vocab.min(LOGITS_AT_ONCE.1));
        let answers: usize =
            items.iter().map(|i| self.group.pairs[i.pair as usize]).map(|p| p.answers.len() + p.wrong.len()).sum();
        let metric = 4 * (items.len() * spec.d_model + some * (2 * tokens + spec.d_model + 32) + 3 * answers);
        entry + lists + metric + (64 << 8)
    }

    /// Runs `items`, sorted by boundary, with the values of one draw, and returns their metrics in that order, with the rows
    /// it took.
    pub fn run(
        &self,
        items: &[PlannedItem],
        draw: usize,
        ws: &mut Workspace<B>,
    ) -> Result<(Vec<f32>, RowCount), SweepError> {
        let forward = Forward {
            model: self.model,
            program: self.program,
            prompts: &self.group.base_prompts,
            ropes: &self.group.ropes,
            base: Some(&self.group.base),
            drop_dead_rows: true,
        };
        let entry = Entry {
            forward: &forward,
            group: self.group,
            cells: self.cells,
            columns: self.columns,
            first_pair: self.first_pair,
            draw,
            knockout: self.knockout,
        };
        let mut count = RowCount::default();
        let mut segments: Vec<Segment> = Vec::with_capacity(items.len());
        let (mut rows, mut next) = (0, 0);
        for boundary in 0..self.program.n_boundaries() {
            let here = items[next..].iter().take_while(|i| i.boundary as usize == boundary).count();
            let newcomers = &items[next..next + here];
            let capacity = ws.capacity;
            entry.admit(newcomers, &mut ws.x, capacity, rows)?;
            for (i, item) in newcomers.iter().enumerate() {
                let (prompt, first) = (item.pair as usize, item.first as usize);
                let len = rows_of(self.group, item);
                segments.push(Segment { item: next + i, prompt, first, len });
                rows += len;
            }
            next += here;
            if boundary < self.program.steps.len() && !segments.is_empty() {
                count += forward.step(boundary, &mut segments, ws, &[], &mut None)?;
                rows = segments.iter().map(|s| s.len).sum();
            }
        }
        let hidden = self.model.final_hidden(&segments, &ws.x)?;
        let pairs: Vec<u32> = segments.iter().map(|s| s.prompt as u32).collect();
        let clean = Some(&self.group.clean_hidden);
        Ok((self.metric.evaluate(self.model, &self.group.pairs, &pairs, &hidden, clean), count))
    }
}

//! Which (cell, pair) items must run, and where each enters the wave. Everything here follows from causality: what is
//! skipped is provably the base run.

use super::cells::Cell;
use super::group::Group;
use super::intervention::PatchKind;
use crate::backend::Backend;
use crate::engine::{Program, Site};
use crate::model::ModelSpec;

/// One cell of one pair that has to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedItem {
    /// Index into the sweep's cells.
    pub cell: u32,
    /// Index into the group's pairs.
    pub pair: u32,
    /// Where it becomes visible in the residual stream.
    pub boundary: u32,
    /// First row it brings along.
    pub first: u32,
    /// First patched position. For k and v it may lie before `first`.
    pub patched_from: u32,
}

/// What becomes of one cell of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The model, the selection or the pair has no such cell: NaN.
    Missing,
    /// Exactly the base metric.
    Unchanged,
    Run(PlannedItem),
}

/// The positions that a cell patches in one pair, in order.
pub(crate) fn patched_positions(cell: &Cell, columns: &Positions<'_>, pair: usize, len: usize) -> Vec<usize> {
    match (cell.column, columns.restricted) {
        (Some(c), _) => columns.at[c as usize].at[pair].map(|p| p as usize).into_iter().collect(),
        (None, false) => (0..len).collect(),
        (None, true) => {
            let mut all: Vec<usize> = columns.at.iter().filter_map(|c| c.at[pair].map(|p| p as usize)).collect();
            all.sort_unstable();
            all.dedup();
            all
        }
    }
}

/// The position columns of a sweep. `restricted`: the user named them, so cells without a position axis patch only them.
#[derive(Clone, Copy)]
pub(crate) struct Positions<'a> {
    pub at: &'a [super::cells::Column],
    pub restricted: bool,
}

/// Decides the fate of `cell` in pair `pair` (of the group; `global` of the sweep).
#[allow(clippy::too_many_arguments)]
pub(crate) fn fate<B: Backend>(
    spec: &ModelSpec,
    program: &Program,
    group: &Group<'_, B>,
    columns: &Positions<'_>,
    patch: PatchKind<'_>,
    skip: bool,
    (index, cell): (u32, &Cell),
    (pair, global): (usize, usize),
) -> Fate {
    let len = group.base_prompts.len_of(pair);
    let layer = cell.layer as usize;
    let Some(boundary) = program.entry_boundary(spec, cell.site, layer).filter(|_| cell.exists) else {
        return Fate::Missing;
    };
    let positions = patched_positions(cell, columns, global, len);
    if positions.is_empty() {
        return Fate::Missing;
    }
    let live = program.live_from(boundary, len);
    // A key or value is read by later rows, so it lives as long as what its attention reads.
    let reads_from = match cell.site {
        Site::K | Site::V => program.live_from(boundary - 1, len),
        _ => live,
    };
    let differs_from = if matches!(patch, PatchKind::Source) { group.first_difference[pair] } else { 0 };
    let earliest = if skip { reads_from.max(differs_from) } else { 0 };
    let first_patched = positions.into_iter().find(|p| {
        *p >= earliest && (!skip || group.differs(cell.site, layer, pair, *p, cell.head.map(|h| h as usize)))
    });
    match first_patched {
        None => Fate::Unchanged,
        Some(p) => Fate::Run(PlannedItem {
            cell: index,
            pair: pair as u32,
            boundary: boundary as u32,
            first: p.max(live) as u32,
            patched_from: p as u32,
        }),
    }
}

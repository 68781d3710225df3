//! The slow path that trusts none of the savings: each cell of each pair as a full, independent forward pass from the
//! embedding, with the patch written where the forward pass computes that activation.

use super::cells::{Cell, Direction, PatchKind};
use super::metric::Metric;
use super::plan::{Positions, patched_positions};
use super::run::SweepError;
use crate::backend::Backend;
use crate::engine::{Cache, Keep, Model, PatchPoint, Point, Program, PromptRows, Value};
use crate::prompts::Pair;

/// The metric of one cell of one pair. `means` is the cache of mean values with the pair's index in it, for mean
/// patches.
#[allow(clippy::too_many_arguments)]
pub(crate) fn metric_of<B: Backend>(
    model: &Model<B>,
    pair: &Pair,
    global: usize,
    cell: &Cell,
    columns: &Positions<'_>,
    (direction, patch): (Direction, PatchKind),
    metric: Metric,
    means: Option<(&Cache<B>, usize)>,
) -> Result<f32, SweepError> {
    let (base, source) = match direction {
        Direction::Denoise => (&pair.corrupted, &pair.clean),
        Direction::Noise => (&pair.clean, &pair.corrupted),
    };
    let layer = cell.layer as usize;
    let mut keep = Keep::default();
    match Point::of(cell.site) {
        Some(point) => {
            keep.points.insert((layer, point));
        }
        None => keep.boundaries.extend(Program::new(&model.spec).entry_boundary(&model.spec, cell.site, layer)),
    }
    let source = match patch {
        PatchKind::Source => Some(model.run(PromptRows::new(vec![source.clone()]), &keep, &[])?),
        _ => None,
    };
    let value = match (patch, &source, means) {
        (PatchKind::Zero, ..) => Value::Zero,
        (PatchKind::Source, Some(run), _) => Value::From(&run.cache, 0),
        (_, _, Some((cache, index))) => Value::From(cache, index),
        _ => unreachable!("mean patches come with their means"),
    };
    let mut patches: Vec<PatchPoint<'_, B>> = Vec::new();
    for p in patched_positions(cell, columns, global, base.len()) {
        match patches.last_mut() {
            Some(last) if last.positions.end == p => last.positions.end = p + 1,
            _ => patches.push(PatchPoint {
                site: cell.site,
                layer,
                segment: 0,
                heads: cell.head.map(|h| h as usize..h as usize + 1),
                positions: p..p + 1,
                value,
            }),
        }
    }
    let run = model.run(PromptRows::new(vec![base.clone()]), &Keep::default(), &patches)?;
    let clean = match metric {
        Metric::Kl => Some(model.run(PromptRows::new(vec![pair.clean.clone()]), &Keep::default(), &[])?.hidden),
        _ => None,
    };
    Ok(metric.evaluate(model, &[pair], &[0], &run.hidden, clean.as_ref())[0])
}

//! A sweep under a progress bar, written to the journal wave by wave.

use crate::Error;
use crate::backend::Backend;
use crate::cli::interrupt;
use crate::cli::terminal::{bar, thousands};
use crate::engine::Model;
use crate::export::folder::RunFolder;
use crate::sweep::{Outcome, Sweep};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Runs the sweep, which `more` devices share, with a progress bar, writing every wave to the journal, until it is done or
/// Ctrl-C is pressed. On failure, says whether anything had been written.
pub fn watch<B: Backend>(
    sweep: &Sweep<'_, B>,
    more: &[Model<B>],
    folder: &mut RunFolder,
) -> Result<(Outcome, f64), (Error, bool)> {
    let stop = interrupt::flag().map_err(|e| (e, false))?;
    let started = Instant::now();
    let progress = bar(0, "cells");
    let (mut failed, mut began) = (None, false);
    let known = folder.known.clone();
    let journal = &mut folder.journal;
    let done = sweep.run_with(more, &known, &mut |block, state| {
        progress.set_length(state.total);
        progress.set_position(state.done);
        let rate = state.row_layers as f64 / started.elapsed().as_secs_f64().max(1e-3);
        progress.set_message(format!(", {} rows/s", thousands(rate as u64)));
        if let Err(e) = journal.append(block.items) {
            failed = Some(e);
            return ControlFlow::Break(());
        }
        began = true;
        if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    progress.finish_and_clear();
    // From here on everything found is in the journal, so the first Ctrl-C may end the process.
    stop.store(true, Ordering::SeqCst);
    match (done, failed) {
        (_, Some(e)) => Err((e.into(), began)),
        (Err(e), _) => Err((e.into(), began)),
        (Ok(outcome), None) => Ok((outcome, started.elapsed().as_secs_f64())),
    }
}

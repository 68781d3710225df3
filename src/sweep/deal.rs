//! The waves of a group, dealt out to one device or several: a queue that all of them take from, a thread each.
//!
//! Every device has run the group's base and source runs by itself, with the same code and so to the same bits, and no
//! row's result depends on the wave that it is in: which device runs a wave, when, and how it is cut is all one. What is
//! finished comes to the calling thread in the order in which it ends.

use super::plan::PlannedItem;
use super::run::{SweepError, mean_of_draws};
use super::wave::{Wave, rows_of};
use crate::backend::{Backend, BackendError};
use crate::engine::workspace::bytes_per_row;
use crate::engine::{Model, RowCount, Workspace};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

/// A device with what it keeps from wave to wave.
pub(crate) struct Seat<'a, B: Backend> {
    pub model: &'a Model<B>,
    ws: Option<Workspace<B>>,
    /// Waves differ in height: one workspace for the tallest, unless there turns out to be no room for that.
    tallest: usize,
}

/// A wave that has run.
pub(crate) struct Finished {
    /// Of the group's items.
    pub items: Range<usize>,
    /// Their metrics.
    pub values: Vec<f32>,
    pub rows: RowCount,
}

/// Cuts items (in the order of their entry), each of so many rows and so much work, into waves of at most `max_rows` rows,
/// at least one item in each. Where there are several devices, a wave also ends where one device's share of the work
/// does: a single tall wave becomes one for each.
pub(crate) fn cut(
    items: impl Iterator<Item = (usize, u64)> + Clone,
    max_rows: usize,
    devices: usize,
) -> Vec<Range<usize>> {
    let all: u64 = items.clone().map(|(_, work)| work).sum();
    let share = |before: u64| (u128::from(before) * devices as u128).checked_div(u128::from(all)).unwrap_or(0);
    let mut waves = Vec::new();
    let (mut from, mut end, mut rows, mut done, mut current) = (0, 0, 0, 0, 0);
    for (i, (more, work)) in items.enumerate() {
        if i > from && (rows + more > max_rows || share(done) > current) {
            waves.push(from..i);
            (from, rows) = (i, 0);
        }
        if i == from {
            current = share(done);
        }
        (end, rows, done) = (i + 1, rows + more, done + work);
    }
    if from < end {
        waves.push(from..end);
    }
    waves
}

/// Waves that are still to run.
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The next one last.
    waves: Vec<Range<usize>>,
    /// Taken and neither finished nor given back.
    under_way: usize,
    stopped: bool,
}

impl Queue {
    fn new(mut waves: Vec<Range<usize>>) -> Queue {
        waves.reverse();
        Queue { state: Mutex::new(State { waves, under_way: 0, stopped: false }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next wave. Waits while there is none but one under way may still come back in halves.
    fn take(&self) -> Option<Range<usize>> {
        let waits = |s: &mut State| !s.stopped && s.waves.is_empty() && s.under_way > 0;
        let mut state = self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner);
        let wave = if state.stopped { None } else { state.waves.pop() };
        state.under_way += usize::from(wave.is_some());
        wave
    }

    /// A wave has run, or comes back as `halves`.
    fn ended(&self, halves: impl IntoIterator<Item = Range<usize>>) {
        let mut state = self.state();
        state.under_way -= 1;
        state.waves.extend(halves);
        drop(state);
        self.changed.notify_all();
    }

    /// No wave is handed out any more.
    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }
}

/// Stops the queue when a device leaves it, whether its work is done or it has failed, so that none waits for it.
struct StopAtEnd<'a>(&'a Queue);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs the waves `cuts` of `items`, each on the next seat that is free; `waves` has the group on every seat's device.
/// `finish` sees them as they end, on this thread.
///
/// # Errors
/// The first of `finish`, or what a device failed with. No further wave is begun then; those under way run to their end,
/// and after a device's failure `finish` sees them.
pub(crate) fn deal<B: Backend>(
    seats: &mut [Seat<'_, B>],
    waves: &[Wave<'_, '_, B>],
    items: &[PlannedItem],
    cuts: Vec<Range<usize>>,
    draws: usize,
    finish: &mut dyn FnMut(Finished) -> Result<(), SweepError>,
) -> Result<(), SweepError> {
    let queue = Queue::new(cuts);
    if let ([seat], [wave]) = (&mut *seats, waves) {
        return seat.work(wave, items, draws, &queue, finish);
    }
    thread::scope(|scope| {
        let (sender, finished) = mpsc::channel();
        let mut threads = Vec::with_capacity(seats.len());
        for (seat, wave) in seats.iter_mut().zip(waves) {
            let (queue, sender) = (&queue, sender.clone());
            threads.push(scope.spawn(move || {
                let _stop = StopAtEnd(queue);
                // Nobody listens only after a panic of the calling thread.
                seat.work(wave, items, draws, queue, &mut |done| sender.send(done).map_err(|_| SweepError::Interrupted))
            }));
        }
        drop(sender);
        let _stop = StopAtEnd(&queue);
        let mut result = Ok(());
        for done in finished {
            if result.is_ok() {
                result = finish(done).inspect_err(|_| queue.stop());
            }
        }
        for thread in threads {
            let ended = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            result = result.and(ended);
        }
        result
    })
}

impl<'a, B: Backend> Seat<'a, B> {
    /// For waves of up to `tallest` rows.
    pub fn new(model: &'a Model<B>, tallest: usize) -> Self {
        Seat { model, ws: None, tallest }
    }

    /// Takes waves until there are none.
    fn work(
        &mut self,
        wave: &Wave<'_, '_, B>,
        items: &[PlannedItem],
        draws: usize,
        queue: &Queue,
        finish: &mut dyn FnMut(Finished) -> Result<(), SweepError>,
    ) -> Result<(), SweepError> {
        while let Some(range) = queue.take() {
            match self.run(wave, &items[range.clone()], draws) {
                // No room for the whole wave: two halves of it, the first of which comes next.
                Err(SweepError::Backend(BackendError::OutOfMemory { .. })) if range.len() > 1 => {
                    (self.ws, self.tallest) = (None, 0);
                    let middle = range.start + range.len() / 2;
                    queue.ended([middle..range.end, range.start..middle]);
                }
                done => {
                    let (values, rows) = done?;
                    queue.ended([]);
                    finish(Finished { items: range, values, rows })?;
                }
            }
        }
        Ok(())
    }

    /// One wave, once for every draw of a random patch: the mean metrics. All memory is had before it begins; only a
    /// single item, which cannot be cut, may ask for more on its way.
    fn run(
        &mut self,
        wave: &Wave<'_, '_, B>,
        items: &[PlannedItem],
        draws: usize,
    ) -> Result<(Vec<f32>, RowCount), SweepError> {
        let backend = &self.model.backend;
        let rows = items.iter().map(|i| rows_of(wave.group, i)).sum::<usize>().max(self.tallest);
        let moments = wave.moment_bytes(items);
        let ws = match &mut self.ws {
            Some(ws) if ws.capacity >= rows => ws,
            other => {
                *other = None; // the old one goes before the larger one comes
                backend.reserve(rows.saturating_mul(bytes_per_row(&self.model.spec)).saturating_add(moments))?;
                other.insert(Workspace::new(self.model, rows)?)
            }
        };
        backend.reserve(moments)?;
        let mut total = RowCount::default();
        let values = mean_of_draws(draws, |draw| {
            let done = match items {
                [_] => wave.run(items, draw, ws),
                _ => backend.without_growth(|| wave.run(items, draw, ws)),
            };
            backend.check()?;
            let (values, count) = done?;
            total += count;
            Ok(values)
        })?;
        Ok((values, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One wave of so many items.
    fn all(items: usize) -> Vec<Range<usize>> {
        std::iter::once(0..items).collect()
    }

    fn work_of(items: &[(usize, u64)], waves: &[Range<usize>]) -> Vec<u64> {
        waves.iter().map(|w| items[w.clone()].iter().map(|i| i.1).sum()).collect()
    }

    #[test]
    fn waves_hold_every_item_once_and_no_more_rows_than_they_may() {
        let items: Vec<(usize, u64)> = (0..500).map(|i| (1 + i * 7 % 20, (1 + i * 7 % 20) as u64 * 12)).collect();
        for devices in 1..9 {
            for max_rows in [1, 19, 20, 100, 1000, 1 << 20] {
                let waves = cut(items.iter().copied(), max_rows, devices);
                assert!(waves.windows(2).all(|w| w[0].end == w[1].start));
                assert_eq!((waves[0].start, waves[waves.len() - 1].end), (0, items.len()));
                for wave in &waves {
                    let rows: usize = items[wave.clone()].iter().map(|i| i.0).sum();
                    assert!(wave.len() == 1 || (!wave.is_empty() && rows <= max_rows), "{rows} rows");
                }
            }
        }
        assert!(cut(std::iter::empty(), 10, 3).is_empty());
        assert_eq!(cut([(4, 0)].into_iter(), 10, 3), all(1));
    }

    #[test]
    fn one_device_takes_what_fits_in_one_wave_and_several_equal_shares_of_its_work() {
        // Of 12 steps, items at the end of the list go through fewer.
        let items: Vec<(usize, u64)> = (0..1200).map(|i| (10, 10 * (12 - i as u64 / 100))).collect();
        assert_eq!(cut(items.iter().copied(), 1 << 20, 1), all(1200));
        for devices in 2..9 {
            let waves = cut(items.iter().copied(), 1 << 20, devices);
            assert_eq!(waves.len(), devices);
            let work = work_of(&items, &waves);
            let (least, most) = (work.iter().min().unwrap(), work.iter().max().unwrap());
            assert!(most - least <= 2 * 120, "{work:?}");
        }
    }

    #[test]
    fn waves_for_several_devices_are_not_lower_than_they_must_be() {
        let items = [(10usize, 10u64); 1000];
        let alone = cut(items.iter().copied(), 100, 1).len();
        let shared = cut(items.iter().copied(), 100, 4).len();
        assert!(shared - alone < 4, "{shared} waves, {alone} for one device");
    }

    #[test]
    fn a_device_without_a_wave_waits_for_one_that_may_come_back() {
        let queue = Queue::new(all(8));
        let whole = queue.take().unwrap();
        thread::scope(|scope| {
            let other = scope.spawn(|| queue.take());
            queue.ended([4..8, 0..4]);
            let mine = queue.take().unwrap();
            let theirs = other.join().unwrap().expect("a half");
            assert_eq!(mine.len() + theirs.len(), whole.len());
            let last = scope.spawn(|| queue.take());
            queue.ended([]);
            queue.ended([]);
            assert_eq!(last.join().unwrap(), None, "all have run");
        });
    }

    #[test]
    fn a_device_that_leaves_lets_nobody_wait() {
        let queue = Queue::new(all(8));
        queue.take().unwrap();
        thread::scope(|scope| {
            let other = scope.spawn(|| queue.take());
            drop(StopAtEnd(&queue));
            assert_eq!(other.join().unwrap(), None);
        });
    }
}

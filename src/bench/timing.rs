//! How long an operation takes: samples of the clock, and what they say.

use crate::backend::{Backend, BackendError};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Seconds that one call takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timing {
    pub median: f64,
    /// First and third quartile.
    pub q1: f64,
    pub q3: f64,
    pub min: f64,
    /// Samples taken, and calls in each.
    pub samples: usize,
    pub calls: usize,
}

/// Samples that are taken however long they take.
const LEAST_SAMPLES: usize = 3;
/// And however short.
const MOST_SAMPLES: usize = 1000;

impl Timing {
    /// Of samples in seconds per call, at least one.
    fn of(mut seconds: Vec<f64>, calls: usize) -> Timing {
        seconds.sort_by(f64::total_cmp);
        let at = |q: f64| quantile(&seconds, q);
        Timing { median: at(0.5), q1: at(0.25), q3: at(0.75), min: at(0.0), samples: seconds.len(), calls }
    }
}

/// The quantile `q` of sorted numbers, linear between neighbours (type 7 of Hyndman and Fan 1996, numpy's default).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, share) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + share * (sorted[high] - sorted[low])
}

/// Times `call` for about `budget`, and at least three times, after one call that is not counted. A sample is
/// as many calls as take `sample`, from an idle device to an idle device, so that waiting for it is not what is measured.
///
/// # Errors
/// The device failed.
pub fn measure<B: Backend>(
    backend: &B,
    budget: Duration,
    sample: Duration,
    call: &mut dyn FnMut(),
) -> Result<Timing, BackendError> {
    let mut timed = |calls: usize| -> Result<f64, BackendError> {
        backend.synchronize()?;
        let start = Instant::now();
        for _ in 0..calls {
            call();
        }
        backend.synchronize()?;
        // A clock may be too coarse for what it measures; nothing takes no time at all.
        Ok(start.elapsed().max(Duration::from_nanos(1)).as_secs_f64() / calls as f64)
    };
    timed(1)?;
    let begun = Instant::now();
    let mut first = timed(1)?;
    let mut calls = 1;
    // One short call tells little of the next: grow until a sample is long enough.
    while first * calls as f64 <= sample.as_secs_f64() && calls < 1 << 20 && begun.elapsed() < budget {
        let wanted = sample.as_secs_f64() / first.max(1e-9);
        calls = (wanted.ceil() as usize).clamp(calls + 1, 16 * calls);
        first = timed(calls)?;
    }
    let mut seconds = vec![first];
    while seconds.len() < LEAST_SAMPLES || (begun.elapsed() < budget && seconds.len() < MOST_SAMPLES) {
        seconds.push(timed(calls)?);
    }
    Ok(Timing::of(seconds, calls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    #[test]
    fn quartiles_by_hand() {
        let t = Timing::of(vec![4.0, 1.0, 3.0, 2.0, 5.0], 1);
        assert_eq!((t.min, t.q1, t.median, t.q3, t.samples), (1.0, 2.0, 3.0, 4.0, 5));
        let t = Timing::of(vec![1.0, 2.0], 7);
        assert_eq!((t.q1, t.median, t.q3, t.calls), (1.25, 1.5, 1.75, 7));
        assert_eq!(Timing::of(vec![2.0], 1).q3, 2.0);
    }

    #[test]
    fn short_calls_share_a_sample_and_long_ones_do_not() {
        let wait = Duration::from_millis(2);
        let mut n = 0;
        let long = measure(&Cpu, Duration::ZERO, Duration::from_millis(1), &mut || {
            n += 1;
            std::thread::sleep(wait);
        });
        let long = long.expect("the CPU does not fail");
        assert_eq!((long.calls, long.samples, n), (1, 3, 4));
        assert!(long.min >= wait.as_secs_f64() && long.min <= long.median && long.median <= long.q3);
        let short = measure(&Cpu, Duration::from_millis(20), Duration::from_millis(1), &mut || ());
        let short = short.expect("the CPU does not fail");
        assert!(short.calls > 100 && short.median > 0.0, "{short:?}");
    }
}

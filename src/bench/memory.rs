//! The memory that timing an operation takes, and the rows that fit.

use super::case::{Case, Kind};
use super::{BenchError, WaveShape, cases};
use crate::model::ModelSpec;

/// Bytes of all buffers of an operation at once, and of what packing its weight takes for a moment; infinite where an
/// address could not name them.
pub fn of(kind: &Kind, weight_bytes: f64) -> f64 {
    let f = |x: &usize| *x as f64;
    let weight = |k: &usize, n: &usize| f(k) * f(n) * (weight_bytes + 4.0) / 4.0;
    let numbers = match kind {
        // x, the sums, and a stream to add them to
        Kind::Gemm { m, k, n, .. } => f(m) * (f(k) + 2.0 * f(n)) + weight(k, n) + f(n),
        Kind::HeadDelta { groups, width, k, n } => {
            groups.last().map_or(0.0, |g| g.rows.end as f64) * (f(width) + f(n)) + weight(k, n)
        }
        Kind::Attention { spec: a, segments, prefix_rows, captured } => {
            let (heads, kv) = (f(&a.n_heads), f(&a.n_kv_heads));
            let (rows, own) = segments.iter().fold((0.0, 0.0), |(r, o), s| (r + s.n_q as f64, o + s.own_len as f64));
            let squares = segments.iter().map(|s| s.n_q as f64 * (s.prefix_len + s.own_len) as f64).sum::<f64>();
            let d = (a.d_qk + a.d_v) as f64;
            let kept = if *captured { squares * heads } else { 0.0 };
            rows * heads * d + (own + 2.0 * f(prefix_rows)) * kv * d + kept
        }
        Kind::Norm { rows, width, .. } => 2.0 * f(rows) * f(width) + 2.0 * f(width),
        Kind::Rope { rows, heads, d, n_rot, positions, .. } => f(rows) * f(heads) * f(d) + f(positions) * f(n_rot),
        Kind::Activation { rows, d_mlp, gated, .. } => f(rows) * f(d_mlp) * if *gated { 2.0 } else { 1.0 },
        Kind::Embed { rows, d, d_vocab } => (f(rows) + f(d_vocab)) * f(d),
        Kind::CopyRows { rows, d, from } => (f(rows) + f(from)) * f(d),
        Kind::Patch { rows, d, values, .. } => (f(rows) + f(values)) * f(d),
        Kind::Add { rows, d } | Kind::Differs { rows, d, .. } => 2.0 * f(rows) * f(d),
        Kind::Scale { rows, d } | Kind::ScaleRows { rows, d } | Kind::Clamp { rows, d } => f(rows) * f(d),
        Kind::TokenLogits { rows, d, d_vocab } => (f(rows) + f(d_vocab)) * f(d),
        // Logits are taken in blocks; the largest any backend takes are these.
        Kind::LogSumExp { rows, d, d_vocab } => (f(rows) + f(d_vocab)) * f(d) + 32.0 * f(d_vocab) + (2 << 20) as f64,
        Kind::Kl { rows, clean, d, d_vocab } => {
            (f(rows) + f(clean) + f(d_vocab)) * f(d) + 64.0 * f(d_vocab) + (4 << 20) as f64
        }
    };
    let bytes = 4.0 * numbers;
    if bytes > isize::MAX as f64 { f64::INFINITY } else { bytes }
}

/// Whether every operation fits in `max` bytes.
///
/// # Errors
/// [`BenchError::TooLittleMemory`] and [`BenchError::TooLarge`], naming the operation that does not.
pub fn check(cases: &[Case], rows: usize, weight_bytes: f64, max: Option<u64>) -> Result<(), BenchError> {
    for case in cases {
        let (needed, what) = (case.memory(weight_bytes), case.name());
        match max {
            _ if needed.is_infinite() => return Err(BenchError::TooLarge { rows, what }),
            Some(max) if needed > max as f64 => {
                return Err(BenchError::TooLittleMemory { rows, what, needed: needed as u64, max });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether so many rows can be listed; there may be a segment for each.
///
/// # Errors
/// [`BenchError::TooLarge`].
pub fn listed(rows: usize) -> Result<(), BenchError> {
    const MOST: usize = 1 << 22;
    match rows {
        0..=MOST => Ok(()),
        _ => Err(BenchError::TooLarge { rows, what: "lists of rows".into() }),
    }
}

/// The operations of a model at the rows asked for; where none are asked for, at `usual` or as many fewer as fit.
///
/// # Errors
/// They do not fit, or not a single row does.
pub fn fitting(
    spec: &ModelSpec,
    (rows, usual): (Option<usize>, usize),
    (pairs, len): (usize, usize),
    weight_bytes: f64,
    max: Option<u64>,
) -> Result<(WaveShape, Vec<Case>), BenchError> {
    let mut shape = WaveShape { rows: rows.unwrap_or(usual), pairs, len };
    listed(shape.rows)?;
    listed(pairs.saturating_mul(len))?;
    loop {
        let all = cases(spec, &shape)?;
        match check(&all, shape.rows, weight_bytes, max) {
            Ok(()) => return Ok((shape, all)),
            Err(_) if rows.is_none() && shape.rows > 1 => shape.rows /= 2,
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::like::like;

    #[test]
    fn rows_are_halved_until_they_fit_unless_they_were_asked_for() {
        let spec = like("gpt2").expect("a spec");
        let fit = |rows, max| fitting(&spec, (rows, 16_384), (4, 15), 4.0, max).map(|(shape, _)| shape.rows);
        assert_eq!(fit(None, None).expect("it fits"), 16_384);
        // x, hidden rows and as much again: 4096 × (768 + 2 · 3072) numbers are 108 MiB; twice as many do not fit.
        assert_eq!(fit(None, Some(200 << 20)).expect("it fits"), 4096);
        let error = fit(Some(1 << 20), Some(200 << 20)).unwrap_err();
        assert!(matches!(error, BenchError::TooLittleMemory { .. }) && error.exit_code() == 2, "{error}");
        assert!(matches!(fit(None, Some(1 << 20)), Err(BenchError::TooLittleMemory { rows: 1, .. })));
        assert!(matches!(fit(Some(usize::MAX), None), Err(BenchError::TooLarge { .. })));
    }

    #[test]
    fn a_product_that_no_machine_has_room_for_is_an_error() {
        let case = Case::product(usize::MAX / 2, 3, usize::MAX / 4).expect("sizes above zero");
        assert!(matches!(check(&[case], 1, 4.0, None), Err(BenchError::TooLarge { .. })));
    }
}

//! The error of a product: the device's numbers against float64 on the host, at some rows and columns.

use super::numbers::{matrix, matrix_row, number};
use super::prepare::{W, X, gain, weight};
use crate::backend::{Backend, BackendError, Epilogue, View, ViewMut, WeightSlice};
use rayon::prelude::*;
use serde::Serialize;

/// |computed − exact| / (|A| · |B|), where |A| · |B| is the sum of the absolute products: what an error of each product
/// and each addition by a relative ε is measured in (Higham: Accuracy and Stability of Numerical Algorithms, 2002, §3.5).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProductError {
    pub max: f64,
    pub rms: f64,
    /// Numbers compared.
    pub samples: usize,
}

const ROWS: usize = 16;
const COLUMNS: usize = 64;

/// Of `[m, k]` · `[k, n]` by the backend's GEMM, at 16 rows and 64 columns, evenly spread.
///
/// # Errors
/// The device failed, or has no room.
pub fn error<B: Backend>(backend: &B, m: usize, n: usize, k: usize) -> Result<ProductError, BackendError> {
    let (x, w, mut out) = (matrix(backend, m, k, X)?, weight(backend, k, n)?, backend.zeros(m * n)?);
    let slice = WeightSlice { k: 0..k, n: 0..n };
    backend.gemm(View::packed(&x, m, k), &w, slice, Epilogue::none(), ViewMut::packed(&mut out, m, n));
    let found = compare((m, n, k), |r| Ok(backend.download(View::packed(&out, m, n).range(r..r + 1))))?;
    backend.check()?;
    Ok(found)
}

/// Of somebody's product of the same numbers; `row(r)` is row r of it, `[n]`.
pub(super) fn compare(
    (m, n, k): (usize, usize, usize),
    mut row: impl FnMut(usize) -> Result<Vec<f32>, BackendError>,
) -> Result<ProductError, BackendError> {
    let spread = |some: usize, all: usize| -> Vec<usize> {
        let some = some.min(all);
        // The last rows and columns are where a tile may end.
        (0..some).map(|i| if some == 1 { all - 1 } else { i * (all - 1) / (some - 1) }).collect()
    };
    let (rows, columns) = (spread(ROWS, m), spread(COLUMNS, n));
    let weights: Vec<Vec<f32>> =
        columns.par_iter().map(|c| (0..k).map(|i| gain(k) * number(W, c * k + i)).collect()).collect();
    let (mut max, mut squares, mut samples) = (0f64, 0f64, 0usize);
    for r in rows {
        let (got, a) = (row(r)?, matrix_row(k, X, r));
        for (c, w) in columns.iter().zip(&weights) {
            let relative = relative_error(&a, w, got[*c]);
            (max, squares, samples) = (max.max(relative), squares + relative * relative, samples + 1);
        }
    }
    Ok(ProductError { max, rms: (squares / samples as f64).sqrt(), samples })
}

/// Of one number; infinite where it is not finite.
fn relative_error(a: &[f32], b: &[f32], got: f32) -> f64 {
    let (mut exact, mut size) = (0f64, 0f64);
    for (a, b) in a.iter().zip(b) {
        let product = f64::from(*a) * f64::from(*b);
        exact += product;
        size += product.abs();
    }
    let error = (f64::from(got) - exact).abs();
    if error.is_nan() {
        f64::INFINITY
    } else if size == 0.0 {
        error
    } else {
        error / size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    #[test]
    fn an_error_by_hand() {
        // 1·3 − 2·4 = −5, and the sizes add up to 11
        assert_eq!(relative_error(&[1.0, -2.0], &[3.0, 4.0], -5.0), 0.0);
        assert_eq!(relative_error(&[1.0, -2.0], &[3.0, 4.0], -6.1), (f64::from(-6.1f32) + 5.0).abs() / 11.0);
        assert_eq!(relative_error(&[1.0], &[1.0], f32::NAN), f64::INFINITY);
    }

    #[test]
    fn the_cpu_is_float32_accurate() {
        for (m, n, k) in [(300, 70, 200), (1, 1, 1), (3, 65, 1000)] {
            let e = error(&Cpu, m, n, k).expect("memory");
            assert!(e.rms <= e.max && e.max < 2e-7, "{m} {n} {k}: {e:?}");
            assert_eq!(e.samples, m.min(ROWS) * n.min(COLUMNS));
        }
    }
}

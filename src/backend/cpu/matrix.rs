//! The GEMM: the `gemm` crate, called only in ways in which a row's result does not depend on the other rows.
//!
//! That is not true of the crate in general. It changes its order of summation with the number of rows m when m = 1
//! (a vector kernel), when n ≤ 64 and k > 512 (another blocking of k), when the weight is stored `[n, k]` and m·n ≤ 256
//! (a dot-product kernel), and when k ≤ 2. So thin products are padded with rows until they are on the general path,
//! and k ≤ 2 is done by hand. The property test below holds this to bits.

use gemm::Parallelism;

/// A weight stored `[k, n]` row-major: the transpose of Hugging Face's `[out, in]`.
pub struct Weight {
    pub numbers: Vec<f32>,
    pub k: usize,
    pub n: usize,
}

/// Where the right-hand side of a product lies: element (i, j) at `start + i * row + j * col`.
#[derive(Clone, Copy)]
pub struct Rhs<'a> {
    pub numbers: &'a [f32],
    pub start: usize,
    pub row: usize,
    pub col: usize,
}

/// y `[m, n]` = x `[m, k]` · rhs `[k, n]`; rows of x are `x_stride` apart, rows of y `y_stride`.
#[allow(clippy::too_many_arguments)]
pub fn matmul(m: usize, n: usize, k: usize, x: &[f32], x_stride: usize, rhs: Rhs<'_>, y: &mut [f32], y_stride: usize) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(x.len() >= (m - 1) * x_stride + k && y.len() >= (m - 1) * y_stride + n);
    assert!(rhs.numbers.len() > rhs.start + (k - 1) * rhs.row + (n - 1) * rhs.col);
    if k <= 2 {
        return tiny_k(m, n, k, x, x_stride, rhs, y, y_stride);
    }
    let at_least = rows_for_the_general_path(n, k, rhs.col == 1);
    if m < at_least {
        let mut x_padded = vec![0.0; at_least * k];
        let mut y_padded = vec![0.0; at_least * n];
        for i in 0..m {
            x_padded[i * k..][..k].copy_from_slice(&x[i * x_stride..][..k]);
        }
        general(at_least, n, k, &x_padded, k, rhs, &mut y_padded, n);
        for i in 0..m {
            y[i * y_stride..][..n].copy_from_slice(&y_padded[i * n..][..n]);
        }
    } else {
        general(m, n, k, x, x_stride, rhs, y, y_stride);
    }
}

fn rows_for_the_general_path(n: usize, k: usize, stored_k_n: bool) -> usize {
    let mut m = if n <= 64 && k > 512 { 65 } else { 2 };
    if !stored_k_n {
        m = m.max(256 / n + 1);
    }
    m
}

#[allow(clippy::too_many_arguments)]
fn general(m: usize, n: usize, k: usize, x: &[f32], x_stride: usize, rhs: Rhs<'_>, y: &mut [f32], y_stride: usize) {
    // SAFETY: the caller has asserted that the last element of every operand lies inside its slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            y_stride as isize,
            false,
            x.as_ptr(),
            1,
            x_stride as isize,
            rhs.numbers.as_ptr().add(rhs.start),
            rhs.col as isize,
            rhs.row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

#[allow(clippy::too_many_arguments)]
fn tiny_k(m: usize, n: usize, k: usize, x: &[f32], x_stride: usize, rhs: Rhs<'_>, y: &mut [f32], y_stride: usize) {
    for i in 0..m {
        for j in 0..n {
            y[i * y_stride + j] =
                (0..k).map(|p| x[i * x_stride + p] * rhs.numbers[rhs.start + p * rhs.row + j * rhs.col]).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(n: usize, seed: &mut u64) -> Vec<f32> {
        let mut next = || {
            *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (*seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    /// Every row of a product of 200 rows, computed alone or in any smaller batch, has the same bits.
    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let mut seed = 1;
        for k in [1, 2, 3, 8, 16, 64, 100, 576, 768, 1536] {
            for n in [1, 2, 8, 33, 64, 65, 96, 576] {
                for stored_k_n in [true, false] {
                    let w = random(k * n, &mut seed);
                    let rhs = if stored_k_n {
                        Rhs { numbers: &w, start: 0, row: n, col: 1 }
                    } else {
                        Rhs { numbers: &w, start: 0, row: 1, col: k }
                    };
                    let x = random(200 * k, &mut seed);
                    let mut whole = vec![0.0; 200 * n];
                    matmul(200, n, k, &x, k, rhs, &mut whole, n);
                    for m in [1, 2, 3, 4, 7, 16, 17, 31, 63, 64, 65, 127, 130] {
                        let from = 200 - m;
                        let mut part = vec![0.0; m * n];
                        matmul(m, n, k, &x[from * k..], k, rhs, &mut part, n);
                        let same = part.iter().zip(&whole[from * n..]).all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(same, "k={k} n={n} m={m} stored [k, n]: {stored_k_n}");
                    }
                }
            }
        }
    }

    /// Some columns of a weight give the bits that they have in the whole product: q alone is what q | k | v gives.
    #[test]
    fn a_column_does_not_depend_on_its_neighbours() {
        let mut seed = 3;
        for k in [16, 64, 576, 768, 1536] {
            let n = 200;
            let (w, x) = (random(k * n, &mut seed), random(90 * k, &mut seed));
            let mut whole = vec![0.0; 90 * n];
            matmul(90, n, k, &x, k, Rhs { numbers: &w, start: 0, row: n, col: 1 }, &mut whole, n);
            for (from, width) in [(0, 8), (8, 64), (100, 65), (64, 136), (190, 10)] {
                for m in [1, 9, 64, 90] {
                    let mut part = vec![0.0; m * width];
                    let rhs = Rhs { numbers: &w, start: from, row: n, col: 1 };
                    matmul(m, width, k, &x, k, rhs, &mut part, width);
                    for i in 0..m {
                        let same =
                            (0..width).all(|j| part[i * width + j].to_bits() == whole[i * n + from + j].to_bits());
                        assert!(same, "k={k} m={m} columns {from}+{width}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_is_right() {
        let mut seed = 7;
        for (m, k, n) in [(1, 1, 1), (3, 2, 5), (5, 17, 9), (70, 600, 40), (9, 130, 300)] {
            let (x, w) = (random(m * k, &mut seed), random(k * n, &mut seed));
            let mut y = vec![0.0; m * n];
            matmul(m, n, k, &x, k, Rhs { numbers: &w, start: 0, row: n, col: 1 }, &mut y, n);
            for i in 0..m {
                for j in 0..n {
                    let exact: f64 = (0..k).map(|p| x[i * k + p] as f64 * w[p * n + j] as f64).sum();
                    assert!((y[i * n + j] as f64 - exact).abs() < 1e-5);
                }
            }
        }
    }
}

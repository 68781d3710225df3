//! Small dense matrices in float64, and the two things that are done with them: Gram matrices and Cholesky factors.

/// `[rows, cols]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f64>,
}

impl Matrix {
    pub fn zeros(rows: usize, cols: usize) -> Matrix {
        Matrix { rows, cols, data: vec![0.0; rows * cols] }
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// The rows of `index`, in that order.
    pub fn select(&self, index: &[usize]) -> Matrix {
        let data = index.iter().flat_map(|i| self.row(*i)).copied().collect();
        Matrix { rows: index.len(), cols: self.cols, data }
    }

    pub fn transposed(&self) -> Matrix {
        let mut t = Matrix::zeros(self.cols, self.rows);
        for i in 0..self.rows {
            for (j, x) in self.row(i).iter().enumerate() {
                t.data[j * self.rows + i] = *x;
            }
        }
        t
    }

    /// `self · selfᵀ`, `[rows, rows]`.
    pub fn gram(&self) -> Matrix {
        let mut g = Matrix::zeros(self.rows, self.rows);
        for i in 0..self.rows {
            for j in 0..=i {
                let x = dot(self.row(i), self.row(j));
                g.data[i * self.rows + j] = x;
                g.data[j * self.rows + i] = x;
            }
        }
        g
    }

    /// The lower triangle L with `self = L · Lᵀ`, for a symmetric matrix without negative eigenvalues. Where a pivot is
    /// zero but for rounding, so is the column of L.
    pub fn cholesky(&self) -> Matrix {
        let n = self.rows;
        let largest = (0..n).map(|i| self.data[i * n + i]).fold(0.0, f64::max);
        let tiny = largest * f64::EPSILON * n as f64;
        let mut l = Matrix::zeros(n, n);
        for j in 0..n {
            let pivot = self.data[j * n + j] - dot(&l.row(j)[..j], &l.row(j)[..j]);
            if pivot <= tiny {
                continue;
            }
            let root = pivot.sqrt();
            l.data[j * n + j] = root;
            for i in j + 1..n {
                let x = self.data[i * n + j] - dot(&l.row(i)[..j], &l.row(j)[..j]);
                l.data[i * n + j] = x / root;
            }
        }
        l
    }

    /// x with `self · selfᵀ · x = b`, for a lower triangle with a positive diagonal.
    pub fn solve_lower_twice(&self, b: &[f64]) -> Vec<f64> {
        let n = self.rows;
        let mut x = b.to_vec();
        for i in 0..n {
            x[i] = (x[i] - dot(&self.row(i)[..i], &x[..i])) / self.data[i * n + i];
        }
        for i in (0..n).rev() {
            let rest: f64 = (i + 1..n).map(|j| self.data[j * n + i] * x[j]).sum();
            x[i] = (x[i] - rest) / self.data[i * n + i];
        }
        x
    }
}

/// In eight running sums, whose order is fixed.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (x, y) in a8.iter().zip(b8) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

/// y += factor · x.
pub(super) fn add_scaled(y: &mut [f64], factor: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cholesky_solves_and_survives_a_singular_matrix() {
        let x = Matrix { rows: 3, cols: 2, data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 7.0] };
        let g = x.gram(); // rank 2
        let l = g.cholesky();
        for i in 0..3 {
            for j in 0..3 {
                assert!((dot(l.row(i), l.row(j)) - g.data[i * 3 + j]).abs() < 1e-10);
            }
        }
        assert!(l.row(2)[2].abs() < 1e-6, "the third pivot is zero");
        let mut regular = g.clone();
        (0..3).for_each(|i| regular.data[i * 3 + i] += 1.0);
        let b = [1.0, -2.0, 0.5];
        let x = regular.cholesky().solve_lower_twice(&b);
        for (i, b) in b.iter().enumerate() {
            assert!((dot(regular.row(i), &x) - b).abs() < 1e-12);
        }
    }
}

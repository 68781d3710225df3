//! Features with mean 0 and deviation 1.

use super::matrix::Matrix;

/// What was subtracted from each feature, and what it was divided by: scikit-learn's `StandardScaler`, which divides by
/// the deviation over n (not n − 1) and leaves a feature that is constant but for rounding undivided
/// (`sklearn/preprocessing/_data.py`, `_is_constant_feature`).
#[derive(Debug, Clone, PartialEq)]
pub struct Scaler {
    /// `[features]`
    pub mean: Vec<f64>,
    /// `[features]`
    pub scale: Vec<f64>,
}

impl Scaler {
    pub fn of(x: &Matrix) -> Scaler {
        let n = x.rows.max(1) as f64;
        let mut mean = vec![0.0; x.cols];
        for i in 0..x.rows {
            mean.iter_mut().zip(x.row(i)).for_each(|(m, x)| *m += x / n);
        }
        let mut var = vec![0.0; x.cols];
        for i in 0..x.rows {
            for ((v, x), m) in var.iter_mut().zip(x.row(i)).zip(&mean) {
                *v += (x - m) * (x - m) / n;
            }
        }
        let scale = |(var, mean): (&f64, &f64)| {
            let rounding = n * f64::EPSILON * var + (n * mean * f64::EPSILON).powi(2);
            if *var <= rounding { 1.0 } else { var.sqrt() }
        };
        let scale = var.iter().zip(&mean).map(scale).collect();
        Scaler { mean, scale }
    }

    /// Changes nothing.
    pub fn none(features: usize) -> Scaler {
        Scaler { mean: vec![0.0; features], scale: vec![1.0; features] }
    }

    pub fn apply(&self, x: &mut Matrix) {
        for i in 0..x.rows {
            for ((x, m), s) in x.row_mut(i).iter_mut().zip(&self.mean).zip(&self.scale) {
                *x = (*x - m) / s;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_feature_stays_undivided() {
        let mut x = Matrix { rows: 3, cols: 2, data: vec![0.1, 1.0, 0.1, 2.0, 0.1, 6.0] };
        let scaler = Scaler::of(&x);
        assert_eq!(scaler.scale[0], 1.0);
        scaler.apply(&mut x);
        assert!((0..3).all(|i| x.row(i)[0].abs() < 1e-15));
        let second: Vec<f64> = (0..3).map(|i| x.row(i)[1]).collect();
        assert!(second.iter().sum::<f64>().abs() < 1e-12);
        assert!((second.iter().map(|x| x * x).sum::<f64>() - 3.0).abs() < 1e-12, "deviation 1 over n");
    }
}

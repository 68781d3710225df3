//! One probe: fitted, judged on what it has not seen, and turned into directions.

use super::folds::Folds;
use super::labels::Target;
use super::matrix::{Matrix, add_scaled, dot};
use super::newton::{Loss, minimise};
use super::scale::Scaler;

/// How a probe is kept from overfitting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalty {
    /// Logistic: Σ loss + l2/2 ‖w‖², scikit-learn's 1/C. Ridge: ‖y − Xw‖² + l2 ‖w‖², scikit-learn's alpha.
    pub l2: f64,
    /// Features are standardised first ([`Scaler`]), on the pairs that are fitted.
    pub standardize: bool,
}

/// A linear map from activations to scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// `[outputs, features]`, of the activations as they are. One output for numbers and for two classes (the second's
    /// log-odds), else one a class.
    pub weights: Matrix,
    /// `[outputs]`
    pub bias: Vec<f64>,
    /// Whether the search for the minimum ended at one.
    pub converged: bool,
}

impl Linear {
    /// `[outputs]` of one row of activations.
    pub fn scores(&self, row: &[f64]) -> Vec<f64> {
        (0..self.weights.rows).map(|o| dot(self.weights.row(o), row) + self.bias[o]).collect()
    }

    /// The class with the largest score; the first of equals.
    fn class(&self, row: &[f64]) -> usize {
        match &self.scores(row)[..] {
            [score] => usize::from(*score > 0.0),
            scores => (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0),
        }
    }
}

/// Fits `target` to the rows of `x` `[pairs, features]`. Where there are fewer pairs than features the same minimum is
/// found among the combinations of pairs (the dual form): it lies there, as the penalty sees to it.
pub fn fit(x: &Matrix, target: &Target, penalty: Penalty) -> Linear {
    let scaler = if penalty.standardize { Scaler::of(x) } else { Scaler::none(x.cols) };
    let mut scaled = x.clone();
    scaler.apply(&mut scaled);
    let mut linear = match target {
        Target::Classes { names, of } => logistic(&scaled, of, names.len(), penalty.l2),
        Target::Numbers(y) => ridge(&scaled, y, penalty.l2),
    };
    for o in 0..linear.weights.rows {
        let row = linear.weights.row_mut(o);
        row.iter_mut().zip(&scaler.scale).for_each(|(w, s)| *w /= s);
        linear.bias[o] -= dot(row, &scaler.mean);
    }
    linear
}

fn logistic(x: &Matrix, classes: &[usize], n_classes: usize, l2: f64) -> Linear {
    let outputs = if n_classes == 2 { 1 } else { n_classes };
    let loss = Loss { classes, outputs };
    // Rows with the same products among each other, in as many dimensions as there are pairs.
    let short = (x.rows < x.cols).then(|| x.gram().cholesky());
    let features = short.as_ref().unwrap_or(x);
    let found = minimise(features, &loss, l2);
    let width = features.cols + 1;
    let bias = found.params.chunks_exact(width).map(|p| p[width - 1]).collect();
    let mut weights = Matrix::zeros(outputs, x.cols);
    for o in 0..outputs {
        if short.is_none() {
            weights.row_mut(o).copy_from_slice(&found.params[o * width..(o + 1) * width - 1]);
            continue;
        }
        // At the minimum l2 · w = −Xᵀ · slopes.
        for (i, slopes) in found.slopes.chunks_exact(outputs).enumerate() {
            add_scaled(weights.row_mut(o), -slopes[o] / l2, x.row(i));
        }
    }
    Linear { weights, bias, converged: found.converged }
}

fn ridge(x: &Matrix, y: &[f64], l2: f64) -> Linear {
    let n = x.rows.max(1) as f64;
    let mut mean = vec![0.0; x.cols];
    (0..x.rows).for_each(|i| add_scaled(&mut mean, 1.0 / n, x.row(i)));
    let mean_y = y.iter().sum::<f64>() / n;
    let mut centred = x.clone();
    Scaler { mean: mean.clone(), scale: vec![1.0; x.cols] }.apply(&mut centred);
    let y: Vec<f64> = y.iter().map(|y| y - mean_y).collect();
    let combine = |by: &[f64]| {
        let mut sum = vec![0.0; x.cols];
        (0..x.rows).for_each(|i| add_scaled(&mut sum, by[i], centred.row(i)));
        sum
    };
    let solve = |mut gram: Matrix, right: &[f64]| {
        (0..gram.rows).for_each(|i| gram.data[i * gram.cols + i] += l2);
        // A penalty too small for float64 leaves pivots at zero; the smallest that shows lifts them.
        let largest = (0..gram.rows).map(|i| gram.data[i * gram.cols + i]).fold(0.0, f64::max);
        let mut factor = gram.cholesky();
        let tiny = (largest * f64::EPSILON * gram.rows as f64).sqrt().max(f64::MIN_POSITIVE);
        (0..factor.rows).for_each(|i| {
            let at = i * factor.cols + i;
            factor.data[at] = factor.data[at].max(tiny);
        });
        factor.solve_lower_twice(right)
    };
    let w = if x.rows < x.cols {
        combine(&solve(centred.gram(), &y))
    } else {
        solve(centred.transposed().gram(), &combine(&y))
    };
    let bias = vec![mean_y - dot(&w, &mean)];
    Linear { weights: Matrix { rows: 1, cols: x.cols, data: w }, bias, converged: true }
}

/// What cross-validation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// `[folds]`: accuracy or R² on the held-out pairs.
    pub folds: Vec<f64>,
    /// The same of guessing: the most frequent class, or the mean, of the fitted pairs.
    pub baseline: f64,
    pub converged: bool,
}

impl Scores {
    pub fn mean(&self) -> f64 {
        self.folds.iter().sum::<f64>() / self.folds.len() as f64
    }

    /// Standard deviation over the folds (over n).
    pub fn deviation(&self) -> f64 {
        let mean = self.mean();
        (self.folds.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / self.folds.len() as f64).sqrt()
    }
}

/// Fits on all folds but one, in turn, and judges on that one.
pub fn cross_validate(x: &Matrix, target: &Target, folds: &Folds, penalty: Penalty) -> Scores {
    let (mut scores, mut baseline, mut converged) = (Vec::with_capacity(folds.n), 0.0, true);
    for fold in 0..folds.n {
        let (train, test) = folds.split(fold);
        let linear = fit(&x.select(&train), &target.select(&train), penalty);
        converged &= linear.converged;
        match (target.select(&train), target.select(&test)) {
            (Target::Classes { of: seen, names }, Target::Classes { of, .. }) => {
                let share = |right: usize| right as f64 / test.len() as f64;
                let right = test.iter().zip(&of).filter(|(i, class)| linear.class(x.row(**i)) == **class).count();
                scores.push(share(right));
                let count = |class: &usize| seen.iter().filter(|c| *c == class).count();
                let usual = (0..names.len()).rev().max_by_key(count).unwrap_or(0);
                baseline += share(of.iter().filter(|c| **c == usual).count()) / folds.n as f64;
            }
            (Target::Numbers(seen), Target::Numbers(y)) => {
                let predicted: Vec<f64> = test.iter().map(|i| linear.scores(x.row(*i))[0]).collect();
                scores.push(r2(&y, &predicted));
                let mean = seen.iter().sum::<f64>() / seen.len().max(1) as f64;
                baseline += r2(&y, &vec![mean; y.len()]) / folds.n as f64;
            }
            _ => unreachable!("a selection has its target's kind"),
        }
    }
    Scores { folds: scores, baseline, converged }
}

/// 1 − Σ(y − ŷ)² / Σ(y − mean)², as scikit-learn's `r2_score`: where y is constant, 1 if it is met and 0 if not.
fn r2(y: &[f64], predicted: &[f64]) -> f64 {
    let mean = y.iter().sum::<f64>() / y.len().max(1) as f64;
    let total: f64 = y.iter().map(|y| (y - mean).powi(2)).sum();
    let missed: f64 = y.iter().zip(predicted).map(|(y, p)| (y - p).powi(2)).sum();
    match (total == 0.0, missed == 0.0) {
        (true, true) => 1.0,
        (true, false) => 0.0,
        _ => 1.0 - missed / total,
    }
}

/// Directions in the space of the activations, `[outputs][features]`, fitted to all pairs; finite always.
///
/// - Two classes: towards the second, as long as the two classes' means are apart along it.
/// - More: for each class, towards it, as long as its mean and that of all other pairs are apart along it.
/// - Numbers: a step along it raises the prediction by 1.
///
/// A probe without weights has directions of zeros.
pub fn directions(x: &Matrix, target: &Target, linear: &Linear) -> Vec<Vec<f32>> {
    let direction = |o: usize| {
        let w = linear.weights.row(o);
        let norm = dot(w, w).sqrt();
        if norm == 0.0 || !norm.is_finite() {
            return vec![0.0; w.len()];
        }
        let length = match target {
            Target::Numbers(_) => 1.0 / norm,
            Target::Classes { names, of } => {
                let towards = if names.len() == 2 { 1 } else { o };
                let (mut sums, mut counts) = ([0.0; 2], [0usize; 2]);
                for (i, class) in of.iter().enumerate() {
                    let side = usize::from(*class == towards);
                    sums[side] += dot(x.row(i), w) / norm;
                    counts[side] += 1;
                }
                let mean = |side: usize| sums[side] / counts[side].max(1) as f64;
                (mean(1) - mean(0)).abs()
            }
        };
        let finite = |x: f64| if (x as f32).is_finite() { x as f32 } else { 0.0 };
        w.iter().map(|w| finite(w / norm * length)).collect()
    };
    (0..linear.weights.rows).map(direction).collect()
}

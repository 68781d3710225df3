//! The minimum of a logistic loss with an L2 penalty, by Newton's method with conjugate gradients inside (Nocedal and
//! Wright, *Numerical Optimization*, algorithm 7.1).

use super::matrix::{Matrix, add_scaled, dot};

/// Softmax over several classes, or the logistic function of one score where there are two.
pub(super) struct Loss<'a> {
    /// `[examples]`
    pub classes: &'a [usize],
    /// Scores of one example: 1 for two classes, else one a class.
    pub outputs: usize,
}

/// Where the search ended.
pub(super) struct Minimum {
    /// `[outputs, features + 1]`, the intercept last.
    pub params: Vec<f64>,
    /// Derivative of the loss by each score, `[examples, outputs]`.
    pub slopes: Vec<f64>,
    pub converged: bool,
}

const MAX_STEPS: usize = 100;
const MAX_INNER: usize = 1000;
/// Of the gradient at the start.
const TOLERANCE: f64 = 1e-9;

/// Minimises Σ loss + l2/2 ‖weights‖², intercepts not penalised.
pub(super) fn minimise(x: &Matrix, loss: &Loss, l2: f64) -> Minimum {
    let width = x.cols + 1;
    let mut params = vec![0.0; loss.outputs * width];
    let objective = |params: &[f64]| loss.value(&scores(x, params, loss.outputs)) + 0.5 * l2 * penalty(params, width);
    let mut value = objective(&params);
    let mut limit = f64::NAN;
    for _ in 0..MAX_STEPS {
        let probabilities = loss.probabilities(&scores(x, &params, loss.outputs));
        let slopes = loss.slopes(&probabilities);
        let gradient = gradient(x, &slopes, &params, loss.outputs, l2);
        let size = dot(&gradient, &gradient).sqrt();
        if limit.is_nan() {
            limit = TOLERANCE * size.max(1.0);
        }
        if size <= limit {
            return Minimum { params, slopes, converged: true };
        }
        let step = newton_step(x, loss, &probabilities, &gradient, l2);
        let slope = dot(&gradient, &step);
        let mut length = 1.0;
        let next = loop {
            let mut next = params.clone();
            add_scaled(&mut next, length, &step);
            let there = objective(&next);
            // Close to the minimum the way down is less than rounding shows.
            if there <= value + 1e-4 * length * slope + 1e-13 * value.abs() {
                break Some((next, there));
            }
            length /= 2.0;
            if length < 1e-12 {
                break None;
            }
        };
        match next {
            Some((next, there)) => (params, value) = (next, there),
            // No shorter step goes down any more: this is the minimum as far as float64 can tell.
            None => return Minimum { params, slopes, converged: size <= limit * 1e4 },
        }
    }
    let slopes = loss.slopes(&loss.probabilities(&scores(x, &params, loss.outputs)));
    Minimum { params, slopes, converged: false }
}

/// `[examples, outputs]`
fn scores(x: &Matrix, params: &[f64], outputs: usize) -> Vec<f64> {
    let width = x.cols + 1;
    let mut all = Vec::with_capacity(x.rows * outputs);
    for i in 0..x.rows {
        all.extend(params.chunks_exact(width).take(outputs).map(|p| dot(x.row(i), &p[..x.cols]) + p[x.cols]));
    }
    all
}

fn penalty(params: &[f64], width: usize) -> f64 {
    params.chunks_exact(width).map(|p| dot(&p[..width - 1], &p[..width - 1])).sum()
}

/// The derivative by every parameter: features times slopes, and the penalty's.
fn gradient(x: &Matrix, slopes: &[f64], params: &[f64], outputs: usize, l2: f64) -> Vec<f64> {
    let width = x.cols + 1;
    let mut g = vec![0.0; params.len()];
    for (i, slopes) in slopes.chunks_exact(outputs).enumerate() {
        for (g, slope) in g.chunks_exact_mut(width).zip(slopes) {
            add_scaled(&mut g[..x.cols], *slope, x.row(i));
            g[x.cols] += slope;
        }
    }
    for (g, p) in g.chunks_exact_mut(width).zip(params.chunks_exact(width)) {
        add_scaled(&mut g[..x.cols], l2, &p[..x.cols]);
    }
    g
}

/// Conjugate gradients on H · step = −gradient, stopped early far from the minimum.
fn newton_step(x: &Matrix, loss: &Loss, probabilities: &[f64], gradient_here: &[f64], l2: f64) -> Vec<f64> {
    let outputs = loss.outputs;
    let curvature = |direction: &[f64]| {
        let bent = loss.bend(probabilities, &scores(x, direction, outputs));
        gradient(x, &bent, direction, outputs, l2)
    };
    let diagonal = diagonal(x, loss, probabilities, l2);
    let precondition = |r: &[f64]| r.iter().zip(&diagonal).map(|(r, d)| r / d).collect::<Vec<_>>();
    let size = dot(gradient_here, gradient_here).sqrt();
    let enough = size * size.sqrt().min(0.1);
    let mut step = vec![0.0; gradient_here.len()];
    let mut residual: Vec<f64> = gradient_here.iter().map(|g| -g).collect();
    let mut z = precondition(&residual);
    let mut direction = z.clone();
    let mut rz = dot(&residual, &z);
    for _ in 0..MAX_INNER.min(2 * step.len()) {
        let h = curvature(&direction);
        let bend = dot(&direction, &h);
        if bend <= f64::MIN_POSITIVE {
            break;
        }
        let along = rz / bend;
        add_scaled(&mut step, along, &direction);
        add_scaled(&mut residual, -along, &h);
        if dot(&residual, &residual).sqrt() <= enough {
            break;
        }
        z = precondition(&residual);
        let before = std::mem::replace(&mut rz, dot(&residual, &z));
        direction.iter_mut().zip(&z).for_each(|(d, z)| *d = z + rz / before * *d);
    }
    step
}

/// The diagonal of the Hessian, never below a tiny share of its largest entry.
fn diagonal(x: &Matrix, loss: &Loss, probabilities: &[f64], l2: f64) -> Vec<f64> {
    let width = x.cols + 1;
    let mut d = vec![0.0; loss.outputs * width];
    for (i, p) in probabilities.chunks_exact(loss.outputs).enumerate() {
        for (d, p) in d.chunks_exact_mut(width).zip(p) {
            let weight = p * (1.0 - p);
            d.iter_mut().zip(x.row(i)).for_each(|(d, x)| *d += weight * x * x);
            d[x.cols] += weight;
        }
    }
    for d in d.chunks_exact_mut(width) {
        d[..width - 1].iter_mut().for_each(|d| *d += l2);
    }
    let largest = d.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    d.iter_mut().for_each(|d| *d = d.max(1e-12 * largest));
    d
}

impl Loss<'_> {
    /// Σ −ln p(class).
    fn value(&self, scores: &[f64]) -> f64 {
        let one = |(s, class): (&[f64], &usize)| match s {
            [s] => {
                let s = if *class == 1 { -s } else { *s };
                s.max(0.0) + (-s.abs()).exp().ln_1p()
            }
            s => {
                let max = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                max + s.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - s[*class]
            }
        };
        scores.chunks_exact(self.outputs).zip(self.classes).map(one).sum()
    }

    /// p of each class; of the second alone where there are two. `[examples, outputs]`
    fn probabilities(&self, scores: &[f64]) -> Vec<f64> {
        let mut p = scores.to_vec();
        for p in p.chunks_exact_mut(self.outputs) {
            if let [s] = p {
                *s = if *s >= 0.0 { 1.0 / (1.0 + (-*s).exp()) } else { s.exp() / (1.0 + s.exp()) };
                continue;
            }
            let max = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            p.iter_mut().for_each(|x| *x = (*x - max).exp());
            let sum: f64 = p.iter().sum();
            p.iter_mut().for_each(|x| *x /= sum);
        }
        p
    }

    /// The derivative of the loss by each score: p − 1 at the class, p elsewhere.
    fn slopes(&self, probabilities: &[f64]) -> Vec<f64> {
        let mut slopes = probabilities.to_vec();
        for (s, class) in slopes.chunks_exact_mut(self.outputs).zip(self.classes) {
            match s {
                [s] => *s -= *class as f64,
                s => s[*class] -= 1.0,
            }
        }
        slopes
    }

    /// The second derivative by the scores, applied to a change of them.
    fn bend(&self, probabilities: &[f64], change: &[f64]) -> Vec<f64> {
        let mut out = Vec::with_capacity(change.len());
        for (p, z) in probabilities.chunks_exact(self.outputs).zip(change.chunks_exact(self.outputs)) {
            match (p, z) {
                ([p], [z]) => out.push(p * (1.0 - p) * z),
                _ => {
                    let mean = dot(p, z);
                    out.extend(p.iter().zip(z).map(|(p, z)| p * (z - mean)));
                }
            }
        }
        out
    }
}

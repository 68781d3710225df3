//! Probes are scikit-learn's, and find what is there.

mod support;

use patchwave::probe::{Folds, Matrix, Penalty, Target, cross_validate, directions, fit};
use serde_json::Value;
use support::Rng;

fn cases() -> serde_json::Map<String, Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probe.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn matrix(value: &Value) -> Matrix {
    let rows: Vec<Vec<f64>> = value.as_array().expect("rows").iter().map(numbers).collect();
    Matrix { rows: rows.len(), cols: rows[0].len(), data: rows.concat() }
}

fn target(case: &Value) -> Target {
    let y = numbers(&case["y"]);
    match case["classes"].as_u64().expect("a number") as usize {
        0 => Target::Numbers(y),
        n => Target::Classes {
            names: (0..n).map(|c| c.to_string()).collect(),
            of: y.iter().map(|y| *y as usize).collect(),
        },
    }
}

/// Scores on each held-out fold within half a percent (in fact to the last example), coefficients to 1e-5.
#[test]
fn scores_and_coefficients_are_scikit_learns() {
    let cases = cases();
    assert_eq!(cases.len(), 9);
    for (name, case) in &cases {
        let (x, target) = (matrix(&case["x"]), target(case));
        let penalty = Penalty { l2: case["l2"].as_f64().unwrap(), standardize: case["standardise"].as_bool().unwrap() };
        let of = numbers(&case["fold"]).iter().map(|f| *f as usize).collect();
        let folds = Folds { n: case["n_folds"].as_u64().unwrap() as usize, of };
        let scores = cross_validate(&x, &target, &folds, penalty);
        assert!(scores.converged, "{name}");
        for (ours, theirs) in scores.folds.iter().zip(numbers(&case["scores"])) {
            assert!((ours - theirs).abs() < 0.005, "{name}: {:?} and {}", scores.folds, case["scores"]);
        }
        let linear = fit(&x, &target, penalty);
        let theirs = matrix(&case["coefficients"]);
        assert_eq!((linear.weights.rows, linear.weights.cols), (theirs.rows, theirs.cols), "{name}");
        let largest = theirs.data.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        for (ours, theirs) in linear.weights.data.iter().zip(&theirs.data) {
            assert!((ours - theirs).abs() < 1e-5 * largest, "{name}: {ours} and {theirs}");
        }
        // Softmax intercepts are known up to a constant.
        let theirs = numbers(&case["intercepts"]);
        let shift = if theirs.len() > 1 { linear.bias[0] - theirs[0] } else { 0.0 };
        for (ours, theirs) in linear.bias.iter().zip(&theirs) {
            assert!((ours - theirs - shift).abs() < 1e-4 * (1.0 + theirs.abs()), "{name}: {:?}", linear.bias);
        }
    }
}

/// Rows of noise with `along` added to those of the second class.
fn planted(n: usize, along: &[f64], seed: u64) -> (Matrix, Target) {
    let mut rng = Rng(seed);
    let mut x = Matrix::zeros(n, along.len());
    let of: Vec<usize> = (0..n).map(|i| i % 2).collect();
    for (i, class) in of.iter().enumerate() {
        for (x, a) in x.row_mut(i).iter_mut().zip(along) {
            *x = f64::from(rng.normal()) + 3.0 + *class as f64 * a;
        }
    }
    (x, Target::Classes { names: vec!["no".into(), "yes".into()], of })
}

fn cosine(a: &[f64], b: &[f32]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(x, y)| x * f64::from(*y)).sum();
    let norm = |x: f64| x.sqrt();
    dot / norm(a.iter().map(|x| x * x).sum()) / norm(b.iter().map(|x| f64::from(*x).powi(2)).sum())
}

#[test]
fn a_planted_direction_is_found_as_long_as_it_is() {
    let mut along = vec![0.0; 10];
    (along[2], along[7]) = (6.0, -8.0);
    let (x, target) = planted(400, &along, 1);
    let penalty = Penalty { l2: 1.0, standardize: true };
    let folds = Folds::new(&target, "f", 5, 0).unwrap();
    assert!(cross_validate(&x, &target, &folds, penalty).mean() > 0.99);
    let found = &directions(&x, &target, &fit(&x, &target, penalty))[0];
    assert!(cosine(&along, found) > 0.95, "{found:?}");
    let length = found.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 10.0).abs() < 0.5, "the means are 10 apart, the direction is {length} long");
}

#[test]
fn without_anything_to_find_accuracy_is_that_of_guessing() {
    let (x, target) = planted(300, &[0.0; 8], 2);
    let folds = Folds::new(&target, "f", 5, 0).unwrap();
    let scores = cross_validate(&x, &target, &folds, Penalty { l2: 1.0, standardize: true });
    assert!((scores.mean() - 0.5).abs() < 0.12, "{}", scores.mean());
    assert!((scores.baseline - 0.5).abs() < 0.02, "{}", scores.baseline);
}

/// With fewer rows than features the fit goes another way; one more feature that says nothing must not matter.
#[test]
fn the_dual_form_is_the_primal_one() {
    for (classes, seed) in [(2, 1), (3, 2), (0, 3)] {
        let mut rng = Rng(seed);
        let (n, d) = (12, 11);
        let mut narrow = Matrix::zeros(n, d);
        narrow.data.iter_mut().for_each(|x| *x = f64::from(rng.normal()));
        let mut wide = Matrix::zeros(n, d + 2);
        (0..n).for_each(|i| wide.row_mut(i)[..d].copy_from_slice(narrow.row(i)));
        let target = match classes {
            0 => Target::Numbers((0..n).map(|_| f64::from(rng.normal())).collect()),
            c => {
                Target::Classes { names: (0..c).map(|c| c.to_string()).collect(), of: (0..n).map(|i| i % c).collect() }
            }
        };
        for standardize in [false, true] {
            let penalty = Penalty { l2: 0.5, standardize };
            let (primal, dual) = (fit(&narrow, &target, penalty), fit(&wide, &target, penalty));
            for o in 0..primal.weights.rows {
                for (a, b) in primal.weights.row(o).iter().zip(dual.weights.row(o)) {
                    assert!((a - b).abs() < 1e-6, "{classes} classes, standardised {standardize}: {a} and {b}");
                }
                assert!(dual.weights.row(o)[d..].iter().all(|w| w.abs() < 1e-9), "features of zeros have no weight");
            }
        }
    }
}

#[test]
fn several_classes_have_a_direction_each() {
    let mut rng = Rng(4);
    let n = 300;
    let of: Vec<usize> = (0..n).map(|i| i % 3).collect();
    let mut x = Matrix::zeros(n, 6);
    for (i, class) in of.iter().enumerate() {
        x.row_mut(i).iter_mut().for_each(|x| *x = f64::from(rng.normal()));
        x.row_mut(i)[*class] += 5.0;
    }
    let target = Target::Classes { names: ["a", "b", "c"].map(String::from).to_vec(), of };
    let found = directions(&x, &target, &fit(&x, &target, Penalty { l2: 1.0, standardize: true }));
    assert_eq!(found.len(), 3);
    for (class, direction) in found.iter().enumerate() {
        let largest = (0..6).max_by(|a, b| direction[*a].total_cmp(&direction[*b])).unwrap();
        assert_eq!(largest, class, "{direction:?}");
    }
}

#[test]
fn a_constant_feature_and_activations_that_are_all_equal_are_no_trouble() {
    let (mut x, target) = planted(40, &[4.0, 0.0, 0.0], 6);
    (0..40).for_each(|i| x.row_mut(i)[1] = 0.1);
    let linear = fit(&x, &target, Penalty { l2: 1.0, standardize: true });
    assert!(linear.converged && linear.weights.data.iter().all(|w| w.is_finite()));
    let equal = Matrix { rows: 40, cols: 3, data: vec![0.1; 120] };
    let linear = fit(&equal, &target, Penalty { l2: 1.0, standardize: true });
    let found = directions(&equal, &target, &linear);
    assert!(found[0].iter().all(|x| x.is_finite()), "{found:?}");
}

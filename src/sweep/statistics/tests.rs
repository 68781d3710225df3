use super::*;

/// Twenty pairs with denoising effects near 0.4, as numpy drew them.
const CLEAN: [f32; 20] = [
    3.0, 3.3, 2.73, 2.11, 2.55, 2.01, 3.06, 4.34, 2.51, 2.38, 3.49, 3.36, 3.11, 2.07, 2.97, 3.7, 1.66, 2.54, 1.1, 1.71,
];
const CORRUPTED: [f32; 20] = [
    -2.84, -1.24, -2.27, -0.73, -0.84, -1.19, -3.52, -1.54, -1.05, -0.89, -2.53, -1.48, -1.98, -1.81, 0.06, -1.81,
    -1.03, -0.12, -1.58, -1.11,
];
const ONE: [f32; 20] = [
    -0.42, 0.63, -1.25, 0.47, 1.6, -1.15, -0.2, 0.91, -0.14, 2.02, 0.49, -0.5, 0.12, 0.2, 1.07, 0.94, -0.01, 1.48,
    0.64, -0.52,
];
const TWO: [f32; 20] = [
    0.18, 0.9, -0.69, 0.38, 1.81, -0.75, 0.75, 1.98, -0.3, 2.12, 1.31, -1.0, 0.39, 0.65, 2.2, 1.78, 0.33, 1.8, 1.01,
    0.74,
];

fn sample<'a>(metric: &'a [f32], clean: &'a [f32], corrupted: &'a [f32]) -> Sample<'a> {
    Sample { metric, clean, corrupted, direction: Direction::Denoise }
}

fn many() -> Bootstrap {
    Bootstrap { draws: 40_000, ..Bootstrap::default() }
}

#[track_caller]
fn near(value: f32, expected: f64, tolerance: f64) {
    assert!((f64::from(value) - expected).abs() <= tolerance, "{value}, expected {expected} ± {tolerance}");
}

/// A generator for synthetic pairs: sums of twelve uniforms are close to normal.
struct Normal(u64);

impl Normal {
    fn next(&mut self) -> f64 {
        let mut uniform = || {
            self.0 += 1;
            (mix(self.0) >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..12).map(|_| uniform()).sum::<f64>() - 6.0
    }
}

#[test]
fn two_pairs_by_hand() {
    // x = (1, 3), s = (4, 4): r = 1/2, d = ((1 − 2)/8, (3 − 2)/8), se² = 2 · (1/64 + 1/64) = 1/16.
    let s = spread(&sample(&[1.0, 3.0], &[4.0, 4.0], &[0.0, 0.0]), &Bootstrap::default());
    assert_eq!(s.stderr, [0.25]);
    // The draws are 1/4, 1/2, 1/2 and 3/4, each a quarter of them.
    assert_eq!((s.low[0], s.high[0]), (0.25, 0.75));
}

#[test]
fn noising_counts_from_the_clean_run() {
    let noise = Sample { direction: Direction::Noise, ..sample(&[3.0, 1.0], &[4.0, 4.0], &[0.0, 0.0]) };
    let s = spread(&noise, &Bootstrap::default());
    assert_eq!((s.stderr[0], s.low[0], s.high[0]), (0.25, -0.75, -0.25));
}

#[test]
fn as_numpy_does() {
    // x, s = m - corrupted, clean - corrupted; i = rng.integers(0, 20, (1_000_000, 20))
    // numpy.quantile(x[i].sum(1) / s[i].sum(1), [.025, .975])
    let s = spread(&sample(&ONE, &CLEAN, &CORRUPTED), &many());
    near(s.stderr[0], 0.039803983, 1e-6);
    near(s.low[0], 0.35473, 0.002);
    near(s.high[0], 0.50925, 0.002);
    let (one, two) = (sample(&ONE, &CLEAN, &CORRUPTED), sample(&TWO, &CLEAN, &CORRUPTED));
    let paired = spread_of_difference(&one, &two, true, &many());
    near(paired.low[0], 0.06554, 0.0015);
    near(paired.high[0], 0.15707, 0.0015);
    near(paired.stderr[0], 0.02322, 0.001);
    let apart = spread_of_difference(&one, &two, false, &many());
    near(apart.low[0], -0.01125, 0.003);
    near(apart.high[0], 0.22881, 0.003);
    near(apart.stderr[0], 0.06116, 0.002);
}

#[test]
fn a_paired_difference_of_equal_runs_is_exactly_zero() {
    let one = sample(&ONE, &CLEAN, &CORRUPTED);
    let same = spread_of_difference(&one, &one, true, &Bootstrap::default());
    assert_eq!((same.stderr[0], same.low[0], same.high[0]), (0.0, 0.0, 0.0));
    assert!(spread_of_difference(&one, &one, false, &Bootstrap::default()).high[0] > 0.05, "resampled apart");
}

#[test]
fn one_pair_says_nothing_about_spread() {
    let s = spread(&sample(&[1.0], &[4.0], &[0.0]), &Bootstrap::default());
    assert!(s.stderr[0].is_nan() && s.low[0].is_nan() && s.high[0].is_nan());
    // So does a cell that only one of several pairs has; one that none has is no cell.
    let metric = [1.0, f32::NAN, 2.0, 3.0, f32::NAN, f32::NAN];
    let s = spread(&sample(&metric, &[4.0, 5.0], &[0.0, 0.0]), &Bootstrap::default());
    assert!(s.stderr[0].is_nan() && s.low[0].is_nan());
    assert!(s.stderr[1].is_finite() && s.low[1] < s.high[1]);
    assert!(s.stderr[2].is_nan() && s.high[2].is_nan());
}

#[test]
fn a_cell_that_changes_nothing_is_certain() {
    let s = spread(&sample(&CORRUPTED, &CLEAN, &CORRUPTED), &Bootstrap::default());
    assert_eq!((s.stderr[0], s.low[0], s.high[0]), (0.0, 0.0, 0.0));
}

#[test]
fn a_cell_that_some_pairs_lack_is_that_of_the_others() {
    let mut metric = ONE;
    metric[3] = f32::NAN;
    metric[11] = f32::NAN;
    let without = |values: &[f32]| {
        let kept = values.iter().enumerate().filter(|(i, _)| ![3, 11].contains(i));
        kept.map(|(_, v)| *v).collect::<Vec<_>>()
    };
    let (clean, corrupted, others) = (without(&CLEAN), without(&CORRUPTED), without(&ONE));
    let here = spread(&sample(&metric, &CLEAN, &CORRUPTED), &many());
    let there = spread(&sample(&others, &clean, &corrupted), &many());
    near(here.stderr[0], f64::from(there.stderr[0]), 1e-7);
    near(here.low[0], f64::from(there.low[0]), 0.004);
    near(here.high[0], f64::from(there.high[0]), 0.004);
}

#[test]
fn counts_and_the_plain_walk_through_the_draws_agree() {
    for n in [1, 2, 3, 4, 5, 7, 8, 64, 129] {
        let values: Vec<f64> = (0..n).map(|i| (i as f64 * 0.7).sin()).collect();
        let draws = Draws::new(n, &Bootstrap { draws: 50, ..Bootstrap::default() }, 3);
        let counts = draws.counts.as_ref().expect("few enough");
        assert_eq!(counts.iter().sum::<f32>(), (50 * n) as f32);
        let (fast, slow) = (draws.sums_by_count(&values, counts), draws.sums_one_by_one(&values));
        for (fast, slow) in fast.iter().zip(slow) {
            assert!((fast - slow).abs() < 1e-12 * n as f64, "{n}: {fast} {slow}");
        }
    }
}

#[test]
fn very_many_pairs_take_no_memory_of_their_own() {
    let n = 400_000;
    let draws = Draws::new(n, &Bootstrap { draws: 50, ..Bootstrap::default() }, 0);
    assert!(draws.counts.is_none());
    let (clean, corrupted) = (vec![1.0; n], vec![0.0; n]);
    let metric: Vec<f32> = (0..n).map(|i| (i % 2) as f32).collect();
    let few = Bootstrap { draws: 50, ..Bootstrap::default() };
    let s = spread(&sample(&metric, &clean, &corrupted), &few);
    near(s.stderr[0], 0.5 / (n as f64).sqrt(), 1e-8);
    near(s.low[0], 0.5 - 1.96 * 0.5 / (n as f64).sqrt(), 1e-3);
}

#[test]
fn seeds_decide() {
    let with = |seed| spread(&sample(&ONE, &CLEAN, &CORRUPTED), &Bootstrap { seed, ..Bootstrap::default() });
    assert_eq!(with(3), with(3));
    assert_ne!(with(3), with(4));
}

#[test]
fn ninety_five_of_a_hundred_intervals_hold_the_truth() {
    let (n, truth) = (48, 0.4);
    let mut normal = Normal(1);
    let few = Bootstrap { draws: 400, ..Bootstrap::default() };
    let (mut held, mut squared, mut stderr, sets) = (0, 0.0, 0.0, 500);
    for _ in 0..sets {
        let span: Vec<f64> = (0..n).map(|_| 4.0 + normal.next()).collect();
        let metric: Vec<f32> = span.iter().map(|s| (truth * s + 0.8 * normal.next()) as f32).collect();
        let clean: Vec<f32> = span.iter().map(|s| *s as f32).collect();
        let s = spread(&sample(&metric, &clean, &vec![0.0; n]), &few);
        held += usize::from(s.low[0] <= truth as f32 && truth as f32 <= s.high[0]);
        let ratio = metric.iter().sum::<f32>() / clean.iter().sum::<f32>();
        squared += (f64::from(ratio) - truth).powi(2);
        stderr += f64::from(s.stderr[0]);
    }
    // A percentile interval of 48 pairs covers about 94 %; 3.5 standard deviations of 500 sets are 3.6 %.
    let coverage = held as f64 / sets as f64;
    assert!((0.90..=0.98).contains(&coverage), "{coverage}");
    let (spread, claimed) = ((squared / sets as f64).sqrt(), stderr / sets as f64);
    assert!((claimed / spread - 1.0).abs() < 0.12, "{claimed} claimed, {spread} seen");
}

#[test]
fn quantiles_are_numpys() {
    // numpy.quantile([5, 1, 4, 2], [0.1, 0.9]) == [1.3, 4.7]
    let [low, high] = quantiles(vec![5.0, 1.0, f64::NAN, 4.0, f64::INFINITY, 2.0], 0.8);
    assert!((low - 1.3).abs() < 1e-12 && (high - 4.7).abs() < 1e-12, "{low} {high}");
    assert!(quantiles(vec![], 0.95)[0].is_nan());
    assert_eq!(quantiles(vec![2.0], 0.95), [2.0, 2.0]);
}

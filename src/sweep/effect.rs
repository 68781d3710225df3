//! From metrics to effects.

use super::cells::Direction;

/// The effect of every cell, and whether it is defined at all.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects {
    /// NaN where the cell does not exist, or where the effect is undefined for the pairs that have it.
    pub effect: Vec<f32>,
    /// |m_clean − m_corrupted| exceeds the noise floor.
    pub defined: bool,
}

/// Denoising: (m − m_corrupted) / (m_clean − m_corrupted): 0 is the corrupted run, 1 the clean one. Noising:
/// (m − m_clean) / (m_clean − m_corrupted): 0 is unharmed, −1 destroyed. The ratio of means over pairs (those in which
/// the cell exists), never clipped.
///
/// `metric` is `[cells, pairs]` with NaN where a pair has no such cell; `floor` is the noise floor of the metric.
pub fn effects(metric: &[f32], clean: &[f32], corrupted: &[f32], direction: Direction, floor: f32) -> Effects {
    let n = clean.len();
    let mean = |x: &mut dyn Iterator<Item = f32>| -> f64 {
        let (mut sum, mut count) = (0.0, 0u32);
        for x in x {
            sum += x as f64;
            count += 1;
        }
        sum / count as f64
    };
    let (m_clean, m_corrupted) = (mean(&mut clean.iter().copied()), mean(&mut corrupted.iter().copied()));
    let defined = (m_clean - m_corrupted).abs() > floor as f64;
    let effect = metric
        .chunks_exact(n.max(1))
        .map(|cell| {
            let here = |x: &[f32]| mean(&mut x.iter().zip(cell).filter(|(_, m)| !m.is_nan()).map(|(x, _)| *x));
            let (m, clean, corrupted) = (here(cell), here(clean), here(corrupted));
            let base = match direction {
                Direction::Denoise => corrupted,
                Direction::Noise => clean,
            };
            let span = clean - corrupted;
            if defined && span.abs() > floor as f64 { ((m - base) / span) as f32 } else { f32::NAN }
        })
        .collect();
    Effects { effect, defined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denoising_goes_from_zero_to_one_and_noising_from_zero_to_minus_one() {
        let (clean, corrupted) = ([4.0, 6.0], [-2.0, -4.0]);
        let denoise = effects(&[-2.0, -4.0, 4.0, 6.0, 1.0, 1.0], &clean, &corrupted, Direction::Denoise, 0.0);
        assert_eq!(denoise.effect, [0.0, 1.0, 0.5]);
        let noise = effects(&[4.0, 6.0, -2.0, -4.0, 7.0, 11.0], &clean, &corrupted, Direction::Noise, 0.0);
        assert_eq!(noise.effect, [0.0, -1.0, 0.5]);
    }

    #[test]
    fn the_ratio_is_that_of_means_over_the_pairs_that_have_the_cell() {
        let (clean, corrupted) = ([1.0, 100.0], [0.0, 0.0]);
        let e = effects(&[1.0, 0.0, 0.5, f32::NAN, f32::NAN, f32::NAN], &clean, &corrupted, Direction::Denoise, 0.0);
        assert_eq!(e.effect[0], (0.5 / 50.5) as f32);
        assert_eq!(e.effect[1], 0.5);
        assert!(e.effect[2].is_nan());
    }

    #[test]
    fn within_the_noise_floor_there_is_no_effect() {
        let e = effects(&[0.5], &[1.0], &[1.0 - 1e-6], Direction::Denoise, 1e-5);
        assert!(!e.defined && e.effect[0].is_nan());
    }
}

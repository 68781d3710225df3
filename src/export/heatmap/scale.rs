//! From values to colours.

use super::color::{self, MISSING, Rgb, STEPS};
use super::{Style, readable};

/// What a panel's colours mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// Red-white-blue from −`limit` to `limit`.
    Diverging { limit: f32 },
    /// Light to dark from `low` ≤ 0 to `high` ≥ 0; the end that is farther from 0 is the dark one, so that noising,
    /// whose effects are negative, looks like denoising.
    Sequential { low: f32, high: f32 },
}

impl Scale {
    /// The scale of these values: as far as the largest finite |value|, or from the lowest to the highest and 0. ±1 or
    /// 0 to 1 where all are zero.
    pub(super) fn of(style: Style, values: impl Iterator<Item = f32>) -> Self {
        let (low, high) = values.filter(|v| v.is_finite()).fold((0.0_f32, 0.0_f32), |(l, h), v| (l.min(v), h.max(v)));
        let high = if low == high { 1.0 } else { high };
        match style {
            Style::Default => Scale::Diverging { limit: high.max(-low) },
            Style::Rome => Scale::Sequential { low, high },
        }
    }

    /// Lowest and highest value.
    pub fn ends(self) -> (f32, f32) {
        match self {
            Scale::Diverging { limit } => (-limit, limit),
            Scale::Sequential { low, high } => (low, high),
        }
    }

    /// The colours from the lowest value to the highest, [`STEPS`] of them.
    pub fn colors(self) -> Vec<Rgb> {
        (0..STEPS).map(|step| self.step_color(step)).collect()
    }

    /// The colour of a value, [`MISSING`] for NaN.
    pub fn color(self, value: f32) -> Rgb {
        match self {
            Scale::Diverging { limit } => color::of(value, limit),
            Scale::Sequential { .. } if value.is_nan() => MISSING,
            Scale::Sequential { low, high } => {
                let share = ((f64::from(value) - f64::from(low)) / (f64::from(high) - f64::from(low))).clamp(0.0, 1.0);
                self.step_color((share * (STEPS - 1) as f64).round() as usize)
            }
        }
    }

    fn step_color(self, step: usize) -> Rgb {
        match self {
            Scale::Diverging { .. } => color::scale(step),
            Scale::Sequential { low, high } if -low > high => color::sequential(STEPS - 1 - step),
            Scale::Sequential { .. } => color::sequential(step),
        }
    }

    /// Round numbers for a bar, at most `most` (≥ 2) for each half of it: (share of the bar from below, label).
    pub(super) fn ticks(self, most: f64) -> Vec<(f64, String)> {
        let (low, high) = self.ends();
        let (low, high) = (f64::from(low), f64::from(high));
        let half = (high - low) / 2.0;
        // Powers of ten by repeated multiplication: no libm, so the same everywhere.
        let (mut decade, mut exponent) = (1.0_f64, 0_i32);
        while decade > half && exponent > -60 {
            (decade, exponent) = (decade / 10.0, exponent - 1);
        }
        while decade * 10.0 <= half {
            (decade, exponent) = (decade * 10.0, exponent + 1);
        }
        // Shares of the decade, and the decimals that they need beyond its own.
        let steps = [(0.25, 2), (0.5, 1), (1.0, 0), (2.0, 0), (2.5, 1), (5.0, 0)];
        let (share, decimals) =
            steps.into_iter().find(|(share, _)| half / (share * decade) <= most).unwrap_or((5.0, 0));
        let step = share * decade;
        let label = |value: f64| match (decimals - exponent).max(0) {
            digits @ 0..=5 if exponent < 5 => format!("{value:.0$}", digits as usize).replace('-', "−"),
            _ => readable(value as f32),
        };
        // Rounded away from what is a whole number of steps but for the last bit.
        let (first, last) = ((low / step - 1e-9).ceil() as i32, (high / step + 1e-9).floor() as i32);
        let values = (first..=last).map(|i| f64::from(i) * step);
        values.map(|value| (((value - low) / (high - low)).clamp(0.0, 1.0), label(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f32, high: f32, most: f64) -> Vec<String> {
        Scale::Sequential { low, high }.ticks(most).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn the_bars_ticks_are_round_and_symmetric() {
        let labels = |limit: f32, most| labels(-limit, limit, most);
        assert_eq!(labels(1.0, 4.5), ["−1.00", "−0.75", "−0.50", "−0.25", "0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(labels(0.43, 4.5), ["−0.4", "−0.3", "−0.2", "−0.1", "0.0", "0.1", "0.2", "0.3", "0.4"]);
        assert_eq!(labels(0.43, 2.4), ["−0.4", "−0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(labels(17.0, 4.5), ["−15", "−10", "−5", "0", "5", "10", "15"]);
        for limit in [f32::MIN_POSITIVE, 1e-30, 3e-5, 0.07, 9.99, 1234.5, 1e30, f32::MAX] {
            let ticks = Scale::Diverging { limit }.ticks(4.5);
            assert!((3..=9).contains(&ticks.len()), "{limit}: {ticks:?}");
            assert!(ticks.iter().all(|(at, _)| (0.0..=1.0).contains(at)), "{limit}: {ticks:?}");
            assert_eq!(ticks[ticks.len() / 2].0, 0.5);
        }
    }

    #[test]
    fn a_scale_of_one_sign_has_ticks_on_its_side() {
        assert_eq!(labels(0.0, 1.0, 2.4), ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!(labels(-0.1, 0.9, 2.4), ["0.00", "0.25", "0.50", "0.75"]);
        assert_eq!(labels(-12.0, 0.0, 2.4), ["−10.0", "−7.5", "−5.0", "−2.5", "0.0"]);
    }

    #[test]
    fn the_end_that_is_farther_from_zero_is_dark() {
        let dark = color::sequential(STEPS - 1);
        let denoise = Scale::of(Style::Rome, [0.0, 0.9, -0.1, f32::NAN].into_iter());
        assert_eq!(denoise, Scale::Sequential { low: -0.1, high: 0.9 });
        assert_eq!((denoise.color(0.9), denoise.color(-0.1)), (dark, color::sequential(0)));
        let noise = Scale::of(Style::Rome, [0.0, -0.9, 0.1].into_iter());
        assert_eq!((noise.color(-0.9), noise.color(0.1)), (dark, color::sequential(0)));
        assert_eq!(noise.color(f32::NAN), MISSING);
        assert_eq!(Scale::of(Style::Rome, [0.0].into_iter()), Scale::Sequential { low: 0.0, high: 1.0 });
    }

    #[test]
    fn a_diverging_scale_is_symmetric() {
        assert_eq!(Scale::of(Style::Default, [0.1, -0.9, f32::INFINITY].into_iter()), Scale::Diverging { limit: 0.9 });
        assert_eq!(Scale::of(Style::Default, [f32::NAN].into_iter()), Scale::Diverging { limit: 1.0 });
        let scale = Scale::Diverging { limit: 2.0 };
        assert_eq!(scale.colors()[STEPS - 1], scale.color(2.0));
        assert_eq!(scale.colors()[STEPS / 2], scale.color(0.0));
    }
}

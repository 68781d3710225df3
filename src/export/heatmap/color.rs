//! Red-white-blue, and white to violet: scales that colour-blind readers can read.

/// An RGB colour.
pub type Rgb = [u8; 3];

/// Grey of a cell that does not exist; darker than anything near zero and without a hue.
pub const MISSING: Rgb = [0xb4, 0xb7, 0xbb];

/// Number of steps of the scale; odd, so that exactly zero has a colour of its own.
pub const STEPS: usize = 255;

const ZERO: Rgb = [0xf7, 0xf7, 0xf7];
/// Colours at 1/4, 1/2, 3/4 and 1 of the scale; each red is about as dark as its blue.
const BLUES: [Rgb; 4] = [[0xb9, 0xd7, 0xec], [0x5f, 0xa2, 0xd3], [0x24, 0x67, 0xb0], [0x08, 0x2f, 0x6b]];
const REDS: [Rgb; 4] = [[0xf9, 0xc9, 0xb2], [0xe8, 0x7f, 0x68], [0xc2, 0x2f, 0x3a], [0x71, 0x07, 0x1f]];
const VIOLETS: [Rgb; 4] = [[0xdd, 0xd3, 0xec], [0xab, 0x93, 0xd6], [0x74, 0x4c, 0xb2], [0x32, 0x0d, 0x5e]];

/// The step of `value` on a scale that ends at ±`limit` (> 0): 0 the deepest red, 127 zero, 254 the deepest blue;
/// `None` for NaN.
pub fn step(value: f32, limit: f32) -> Option<usize> {
    if value.is_nan() {
        return None;
    }
    let middle = (STEPS / 2) as f32;
    let scaled = (value / limit).clamp(-1.0, 1.0) * middle;
    Some((scaled.round() + middle) as usize)
}

/// The diverging colour of a step below [`STEPS`].
pub fn scale(step: usize) -> Rgb {
    let middle = STEPS / 2;
    if step >= middle { between(BLUES, step - middle, middle) } else { between(REDS, middle - step, middle) }
}

/// The sequential colour of a step below [`STEPS`], the first the lightest.
pub fn sequential(step: usize) -> Rgb {
    between(VIOLETS, step, STEPS - 1)
}

/// The colour at `at` of `steps` on the way from white over the four colours.
fn between(ends: [Rgb; 4], at: usize, steps: usize) -> Rgb {
    // Quarter and place within it, in whole numbers so that every machine gets the same colour.
    let at = at.min(steps) * ends.len();
    let (quarter, within) = (at / steps, at % steps);
    let from = if quarter == 0 { ZERO } else { ends[quarter - 1] };
    let to = if quarter < ends.len() { ends[quarter] } else { from };
    std::array::from_fn(|i| {
        let (from, to) = (usize::from(from[i]), usize::from(to[i]));
        ((from * (steps - within) + to * within + steps / 2) / steps) as u8
    })
}

/// The colour of a value, [`MISSING`] for NaN.
pub fn of(value: f32, limit: f32) -> Rgb {
    step(value, limit).map_or(MISSING, scale)
}

/// `#rrggbb`.
pub fn hex([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance, roughly: enough to compare how dark two colours are.
    fn luminance([r, g, b]: Rgb) -> f64 {
        0.2126 * f64::from(r) + 0.7152 * f64::from(g) + 0.0722 * f64::from(b)
    }

    #[test]
    fn blue_is_positive_and_zero_is_white() {
        assert_eq!(of(1.0, 1.0), BLUES[3]);
        assert_eq!(of(-1.0, 1.0), REDS[3]);
        assert_eq!(of(0.0, 1.0), ZERO);
        assert_eq!(of(-0.0, 1.0), ZERO);
        assert_eq!(of(f32::NAN, 1.0), MISSING);
        assert_eq!(of(f32::INFINITY, 1.0), BLUES[3]);
        assert_eq!(of(f32::NEG_INFINITY, 1.0), REDS[3]);
    }

    #[test]
    fn darkness_grows_with_distance_on_both_sides_alike() {
        let middle = STEPS / 2;
        for distance in 1..=middle {
            let (blue, red) = (luminance(scale(middle + distance)), luminance(scale(middle - distance)));
            assert!(blue < luminance(scale(middle + distance - 1)), "{distance}");
            assert!(red < luminance(scale(middle - distance + 1)), "{distance}");
            assert!((blue - red).abs() < 20.0, "{distance}: {blue} {red}");
        }
    }

    /// How colours look to people without one kind of cone: a matrix on linear RGB (Machado, Oliveira & Fernandes, "A
    /// physiologically-based model for simulation of color vision deficiency", 2009, severity 1).
    const VISIONS: [(&str, [[f64; 3]; 3]); 3] = [
        ("all cones", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        (
            "deuteranopia",
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        ),
        (
            "protanopia",
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        ),
    ];

    fn times(m: [[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
        m.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
    }

    /// CIE L*a*b* (D65) of a colour as such a person sees it.
    fn lab(color: Rgb, vision: [[f64; 3]; 3]) -> [f64; 3] {
        let linear = color.map(|c| match f64::from(c) / 255.0 {
            c if c <= 0.04045 => c / 12.92,
            c => ((c + 0.055) / 1.055).powf(2.4),
        });
        let seen = times(vision, linear).map(|c| c.clamp(0.0, 1.0));
        // sRGB to XYZ, then XYZ over that of white.
        let xyz = times(
            [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
            seen,
        );
        let f = |t: f64| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
        let [x, y, z] = [f(xyz[0] / 0.95047), f(xyz[1]), f(xyz[2] / 1.08883)];
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
    }

    #[test]
    fn the_colour_blind_see_lightness_fall_on_every_arm() {
        for (name, vision) in VISIONS {
            let middle = STEPS / 2;
            let lightness = |color: Rgb| lab(color, vision)[0];
            for d in 1..=middle {
                assert!(lightness(scale(middle + d)) < lightness(scale(middle + d - 1)), "{name}, blue {d}");
                assert!(lightness(scale(middle - d)) < lightness(scale(middle - d + 1)), "{name}, red {d}");
            }
            for step in 1..STEPS {
                assert!(lightness(sequential(step)) <= lightness(sequential(step - 1)), "{name}, violet {step}");
            }
            assert!(lightness(sequential(0)) - lightness(sequential(STEPS - 1)) > 60.0, "{name}");
        }
    }

    #[test]
    fn the_colour_blind_can_tell_red_from_blue() {
        // 2.3 is a difference just noticed (Mahy, Van Eycken & Oosterlinck 1994).
        for (name, vision) in VISIONS {
            let middle = STEPS / 2;
            for (d, least) in [(16, 12.0), (32, 25.0), (64, 50.0), (middle, 40.0)] {
                let apart = distance(lab(scale(middle + d), vision), lab(scale(middle - d), vision));
                assert!(apart > least, "{name}, {d}: {apart}");
            }
        }
    }

    #[test]
    fn a_missing_cell_looks_like_no_value() {
        for (name, vision) in VISIONS {
            let missing = lab(MISSING, vision);
            assert!(distance(missing, lab(ZERO, vision)) > 20.0, "{name}: zero");
            let colors = (0..STEPS).flat_map(|step| [scale(step), sequential(step)]);
            let nearest = colors.map(|c| distance(missing, lab(c, vision))).fold(f64::MAX, f64::min);
            assert!(nearest > 12.0, "{name}: {nearest}");
        }
    }
}

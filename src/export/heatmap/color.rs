//! Red-white-blue: the colours of a diverging scale that colour-blind readers can tell apart.

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

/// The colour of a step below [`STEPS`].
pub fn scale(step: usize) -> Rgb {
    let middle = STEPS / 2;
    let (ends, distance) = if step >= middle { (BLUES, step - middle) } else { (REDS, middle - step) };
    // Quarter and place within it, in whole numbers so that every machine gets the same colour.
    let at = distance.min(middle) * ends.len();
    let (quarter, within) = (at / middle, at % middle);
    let from = if quarter == 0 { ZERO } else { ends[quarter - 1] };
    let to = if quarter < ends.len() { ends[quarter] } else { from };
    std::array::from_fn(|i| {
        let (from, to) = (usize::from(from[i]), usize::from(to[i]));
        ((from * (middle - within) + to * within + middle / 2) / middle) as u8
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
}

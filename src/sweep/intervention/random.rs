//! Numbers by chance that depend on nothing but a seed and what they are for: however pairs are grouped and waves are cut,
//! each activation meets the same ones.

use super::{Draws, InterventionError};
use crate::prompts::Align;
use crate::random::SplitMix64;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub(super) struct Random(SplitMix64);

impl Random {
    /// A generator for what `words` name.
    pub(super) fn new(seed: u64, words: &[u64]) -> Random {
        let mut state = SplitMix64(seed);
        for word in words {
            state.0 = state.next() ^ word.wrapping_mul(SplitMix64::STEP);
        }
        Random(state)
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.0.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Below `n`.
    fn below(&mut self, n: usize) -> usize {
        (self.0.next() % n as u64) as usize
    }

    /// Fills `out` with sigma · N(0, 1) (Box and Muller 1958), in float64 rounded to float32.
    pub(super) fn normals(&mut self, sigma: f32, out: &mut [f32]) {
        for two in out.chunks_mut(2) {
            let radius = (-2.0 * libm::log(self.unit())).sqrt() * f64::from(sigma);
            let angle = std::f64::consts::TAU * self.unit();
            for (x, part) in two.iter_mut().zip([libm::cos(angle), libm::sin(angle)]) {
                *x = (radius * part) as f32;
            }
        }
    }
}

/// `[draw][pair]`: another pair for each, all pairs of one length (or all, where `align` says how they correspond) in a
/// cycle that chance chooses (Sattolo 1986), so that none stands in for itself or for two.
///
/// # Errors
/// A pair is alone.
pub(crate) fn partners(
    lengths: &[usize],
    align: Option<Align>,
    draws: Draws,
) -> Result<Vec<Vec<u32>>, InterventionError> {
    let mut classes: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (pair, len) in lengths.iter().enumerate() {
        classes.entry(if align.is_some() { 0 } else { *len }).or_default().push(pair as u32);
    }
    if let Some(alone) = classes.values().filter(|c| c.len() < 2).map(|c| c[0] as usize).min() {
        return Err(InterventionError::NoPartner { pair: alone, len: lengths[alone] });
    }
    let deal = |draw: u32| {
        let mut partner = vec![0; lengths.len()];
        for (key, class) in &classes {
            let mut random = Random::new(draws.seed, &[u64::from(draw), *key as u64]);
            let mut cycle = class.clone();
            for i in (1..cycle.len()).rev() {
                cycle.swap(i, random.below(i));
            }
            class.iter().zip(cycle).for_each(|(pair, other)| partner[*pair as usize] = other);
        }
        partner
    };
    Ok((0..draws.n).map(deal).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_mean_zero_and_the_deviation_asked_for() {
        let mut x = vec![0.0; 20_001];
        Random::new(7, &[1, 2]).normals(0.5, &mut x);
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let within = x.iter().filter(|x| x.abs() < 0.5).count() as f64 / x.len() as f64;
        assert!(mean.abs() < 0.01 && (variance.sqrt() - 0.5).abs() < 0.01, "{mean} {variance}");
        assert!((within - 0.6827).abs() < 0.01, "{within} of them within one deviation");
        let mut again = vec![0.0; 20_001];
        Random::new(7, &[1, 2]).normals(0.5, &mut again);
        assert_eq!(x, again);
        Random::new(7, &[2, 1]).normals(0.5, &mut again);
        assert_ne!(x, again);
    }

    #[test]
    fn nobody_stands_in_for_himself() {
        let lengths = [5, 7, 5, 5, 7, 5];
        let all = partners(&lengths, None, Draws { seed: 3, n: 40 }).unwrap();
        for partner in &all {
            let mut seen = partner.clone();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
            for (pair, other) in partner.iter().enumerate() {
                assert!(pair != *other as usize && lengths[pair] == lengths[*other as usize]);
            }
        }
        assert!(all.iter().any(|p| *p != all[0]), "draws differ");
        let aligned = partners(&lengths, Some(Align::End), Draws { seed: 3, n: 9 }).unwrap();
        assert!(aligned.iter().any(|p| lengths[p[0] as usize] == 7), "lengths mix where positions are aligned");
        let alone = partners(&[5, 7, 5], None, Draws { seed: 0, n: 1 }).unwrap_err();
        assert_eq!(alone, InterventionError::NoPartner { pair: 1, len: 7 });
        assert!(partners(&[5], Some(Align::Start), Draws { seed: 0, n: 1 }).is_err());
    }
}

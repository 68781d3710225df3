//! The numbers behind a task's choices: the same for a seed on every platform.

use crate::random::SplitMix64;

#[derive(Debug, Clone)]
pub(super) struct Random(SplitMix64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(SplitMix64(seed))
    }

    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// One of `items`, of which there is at least one.
    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// `N` different ones of `items`, which has at least so many.
    pub(super) fn pick_different<T: Copy, const N: usize>(&mut self, items: &[T]) -> [T; N] {
        let mut left: Vec<T> = items.to_vec();
        std::array::from_fn(|_| left.swap_remove(self.below(left.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_a_range_comes_up() {
        let mut random = Random::new(0);
        let mut seen = [0; 6];
        (0..600).for_each(|_| seen[random.between(5, 10) - 5] += 1);
        assert!(seen.iter().all(|n| (60..140).contains(n)), "{seen:?}");
        let mut four: [u8; 4] = random.pick_different(&[1, 2, 3, 4]);
        four.sort_unstable();
        assert_eq!(four, [1, 2, 3, 4]);
    }
}

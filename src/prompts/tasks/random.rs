//! The numbers behind a task's choices: the same for a seed on every platform.

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        // The high half of the product: each number is as likely as any other to within n in 2^64.
        ((u128::from(self.next()) * n as u128) >> 64) as usize
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

    /// The generator's published first outputs for seed 1234567.
    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

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

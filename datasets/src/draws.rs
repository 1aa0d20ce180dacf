//! Choices that a seed decides.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Draws that depend on a seed and a number alone, so that one item's do not depend on how many there are.
#[derive(Clone, Debug)]
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// The draws of item `number` under a seed.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(number);
        Self(random)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        // The high half of a product takes 32 bits to `0..n`; n / 2^32 is how uneven that is.
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }

    /// Puts items into any order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_and_number() {
        let order = |seed, number| {
            let mut items: Vec<usize> = (0..50).collect();
            Draws::new(seed, number).shuffle(&mut items);
            items
        };
        assert_eq!(order(1, 2), order(1, 2));
        assert_ne!(order(1, 2), order(1, 3));
        assert_ne!(order(1, 2), order(2, 2));
        let mut sorted = order(1, 2);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..50));
        assert_eq!((Draws::new(0, 0).below(0), Draws::new(0, 0).below(1)), (0, 0));
    }
}

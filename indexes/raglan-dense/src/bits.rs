//! A set of row numbers.

/// A set of the numbers below a length.
#[derive(Clone, Debug)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// The empty set over `n` numbers.
    pub fn none(n: usize) -> Self {
        Self(vec![0; n.div_ceil(64)])
    }

    /// Adds a number; says whether it was new.
    #[inline]
    pub fn insert(&mut self, i: u32) -> bool {
        let word = &mut self.0[i as usize / 64];
        let bit = 1 << (i % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Whether the number is in the set.
    #[inline]
    pub fn contains(&self, i: u32) -> bool {
        self.0[i as usize / 64] >> (i % 64) & 1 == 1
    }
}

//! A set of row numbers, and orders of them drawn at random.

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

    /// Takes a number away.
    #[inline]
    pub fn remove(&mut self, i: u32) {
        self.0[i as usize / 64] &= !(1 << (i % 64));
    }

    /// Whether the number is in the set.
    #[inline]
    pub fn contains(&self, i: u32) -> bool {
        self.0[i as usize / 64] >> (i % 64) & 1 == 1
    }
}

/// A number that has nothing to do with `i` but that it follows from it and the seed (SplitMix64, Steele, Lea and Flood
/// 2014).
pub fn mixed(seed: u64, i: u32) -> u64 {
    let mut bits = seed.wrapping_add((u64::from(i) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

//! Chunks by their terms: the weights of a query laid out by term, so that a chunk's score is one pass over it.

/// Numbers of terms that fit 16 bits.
const SMALL: usize = 1 << 16;

/// The number of a term within a part; the commonest term is 0.
pub trait TermNumber: Copy {
    /// Its weight; 0 when it is not a term of the query.
    fn weight(self, weights: &Weights) -> u32;
}

/// A query's weights by number of term, 0 for all others.
pub struct Weights(Vec<u32>);

impl Weights {
    /// No weight at all.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Makes room for the numbers below `n_terms`.
    pub fn reserve(&mut self, n_terms: usize) {
        let n = n_terms.max(SMALL);
        if self.0.len() < n {
            self.0.resize(n, 0);
        }
    }

    /// Sets a weight; there must be room for it.
    pub fn set(&mut self, number: u32, weight: u32) {
        self.0[number as usize] = weight;
    }
}

impl TermNumber for u16 {
    #[inline(always)]
    fn weight(self, weights: &Weights) -> u32 {
        let weights: &[u32; SMALL] = weights.0.first_chunk().expect("there is room for every small number");
        weights[self as usize]
    }
}

impl TermNumber for u32 {
    #[inline(always)]
    fn weight(self, weights: &Weights) -> u32 {
        weights.0.get(self as usize).copied().unwrap_or(0)
    }
}

/// `Σ_t weights[t] · impact_t` over the terms of a chunk.
#[inline]
pub fn sum<T: TermNumber>(numbers: &[T], impacts: &[u8], weights: &Weights) -> u32 {
    let mut sums = [0_u32; 4];
    let (number_blocks, numbers) = numbers.as_chunks::<4>();
    let (impact_blocks, impacts) = impacts.as_chunks::<4>();
    for (numbers, impacts) in number_blocks.iter().zip(impact_blocks) {
        for lane in 0..4 {
            let product = numbers[lane].weight(weights).wrapping_mul(u32::from(impacts[lane]));
            sums[lane] = sums[lane].wrapping_add(product);
        }
    }
    for (number, &impact) in numbers.iter().zip(impacts) {
        sums[0] = sums[0].wrapping_add(number.weight(weights).wrapping_mul(u32::from(impact)));
    }
    sums.into_iter().fold(0, u32::wrapping_add)
}

//! A buffer that is thinned out when full; its worst survivor is the threshold for what comes.

use crate::device::CpuForm;
use crate::forms::forms;
use crate::{Error, Result};

/// How many scores are compared with the threshold at once; a few SIMD registers' worth, and the bits of a `u32`.
const BLOCK: usize = 32;

/// The best `k` of a stream of scores: higher scores first, equal scores by lower index, in whatever order they come.
///
/// ```
/// use raglan_kernels::TopK;
///
/// let mut best = TopK::new(2);
/// best.push(0.5, 8)?;
/// best.extend(&[0.25, 0.5, 0.5], 3)?; // Indices 3, 4 and 5.
/// assert_eq!(best.into_best_first(), [(0.5, 4), (0.5, 5)]);
/// # Ok::<(), raglan_kernels::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TopK {
    k: usize,
    /// At most [`TopK::capacity`] candidates as [`key`]s, among them the best `k` so far.
    candidates: Vec<u64>,
    /// Scores below it cannot be among the best `k`.
    threshold: f32,
}

impl TopK {
    /// Of nothing yet.
    pub fn new(k: usize) -> Self {
        Self { k, candidates: Vec::new(), threshold: f32::NEG_INFINITY }
    }

    /// Scores below this one cannot be among the best any more; −∞ until `k` scores have come.
    #[inline]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Adds a score.
    ///
    /// # Errors
    ///
    /// [`Error::NotANumber`] when it is NaN.
    #[inline]
    pub fn push(&mut self, score: f32, index: u32) -> Result<()> {
        if score.is_nan() {
            return Err(Error::NotANumber { index: index as usize });
        }
        if score >= self.threshold && self.k > 0 {
            self.candidates.push(key(score, index));
            if self.candidates.len() >= self.capacity() {
                self.thin_out();
            }
        }
        Ok(())
    }

    /// Adds scores whose indices count up from `first_index`.
    ///
    /// # Errors
    ///
    /// [`Error::NotANumber`] when one is NaN.
    pub fn extend(&mut self, scores: &[f32], first_index: u32) -> Result<()> {
        self.extend_from(f32::NEG_INFINITY, scores, first_index)
    }

    /// Adds those scores that are above 0, as [`extend`](Self::extend) adds all.
    ///
    /// # Errors
    ///
    /// [`Error::NotANumber`] when one is NaN.
    pub fn extend_positive(&mut self, scores: &[f32], first_index: u32) -> Result<()> {
        const LEAST: f32 = f32::from_bits(1); // The least positive number.
        self.extend_from(LEAST, scores, first_index)
    }

    /// Adds those scores that are not below `least`.
    fn extend_from(&mut self, least: f32, scores: &[f32], first_index: u32) -> Result<()> {
        let (form, mut at) = (CpuForm::best(), 0);
        while let Some(block) = next_block(form, scores, at, self.threshold.max(least)) {
            at = (block + BLOCK).min(scores.len());
            let mut left = worthwhile(form, &scores[block..at], self.threshold.max(least));
            while left != 0 {
                let index = block + left.trailing_zeros() as usize;
                self.push(scores[index], first_index + index as u32)?;
                left &= left - 1;
            }
        }
        Ok(())
    }

    /// The best, in order.
    pub fn into_best_first(mut self) -> Vec<(f32, u32)> {
        self.thin_out();
        self.candidates.sort_unstable();
        self.candidates.into_iter().map(of_key).collect()
    }

    /// Twice `k`, so that thinning out costs a constant for each candidate, and not so few that it runs all the time.
    fn capacity(&self) -> usize {
        self.k.saturating_mul(2).max(64)
    }

    fn thin_out(&mut self) {
        if self.k > 0 && self.k < self.candidates.len() {
            let (_, &mut worst, _) = self.candidates.select_nth_unstable(self.k - 1);
            self.candidates.truncate(self.k);
            (self.threshold, _) = of_key(worst);
        }
    }
}

/// A score that is a number and its index as one integer, which is lower for what comes first: integers are sorted
/// without branches.
#[inline]
fn key(score: f32, index: u32) -> u64 {
    let bits = (score + 0.0).to_bits(); // −0 becomes 0.
    let falling = if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits };
    u64::from(falling) << 32 | u64::from(index)
}

/// The score and the index of a [`key`].
#[inline]
fn of_key(key: u64) -> (f32, u32) {
    let falling = (key >> 32) as u32;
    let bits = if falling >> 31 == 0 { !falling & !(1 << 31) } else { falling };
    (f32::from_bits(bits), key as u32)
}

forms! {
    /// Where the first block from `at` on begins that has a score of `threshold` or above, or one that is no number.
    fn next_block(scores: &[f32], at: usize, threshold: f32) -> Option<usize> {
        let blocks = scores[at..].chunks(BLOCK);
        let mut blocks = blocks.map(|block| block.iter().fold(false, |any, &score| any | not_below(score, threshold)));
        blocks.position(|any| any).map(|skipped| at + skipped * BLOCK)
    }

    /// Which scores of a block are `threshold` or above, or no numbers: one bit each, the lowest first.
    fn worthwhile(block: &[f32], threshold: f32) -> u32 {
        match <&[f32; BLOCK]>::try_from(block) {
            Ok(whole) => bits_of(whole, threshold), // Its length is known to the compiler.
            Err(_) => bits_of(block, threshold),
        }
    }
}

/// One bit a score that is not below `threshold`.
#[inline(always)]
fn bits_of(block: &[f32], threshold: f32) -> u32 {
    let mut bits = 0;
    for (i, &score) in block.iter().enumerate() {
        bits |= u32::from(not_below(score, threshold)) << i;
    }
    bits
}

/// Whether a score is `threshold` or above, or no number.
#[inline(always)]
#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "one comparison that is true of NaN as well")]
fn not_below(score: f32, threshold: f32) -> bool {
    !(score < threshold)
}

//! A buffer that is thinned out when full; its worst survivor is the threshold for what comes.

use std::cmp::Ordering;

use crate::device::CpuForm;
use crate::forms::forms;
use crate::{Error, Result};

/// How many scores are compared with the threshold at once; a few SIMD registers' worth.
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
    /// At most [`TopK::capacity`] candidates, among them the best `k` so far.
    candidates: Vec<(f32, u32)>,
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
            self.candidates.push((score, index));
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
        let (form, mut at) = (CpuForm::best(), 0);
        while let Some(block) = next_block(form, scores, at, self.threshold) {
            at = (block + BLOCK).min(scores.len());
            for (&score, index) in scores[block..at].iter().zip(first_index + block as u32..) {
                self.push(score, index)?;
            }
        }
        Ok(())
    }

    /// Adds those scores that are above 0, as [`extend`](Self::extend) adds all.
    ///
    /// # Errors
    ///
    /// [`Error::NotANumber`] when one is NaN.
    pub fn extend_positive(&mut self, scores: &[f32], first_index: u32) -> Result<()> {
        const LEAST: f32 = f32::from_bits(1); // The least positive number.
        let (form, mut at) = (CpuForm::best(), 0);
        while let Some(block) = next_block(form, scores, at, self.threshold.max(LEAST)) {
            at = (block + BLOCK).min(scores.len());
            for (&score, index) in scores[block..at].iter().zip(first_index + block as u32..) {
                if score > 0.0 || score.is_nan() {
                    self.push(score, index)?;
                }
            }
        }
        Ok(())
    }

    /// The best, in order.
    pub fn into_best_first(mut self) -> Vec<(f32, u32)> {
        self.candidates.sort_unstable_by(best_first);
        self.candidates.truncate(self.k);
        self.candidates
    }

    /// Twice `k`, so that thinning out costs a constant for each candidate, and not so few that it runs all the time.
    fn capacity(&self) -> usize {
        self.k.saturating_mul(2).max(64)
    }

    fn thin_out(&mut self) {
        if self.k < self.candidates.len() {
            let (_, &mut (worst, _), _) = self.candidates.select_nth_unstable_by(self.k - 1, best_first);
            self.candidates.truncate(self.k);
            self.threshold = worst;
        }
    }
}

forms! {
    /// Where the first block from `at` on begins that has a score of `threshold` or above, or one that is no number.
    fn next_block(scores: &[f32], at: usize, threshold: f32) -> Option<usize> {
        let worthwhile = |score: f32| (score >= threshold) | score.is_nan();
        let blocks = scores[at..].chunks(BLOCK);
        let mut blocks = blocks.map(|block| block.iter().fold(false, |any, &score| any | worthwhile(score)));
        blocks.position(|any| any).map(|skipped| at + skipped * BLOCK)
    }
}

fn best_first(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.partial_cmp(&a.0).expect("NaN is refused at the door").then(a.1.cmp(&b.1))
}

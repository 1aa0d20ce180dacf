//! Selection of the best scores.

#[cfg(test)]
mod cpu;
#[cfg(test)]
mod tests;
mod threshold;

use crate::Result;

pub use threshold::TopK;

/// The best `k` scores with their indices: higher scores first, equal scores by lower index.
///
/// All of them when there are fewer than `k`. −0 and 0 are equal.
///
/// # Errors
///
/// [`Error::NotANumber`](crate::Error::NotANumber) when a score is NaN.
pub fn top_k(scores: &[f32], k: usize) -> Result<Vec<(f32, u32)>> {
    let mut best = TopK::new(k);
    best.extend(scores, 0)?;
    Ok(best.into_best_first())
}

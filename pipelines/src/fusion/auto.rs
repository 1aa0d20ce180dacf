//! Weights by how far the first hits of a list stand out.

use super::Values;

/// How many of a list's first hits are compared: a page of results.
const PAGE: usize = 10;

/// Multiplies each list's weight by how far its first hit stands out, and scales all so that their sum stays.
///
/// `1 − mean(v₁ … v₁₀)`, of the normalised values of a list's first ten hits: 0 where the ten are equal, near 1 where one
/// leaves all others behind. Spread at the head of a ranking foretells its quality without judgements (the predictors of
/// Shtok et al. 2012 and Zhou and Croft 2007 take deviations of scores); normalised by the list's own range it compares
/// lists whose scores do not. Where no list stands out, the weights stay as they are.
pub(super) fn reweigh(weights: &mut [f64], lists: &[Values]) {
    let stands_out = |list: &Values| {
        let head = &list.present[..PAGE.min(list.present.len())];
        if head.is_empty() { 0.0 } else { 1.0 - head.iter().sum::<f64>() / head.len() as f64 }
    };
    let before: f64 = weights.iter().sum();
    let reweighed: Vec<f64> = weights.iter().zip(lists).map(|(weight, list)| weight * stands_out(list)).collect();
    let after: f64 = reweighed.iter().sum();
    if after > 0.0 {
        weights.iter_mut().zip(reweighed).for_each(|(weight, reweighed)| *weight = reweighed * before / after);
    }
}

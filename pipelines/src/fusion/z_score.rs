//! Standard scores.

use super::Values;

/// `(s − μ) / σ` with σ² = Σ(s − μ)² / n; 0 where σ = 0; absent = the least value, or 0 when the list is empty.
///
/// A chunk that a list does not hold is at best as good as the list's last, so 0, the mean, would be too kind.
pub(super) fn values(scores: &[f64]) -> Values {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let deviation = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n).sqrt();
    // Equal scores whose mean rounds would otherwise be split by their rounding error.
    let equal = scores.windows(2).all(|pair| pair[0] == pair[1]);
    let present: Vec<f64> = scores.iter().map(|s| if equal { 0.0 } else { (s - mean) / deviation }).collect();
    let absent = present.iter().copied().reduce(f64::min).unwrap_or(0.0);
    Values { present, absent }
}

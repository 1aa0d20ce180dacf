//! Distribution-based score fusion (DBSF), as in Qdrant.

use super::Values;

/// `(s − (μ − 3σ)) / 6σ` with σ² = Σ(s − μ)² / (n − 1); 0.5 where n = 1 or σ = 0; absent = 0. Nothing is clamped.
pub(super) fn values(scores: &[f64]) -> Values {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let deviation = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    // Equal scores whose mean rounds would otherwise be split by their rounding error; a single one has no σ.
    let equal = scores.windows(2).all(|pair| pair[0] == pair[1]);
    let value = |s: &f64| if equal { 0.5 } else { (s - (mean - 3.0 * deviation)) / (6.0 * deviation) };
    Values { present: scores.iter().map(value).collect(), absent: 0.0 }
}

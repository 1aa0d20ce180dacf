//! The reference: plain loops and `f64` sums.

/// The mean row of each sequence, `[ends.len(), dim]`.
pub fn mean_pool(rows: &[f32], ends: &[usize], dim: usize) -> Vec<f64> {
    let mut out = Vec::new();
    let mut start = 0;
    for &end in ends {
        for d in 0..dim {
            let sum: f64 = (start..end).map(|t| f64::from(rows[t * dim + d])).sum();
            out.push(if end == start { 0.0 } else { sum / (end - start) as f64 });
        }
        start = end;
    }
    out
}

//! The reference: plain loops and `f64` sums.

/// `x / √(Σ x² / dim + epsilon) · scale` for one row.
pub fn rms_norm(row: &[f32], scale: &[f32], epsilon: f32) -> Vec<f64> {
    let mean_square = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / row.len() as f64;
    let length = (mean_square + f64::from(epsilon)).sqrt();
    row.iter().zip(scale).map(|(&x, &scale)| f64::from(x) / length * f64::from(scale)).collect()
}

//! The reference: plain loops and `f64` sums.

/// `(x - mean) / √(variance + epsilon) · scale + shift` for one row.
pub fn layer_norm(row: &[f32], scale: &[f32], shift: &[f32], epsilon: f32) -> Vec<f64> {
    let dim = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / dim;
    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / dim;
    let mut out = Vec::new();
    for d in 0..row.len() {
        let unit = (f64::from(row[d]) - mean) / (variance + f64::from(epsilon)).sqrt();
        out.push(unit * f64::from(scale[d]) + f64::from(shift[d]));
    }
    out
}

//! The reference: plain loops and `f64` sums.

/// `ln Σ exp(x)`.
pub fn log_sum_exp(values: &[f32]) -> f64 {
    let max = f64::from(values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + values.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// The probability of each value; they are not all -∞.
pub fn softmax(values: &[f32]) -> Vec<f64> {
    let total = log_sum_exp(values);
    values.iter().map(|&x| (f64::from(x) - total).exp()).collect()
}

//! The reference: the formula in its written order, in `f64`.

/// `max_t ln(1 + max(0, logits[t, v]))` for each term `v`.
pub fn log_relu_max(logits: &[f32], n_terms: usize) -> Vec<f64> {
    let mut out = vec![0.0f64; n_terms];
    for row in logits.chunks_exact(n_terms) {
        for (weight, &logit) in out.iter_mut().zip(row) {
            *weight = weight.max(f64::from(logit).max(0.0).ln_1p());
        }
    }
    out
}

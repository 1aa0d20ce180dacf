//! The reference.

/// `out[r, o] = Σ_i input[r, i] · weights[o, i]`, for rows of `n_in`.
pub(super) fn product(input: &[f32], weights: &[f32], n_in: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in input.chunks_exact(n_in) {
        for weights in weights.chunks_exact(n_in) {
            out.push(row.iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum());
        }
    }
    out
}

/// Each 32 numbers rounded to `max |x| / 127` times whole numbers, as the kernels see them.
pub(super) fn round_activations(input: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    for block in input.chunks_exact(32) {
        let max = block.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        let (scale, inverse) = (max / 127.0, if max > 0.0 { 127.0 / max } else { 0.0 });
        out.extend(block.iter().map(|x| scale * (x * inverse).round_ties_even()));
    }
    out
}

//! The reference: plain loops and `f64` sums.

/// `out[r, o] = Σ_i input[r, i] · weights[o, i]`
pub fn product(input: &[f32], weights: &[f32], n_out: usize, n_in: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for row in input.chunks_exact(n_in) {
        for o in 0..n_out {
            out.push(row.iter().zip(&weights[o * n_in..]).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum());
        }
    }
    out
}

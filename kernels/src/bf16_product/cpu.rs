//! The reference: plain loops and `f64` sums over numbers that were rounded one by one.

/// `out[r, o] = Σ_i input[r, i] · weights[o, i]` with weights rounded to bf16, and inputs too if `round_input`.
pub fn product(input: &[f32], weights: &[f32], n_out: usize, n_in: usize, round_input: bool) -> Vec<f64> {
    let mut out = Vec::new();
    for row in input.chunks_exact(n_in) {
        for o in 0..n_out {
            let weights = &weights[o * n_in..];
            let input = |x: f32| if round_input { nearest(x) } else { f64::from(x) };
            out.push(row.iter().zip(weights).map(|(x, w)| input(*x) * nearest(*w)).sum());
        }
    }
    out
}

/// The nearest number of eight significant bits, ties to even, of a normal number or zero.
pub fn nearest(x: f32) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    // The power of two that is in `x`: its exponent without the other bits.
    let power = f64::from_bits(f64::from(x).to_bits() & (0x7ff << 52));
    let unit = power / 128.0;
    (f64::from(x) / unit).round_ties_even() * unit
}

//! The reference: rounded numbers, plain loops and `f64` sums.

use super::BLOCK;

/// `out[r, o] = Σ_i input[r, i] · weights[o, i]` over numbers rounded block by block: weights to 255 steps around 0,
/// inputs to `n_steps` from the least to the greatest.
pub fn product(input: &[f32], weights: &[f32], n_out: usize, n_in: usize, n_steps: f64) -> Vec<f64> {
    let weights: Vec<f64> = weights.chunks_exact(n_in).flat_map(|row| row.chunks(BLOCK).flat_map(symmetric)).collect();
    let mut out = Vec::new();
    for row in input.chunks_exact(n_in) {
        let row: Vec<f64> = row.chunks(BLOCK).flat_map(|block| affine(block, n_steps)).collect();
        for o in 0..n_out {
            out.push(row.iter().zip(&weights[o * n_in..]).map(|(x, w)| x * w).sum());
        }
    }
    out
}

fn symmetric(block: &[f32]) -> Vec<f64> {
    let scale = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs())) / 127.0;
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    block.iter().map(|x| f64::from((x * inverse).round_ties_even()) * f64::from(scale)).collect()
}

fn affine(block: &[f32], n_steps: f64) -> Vec<f64> {
    let least = block.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = (greatest - least) / n_steps as f32;
    let inverse = if step > 0.0 { step.recip() } else { 0.0 };
    let code = |x: f32| f64::from(((x - least) * inverse).round_ties_even()).min(n_steps);
    block.iter().map(|&x| f64::from(least) + f64::from(step) * code(x)).collect()
}

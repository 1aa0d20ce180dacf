//! Plain loops over bytes, which the compiler vectorises.

use super::{BLOCK, GROUP, Operands, QUAD};

/// Rounds a block of inputs to `n_steps` steps; gives the step and the least number.
pub fn round(input: &[f32], codes: &mut [u8], n_steps: f32) -> (f32, f32) {
    let least = input.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = input.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = (greatest - least) / n_steps;
    let inverse = if step > 0.0 { step.recip() } else { 0.0 };
    for (code, x) in codes.iter_mut().zip(input) {
        *code = ((x - least) * inverse).round_ties_even().min(n_steps) as u8;
    }
    (step, least)
}

/// The sums of `n_rows` rows with up to four groups of outputs, in rows of [`BLOCK`].
pub fn tile(n_rows: usize, operands: &Operands<'_>, sums: &mut [f32]) {
    let n_blocks = operands.n_blocks;
    for (g, operands) in operands.groups().enumerate() {
        for r in 0..n_rows {
            let sums = &mut sums[r * BLOCK + g * GROUP..][..GROUP];
            sums.fill(0.0);
            for b in 0..n_blocks {
                let codes = &operands.rows[(r * n_blocks + b) * BLOCK..][..BLOCK];
                let weights = &operands.weights[b * BLOCK * GROUP..][..BLOCK * GROUP];
                let mut products = [0i32; GROUP];
                for (codes, weights) in codes.chunks_exact(QUAD).zip(weights.chunks_exact(QUAD * GROUP)) {
                    for (product, weights) in products.iter_mut().zip(weights.chunks_exact(QUAD)) {
                        *product += codes.iter().zip(weights).map(|(x, w)| i32::from(*x) * i32::from(*w)).sum::<i32>();
                    }
                }
                let (step, least) = operands.steps[r * n_blocks + b];
                for o in 0..GROUP {
                    let scale = step * operands.scales[b * GROUP + o];
                    sums[o] += products[o] as f32 * scale + least * operands.weight_sums[b * GROUP + o];
                }
            }
        }
    }
}

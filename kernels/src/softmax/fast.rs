//! Maxima and sums side by side, in the order in which they are written.

use crate::elementary::exp_nonpositive;
use crate::forms::{fold_lanes, forms};

/// A tile's 16 KiB stay in the nearest cache between its maximum and its sum.
pub const TILE: usize = 4096;

forms! {
    /// Probabilities of one row.
    pub fn softmax(row: &mut [f32]) {
        let max = maximum(row);
        if max == f32::NEG_INFINITY && !row.iter().any(|x| x.is_nan()) {
            row.fill(0.0);
            return;
        }
        // +∞ less itself is NaN, so that nothing here is above 0.
        for x in row.iter_mut() {
            *x = exp_nonpositive::<FMA>(*x - max);
        }
        let mut sum = 0.0f64;
        for tile in row.chunks(TILE) {
            sum += f64::from(fold_lanes(tile, 0.0, |sum, x| sum + x, |a, b| a + b));
        }
        let scale = (1.0 / sum) as f32;
        for x in row {
            *x *= scale;
        }
    }

    /// `ln Σ exp(x)`.
    pub fn log_sum_exp(values: &[f32]) -> f32 {
        let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0f64);
        for tile in values.chunks(TILE) {
            let tile_max = maximum(tile);
            if tile_max > max {
                sum *= f64::from(max - tile_max).exp();
                max = tile_max;
            }
            // Where there is only -∞ yet, nothing is added: -∞ less itself is no number.
            let origin = if max == f32::NEG_INFINITY { 0.0 } else { max };
            sum += f64::from(fold_lanes(tile, 0.0, |sum, x| sum + exp_nonpositive::<FMA>(x - origin), |a, b| a + b));
        }
        // With a maximum of -∞ the sum is 0 or NaN, and so is what is returned.
        if max == f32::NEG_INFINITY { sum.ln() as f32 } else { (f64::from(max) + sum.ln()) as f32 }
    }
}

/// The greatest value that is a number; -∞ where there is none.
#[inline(always)]
fn maximum(values: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    fold_lanes(values, f32::NEG_INFINITY, greater, greater)
}

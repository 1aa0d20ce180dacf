//! Two passes over a row that lies in the nearest cache: the mean, then the variance about it.

use crate::forms::{fma, fold_lanes, forms};

forms! {
    /// Normalises rows of the length of `scale`, which is not 0.
    pub fn layer_norm(rows: &mut [f32], scale: &[f32], shift: &[f32], epsilon: f32) {
        for row in rows.chunks_exact_mut(scale.len()) {
            normalize::<FMA>(row, scale, shift, epsilon);
        }
    }

    /// Adds and normalises rows of the length of `scale`, which is not 0; `residual` is as long as `rows`.
    pub fn add_layer_norm(rows: &mut [f32], residual: &[f32], scale: &[f32], shift: &[f32], epsilon: f32) {
        let dim = scale.len();
        for (row, residual) in rows.chunks_exact_mut(dim).zip(residual.chunks_exact(dim)) {
            for (x, y) in row.iter_mut().zip(residual) {
                *x += y;
            }
            normalize::<FMA>(row, scale, shift, epsilon);
        }
    }
}

#[inline(always)]
fn normalize<const FMA: bool>(row: &mut [f32], scale: &[f32], shift: &[f32], epsilon: f32) {
    let dim = row.len() as f32;
    let mean = fold_lanes(row, 0.0, |sum, x| sum + x, |a, b| a + b) / dim;
    let squares = fold_lanes(row, 0.0, |sum, x| fma::<FMA>(x - mean, x - mean, sum), |a, b| a + b);
    let inverse = 1.0 / (squares / dim + epsilon).sqrt();
    for ((x, &scale), &shift) in row.iter_mut().zip(scale).zip(shift) {
        *x = fma::<FMA>((*x - mean) * inverse, scale, shift);
    }
}

//! One pass for the squares, one for the products.

use crate::forms::{fma, fold_lanes, forms};

forms! {
    /// Normalises rows of the length of `scale`, which is not 0; `out` is as long as `input`.
    pub fn rms_norm(input: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) {
        let dim = scale.len();
        for (row, out) in input.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
            let inverse = inverse_length::<FMA>(row, epsilon);
            for ((out, &x), &scale) in out.iter_mut().zip(row).zip(scale) {
                *out = x * inverse * scale;
            }
        }
    }

    /// Normalises rows of the length of `scale`, which is not 0.
    pub fn rms_norm_in_place(rows: &mut [f32], scale: &[f32], epsilon: f32) {
        for row in rows.chunks_exact_mut(scale.len()) {
            let inverse = inverse_length::<FMA>(row, epsilon);
            for (x, &scale) in row.iter_mut().zip(scale) {
                *x = *x * inverse * scale;
            }
        }
    }
}

#[inline(always)]
fn inverse_length<const FMA: bool>(row: &[f32], epsilon: f32) -> f32 {
    let squares = fold_lanes(row, 0.0, |sum, x| fma::<FMA>(x, x, sum), |a, b| a + b);
    1.0 / (squares / row.len() as f32 + epsilon).sqrt()
}

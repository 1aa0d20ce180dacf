//! From vectors to bytes.

use crate::forms::{fold_lanes, forms};

/// 1.5 · 2²³: a sum with it is rounded to an integer, which its low bits hold.
const ROUND: f32 = 12_582_912.0;

forms! {
    /// Codes and scales of finite vectors; the lengths fit and `dim` is not 0.
    pub fn quantize_i8(vectors: &[f32], dim: usize, codes: &mut [i8], scales: &mut [f32]) {
        for ((vector, codes), scale) in vectors.chunks_exact(dim).zip(codes.chunks_exact_mut(dim)).zip(scales) {
            let greater = |a: f32, b: f32| if b > a { b } else { a };
            let greatest = fold_lanes(vector, 0.0, |a, x| greater(a, x.abs()), greater);
            *scale = greatest / 127.0;
            // Divided by the greatest first: a subnormal scale has lost bits. Without a greatest, all are zeros.
            let divisor = if greatest > 0.0 { greatest } else { 1.0 };
            for (code, &x) in codes.iter_mut().zip(vector) {
                *code = (x / divisor * 127.0 + ROUND).to_bits() as i8;
            }
        }
    }
}

//! NEON: four chains of four lanes for each query.

use std::arch::aarch64::*;

/// The products of `Q` queries with one vector.
///
/// # Safety
///
/// The processor has NEON, and all slices are of one length.
#[target_feature(enable = "neon")]
#[inline]
pub unsafe fn products<const Q: usize>(queries: [&[f32]; Q], vector: &[f32], out: &mut [f32; Q]) {
    let dim = vector.len();
    for q in 0..Q {
        let mut sums = [vdupq_n_f32(0.0); 4];
        let mut d = 0;
        while d + 16 <= dim {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: both slices have `dim` components and `d + 16 <= dim`.
                unsafe {
                    let a = vld1q_f32(queries[q].as_ptr().add(d + 4 * i));
                    let b = vld1q_f32(vector.as_ptr().add(d + 4 * i));
                    *sum = vfmaq_f32(*sum, a, b);
                }
            }
            d += 16;
        }
        let mut score = vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])));
        for (a, b) in queries[q][d..].iter().zip(&vector[d..]) {
            score = a.mul_add(*b, score);
        }
        out[q] = score;
    }
}

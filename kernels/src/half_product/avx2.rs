//! AVX2 with F16C: eight components widened in one instruction, two chains.

use std::arch::x86_64::*;

/// The product of two slices.
///
/// # Safety
///
/// The processor has AVX2, FMA and F16C, and the slices are of one length.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn product(query: &[f32], vector: &[u16]) -> f32 {
    let dim = vector.len();
    let mut sums = [_mm256_setzero_ps(); 2];
    let mut d = 0;
    while d + 16 <= dim {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: both slices have `dim` components and `d + 16 <= dim`.
            unsafe {
                let wide = _mm256_cvtph_ps(_mm_loadu_si128(vector.as_ptr().add(d + 8 * i).cast()));
                *sum = _mm256_fmadd_ps(_mm256_loadu_ps(query.as_ptr().add(d + 8 * i)), wide, *sum);
            }
        }
        d += 16;
    }
    let eight = _mm256_add_ps(sums[0], sums[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    let one = _mm_add_ss(two, _mm_shuffle_ps::<1>(two, two));
    _mm_cvtss_f32(one) + super::portable::product(&query[d..], &vector[d..])
}

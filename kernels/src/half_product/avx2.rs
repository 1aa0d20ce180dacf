//! AVX2 with F16C: eight components widened in one instruction, two chains.

use std::arch::x86_64::*;

/// The products of `Q` queries with one vector, which is widened once for all of them.
///
/// # Safety
///
/// The processor has AVX2, FMA and F16C, and the slices are of one length.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn products<const Q: usize>(queries: [&[f32]; Q], vector: &[u16]) -> [f32; Q] {
    let dim = vector.len();
    let mut even = [_mm256_setzero_ps(); Q];
    let mut odd = [_mm256_setzero_ps(); Q];
    let mut d = 0;
    while d + 16 <= dim {
        // SAFETY: all slices have `dim` components and `d + 16 <= dim`.
        unsafe {
            let low = _mm256_cvtph_ps(_mm_loadu_si128(vector.as_ptr().add(d).cast()));
            let high = _mm256_cvtph_ps(_mm_loadu_si128(vector.as_ptr().add(d + 8).cast()));
            for q in 0..Q {
                even[q] = _mm256_fmadd_ps(_mm256_loadu_ps(queries[q].as_ptr().add(d)), low, even[q]);
                odd[q] = _mm256_fmadd_ps(_mm256_loadu_ps(queries[q].as_ptr().add(d + 8)), high, odd[q]);
            }
        }
        d += 16;
    }
    let mut out = [0.0; Q];
    for q in 0..Q {
        let eight = _mm256_add_ps(even[q], odd[q]);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        let one = _mm_add_ss(two, _mm_shuffle_ps::<1>(two, two));
        out[q] = _mm_cvtss_f32(one) + super::portable::product(&queries[q][d..], &vector[d..]);
    }
    out
}

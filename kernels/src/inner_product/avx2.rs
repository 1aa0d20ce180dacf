//! AVX2 with FMA: two chains of eight lanes for each query.

use std::arch::x86_64::*;

/// The products of `Q` queries with one vector.
///
/// # Safety
///
/// The processor has AVX2 and FMA, and all slices are of one length.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub unsafe fn products<const Q: usize>(queries: [&[f32]; Q], vector: &[f32], out: &mut [f32; Q]) {
    let dim = vector.len();
    let mut even = [_mm256_setzero_ps(); Q];
    let mut odd = [_mm256_setzero_ps(); Q];
    let mut d = 0;
    while d + 16 <= dim {
        // SAFETY: every slice has `dim` components and `d + 16 <= dim`.
        unsafe {
            let low = _mm256_loadu_ps(vector.as_ptr().add(d));
            let high = _mm256_loadu_ps(vector.as_ptr().add(d + 8));
            for q in 0..Q {
                even[q] = _mm256_fmadd_ps(_mm256_loadu_ps(queries[q].as_ptr().add(d)), low, even[q]);
                odd[q] = _mm256_fmadd_ps(_mm256_loadu_ps(queries[q].as_ptr().add(d + 8)), high, odd[q]);
            }
        }
        d += 16;
    }
    if d + 8 <= dim {
        // SAFETY: every slice has `dim` components and `d + 8 <= dim`.
        unsafe {
            let low = _mm256_loadu_ps(vector.as_ptr().add(d));
            for q in 0..Q {
                even[q] = _mm256_fmadd_ps(_mm256_loadu_ps(queries[q].as_ptr().add(d)), low, even[q]);
            }
        }
        d += 8;
    }
    if d < dim {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let rest = i32::try_from(dim - d).expect("fewer than 8 remain");
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(rest), lanes);
        // SAFETY: the mask lets only the `dim - d` components that are left be read.
        unsafe {
            let low = _mm256_maskload_ps(vector.as_ptr().add(d), mask);
            for q in 0..Q {
                odd[q] = _mm256_fmadd_ps(_mm256_maskload_ps(queries[q].as_ptr().add(d), mask), low, odd[q]);
            }
        }
    }
    for q in 0..Q {
        let eight = _mm256_add_ps(even[q], odd[q]);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        let one = _mm_add_ss(two, _mm_shuffle_ps::<1>(two, two));
        out[q] = _mm_cvtss_f32(one);
    }
}

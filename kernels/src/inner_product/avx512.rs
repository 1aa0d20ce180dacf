//! AVX-512F: two chains of sixteen lanes for each query.

use std::arch::x86_64::*;

/// The products of `Q` queries with one vector.
///
/// # Safety
///
/// The processor has AVX-512F, and all slices are of one length.
#[target_feature(enable = "avx512f")]
#[inline]
pub unsafe fn products<const Q: usize>(queries: [&[f32]; Q], vector: &[f32], out: &mut [f32; Q]) {
    let dim = vector.len();
    let mut even = [_mm512_setzero_ps(); Q];
    let mut odd = [_mm512_setzero_ps(); Q];
    let mut d = 0;
    while d + 32 <= dim {
        // SAFETY: every slice has `dim` components and `d + 32 <= dim`.
        unsafe {
            let low = _mm512_loadu_ps(vector.as_ptr().add(d));
            let high = _mm512_loadu_ps(vector.as_ptr().add(d + 16));
            for q in 0..Q {
                even[q] = _mm512_fmadd_ps(_mm512_loadu_ps(queries[q].as_ptr().add(d)), low, even[q]);
                odd[q] = _mm512_fmadd_ps(_mm512_loadu_ps(queries[q].as_ptr().add(d + 16)), high, odd[q]);
            }
        }
        d += 32;
    }
    if d + 16 <= dim {
        // SAFETY: every slice has `dim` components and `d + 16 <= dim`.
        unsafe {
            let low = _mm512_loadu_ps(vector.as_ptr().add(d));
            for q in 0..Q {
                even[q] = _mm512_fmadd_ps(_mm512_loadu_ps(queries[q].as_ptr().add(d)), low, even[q]);
            }
        }
        d += 16;
    }
    if d < dim {
        let mask: __mmask16 = (1u16 << (dim - d)) - 1; // Fewer than 16 remain.
        // SAFETY: the mask lets only the `dim - d` components that are left be read.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask, vector.as_ptr().add(d));
            for q in 0..Q {
                odd[q] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, queries[q].as_ptr().add(d)), low, odd[q]);
            }
        }
    }
    for q in 0..Q {
        out[q] = _mm512_reduce_add_ps(_mm512_add_ps(even[q], odd[q]));
    }
}

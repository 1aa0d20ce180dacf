//! AVX-512: bytes widened to 16 bits and multiplied in pairs, thirty-two at a time.

use std::arch::x86_64::*;

/// The sums of products of `Q` queries with one vector, whose bytes are widened once for all of them.
///
/// # Safety
///
/// The processor has AVX-512F, BW and VL, and the slices are of one length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn inner_products<const Q: usize>(queries: [&[i16]; Q], codes: &[i8]) -> [i32; Q] {
    let dim = codes.len();
    let mut even = [_mm512_setzero_si512(); Q];
    let mut odd = [_mm512_setzero_si512(); Q];
    let mut d = 0;
    while d + 64 <= dim {
        // SAFETY: all slices have `dim` components and `d + 64 <= dim`.
        unsafe {
            let low = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.as_ptr().add(d).cast()));
            let high = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.as_ptr().add(d + 32).cast()));
            for q in 0..Q {
                let query_low = _mm512_loadu_si512(queries[q].as_ptr().add(d).cast());
                let query_high = _mm512_loadu_si512(queries[q].as_ptr().add(d + 32).cast());
                even[q] = _mm512_add_epi32(even[q], _mm512_madd_epi16(low, query_low));
                odd[q] = _mm512_add_epi32(odd[q], _mm512_madd_epi16(high, query_high));
            }
        }
        d += 64;
    }
    while d < dim {
        let mask = u32::MAX >> (32 - (dim - d).min(32));
        // SAFETY: no more than `dim - d` components are read.
        unsafe {
            let codes = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, codes.as_ptr().add(d)));
            for q in 0..Q {
                let query = _mm512_maskz_loadu_epi16(mask, queries[q].as_ptr().add(d));
                even[q] = _mm512_add_epi32(even[q], _mm512_madd_epi16(codes, query));
            }
        }
        d += 32;
    }
    let mut sums = [0; Q];
    for q in 0..Q {
        sums[q] = _mm512_reduce_add_epi32(_mm512_add_epi32(even[q], odd[q]));
    }
    sums
}

//! AVX-512: bytes widened to 16 bits and multiplied in pairs, thirty-two at a time.

use std::arch::x86_64::*;

/// The sum of products.
///
/// # Safety
///
/// The processor has AVX-512F, BW and VL, and the slices are of one length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn inner_product(query: &[i16], codes: &[i8]) -> i32 {
    let dim = codes.len();
    let mut sums = [_mm512_setzero_si512(); 2];
    let mut d = 0;
    while d + 64 <= dim {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: both slices have `dim` components and `d + 64 <= dim`.
            unsafe {
                let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.as_ptr().add(d + 32 * i).cast()));
                let query = _mm512_loadu_si512(query.as_ptr().add(d + 32 * i).cast());
                *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(codes, query));
            }
        }
        d += 64;
    }
    while d < dim {
        let mask = u32::MAX >> (32 - (dim - d).min(32));
        // SAFETY: no more than `dim - d` components are read.
        unsafe {
            let codes = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, codes.as_ptr().add(d)));
            let query = _mm512_maskz_loadu_epi16(mask, query.as_ptr().add(d));
            sums[0] = _mm512_add_epi32(sums[0], _mm512_madd_epi16(codes, query));
        }
        d += 32;
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]))
}

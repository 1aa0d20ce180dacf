//! AVX2: bytes widened to 16 bits and multiplied in pairs.

use std::arch::x86_64::*;

use super::{AHEAD, Int8Query};
use crate::prefetch::prefetch;

/// The scores of chosen rows, each of which asks for one that comes later.
#[target_feature(enable = "avx2")]
pub fn inner_products_at(query: &Int8Query, codes: &[i8], scales: &[f32], chosen: &[u32], out: &mut [f32]) {
    let dim = query.codes.len();
    for (i, (out, &row)) in out.iter_mut().zip(chosen).enumerate() {
        if let Some(&next) = chosen.get(i + AHEAD) {
            prefetch(&codes[next as usize * dim..][..dim]);
        }
        let row = row as usize;
        // SAFETY: the processor has AVX2, and both slices have `dim` components.
        let [sum] = unsafe { inner_products([&query.codes], &codes[row * dim..][..dim]) };
        *out = sum as f32 * (query.scale * scales[row]);
    }
}

/// The sums of products of `Q` queries with one vector, whose bytes are widened once for all of them.
///
/// # Safety
///
/// The processor has AVX2, and the slices are of one length.
#[target_feature(enable = "avx2")]
#[inline]
pub unsafe fn inner_products<const Q: usize>(queries: [&[i16]; Q], codes: &[i8]) -> [i32; Q] {
    let dim = codes.len();
    let mut even = [_mm256_setzero_si256(); Q];
    let mut odd = [_mm256_setzero_si256(); Q];
    let mut d = 0;
    while d + 32 <= dim {
        // SAFETY: all slices have `dim` components and `d + 32 <= dim`.
        unsafe {
            let low = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().add(d).cast()));
            let high = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().add(d + 16).cast()));
            for q in 0..Q {
                let query_low = _mm256_loadu_si256(queries[q].as_ptr().add(d).cast());
                let query_high = _mm256_loadu_si256(queries[q].as_ptr().add(d + 16).cast());
                even[q] = _mm256_add_epi32(even[q], _mm256_madd_epi16(low, query_low));
                odd[q] = _mm256_add_epi32(odd[q], _mm256_madd_epi16(high, query_high));
            }
        }
        d += 32;
    }
    let mut sums = super::portable::inner_products(queries, codes, d);
    for q in 0..Q {
        let eight = _mm256_add_epi32(even[q], odd[q]);
        let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
        let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<1>(two));
        sums[q] += _mm_cvtsi128_si32(one);
    }
    sums
}

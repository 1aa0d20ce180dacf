//! AVX2: bytes widened to 16 bits and multiplied in pairs; bits counted by a table of nibbles.

use std::arch::x86_64::*;

/// The sum of products.
///
/// # Safety
///
/// The processor has AVX2, and the slices are of one length.
#[target_feature(enable = "avx2")]
pub unsafe fn inner_product(query: &[i16], codes: &[i8]) -> i32 {
    let dim = codes.len();
    let mut even = _mm256_setzero_si256();
    let mut odd = _mm256_setzero_si256();
    let mut d = 0;
    while d + 32 <= dim {
        // SAFETY: both slices have `dim` components and `d + 32 <= dim`.
        unsafe {
            let low = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().add(d).cast()));
            let high = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().add(d + 16).cast()));
            let query_low = _mm256_loadu_si256(query.as_ptr().add(d).cast());
            let query_high = _mm256_loadu_si256(query.as_ptr().add(d + 16).cast());
            even = _mm256_add_epi32(even, _mm256_madd_epi16(low, query_low));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(high, query_high));
        }
        d += 32;
    }
    let sums = sum_by_fours(_mm256_add_epi32(even, odd));
    sums + super::portable::inner_product(&query[d..], &codes[d..])
}

/// The sum of eight 32-bit integers.
#[target_feature(enable = "avx2")]
#[inline]
fn sum_by_fours(eight: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

/// The distance of each vector.
///
/// # Safety
///
/// The processor has AVX2 and POPCNT, `query` is not empty, and `bits` is `[out.len(), query.len()]`.
#[target_feature(enable = "avx2,popcnt")]
pub unsafe fn hamming(query: &[u64], bits: &[u64], out: &mut [u32]) {
    let n_words = query.len();
    let counts = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
    );
    let nibble = _mm256_set1_epi8(15);
    for (out, words) in out.iter_mut().zip(bits.chunks_exact(n_words)) {
        let mut sums = _mm256_setzero_si256();
        let mut w = 0;
        while w + 4 <= n_words {
            // SAFETY: both slices have `n_words` words and `w + 4 <= n_words`.
            let differ = unsafe {
                let a = _mm256_loadu_si256(query.as_ptr().add(w).cast());
                _mm256_xor_si256(a, _mm256_loadu_si256(words.as_ptr().add(w).cast()))
            };
            let low = _mm256_shuffle_epi8(counts, _mm256_and_si256(differ, nibble));
            let high = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16::<4>(differ), nibble));
            // At most 64 bits differ in a word, so the upper halves of the 64-bit sums stay 0.
            sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256()));
            w += 4;
        }
        let mut distance = sum_by_fours(sums).cast_unsigned();
        while w < n_words {
            distance += (query[w] ^ words[w]).count_ones();
            w += 1;
        }
        *out = distance;
    }
}

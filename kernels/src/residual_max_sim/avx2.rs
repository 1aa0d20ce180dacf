//! AVX2: a byte shuffle looks up the weights of 32 codes, and bytes are multiplied in pairs.

use std::arch::x86_64::*;

use super::{CentroidProducts, Form, GROUP, ResidualQuery, score_by};
use crate::ResidualBits;
use crate::centroid_max_sim::CENTROID_LANES;

/// The score.
#[target_feature(enable = "avx2")]
pub fn score(query: &ResidualQuery, products: CentroidProducts<'_>, centroids: &[u16], tokens: &[u8]) -> f32 {
    score_by::<Avx2>(query, products, centroids, tokens)
}

/// A processor with AVX2: [`score`] alone uses it.
struct Avx2;

impl Form for Avx2 {
    #[inline(always)]
    fn raise(maxima: &mut [u8; CENTROID_LANES], row: &[u8; CENTROID_LANES]) {
        // SAFETY: the processor has AVX2, since `score` runs; both are 32 bytes.
        unsafe {
            let greater =
                _mm256_max_epu8(_mm256_loadu_si256(maxima.as_ptr().cast()), _mm256_loadu_si256(row.as_ptr().cast()));
            _mm256_storeu_si256(maxima.as_mut_ptr().cast(), greater);
        }
    }

    #[inline(always)]
    fn at_least(row: &[u8; CENTROID_LANES], threshold: &[u8; CENTROID_LANES]) -> u32 {
        // SAFETY: the processor has AVX2, since `score` runs; both are 32 bytes.
        unsafe {
            let row = _mm256_loadu_si256(row.as_ptr().cast());
            let greater = _mm256_max_epu8(row, _mm256_loadu_si256(threshold.as_ptr().cast()));
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(row, greater)) as u32
        }
    }

    #[inline(always)]
    fn product(bits: ResidualBits, weights: &[u8; 16], codes: &[u8], query: &[i8]) -> i32 {
        let n_slots = 8 / bits.count();
        let (whole, rest) = codes.split_at(codes.len() / GROUP * GROUP);
        assert!(query.len() >= codes.len().div_ceil(GROUP) * n_slots * GROUP, "there is a component for each code");
        // SAFETY: the processor has AVX2, since `score` runs; groups are 32 bytes, and for each there are 32 components a
        // slot, as was checked.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(weights.as_ptr().cast()));
            let mut sum = _mm256_setzero_si256();
            for group in 0..whole.len() / GROUP {
                let bytes = _mm256_loadu_si256(whole.as_ptr().add(group * GROUP).cast());
                let query = query.as_ptr().add(group * n_slots * GROUP);
                sum = _mm256_add_epi32(sum, group_product(bits, table, bytes, query));
            }
            if !rest.is_empty() {
                let mut padded = [0u8; GROUP];
                padded[..rest.len()].copy_from_slice(rest);
                let bytes = _mm256_loadu_si256(padded.as_ptr().cast());
                let query = query.as_ptr().add(whole.len() / GROUP * n_slots * GROUP);
                sum = _mm256_add_epi32(sum, group_product(bits, table, bytes, query));
            }
            let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        }
    }
}

/// The sums of a group's products, in eight lanes.
///
/// # Safety
///
/// The processor has AVX2, and `query` has 32 components for each slot of a byte.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn group_product(bits: ResidualBits, table: __m256i, bytes: __m256i, query: *const i8) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: as the caller promises. Two products of at most 127 · 127 fit 16 bits.
    unsafe {
        match bits {
            ResidualBits::Four => {
                let nibble = _mm256_set1_epi8(15);
                let low = _mm256_shuffle_epi8(table, _mm256_and_si256(bytes, nibble));
                let high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble));
                let low = _mm256_maddubs_epi16(low, _mm256_loadu_si256(query.cast()));
                let high = _mm256_maddubs_epi16(high, _mm256_loadu_si256(query.add(GROUP).cast()));
                _mm256_add_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, ones))
            }
            ResidualBits::Two => {
                let two_bits = _mm256_set1_epi8(3);
                let slots = [
                    bytes,
                    _mm256_srli_epi16::<2>(bytes),
                    _mm256_srli_epi16::<4>(bytes),
                    _mm256_srli_epi16::<6>(bytes),
                ];
                let mut sum = _mm256_setzero_si256();
                for (slot, codes) in slots.into_iter().enumerate() {
                    let weights = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, two_bits));
                    let query = _mm256_loadu_si256(query.add(slot * GROUP).cast());
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, query), ones));
                }
                sum
            }
        }
    }
}

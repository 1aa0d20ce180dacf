//! AVX2: eight codes choose among the weights in registers.

use std::arch::x86_64::*;

use super::{BLOCK, ResidualBits};

/// The vector of whole blocks of codes.
///
/// # Safety
///
/// The processor has AVX2; `weights` is as long as there are buckets, and `centroid` and `out` have a component for each
/// code.
#[target_feature(enable = "avx2")]
pub unsafe fn decode(bits: ResidualBits, weights: &[f32], codes: &[u8], centroid: &[f32], out: &mut [f32]) {
    // A choice among eight looks at three bits. With two bits a code, the third is one of its neighbour's, and the
    // weights stand twice; with four, the fourth bit chooses between two registers.
    let mut table = [0.0; 16];
    for (place, weight) in table.iter_mut().zip(weights.iter().cycle()) {
        *place = *weight;
    }
    // SAFETY: the table has sixteen numbers; a block has eight bytes of codes, and as many components of eight lanes as a
    // byte has slots, which the caller promises to be there.
    unsafe {
        let low = _mm256_loadu_ps(table.as_ptr());
        let high = _mm256_loadu_ps(table.as_ptr().add(8));
        for block in 0..codes.len() / BLOCK {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(codes.as_ptr().add(block * BLOCK).cast()));
            match bits {
                ResidualBits::Four => {
                    let at = block * 2 * BLOCK;
                    let first = choose_of_16(bytes, low, high);
                    let second = choose_of_16(_mm256_srli_epi32::<4>(bytes), low, high);
                    add(first, centroid.as_ptr().add(at), out.as_mut_ptr().add(at));
                    add(second, centroid.as_ptr().add(at + 8), out.as_mut_ptr().add(at + 8));
                }
                ResidualBits::Two => {
                    let (from, to) =
                        (centroid.as_ptr().add(block * 4 * BLOCK), out.as_mut_ptr().add(block * 4 * BLOCK));
                    add(_mm256_permutevar8x32_ps(low, bytes), from, to);
                    let slot = _mm256_srli_epi32::<2>(bytes);
                    add(_mm256_permutevar8x32_ps(low, slot), from.add(8), to.add(8));
                    let slot = _mm256_srli_epi32::<4>(bytes);
                    add(_mm256_permutevar8x32_ps(low, slot), from.add(16), to.add(16));
                    let slot = _mm256_srli_epi32::<6>(bytes);
                    add(_mm256_permutevar8x32_ps(low, slot), from.add(24), to.add(24));
                }
            }
        }
    }
}

/// The weights of codes in the lowest four bits.
#[target_feature(enable = "avx2")]
#[inline]
fn choose_of_16(codes: __m256i, low: __m256, high: __m256) -> __m256 {
    let fourth_bit = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
    _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes), fourth_bit)
}

/// `to = from + weights`
///
/// # Safety
///
/// Eight numbers are at either place.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add(weights: __m256, from: *const f32, to: *mut f32) {
    // SAFETY: as the caller promises.
    unsafe { _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(from), weights)) };
}

//! AVX2: a byte shuffle looks up sixteen entries in a lane, thirty-two vectors at once (André, Kermarrec and Le
//! Scouarnec 2015).

use std::arch::x86_64::*;

use super::blocks::n_groups;
use super::{ONE_BIT_BLOCK, OneBitTable, one_bit_block_bytes};

/// The bounds of all rows of blocks.
///
/// # Safety
///
/// The processor has AVX2 and FMA, `blocks` is a number of whole blocks, and `out` has 32 numbers for each.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn scan(query: &OneBitTable, blocks: &[u8], margin: f32, out: &mut [f32]) {
    let n_bytes = one_bit_block_bytes(query.dim);
    let mut pairs = blocks.chunks_exact(2 * n_bytes);
    let mut outs = out.chunks_exact_mut(2 * ONE_BIT_BLOCK);
    for (pair, out) in (&mut pairs).zip(&mut outs) {
        let (first, second) = pair.split_at(n_bytes);
        // SAFETY: the features are there, and the slices are two blocks and twice 32 numbers.
        unsafe { blocks_at_once([first, second], query, margin, out) };
    }
    let rest = pairs.remainder();
    if !rest.is_empty() {
        // SAFETY: the features are there, and the slices are one block and 32 numbers.
        unsafe { blocks_at_once([rest], query, margin, outs.into_remainder()) };
    }
}

/// The bounds of `B` blocks, which share each look-up table's way into a register.
///
/// # Safety
///
/// The processor has AVX2 and FMA, each block is whole, and `out` has 32 numbers for each.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn blocks_at_once<const B: usize>(blocks: [&[u8]; B], query: &OneBitTable, margin: f32, out: &mut [f32]) {
    let n_groups = n_groups(query.dim);
    assert_eq!(query.entries.len(), 2 * n_groups, "there is a table for every four components");
    assert_eq!(out.len(), B * ONE_BIT_BLOCK, "there is a number for every row");
    assert!(blocks.iter().all(|block| block.len() == one_bit_block_bytes(query.dim)), "blocks are whole");
    let nibble = _mm256_set1_epi8(15);
    // Sums of all bytes as numbers of 16 bits, and of the odd bytes alone.
    let mut all = [_mm256_setzero_si256(); B];
    let mut odd = [_mm256_setzero_si256(); B];
    let mut group = 0;
    while group < n_groups {
        let mut tables = [_mm256_setzero_si256(); 4];
        for (i, table) in tables.iter_mut().enumerate() {
            // SAFETY: `group + 1 < n_groups`, which is even, and there are two tables a group.
            *table = unsafe {
                _mm256_broadcastsi128_si256(_mm_loadu_si128(query.entries.as_ptr().add(2 * group + i).cast()))
            };
        }
        for b in 0..B {
            // SAFETY: a block begins with 32 bytes for each of `n_groups` groups.
            let (first, second) = unsafe {
                let at = blocks[b].as_ptr().add(group * ONE_BIT_BLOCK);
                (_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(ONE_BIT_BLOCK).cast()))
            };
            let low_first = _mm256_shuffle_epi8(tables[0], _mm256_and_si256(first, nibble));
            let high_first = _mm256_shuffle_epi8(tables[1], _mm256_and_si256(_mm256_srli_epi16::<4>(first), nibble));
            let low_second = _mm256_shuffle_epi8(tables[2], _mm256_and_si256(second, nibble));
            let high_second = _mm256_shuffle_epi8(tables[3], _mm256_and_si256(_mm256_srli_epi16::<4>(second), nibble));
            // At most 4 · 63, which a byte holds.
            let four =
                _mm256_add_epi8(_mm256_add_epi8(low_first, high_first), _mm256_add_epi8(low_second, high_second));
            all[b] = _mm256_add_epi16(all[b], four);
            odd[b] = _mm256_add_epi16(odd[b], _mm256_srli_epi16::<8>(four));
        }
        group += 2;
    }
    let step = _mm256_set1_ps(query.step);
    let least = _mm256_set1_ps(query.least);
    let offset = _mm256_set1_ps(query.offset);
    let bound_of_error = _mm256_set1_ps(margin * query.length);
    for b in 0..B {
        let even = _mm256_sub_epi16(all[b], _mm256_slli_epi16::<8>(odd[b]));
        let (low, high) = (_mm256_unpacklo_epi16(even, odd[b]), _mm256_unpackhi_epi16(even, odd[b]));
        let eights = [
            _mm256_castsi256_si128(low),
            _mm256_castsi256_si128(high),
            _mm256_extracti128_si256::<1>(low),
            _mm256_extracti128_si256::<1>(high),
        ];
        for (i, eight) in eights.into_iter().enumerate() {
            // SAFETY: after the bits come three times 32 factors, and `out` has 32 numbers a block.
            unsafe {
                let factors = blocks[b].as_ptr().add(n_groups * ONE_BIT_BLOCK).cast::<f32>().add(8 * i);
                let signed = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(eight)), step, least);
                let estimate = _mm256_fmadd_ps(_mm256_loadu_ps(factors), signed, offset);
                let bound = _mm256_fmadd_ps(_mm256_loadu_ps(factors.add(2 * ONE_BIT_BLOCK)), bound_of_error, estimate);
                let bound = _mm256_add_ps(bound, _mm256_loadu_ps(factors.add(ONE_BIT_BLOCK)));
                _mm256_storeu_ps(out.as_mut_ptr().add(b * ONE_BIT_BLOCK + 8 * i), bound);
            }
        }
    }
}

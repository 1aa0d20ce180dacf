//! AVX2: a byte shuffle looks up sixteen entries in a lane, thirty-two vectors at once (André, Kermarrec and Le
//! Scouarnec 2015).

use std::arch::x86_64::*;

use super::blocks::{GROUPS_OF_BYTES, n_groups};
use super::{ONE_BIT_BLOCK, OneBitTable, one_bit_block_bytes};

/// The bounds of all rows of blocks for each query, `[n_queries, n_rows]`.
///
/// # Safety
///
/// The processor has AVX2 and FMA, all queries are of one dimension, `blocks` is a number of whole blocks, and `out` has
/// 32 numbers for each and each query.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn scan(queries: &[OneBitTable], blocks: &[u8], margin: f32, out: &mut [f32]) {
    let Some(first) = queries.first() else { return };
    let n_rows = blocks.len() / one_bit_block_bytes(first.dim) * ONE_BIT_BLOCK;
    let (fours, rest) = queries.as_chunks::<4>();
    let (of_fours, of_rest) = out.split_at_mut(fours.len() * 4 * n_rows);
    for (four, out) in fours.iter().zip(of_fours.chunks_exact_mut((4 * n_rows).max(1))) {
        // SAFETY: the features are there, and the lengths fit.
        unsafe { all_blocks::<4, 2>(four.each_ref(), blocks, margin, out) };
    }
    for (query, out) in rest.iter().zip(of_rest.chunks_exact_mut(n_rows.max(1))) {
        // SAFETY: the features are there, and the lengths fit.
        unsafe { all_blocks::<1, 4>([query], blocks, margin, out) };
    }
}

/// The bounds of all rows for `Q` queries, `B` blocks at a time.
///
/// # Safety
///
/// As [`scan`].
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn all_blocks<const Q: usize, const B: usize>(
    queries: [&OneBitTable; Q],
    blocks: &[u8],
    margin: f32,
    out: &mut [f32],
) {
    let n_bytes = one_bit_block_bytes(queries[0].dim);
    let n_blocks = blocks.len() / n_bytes;
    let mut first = 0;
    while first + B <= n_blocks {
        // SAFETY: the features are there, and `B` blocks begin at block `first`.
        unsafe { tile::<Q, B>(queries, blocks, first, margin, out) };
        first += B;
    }
    while first < n_blocks {
        // SAFETY: the features are there, and a block begins at block `first`.
        unsafe { tile::<Q, 1>(queries, blocks, first, margin, out) };
        first += 1;
    }
}

/// The bounds of the rows of `B` blocks for `Q` queries: blocks share each look-up table's way into a register, queries
/// the splitting of bytes into halves.
///
/// # Safety
///
/// The processor has AVX2 and FMA, and all queries are of one dimension.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn tile<const Q: usize, const B: usize>(
    queries: [&OneBitTable; Q],
    blocks: &[u8],
    first: usize,
    margin: f32,
    out: &mut [f32],
) {
    let (n_groups, n_bytes) = (n_groups(queries[0].dim), one_bit_block_bytes(queries[0].dim));
    let n_rows = blocks.len() / n_bytes * ONE_BIT_BLOCK;
    assert!(queries.iter().all(|query| query.entries.len() == 2 * n_groups), "there is a table for every four");
    assert_eq!(out.len(), Q * n_rows, "there is a number for every query and row");
    let blocks = &blocks[first * n_bytes..(first + B) * n_bytes];
    let nibble = _mm256_set1_epi8(15);
    // Sums of all bytes as numbers of 16 bits, and of the odd bytes alone.
    let mut all = [[_mm256_setzero_si256(); B]; Q];
    let mut odd = [[_mm256_setzero_si256(); B]; Q];
    let mut group = 0;
    while group < n_groups {
        let end = n_groups.min(group + GROUPS_OF_BYTES);
        let mut bytes = [[_mm256_setzero_si256(); B]; Q];
        while group < end {
            let (mut low, mut high) = ([_mm256_setzero_si256(); B], [_mm256_setzero_si256(); B]);
            for b in 0..B {
                // SAFETY: a block begins with 32 bytes for each of `n_groups` groups.
                let eight =
                    unsafe { _mm256_loadu_si256(blocks.as_ptr().add(b * n_bytes + group * ONE_BIT_BLOCK).cast()) };
                low[b] = _mm256_and_si256(eight, nibble);
                high[b] = _mm256_and_si256(_mm256_srli_epi16::<4>(eight), nibble);
            }
            for q in 0..Q {
                // SAFETY: there are two tables a group.
                let (of_low, of_high) = unsafe {
                    let at = queries[q].entries.as_ptr().add(2 * group);
                    (_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(1).cast()))
                };
                let (of_low, of_high) = (_mm256_broadcastsi128_si256(of_low), _mm256_broadcastsi128_si256(of_high));
                for b in 0..B {
                    bytes[q][b] = _mm256_add_epi8(bytes[q][b], _mm256_shuffle_epi8(of_low, low[b]));
                    bytes[q][b] = _mm256_add_epi8(bytes[q][b], _mm256_shuffle_epi8(of_high, high[b]));
                }
            }
            group += 1;
        }
        for q in 0..Q {
            for b in 0..B {
                all[q][b] = _mm256_add_epi16(all[q][b], bytes[q][b]);
                odd[q][b] = _mm256_add_epi16(odd[q][b], _mm256_srli_epi16::<8>(bytes[q][b]));
            }
        }
    }
    for q in 0..Q {
        let step = _mm256_set1_ps(queries[q].step);
        let least = _mm256_set1_ps(queries[q].least);
        let offset = _mm256_set1_ps(queries[q].offset);
        let bound_of_error = _mm256_set1_ps(margin * queries[q].length);
        for b in 0..B {
            let even = _mm256_sub_epi16(all[q][b], _mm256_slli_epi16::<8>(odd[q][b]));
            let (low, high) = (_mm256_unpacklo_epi16(even, odd[q][b]), _mm256_unpackhi_epi16(even, odd[q][b]));
            let eights = [
                _mm256_castsi256_si128(low),
                _mm256_castsi256_si128(high),
                _mm256_extracti128_si256::<1>(low),
                _mm256_extracti128_si256::<1>(high),
            ];
            for (i, eight) in eights.into_iter().enumerate() {
                // SAFETY: after the bits come three times 32 factors, and `out` has 32 numbers a query and block.
                unsafe {
                    let factors = blocks.as_ptr().add(b * n_bytes + n_groups * ONE_BIT_BLOCK).cast::<f32>().add(8 * i);
                    let signed = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(eight)), step, least);
                    let estimate = _mm256_fmadd_ps(_mm256_loadu_ps(factors), signed, offset);
                    let error = _mm256_loadu_ps(factors.add(2 * ONE_BIT_BLOCK));
                    let bound = _mm256_fmadd_ps(error, bound_of_error, estimate);
                    let bound = _mm256_add_ps(bound, _mm256_loadu_ps(factors.add(ONE_BIT_BLOCK)));
                    let at = q * n_rows + (first + b) * ONE_BIT_BLOCK + 8 * i;
                    _mm256_storeu_ps(out.as_mut_ptr().add(at), bound);
                }
            }
        }
    }
}

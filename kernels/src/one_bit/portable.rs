//! Loops for any processor.

use super::blocks::n_groups;
use super::{ONE_BIT_BLOCK, OneBitQuery, OneBitTable, one_bit_block_bytes, one_bit_words};

/// The bounds of chosen rows, which are there; `out` is as long.
#[inline(always)]
pub fn row_bounds(query: &OneBitQuery, codes: &[u64], rows: &[u32], margin: f32, out: &mut [f32]) {
    let n_words = one_bit_words(query.dim);
    for (out, &row) in out.iter_mut().zip(rows) {
        let (bits, factors) = codes[row as usize * n_words..][..n_words].split_at(query.planes.len());
        let mut counts = [0; 4];
        for (bits, planes) in bits.iter().zip(&query.planes) {
            for (count, plane) in counts.iter_mut().zip(planes) {
                *count += (bits & plane).count_ones() as i32;
            }
        }
        *out = query.row_bound(counts[0] + 2 * counts[1] + 4 * counts[2] - 8 * counts[3], factors, margin);
    }
}

/// The bounds of all rows of blocks; the lengths fit.
pub fn scan(queries: &[OneBitTable], blocks: &[u8], margin: f32, out: &mut [f32]) {
    let n_rows = out.len() / queries.len().max(1);
    for (query, out) in queries.iter().zip(out.chunks_exact_mut(n_rows.max(1))) {
        scan_for(query, blocks, margin, out);
    }
}

fn scan_for(query: &OneBitTable, blocks: &[u8], margin: f32, out: &mut [f32]) {
    let n_bits = n_groups(query.dim) * ONE_BIT_BLOCK;
    let (bound_of_error, least) = (margin * query.length, query.least);
    for (block, out) in blocks.chunks_exact(one_bit_block_bytes(query.dim)).zip(out.chunks_exact_mut(ONE_BIT_BLOCK)) {
        let (bits, factors) = block.split_at(n_bits);
        let mut sums = [0u16; ONE_BIT_BLOCK];
        for (bytes, tables) in bits.chunks_exact(ONE_BIT_BLOCK).zip(query.entries.chunks_exact(2)) {
            for (sum, &byte) in sums.iter_mut().zip(bytes) {
                *sum += u16::from(tables[0][usize::from(byte & 15)]) + u16::from(tables[1][usize::from(byte >> 4)]);
            }
        }
        let factor = |i: usize, v: usize| {
            let (bytes, _) = factors[4 * (i * ONE_BIT_BLOCK + v)..].as_chunks::<4>();
            f32::from_le_bytes(bytes[0])
        };
        for (v, out) in out.iter_mut().enumerate() {
            let signed = f32::from(sums[v]) * query.step + least;
            *out = factor(0, v) * signed + factor(1, v) + query.offset + factor(2, v) * bound_of_error;
        }
    }
}

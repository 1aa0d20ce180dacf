//! Scans of codes, whose best are scored once more from the full vectors.

use std::ops::Range;

use raglan_kernels::{Int8Query, ONE_BIT_BLOCK, OneBitTable, TopK, one_bit_block_bytes};
use rayon::prelude::*;

use crate::Result;
use crate::codes::{BitsFile, Int8Rows};
use crate::exact_scan::Rows;
use crate::scan::scan;
use crate::segment::Segment;

/// Rows of bytes scored together; with 384 dimensions 24 KiB, which stay in a core's nearest cache for all queries.
const INT8_ROWS: usize = 64;

/// Rows of bits scored together, likewise.
const BIT_ROWS: usize = 8 * ONE_BIT_BLOCK;

/// Queries scored together, as many as the kernels take at once.
const TOGETHER: usize = 4;

/// How many deviations of an estimate's error its upper bound is above it. One estimate in forty errs by more, but only
/// of those near the last of the best does it matter.
const MARGIN: f32 = 2.0;

/// Of estimates that cannot be among the best `k` any more, this many are scored all the same before the rest is left.
const BATCH: usize = 32;

/// The best `k` of the rows for each query, found among the best `n_candidates` by their bytes.
pub fn int8_scan(
    segment: &Segment,
    int8: Int8Rows<'_>,
    queries: &[f32],
    k: usize,
    n_candidates: usize,
    rows: &Rows,
) -> Result<Vec<Vec<(f32, u32)>>> {
    let dim = segment.dim();
    let prepared = queries.chunks_exact(dim).map(Int8Query::new).collect::<Result<Vec<_>, _>>()?;
    let candidates = scan(prepared.len(), int8.scales.len(), n_candidates, |which, range| {
        let prepared = &prepared[which];
        let mut best = vec![TopK::new(n_candidates); prepared.len()];
        let mut scores = [0.0; TOGETHER * INT8_ROWS];
        for first_row in range.clone().step_by(INT8_ROWS) {
            let block = first_row..range.end.min(first_row + INT8_ROWS);
            let codes = &int8.codes[block.start * dim..block.end * dim];
            for (queries, best) in prepared.chunks(TOGETHER).zip(best.chunks_mut(TOGETHER)) {
                let scores = &mut scores[..queries.len() * block.len()];
                Int8Query::inner_products(queries, codes, &int8.scales[block.clone()], scores)?;
                for (best, scores) in best.iter_mut().zip(scores.chunks_exact(block.len())) {
                    rows.push_to(best, segment, scores, first_row as u32)?;
                }
            }
        }
        Ok(best.into_iter().map(TopK::into_best_first).collect())
    })?;
    queries
        .par_chunks_exact(dim)
        .zip(candidates)
        .map(|(query, candidates)| rescore(segment, query, k, candidates.iter().map(|&(_, row)| row)))
        .collect()
}

/// The best `k` of the rows for each query, found among the best `n_candidates` by the upper bounds of their bits.
///
/// Candidates are scored by falling bound until none can be among the best any more.
pub fn one_bit_scan(
    segment: &Segment,
    bits: &BitsFile,
    queries: &[f32],
    k: usize,
    n_candidates: usize,
    rows: &Rows,
) -> Result<Vec<Vec<(f32, u32)>>> {
    let dim = segment.dim();
    let prepared = queries.chunks_exact(dim).map(|query| bits.encoder().table(query)).collect::<Result<Vec<_>, _>>()?;
    let candidates = scan(prepared.len(), segment.ids().len(), n_candidates, |which, range| {
        scan_blocks(segment, bits.blocks(), range, &prepared[which], n_candidates, rows)
    })?;
    queries.par_chunks_exact(dim).zip(candidates).map(|(query, bounds)| settle(segment, query, k, &bounds)).collect()
}

/// The best of a range of rows, which begins with a block, by their upper bounds.
fn scan_blocks(
    segment: &Segment,
    blocks: &[u8],
    range: Range<usize>,
    queries: &[OneBitTable],
    n_candidates: usize,
    rows: &Rows,
) -> Result<Vec<Vec<(f32, u32)>>> {
    let n_bytes = one_bit_block_bytes(segment.dim());
    let mut best = vec![TopK::new(n_candidates); queries.len()];
    let mut bounds = [0.0; TOGETHER * BIT_ROWS];
    for first_row in range.clone().step_by(BIT_ROWS) {
        let n_rows = BIT_ROWS.min(range.end - first_row);
        let n_blocks = n_rows.div_ceil(ONE_BIT_BLOCK);
        let blocks = &blocks[first_row / ONE_BIT_BLOCK * n_bytes..][..n_blocks * n_bytes];
        for (queries, best) in queries.chunks(TOGETHER).zip(best.chunks_mut(TOGETHER)) {
            let bounds = &mut bounds[..queries.len() * n_blocks * ONE_BIT_BLOCK];
            OneBitTable::block_bounds(queries, blocks, MARGIN, bounds)?;
            for (best, bounds) in best.iter_mut().zip(bounds.chunks_exact(n_blocks * ONE_BIT_BLOCK)) {
                rows.push_to(best, segment, &bounds[..n_rows], first_row as u32)?;
            }
        }
    }
    Ok(best.into_iter().map(TopK::into_best_first).collect())
}

/// The best `k` of candidates that come by falling upper bound.
fn settle(segment: &Segment, query: &[f32], k: usize, bounds: &[(f32, u32)]) -> Result<Vec<(f32, u32)>> {
    let mut best: Vec<(f32, u32)> = Vec::new();
    let (mut chosen, mut scores) = (Vec::new(), Vec::new());
    let mut top = TopK::new(k);
    for batch in bounds.chunks(BATCH.max(k)) {
        if best.len() == k && best.last().is_some_and(|worst| batch[0].0 < worst.0) {
            break;
        }
        chosen.clear();
        chosen.extend(batch.iter().map(|&(_, row)| row));
        scores.resize(chosen.len(), 0.0);
        segment.vectors().scores_at(query, &chosen, &mut scores)?;
        for (&score, &row) in scores.iter().zip(&chosen) {
            top.push(score, row)?;
        }
        best = top.clone().into_best_first();
    }
    Ok(best)
}

/// The best `k` of rows by their full vectors.
pub fn rescore(segment: &Segment, query: &[f32], k: usize, rows: impl Iterator<Item = u32>) -> Result<Vec<(f32, u32)>> {
    let chosen: Vec<u32> = rows.collect();
    let mut scores = vec![0.0; chosen.len()];
    segment.vectors().scores_at(query, &chosen, &mut scores)?;
    let mut best = TopK::new(k);
    for (&score, &row) in scores.iter().zip(&chosen) {
        best.push(score, row)?;
    }
    Ok(best.into_best_first())
}

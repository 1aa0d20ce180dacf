//! The exact scan: every vector against every query.

use std::ops::Range;

use raglan_kernels::TopK;
use rayon::prelude::*;

use crate::Result;
use crate::bits::Bits;
use crate::scan::scan;
use crate::segment::Segment;

/// Rows scored together: with 384 dimensions 96 KiB, which stay in a core's own cache for all queries.
const BLOCK_ROWS: usize = 64;

/// Which rows of a segment may be returned.
pub enum Rows {
    /// Those that are not deleted.
    Live,
    /// Those in a set, none of them deleted, and how many they are.
    Among(Bits, usize),
    /// A few, increasing, none of them deleted.
    Few(Vec<u32>),
}

impl Rows {
    /// How many there are.
    pub fn len(&self, segment: &Segment) -> usize {
        match self {
            Self::Live => segment.n_live(),
            Self::Among(_, n) => *n,
            Self::Few(rows) => rows.len(),
        }
    }

    /// Adds the scores of consecutive rows to the best, those of rows that are among them.
    pub fn push_to(&self, best: &mut TopK, segment: &Segment, scores: &[f32], first_row: u32) -> Result<()> {
        if matches!(self, Self::Live) && !segment.has_deleted() {
            best.extend(scores, first_row)?;
            return Ok(());
        }
        for (&score, row) in scores.iter().zip(first_row..) {
            // NaN gets through to `push`, which refuses it.
            if (score >= best.threshold() || score.is_nan()) && self.contains(segment, row) {
                best.push(score, row)?;
            }
        }
        Ok(())
    }

    /// Whether a row is among them.
    #[inline]
    pub fn contains(&self, segment: &Segment, row: u32) -> bool {
        match self {
            Self::Live => segment.is_live(row),
            Self::Among(bits, _) => bits.contains(row),
            Self::Few(rows) => rows.binary_search(&row).is_ok(),
        }
    }
}

/// The best `k` of the rows for each query of `queries`, `[n_queries, dim]`, as score and row.
pub fn exact_scan(
    segment: &Segment,
    queries: &[f32],
    dim: usize,
    k: usize,
    rows: &Rows,
) -> Result<Vec<Vec<(f32, u32)>>> {
    if let Rows::Few(rows) = rows {
        return queries.par_chunks_exact(dim).map(|query| scan_few(segment, query, k, rows)).collect();
    }
    scan(queries.len() / dim, segment.ids().len(), k, |which, range| {
        scan_range(segment, range, &queries[which.start * dim..which.end * dim], dim, k, rows)
    })
}

fn scan_few(segment: &Segment, query: &[f32], k: usize, rows: &[u32]) -> Result<Vec<(f32, u32)>> {
    let mut best = TopK::new(k);
    let mut scores = [0.0; BLOCK_ROWS];
    for rows in rows.chunks(BLOCK_ROWS) {
        let scores = &mut scores[..rows.len()];
        segment.vectors().scores_at(query, rows, scores)?;
        for (&score, &row) in scores.iter().zip(rows) {
            best.push(score, row)?;
        }
    }
    Ok(best.into_best_first())
}

/// The best of a range of rows.
fn scan_range(
    segment: &Segment,
    range: Range<usize>,
    queries: &[f32],
    dim: usize,
    k: usize,
    rows: &Rows,
) -> Result<Vec<Vec<(f32, u32)>>> {
    let mut best = vec![TopK::new(k); queries.len() / dim];
    let mut scores = vec![0.0; BLOCK_ROWS * best.len()];
    for first_row in range.clone().step_by(BLOCK_ROWS) {
        let n_rows = BLOCK_ROWS.min(range.end - first_row);
        let scores = &mut scores[..n_rows * best.len()];
        segment.vectors().rows(first_row, n_rows, dim).scores(queries, dim, scores)?;
        for (best, scores) in best.iter_mut().zip(scores.chunks_exact(n_rows)) {
            rows.push_to(best, segment, scores, first_row as u32)?;
        }
    }
    Ok(best.into_iter().map(TopK::into_best_first).collect())
}

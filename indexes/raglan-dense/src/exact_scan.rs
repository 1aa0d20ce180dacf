//! The exact scan: every vector against every query.

use raglan_kernels::{TopK, inner_products, inner_products_at};
use rayon::prelude::*;

use crate::Result;
use crate::bits::Bits;
use crate::segment::Segment;

/// Rows scored together: with 384 dimensions 96 KiB, which stay in a core's own cache for all queries.
const BLOCK_ROWS: usize = 64;

/// Queries scored together, so that the block of scores stays small.
const BLOCK_QUERIES: usize = 64;

/// Rows that one task scans at least; a task costs microseconds, so many rows.
const TASK_ROWS: usize = 2048;

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
    let n_queries = queries.len() / dim;
    if let Rows::Few(rows) = rows {
        return queries.par_chunks_exact(dim).map(|query| scan_few(segment, query, k, rows)).collect();
    }
    let best = segment
        .vectors()
        .par_chunks(TASK_ROWS * dim)
        .enumerate()
        .map(|(task, vectors)| scan_range(segment, task * TASK_ROWS, vectors, queries, dim, k, rows))
        .try_reduce(
            || vec![Vec::new(); n_queries],
            |mut left, right| {
                for (left, right) in left.iter_mut().zip(right) {
                    let mut both = TopK::new(k);
                    for &(score, row) in left.iter().chain(&right) {
                        both.push(score, row)?;
                    }
                    *left = both.into_best_first();
                }
                Ok(left)
            },
        )?;
    Ok(best)
}

fn scan_few(segment: &Segment, query: &[f32], k: usize, rows: &[u32]) -> Result<Vec<(f32, u32)>> {
    let mut best = TopK::new(k);
    let mut scores = [0.0; BLOCK_ROWS];
    for rows in rows.chunks(BLOCK_ROWS) {
        let scores = &mut scores[..rows.len()];
        inner_products_at(query, segment.vectors(), rows, scores)?;
        for (&score, &row) in scores.iter().zip(rows) {
            best.push(score, row)?;
        }
    }
    Ok(best.into_best_first())
}

/// The best of a range of rows that begins at `first_row`.
fn scan_range(
    segment: &Segment,
    first_row: usize,
    vectors: &[f32],
    queries: &[f32],
    dim: usize,
    k: usize,
    rows: &Rows,
) -> Result<Vec<Vec<(f32, u32)>>> {
    let every_row = matches!(rows, Rows::Live) && !segment.has_deleted();
    let mut best = vec![TopK::new(k); queries.len() / dim];
    let mut scores = vec![0.0; BLOCK_ROWS * BLOCK_QUERIES.min(best.len())];
    for (block, vectors) in vectors.chunks(BLOCK_ROWS * dim).enumerate() {
        let first_row = (first_row + block * BLOCK_ROWS) as u32;
        let n_rows = vectors.len() / dim;
        for (queries, best) in queries.chunks(BLOCK_QUERIES * dim).zip(best.chunks_mut(BLOCK_QUERIES)) {
            let scores = &mut scores[..n_rows * best.len()];
            inner_products(queries, vectors, dim, scores)?;
            for (best, scores) in best.iter_mut().zip(scores.chunks_exact(n_rows)) {
                if every_row {
                    best.extend(scores, first_row)?;
                    continue;
                }
                for (&score, row) in scores.iter().zip(first_row..) {
                    // NaN gets through to `push`, which refuses it.
                    if (score >= best.threshold() || score.is_nan()) && rows.contains(segment, row) {
                        best.push(score, row)?;
                    }
                }
            }
        }
    }
    Ok(best.into_iter().map(TopK::into_best_first).collect())
}

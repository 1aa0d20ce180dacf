//! Scans in parallel: which queries and rows a thread takes.

use std::ops::Range;

use raglan_kernels::TopK;
use rayon::prelude::*;

use crate::Result;

/// Queries that read rows together at most, so that their best and a block of scores stay small.
const QUERIES: usize = 64;

/// Rows that a thread takes at least; to begin costs microseconds. A multiple of all blocks.
const ROWS: usize = 2048;

/// The best `k` of `n_rows` rows for each query, where `scan` gives those of a range of queries in a range of rows.
///
/// Many queries are shared out among threads, each of which reads all rows; of few queries each thread reads a part of
/// the rows. The result is the same.
pub fn scan(
    n_queries: usize,
    n_rows: usize,
    k: usize,
    scan: impl Fn(Range<usize>, Range<usize>) -> Result<Vec<Vec<(f32, u32)>>> + Sync,
) -> Result<Vec<Vec<(f32, u32)>>> {
    let threads = rayon::current_num_threads();
    let at_once = n_queries.div_ceil(2 * threads).clamp(1, QUERIES);
    let rows = if n_queries >= threads { n_rows } else { n_rows.div_ceil(2 * threads).next_multiple_of(ROWS) };
    let best: Vec<Vec<Vec<(f32, u32)>>> = (0..n_queries.div_ceil(at_once))
        .into_par_iter()
        .map(|group| {
            let queries = group * at_once..n_queries.min((group + 1) * at_once);
            let none = || vec![Vec::new(); queries.len()];
            (0..n_rows.div_ceil(rows.max(1)))
                .into_par_iter()
                .map(|part| scan(queries.clone(), part * rows..n_rows.min((part + 1) * rows)))
                .try_reduce(none, |left, right| merge(left, right, k))
        })
        .collect::<Result<_>>()?;
    Ok(best.into_iter().flatten().collect())
}

/// The best `k` of both for each query.
fn merge(mut left: Vec<Vec<(f32, u32)>>, right: Vec<Vec<(f32, u32)>>, k: usize) -> Result<Vec<Vec<(f32, u32)>>> {
    for (left, right) in left.iter_mut().zip(right) {
        if left.is_empty() {
            *left = right;
            continue;
        }
        let mut both = TopK::new(k);
        for &(score, row) in left.iter().chain(&right) {
            both.push(score, row)?;
        }
        *left = both.into_best_first();
    }
    Ok(left)
}

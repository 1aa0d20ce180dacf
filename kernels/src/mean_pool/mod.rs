//! Means of packed sequences.

#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod fast;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::{Error, Result};

/// The mean row of each sequence: `out[s] = Σ_t rows[t] / n_s` over the rows from `ends[s - 1]` (0 at first) to `ends[s]`.
///
/// Shapes: `rows` is `[n, dim]`, sequences one after the other; `ends` holds the row after each one's last; `out` is
/// `[ends.len(), dim]`. A sequence without rows has a mean of zeros.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit or the last end is not `n`; [`Error::Row`] when an end is less than the
/// one before it or beyond `n`; [`Error::ZeroDimension`] when `dim` is 0.
pub fn mean_pool(rows: &[f32], ends: &[usize], dim: usize, out: &mut [f32]) -> Result<()> {
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    if !rows.len().is_multiple_of(dim) {
        return Err(Error::Shape { what: "rows", expected: rows.len().next_multiple_of(dim), found: rows.len() });
    }
    if out.len() != ends.len() * dim {
        return Err(Error::Shape { what: "out", expected: ends.len() * dim, found: out.len() });
    }
    let n_rows = rows.len() / dim;
    let mut start = 0;
    for &end in ends {
        if end < start || end > n_rows {
            return Err(Error::Row { row: end, n_rows });
        }
        start = end;
    }
    if start != n_rows {
        return Err(Error::Shape { what: "rows", expected: start * dim, found: rows.len() });
    }
    fast::mean_pool(CpuForm::best(), rows, ends, dim, out);
    Ok(())
}

//! Late interaction's score of a document whose tokens are taken for the centroids nearest to them.
//!
//! All products of a query's vectors with the centroids are known before any document is looked at, as one table in
//! bytes. A document then costs one row of 32 bytes a token and a maximum of that row: what the stages of PLAID do before
//! they look at a token itself (Santhanam et al. 2022), over every document where there are not too many.

#[cfg(test)]
mod cpu;
mod fast;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::{Error, Result};

/// Query vectors side by side in a row of the table: one AVX2 register of bytes.
pub const CENTROID_LANES: usize = 32;

/// Scores a document by its tokens' centroids: `Σ_i max_j table[codes[j]][i]`, `i` over the query's vectors.
///
/// `table` is `[n_centroids, n_panels]` of 32 lanes each; lanes without a query vector hold zeros. `codes` are the
/// centroids of the document's tokens; without tokens the score is 0.
///
/// # Errors
///
/// [`Error::Shape`] when the table is no multiple of `n_panels`; [`Error::ZeroDimension`] when that is 0;
/// [`Error::Row`] when a code is no centroid.
pub fn centroid_max_sim(table: &[[u8; CENTROID_LANES]], n_panels: usize, codes: &[u16]) -> Result<u32> {
    if n_panels == 0 {
        return Err(Error::ZeroDimension);
    }
    if !table.len().is_multiple_of(n_panels) {
        let expected = table.len().next_multiple_of(n_panels);
        return Err(Error::Shape { what: "table", expected, found: table.len() });
    }
    let n_rows = table.len() / n_panels;
    fast::score(CpuForm::best(), table, n_panels, codes).ok_or_else(|| {
        let row = codes.iter().copied().map(usize::from).find(|&code| code >= n_rows);
        Error::Row { row: row.expect("a score is missing only for a code beyond the table"), n_rows }
    })
}

//! Unit length.

mod cpu;
mod fast;
#[cfg(test)]
mod tests;

use crate::{Error, Result};

/// Divides each row of `vectors`, shape `[n, dim]`, by its length `√Σ_d x_d²`; a row of zeros stays as it is.
///
/// # Errors
///
/// [`Error::Shape`] when the length of `vectors` is no multiple of `dim`; [`Error::ZeroDimension`] when `dim` is 0.
pub fn l2_normalize(vectors: &mut [f32], dim: usize) -> Result<()> {
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    if !vectors.len().is_multiple_of(dim) {
        let expected = vectors.len().next_multiple_of(dim);
        return Err(Error::Shape { what: "vectors", expected, found: vectors.len() });
    }
    for row in vectors.chunks_exact_mut(dim) {
        fast::l2_normalize(row);
    }
    Ok(())
}

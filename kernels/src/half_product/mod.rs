//! Inner products with vectors kept in half precision (`f16`).
//!
//! A vector in `f16` is half as long to read, and its components keep eleven bits. The query stays in `f32`, and sums
//! are in `f32`, in an order that depends on nothing but the dimension.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod convert;
#[cfg(test)]
mod cpu;
mod portable;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::{Error, Result};

pub use convert::{f16_to_f32, from_f16, to_f16};

/// Scores vectors in `f16` against one query: `out[v] = Σ_d query[d] · vectors[v, d]`.
///
/// Shapes: `query` is `[dim]`, `vectors` is `[n, dim]`, the bits of `f16`; `out` is `[n]`.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`] when `query` is empty.
pub fn inner_products_f16(query: &[f32], vectors: &[u16], out: &mut [f32]) -> Result<()> {
    let n = rows(vectors, query.len())?;
    if out.len() != n {
        return Err(Error::Shape { what: "out", expected: n, found: out.len() });
    }
    let form = CpuForm::best();
    for (out, vector) in out.iter_mut().zip(vectors.chunks_exact(query.len())) {
        *out = product(form, query, vector);
    }
    Ok(())
}

/// Scores chosen rows of `vectors` against one query, to the bit as [`inner_products_f16`] does.
///
/// # Errors
///
/// As [`inner_products_f16`]; [`Error::Row`] when a row is not there.
pub fn inner_products_f16_at(query: &[f32], vectors: &[u16], chosen: &[u32], out: &mut [f32]) -> Result<()> {
    let (dim, n_rows) = (query.len(), rows(vectors, query.len())?);
    if out.len() != chosen.len() {
        return Err(Error::Shape { what: "out", expected: chosen.len(), found: out.len() });
    }
    if let Some(&row) = chosen.iter().find(|&&row| row as usize >= n_rows) {
        return Err(Error::Row { row: row as usize, n_rows });
    }
    let form = CpuForm::best();
    for (out, &row) in out.iter_mut().zip(chosen) {
        *out = product(form, query, &vectors[row as usize * dim..][..dim]);
    }
    Ok(())
}

fn rows(vectors: &[u16], dim: usize) -> Result<usize> {
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    if !vectors.len().is_multiple_of(dim) {
        let expected = vectors.len().next_multiple_of(dim);
        return Err(Error::Shape { what: "vectors", expected, found: vectors.len() });
    }
    Ok(vectors.len() / dim)
}

/// One product; the slices are of one length, and `form` is available.
#[inline]
fn product(form: CpuForm, query: &[f32], vector: &[u16]) -> f32 {
    assert_eq!(query.len(), vector.len(), "query and vector are of one length");
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX2, FMA and F16C; the lengths are equal.
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Amx | CpuForm::Avx2 => unsafe { avx2::product(query, vector) },
        _ => portable::product(query, vector),
    }
}

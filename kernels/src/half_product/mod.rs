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

#[cfg(feature = "cuda")]
pub(crate) use convert::f32_to_f16;
pub use convert::{f16_to_f32, from_f16, to_f16};

/// Scores vectors in `f16` against queries: `out[q, v] = Σ_d queries[q, d] · vectors[v, d]`.
///
/// Shapes: `queries` is `[n_queries, dim]`, `vectors` is `[n, dim]`, the bits of `f16`; `out` is `[n_queries, n]`. Four
/// queries at a time share the widening of a vector.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`] when `dim` is 0.
pub fn inner_products_f16(queries: &[f32], vectors: &[u16], dim: usize, out: &mut [f32]) -> Result<()> {
    let n = rows(vectors, dim)?;
    if !queries.len().is_multiple_of(dim) {
        return Err(Error::Shape {
            what: "queries",
            expected: queries.len().next_multiple_of(dim),
            found: queries.len(),
        });
    }
    let expected = queries.len() / dim * n;
    if out.len() != expected {
        return Err(Error::Shape { what: "out", expected, found: out.len() });
    }
    all_pairs(CpuForm::best(), queries, vectors, dim, out);
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
        [*out] = products(form, [query], &vectors[row as usize * dim..][..dim]);
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

/// Every product; the lengths fit, `dim` is not 0 and `form` is available.
fn all_pairs(form: CpuForm, queries: &[f32], vectors: &[u16], dim: usize, out: &mut [f32]) {
    let n = vectors.len() / dim;
    let mut fours = queries.chunks_exact(4 * dim);
    let (of_fours, of_rest) = out.split_at_mut(fours.len() * 4 * n);
    for (four, out) in (&mut fours).zip(of_fours.chunks_exact_mut((4 * n).max(1))) {
        let four = [&four[..dim], &four[dim..2 * dim], &four[2 * dim..3 * dim], &four[3 * dim..]];
        for (v, vector) in vectors.chunks_exact(dim).enumerate() {
            for (q, product) in products(form, four, vector).into_iter().enumerate() {
                out[q * n + v] = product;
            }
        }
    }
    for (query, out) in fours.remainder().chunks_exact(dim).zip(of_rest.chunks_exact_mut(n.max(1))) {
        for (out, vector) in out.iter_mut().zip(vectors.chunks_exact(dim)) {
            [*out] = products(form, [query], vector);
        }
    }
}

/// The products of `Q` queries with one vector; the slices are of one length, and `form` is available.
#[inline]
fn products<const Q: usize>(form: CpuForm, queries: [&[f32]; Q], vector: &[u16]) -> [f32; Q] {
    assert!(queries.iter().all(|query| query.len() == vector.len()), "queries and vector are of one length");
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX2, FMA and F16C; the lengths are equal.
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx | CpuForm::Avx2 => unsafe {
            avx2::products(queries, vector)
        },
        _ => queries.map(|query| portable::product(query, vector)),
    }
}

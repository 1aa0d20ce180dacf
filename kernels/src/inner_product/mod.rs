//! Inner products of queries and vectors.
//!
//! The product of one query and one vector is summed in one order, whatever stands around them in a batch, so a score
//! is the same alone and among a thousand. Forms for different instruction sets differ in the last bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod cpu;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::{Error, Result};

/// Scores vectors against queries: `out[q, v] = Σ_d queries[q, d] · vectors[v, d]`.
///
/// Row-major shapes: `queries` is `[n_queries, dim]`, `vectors` is `[n_vectors, dim]`, `out` is
/// `[n_queries, n_vectors]`. A vector is read from memory once for every four queries.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit `dim`; [`Error::ZeroDimension`] when `dim` is 0.
pub fn inner_products(queries: &[f32], vectors: &[f32], dim: usize, out: &mut [f32]) -> Result<()> {
    let n_queries = rows("queries", queries, dim)?;
    let n_vectors = rows("vectors", vectors, dim)?;
    let expected = n_queries * n_vectors;
    if out.len() != expected {
        return Err(Error::Shape { what: "out", expected, found: out.len() });
    }
    if expected > 0 {
        all_pairs(CpuForm::best(), queries, vectors, dim, out);
    }
    Ok(())
}

/// Scores chosen rows of `vectors` against one query: `out[i] = Σ_d query[d] · vectors[rows[i], d]`.
///
/// The scores are those of [`inner_products`], to the bit.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit that of `query`; [`Error::ZeroDimension`] when `query` is empty;
/// [`Error::Row`] when a row is not there.
pub fn inner_products_at(query: &[f32], vectors: &[f32], chosen: &[u32], out: &mut [f32]) -> Result<()> {
    let dim = query.len();
    let n_rows = rows("vectors", vectors, dim)?;
    if out.len() != chosen.len() {
        return Err(Error::Shape { what: "out", expected: chosen.len(), found: out.len() });
    }
    if let Some(&row) = chosen.iter().find(|&&row| row as usize >= n_rows) {
        return Err(Error::Row { row: row as usize, n_rows });
    }
    let form = CpuForm::best();
    for (score, &row) in out.iter_mut().zip(chosen) {
        let row = row as usize;
        *score = pair(form, query, &vectors[row * dim..(row + 1) * dim]);
    }
    Ok(())
}

/// The inner product of two vectors: `Σ_d a[d] · b[d]`, to the bit as [`inner_products`] gives it.
///
/// # Errors
///
/// [`Error::Shape`] when they are not of one length.
#[inline]
pub fn inner_product(a: &[f32], b: &[f32]) -> Result<f32> {
    if a.len() == b.len() {
        Ok(pair(CpuForm::best(), a, b))
    } else {
        Err(Error::Shape { what: "vector", expected: a.len(), found: b.len() })
    }
}

fn rows(what: &'static str, vectors: &[f32], dim: usize) -> Result<usize> {
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    if !vectors.len().is_multiple_of(dim) {
        return Err(Error::Shape { what, expected: vectors.len().next_multiple_of(dim), found: vectors.len() });
    }
    Ok(vectors.len() / dim)
}

/// One product. `a` and `b` are of one length; `form` is available.
#[inline]
fn pair(form: CpuForm, a: &[f32], b: &[f32]) -> f32 {
    let mut out = [0.0];
    products(form, [a], b, &mut out);
    out[0]
}

/// Every product. The lengths fit, `dim` is not 0 and `form` is available.
pub(crate) fn all_pairs(form: CpuForm, queries: &[f32], vectors: &[f32], dim: usize, out: &mut [f32]) {
    let n_vectors = vectors.len() / dim;
    let mut quads = queries.chunks_exact(4 * dim);
    let mut first_query = 0;
    for quad in &mut quads {
        let rows = std::array::from_fn::<_, 4, _>(|i| &quad[i * dim..(i + 1) * dim]);
        for (v, vector) in vectors.chunks_exact(dim).enumerate() {
            let mut scores = [0.0; 4];
            products(form, rows, vector, &mut scores);
            for (i, score) in scores.into_iter().enumerate() {
                out[(first_query + i) * n_vectors + v] = score;
            }
        }
        first_query += 4;
    }
    for query in quads.remainder().chunks_exact(dim) {
        let scores = &mut out[first_query * n_vectors..(first_query + 1) * n_vectors];
        for (score, vector) in scores.iter_mut().zip(vectors.chunks_exact(dim)) {
            *score = pair(form, query, vector);
        }
        first_query += 1;
    }
}

/// The products of `Q` queries with one vector, all of one length.
#[inline]
fn products<const Q: usize>(form: CpuForm, queries: [&[f32]; Q], vector: &[f32], out: &mut [f32; Q]) {
    assert!(queries.iter().all(|query| query.len() == vector.len()), "queries and vector are of one length");
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX-512F, and the lengths are equal.
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => unsafe {
            avx512::products(queries, vector, out);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the form is chosen only where the processor has AVX2 and FMA, and the lengths are equal.
        CpuForm::Avx2 => unsafe { avx2::products(queries, vector, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: these forms are chosen only where the processor has NEON, and the lengths are equal.
        CpuForm::Neon | CpuForm::NeonDotprod => unsafe { neon::products(queries, vector, out) },
        _ => portable::products(queries, vector, out),
    }
}

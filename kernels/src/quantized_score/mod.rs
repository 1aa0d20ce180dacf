//! Scores of vectors kept as bytes or as bits.
//!
//! Both are exact in integers, so every form gives the same bits. They rank roughly: the best are scored again with
//! the vectors they came from.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(target_arch = "x86_64")]
mod popcnt;
mod portable;
mod quantize;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::prefetch::prefetch;
use crate::{Error, Result};

/// Beyond this, a sum of products of bytes could leave `i32`: `131 071 · 128 · 128 < 2³¹`.
const MAX_DIM: usize = 131_071;

/// Chosen rows are asked for this many before they are scored; a few in flight hide the way to memory.
const AHEAD: usize = 4;

/// Quantises each vector to bytes: `scales[v] = max_d |vectors[v, d]| / 127`, `codes = round(vectors / scales)`.
///
/// Row-major shapes: `vectors` and `codes` are `[n, dim]`, `scales` is `[n]`. Codes lie in `-127..=127`, halves go to
/// the even code; a vector of zeros has scale 0.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`] when `dim` is 0; [`Error::NotANumber`] when a
/// component is NaN or infinite. Nothing is written then.
pub fn quantize_i8(vectors: &[f32], dim: usize, codes: &mut [i8], scales: &mut [f32]) -> Result<()> {
    let n = rows("vectors", vectors.len(), dim)?;
    same("codes", vectors.len(), codes.len())?;
    same("scales", n, scales.len())?;
    finite(vectors)?;
    quantize::quantize_i8(CpuForm::best(), vectors, dim, codes, scales);
    Ok(())
}

/// A query, or a vector itself, against vectors kept as bytes.
#[derive(Clone, Debug)]
pub struct Int8Query {
    /// Codes of a byte each, widened.
    codes: Vec<i16>,
    scale: f32,
}

impl Int8Query {
    /// Quantises a vector as [`quantize_i8`] does.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroDimension`] when it is empty, [`Error::Shape`] when its dimension is above 131 071, where the sum
    /// might not fit; [`Error::NotANumber`] when a component is NaN or infinite.
    pub fn new(query: &[f32]) -> Result<Self> {
        let (mut codes, mut scale) = (vec![0; query.len()], [0.0]);
        quantize_i8(query, query.len(), &mut codes, &mut scale)?;
        Self::from_codes(&codes, scale[0])
    }

    /// A vector that is quantised already.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroDimension`] when it is empty, [`Error::Shape`] when its dimension is above 131 071.
    pub fn from_codes(codes: &[i8], scale: f32) -> Result<Self> {
        let mut query = Self { codes: Vec::new(), scale };
        query.assign(codes, scale)?;
        Ok(query)
    }

    /// Takes another vector's codes, in the memory of those before.
    ///
    /// # Errors
    ///
    /// As [`from_codes`](Self::from_codes); nothing changes then.
    pub fn assign(&mut self, codes: &[i8], scale: f32) -> Result<()> {
        if codes.is_empty() {
            return Err(Error::ZeroDimension);
        }
        if codes.len() > MAX_DIM {
            return Err(Error::Shape { what: "dim", expected: MAX_DIM, found: codes.len() });
        }
        self.codes.clear();
        self.codes.extend(codes.iter().map(|&code| i16::from(code)));
        self.scale = scale;
        Ok(())
    }

    /// Scores vectors against each query: `out[q, v] = scale_q · scales[v] · Σ_d codes_q[d] · codes[v, d]`. The sum is
    /// exact.
    ///
    /// Shapes: `codes` is `[n, dim]`, `scales` is `[n]`, `out` is `[n_queries, n]`. Up to four queries at a time share
    /// the widening of a vector's bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit, or the queries are not of one dimension.
    pub fn inner_products(queries: &[Self], codes: &[i8], scales: &[f32], out: &mut [f32]) -> Result<()> {
        let Some(first) = queries.first() else { return same("out", 0, out.len()) };
        let dim = first.codes.len();
        for query in queries {
            same("query", dim, query.codes.len())?;
        }
        let n = rows("codes", codes.len(), dim)?;
        same("scales", n, scales.len())?;
        same("out", queries.len() * n, out.len())?;
        Self::products(CpuForm::best(), queries, codes, scales, out);
        Ok(())
    }

    /// The scores; the lengths fit and `form` is available.
    fn products(form: CpuForm, queries: &[Self], codes: &[i8], scales: &[f32], out: &mut [f32]) {
        let n = scales.len();
        let (fours, rest) = queries.as_chunks::<4>();
        let (of_fours, of_rest) = out.split_at_mut(4 * fours.len() * n);
        for (four, out) in fours.iter().zip(of_fours.chunks_exact_mut((4 * n).max(1))) {
            Self::products_of(form, four.each_ref(), codes, scales, out);
        }
        match rest {
            [a] => Self::products_of(form, [a], codes, scales, of_rest),
            [a, b] => Self::products_of(form, [a, b], codes, scales, of_rest),
            [a, b, c] => Self::products_of(form, [a, b, c], codes, scales, of_rest),
            _ => {}
        }
    }

    /// The scores for `Q` queries at once.
    fn products_of<const Q: usize>(form: CpuForm, queries: [&Self; Q], codes: &[i8], scales: &[f32], out: &mut [f32]) {
        let (dim, n) = (queries[0].codes.len(), scales.len());
        let query_codes = queries.map(|query| query.codes.as_slice());
        for (v, (codes, scale)) in codes.chunks_exact(dim).zip(scales).enumerate() {
            let sums = sums(form, query_codes, codes);
            for q in 0..Q {
                out[q * n + v] = sums[q] as f32 * (queries[q].scale * scale);
            }
        }
    }

    /// Scores chosen rows, to the bit as [`inner_products`](Self::inner_products) does.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit; [`Error::Row`] when a row is not there.
    pub fn inner_products_at(&self, codes: &[i8], scales: &[f32], chosen: &[u32], out: &mut [f32]) -> Result<()> {
        let dim = self.codes.len();
        let n_rows = rows("codes", codes.len(), dim)?;
        same("scales", n_rows, scales.len())?;
        same("out", chosen.len(), out.len())?;
        if let Some(&row) = chosen.iter().max().filter(|&&row| row as usize >= n_rows) {
            return Err(Error::Row { row: row as usize, n_rows });
        }
        self.products_at(CpuForm::best(), codes, scales, chosen, out);
        Ok(())
    }

    /// The scores; the lengths fit, the rows are there, and `form` is available.
    fn products_at(&self, form: CpuForm, codes: &[i8], scales: &[f32], chosen: &[u32], out: &mut [f32]) {
        let dim = self.codes.len();
        for &row in chosen.iter().take(AHEAD) {
            prefetch(&codes[row as usize * dim..][..dim]);
        }
        match form {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the form is chosen only where the processor has AVX2.
            CpuForm::Avx2 => unsafe { avx2::inner_products_at(self, codes, scales, chosen, out) },
            _ => {
                for (out, &row) in out.iter_mut().zip(chosen) {
                    let row = row as usize;
                    let [sum] = sums(form, [&self.codes], &codes[row * dim..][..dim]);
                    *out = sum as f32 * (self.scale * scales[row]);
                }
            }
        }
    }
}

/// Keeps the sign of each component: bit `d % 64` of word `d / 64` is set where `vectors[v, d] > 0`.
///
/// Row-major shapes: `vectors` is `[n, dim]`, `bits` is `[n, ⌈dim / 64⌉]`; the bits beyond `dim` are 0.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`] when `dim` is 0; [`Error::NotANumber`] when a
/// component is NaN or infinite. Nothing is written then.
pub fn binarize(vectors: &[f32], dim: usize, bits: &mut [u64]) -> Result<()> {
    let n = rows("vectors", vectors.len(), dim)?;
    let n_words = dim.div_ceil(64);
    same("bits", n * n_words, bits.len())?;
    finite(vectors)?;
    for (vector, words) in vectors.chunks_exact(dim).zip(bits.chunks_exact_mut(n_words)) {
        for (word, components) in words.iter_mut().zip(vector.chunks(64)) {
            *word = components.iter().enumerate().fold(0, |word, (d, &x)| word | u64::from(x > 0.0) << d);
        }
    }
    Ok(())
}

/// Counts the bits in which vectors differ from one query: `out[v] = Σ_w popcount(query[w] ^ bits[v, w])`.
///
/// Shapes: `query` is `[n_words]`, `bits` is `[n, n_words]`, `out` is `[n]`.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`] when `query` is empty.
pub fn hamming(query: &[u64], bits: &[u64], out: &mut [u32]) -> Result<()> {
    let n = rows("bits", bits.len(), query.len())?;
    same("out", n, out.len())?;
    distances(CpuForm::best(), query, bits, out);
    Ok(())
}

/// The sums of products; the lengths are equal and at most [`MAX_DIM`], and `form` is available.
#[inline]
fn sums<const Q: usize>(form: CpuForm, queries: [&[i16]; Q], codes: &[i8]) -> [i32; Q] {
    assert!(queries.iter().all(|query| query.len() == codes.len()), "queries and vector are of one length");
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX-512F, BW and VL, and the lengths are equal.
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => unsafe {
            avx512::inner_products(queries, codes)
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the form is chosen only where the processor has AVX2, and the lengths are equal.
        CpuForm::Avx2 => unsafe { avx2::inner_products(queries, codes) },
        _ => portable::inner_products(queries, codes, 0),
    }
}

/// The distances; the lengths fit, `query` is not empty, and `form` is available.
fn distances(form: CpuForm, query: &[u64], bits: &[u64], out: &mut [u32]) {
    match form {
        #[cfg(target_arch = "x86_64")]
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx | CpuForm::Avx2
            if std::arch::is_x86_feature_detected!("popcnt") =>
        {
            // SAFETY: POPCNT was looked for.
            unsafe { popcnt::hamming(query, bits, out) }
        }
        _ => portable::hamming(query, bits, out),
    }
}

fn rows(what: &'static str, len: usize, dim: usize) -> Result<usize> {
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    same(what, len.next_multiple_of(dim), len)?;
    Ok(len / dim)
}

fn same(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Shape { what, expected, found }) }
}

fn finite(vectors: &[f32]) -> Result<()> {
    match vectors.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(Error::NotANumber { index }),
        None => Ok(()),
    }
}

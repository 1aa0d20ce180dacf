//! Vectors kept as one bit a component, with estimates of inner products that are without bias (RaBitQ, Gao and Long
//! 2024).
//!
//! A vector `o` is turned with the centroid `c` as origin, `z = P(o − c)`, and keeps the signs of `z`. With
//! `x₀ = Σ|z| / (‖z‖ √dim)`, the cosine of `z` to its signs, a query `q` with `y = P(q − c)` has
//!
//! `⟨o, q⟩ = ⟨o − c, q − c⟩ + ⟨o − c, c⟩ + ⟨c, q⟩ ≈ ‖z‖ / (x₀ √dim) · Σ_d sign(z_d) · y_d + ⟨o − c, c⟩ + ⟨c, q⟩`,
//!
//! with an error whose deviation is `‖y‖ · √((‖z‖ / x₀)² − ‖z‖²) / √(dim − 1)`. Codes come in two layouts: rows, which
//! are scored one by one where a graph leads, and blocks of 32 side by side, which are scanned by table look-up.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod blocks;
#[cfg(test)]
mod cpu;
#[cfg(target_arch = "x86_64")]
mod popcnt;
mod portable;
mod rotation;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::prefetch::prefetch;
use crate::{Error, Result};

pub use blocks::{ONE_BIT_BLOCK, one_bit_block_bytes, one_bit_blocks};
pub use rotation::RandomRotation;

/// Words of a row besides its bits: scale and offset, each an `f32`; then the error and the number 0.
const FACTOR_WORDS: usize = 2;

/// Planes of a query's components: signed integers of four bits.
const PLANES: usize = 4;

/// How many words of 64 bits the code of a vector has: its signs, then its factors.
pub fn one_bit_words(dim: usize) -> usize {
    dim.div_ceil(64) + FACTOR_WORDS
}

/// What vectors of one set are encoded with: a centroid and a random rotation.
#[derive(Clone, Debug)]
pub struct OneBitEncoder {
    centroid: Vec<f32>,
    rotation: RandomRotation,
}

impl OneBitEncoder {
    /// An encoder of vectors around `centroid`, turned as `seed` says.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroDimension`] when the centroid is empty; [`Error::NotANumber`] when a component is NaN or infinite.
    pub fn new(centroid: &[f32], seed: u64) -> Result<Self> {
        if centroid.is_empty() {
            return Err(Error::ZeroDimension);
        }
        finite(centroid)?;
        Ok(Self { centroid: centroid.to_vec(), rotation: RandomRotation::new(centroid.len(), seed) })
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.centroid.len()
    }

    /// Encodes vectors, `[n, dim]`, as rows of `[n, one_bit_words(dim)]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit; [`Error::NotANumber`] when a component is NaN or infinite.
    pub fn encode(&self, vectors: &[f32], rows: &mut [u64]) -> Result<()> {
        let (dim, n_words) = (self.dim(), one_bit_words(self.dim()));
        if !vectors.len().is_multiple_of(dim) {
            return Err(Error::Shape {
                what: "vectors",
                expected: vectors.len().next_multiple_of(dim),
                found: vectors.len(),
            });
        }
        let expected = vectors.len() / dim * n_words;
        if rows.len() != expected {
            return Err(Error::Shape { what: "rows", expected, found: rows.len() });
        }
        finite(vectors)?;
        let mut turned = vec![0.0; dim];
        for (vector, row) in vectors.chunks_exact(dim).zip(rows.chunks_exact_mut(n_words)) {
            let mut offset = 0.0;
            for ((turned, &x), &c) in turned.iter_mut().zip(vector).zip(&self.centroid) {
                *turned = x - c;
                offset += f64::from(x - c) * f64::from(c);
            }
            self.rotation.apply(&mut turned);
            encode_turned(&turned, offset, row);
        }
        Ok(())
    }

    /// Makes a query of a vector, for rows.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when it is of another dimension; [`Error::NotANumber`] when a component is NaN or infinite.
    pub fn query(&self, query: &[f32]) -> Result<OneBitQuery> {
        let (turned, offset) = self.turned(query)?;
        Ok(OneBitQuery::of_turned(&turned, offset))
    }

    /// Makes a query of a vector, for blocks.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    pub fn table(&self, query: &[f32]) -> Result<OneBitTable> {
        let (turned, offset) = self.turned(query)?;
        let (entries, step, least) = blocks::look_up_table(&turned);
        Ok(OneBitTable { dim: turned.len(), entries, step, least, offset, length: length(&turned) })
    }

    /// P(q − c) and ⟨c, q⟩.
    fn turned(&self, query: &[f32]) -> Result<(Vec<f32>, f32)> {
        if query.len() != self.dim() {
            return Err(Error::Shape { what: "query", expected: self.dim(), found: query.len() });
        }
        finite(query)?;
        let offset = crate::inner_product(query, &self.centroid)?;
        let mut turned: Vec<f32> = query.iter().zip(&self.centroid).map(|(x, c)| x - c).collect();
        self.rotation.apply(&mut turned);
        Ok((turned, offset))
    }
}

fn encode_turned(turned: &[f32], offset: f64, row: &mut [u64]) {
    let dim = turned.len() as f64;
    let (bits, factors) = row.split_at_mut(turned.len().div_ceil(64));
    let (mut square, mut sum) = (0.0, 0.0);
    for (word, components) in bits.iter_mut().zip(turned.chunks(64)) {
        *word = 0;
        for (d, &z) in components.iter().enumerate() {
            *word |= u64::from(z > 0.0) << d;
            square += f64::from(z) * f64::from(z);
            sum += f64::from(z).abs();
        }
    }
    // ‖z‖ / (x₀ √dim) = ‖z‖² / Σ|z|; a vector at the centroid is estimated without error as its offset.
    let scale = if sum > 0.0 { square / sum } else { 0.0 };
    let error = ((scale * scale * dim - square).max(0.0) / (dim - 1.0).max(1.0)).sqrt();
    let two = |low: f64, high: f64| u64::from((low as f32).to_bits()) | u64::from((high as f32).to_bits()) << 32;
    factors[0] = two(scale, offset);
    factors[1] = two(error, 0.0);
}

/// ‖y‖.
fn length(turned: &[f32]) -> f32 {
    turned.iter().map(|&y| f64::from(y) * f64::from(y)).sum::<f64>().sqrt() as f32
}

/// 1.5 · 2²³: a sum with it is rounded to an integer, which its low bits hold.
const ROUND: f32 = 12_582_912.0;

/// A number of small magnitude, rounded; halves go to even.
#[inline(always)]
fn rounded(x: f32) -> i32 {
    (x + ROUND).to_bits() as i32 - ROUND.to_bits() as i32
}

/// A query against rows of bits.
#[derive(Clone, Debug)]
pub struct OneBitQuery {
    dim: usize,
    /// For each word of 64 components, the bits of their integers, the lowest first; the highest counts negative.
    planes: Vec<[u64; PLANES]>,
    /// What one step of the integers is worth.
    step: f32,
    /// The sum of the integers.
    sum: i32,
    /// ⟨c, q⟩.
    offset: f32,
    /// ‖y‖.
    length: f32,
}

impl OneBitQuery {
    fn of_turned(turned: &[f32], offset: f32) -> Self {
        const GREATEST: f32 = 7.0; // Of four bits with a sign.
        let greatest = turned.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let step = greatest / GREATEST;
        let mut planes = vec![[0; PLANES]; turned.len().div_ceil(64)];
        let mut sum = 0;
        for (d, &y) in turned.iter().enumerate() {
            let integer = if step > 0.0 { rounded(y / step) } else { 0 };
            sum += integer;
            for (plane, word) in planes[d / 64].iter_mut().enumerate() {
                *word |= (integer as u64 >> plane & 1) << (d % 64);
            }
        }
        Self { dim: turned.len(), planes, step, sum, offset, length: length(turned) }
    }

    /// Bounds of the inner products with chosen rows: `out[i]` is the estimate for `rows[i]` and `margin` times the
    /// deviation of its error.
    ///
    /// `codes` is `[n, one_bit_words(dim)]`, as [`OneBitEncoder::encode`] writes it. The components of the query are
    /// rounded to four bits.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit; [`Error::Row`] when a row is not there.
    pub fn bounds_at(&self, codes: &[u64], rows: &[u32], margin: f32, out: &mut [f32]) -> Result<()> {
        let n_words = one_bit_words(self.dim);
        if !codes.len().is_multiple_of(n_words) {
            return Err(Error::Shape {
                what: "codes",
                expected: codes.len().next_multiple_of(n_words),
                found: codes.len(),
            });
        }
        if out.len() != rows.len() {
            return Err(Error::Shape { what: "out", expected: rows.len(), found: out.len() });
        }
        let n_rows = codes.len() / n_words;
        if let Some(&row) = rows.iter().find(|&&row| row as usize >= n_rows) {
            return Err(Error::Row { row: row as usize, n_rows });
        }
        for &row in rows {
            prefetch(&codes[row as usize * n_words..][..n_words]);
        }
        self.row_bounds(CpuForm::best(), codes, rows, margin, out);
        Ok(())
    }

    /// The bounds; the lengths fit, the rows are there, and `form` is available.
    fn row_bounds(&self, form: CpuForm, codes: &[u64], rows: &[u32], margin: f32, out: &mut [f32]) {
        match form {
            #[cfg(target_arch = "x86_64")]
            CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx | CpuForm::Avx2
                if std::arch::is_x86_feature_detected!("popcnt") =>
            {
                // SAFETY: POPCNT was looked for.
                unsafe { popcnt::row_bounds(self, codes, rows, margin, out) }
            }
            _ => portable::row_bounds(self, codes, rows, margin, out),
        }
    }

    /// The bound for a row of which the sum of the integers under its set bits is known.
    #[inline(always)]
    fn row_bound(&self, sum_of_set: i32, factors: &[u64], margin: f32) -> f32 {
        let low = |word: u64| f32::from_bits(word as u32);
        let signed = (2 * sum_of_set - self.sum) as f32 * self.step;
        let estimate = low(factors[0]) * signed + low(factors[0] >> 32) + self.offset;
        estimate + margin * self.length * low(factors[1])
    }
}

/// A query against blocks of bits.
#[derive(Clone, Debug)]
pub struct OneBitTable {
    dim: usize,
    /// For each four components, what each pattern of their signs is worth, in steps above the least.
    entries: Vec<[u8; 16]>,
    step: f32,
    /// What all components are worth together at the least.
    least: f32,
    /// ⟨c, q⟩.
    offset: f32,
    /// ‖y‖.
    length: f32,
}

impl OneBitTable {
    /// Bounds of the inner products of each query with all rows of blocks, as [`one_bit_blocks`] lays them out: an
    /// estimate, and `margin` times the deviation of its error.
    ///
    /// `out` is `[n_queries, n_blocks · ONE_BIT_BLOCK]`; the bounds of rows that only fill the last block up are −∞. What
    /// four components of a query are worth together is rounded to 16 steps. Four queries at a time share the splitting
    /// of bytes; the bounds are those of each alone.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit, or the queries are not of one dimension.
    pub fn block_bounds(queries: &[Self], blocks: &[u8], margin: f32, out: &mut [f32]) -> Result<()> {
        let Some(first) = queries.first() else {
            return if out.is_empty() {
                Ok(())
            } else {
                Err(Error::Shape { what: "out", expected: 0, found: out.len() })
            };
        };
        if let Some(other) = queries.iter().find(|other| other.dim != first.dim) {
            return Err(Error::Shape { what: "query", expected: first.dim, found: other.dim });
        }
        let n_bytes = one_bit_block_bytes(first.dim);
        if !blocks.len().is_multiple_of(n_bytes) {
            return Err(Error::Shape {
                what: "blocks",
                expected: blocks.len().next_multiple_of(n_bytes),
                found: blocks.len(),
            });
        }
        let expected = queries.len() * (blocks.len() / n_bytes * ONE_BIT_BLOCK);
        if out.len() != expected {
            return Err(Error::Shape { what: "out", expected, found: out.len() });
        }
        Self::scan(CpuForm::best(), queries, blocks, margin, out);
        Ok(())
    }

    /// The bounds; the lengths fit and `form` is available.
    fn scan(form: CpuForm, queries: &[Self], blocks: &[u8], margin: f32, out: &mut [f32]) {
        match form {
            #[cfg(target_arch = "x86_64")]
            CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx | CpuForm::Avx2 => {
                // SAFETY: these forms are chosen only where the processor has AVX2 and FMA, and the lengths fit.
                unsafe { avx2::scan(queries, blocks, margin, out) }
            }
            _ => portable::scan(queries, blocks, margin, out),
        }
    }
}

fn finite(vectors: &[f32]) -> Result<()> {
    match vectors.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(Error::NotANumber { index }),
        None => Ok(()),
    }
}

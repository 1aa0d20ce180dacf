//! Late interaction's score of a document from its tokens' centroids and residual codes, without reading the tokens back.
//!
//! A token is `f · (c + s · w)`: a centroid, the weights of its codes, and two factors. Its product with a query vector is
//! `f · (q · c + s · q · w)`, of which `q · c` stands in a table that all documents share, so that only `q · w` is left
//! (WARP, Scheerer et al. 2025). There, the query vector is in bytes and so are the weights: sixteen of them fit a
//! register, and a byte shuffle looks up the weights of 32 codes at once.
//!
//! Most tokens of a document are not the nearest one to any query vector, and their centroids say so: a product is taken
//! only where the token's centroid comes within a margin of the document's best for the query vector. Sums of products are
//! exact in integers, so every form gives the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(test)]
mod cpu;
mod portable;
#[cfg(test)]
mod tests;

use crate::centroid_max_sim::CENTROID_LANES;
use crate::device::CpuForm;
use crate::half_product::f16_to_f32;
use crate::{Error, ResidualBits, Result, quantize_i8};

/// Bytes of codes that are looked up together.
const GROUP: usize = 32;
/// The greatest weight in bytes: two of its products with the greatest query component fit 16 bits.
const GREATEST_WEIGHT: f32 = 127.0;
/// Bytes of a token's two factors.
const FACTOR_BYTES: usize = 4;
/// Beyond this, a sum of products could leave `i32`: `131 071 · 127 · 127 < 2³¹`.
const MAX_DIM: usize = 131_071;

/// A query against documents of centroids and residual codes.
#[derive(Clone, Debug)]
pub struct ResidualQuery {
    bits: ResidualBits,
    n_query: usize,
    n_bytes: usize,
    /// What each code stands for, in steps above the least weight.
    weights: [u8; 16],
    /// `[n_query, n_groups, slots of a byte, GROUP]`: the components in the order in which their codes lie.
    codes: Vec<i8>,
    /// Of a sum of products in bytes, and what the least weight adds.
    scales: Vec<(f32, f32)>,
    /// Of the table of centroids, in its bytes.
    margin: u8,
}

/// What is known of a query's products with centroids.
#[derive(Clone, Copy, Debug)]
pub struct CentroidProducts<'a> {
    /// `[n_centroids, n_panels]` of 32 lanes, as for [`centroid_max_sim`](crate::centroid_max_sim()).
    pub table: &'a [[u8; CENTROID_LANES]],
    /// `[n_centroids, n_query]`: the products themselves.
    pub products: &'a [f32],
}

impl ResidualQuery {
    /// A query of `[n_query, dim]` components, in units that residuals are coded in, against codes of these weights.
    /// A token counts for a query vector where its centroid is at most `margin` below the best one of the document, in
    /// units of [`CentroidProducts::table`].
    ///
    /// # Errors
    ///
    /// [`Error::ZeroDimension`] when `dim` is 0; [`Error::Shape`] when it is above 131 071, or a length does not fit;
    /// [`Error::NotANumber`] when a component or a weight is NaN or infinite.
    pub fn new(bits: ResidualBits, query: &[f32], dim: usize, weights: &[f32], margin: u8) -> Result<Self> {
        if dim > MAX_DIM {
            return Err(Error::Shape { what: "dim", expected: MAX_DIM, found: dim });
        }
        if weights.len() != bits.n_buckets() {
            return Err(Error::Shape { what: "weights", expected: bits.n_buckets(), found: weights.len() });
        }
        if let Some(index) = weights.iter().position(|weight| !weight.is_finite()) {
            return Err(Error::NotANumber { index });
        }
        let (mut plain, mut units) = (vec![0; query.len()], vec![0.0; query.len().checked_div(dim).unwrap_or(0)]);
        quantize_i8(query, dim, &mut plain, &mut units)?;
        let least = weights.iter().copied().fold(f32::INFINITY, f32::min);
        let step = (weights.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least) / GREATEST_WEIGHT;
        let mut bytes = [0; 16];
        for (byte, weight) in bytes.iter_mut().zip(weights.iter().cycle()) {
            *byte = if step > 0.0 { ((weight - least) / step).round() as u8 } else { 0 };
        }
        let (n_query, n_bytes, n_slots) = (units.len(), bits.n_bytes(dim), 8 / bits.count());
        let per_query = n_bytes.div_ceil(GROUP) * n_slots * GROUP;
        let mut codes = vec![0; n_query * per_query];
        for (to, from) in codes.chunks_exact_mut(per_query).zip(plain.chunks_exact(dim)) {
            for (d, &code) in from.iter().enumerate() {
                // Component `8 · (slot + block · slots) + lane`, see `residual_codes`.
                let (lane, run) = (d % 8, d / 8);
                let byte = run / n_slots * 8 + lane;
                to[(byte / GROUP * n_slots + run % n_slots) * GROUP + byte % GROUP] = code;
            }
        }
        let of_query = |(unit, codes): (&f32, &[i8])| {
            (unit * step, unit * least * codes.iter().map(|&code| f32::from(code)).sum::<f32>())
        };
        let scales = units.iter().zip(plain.chunks_exact(dim)).map(of_query).collect();
        Ok(Self { bits, n_query, n_bytes, weights: bytes, codes, scales, margin })
    }

    /// Bytes of a token: the size of its residual and its factor, in half precision, and its codes.
    pub fn token_bytes(&self) -> usize {
        FACTOR_BYTES + self.n_bytes
    }

    /// Scores a document: `Σ_i max_j factor_j · (products[c_j, i] + size_j · q_i · w_j)`, `i` over the query's vectors and
    /// `j` over those of the document's tokens that count for `i`. Without tokens the score is 0.
    ///
    /// `centroids` are the tokens' centroids; `tokens` has [`token_bytes`](Self::token_bytes) for each.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit; [`Error::Row`] when a centroid is not in the table.
    pub fn score(&self, products: CentroidProducts<'_>, centroids: &[u16], tokens: &[u8]) -> Result<f32> {
        let same = |what, expected, found| match expected == found {
            true => Ok(()),
            false => Err(Error::Shape { what, expected, found }),
        };
        same("tokens", centroids.len() * self.token_bytes(), tokens.len())?;
        if self.n_query == 0 {
            return Ok(0.0);
        }
        let n_rows = products.products.len() / self.n_query;
        same("products", n_rows * self.n_query, products.products.len())?;
        same("table", n_rows * self.n_query.div_ceil(CENTROID_LANES), products.table.len())?;
        if let Some(row) = centroids.iter().copied().map(usize::from).find(|&row| row >= n_rows) {
            return Err(Error::Row { row, n_rows });
        }
        Ok(score(CpuForm::best(), self, products, centroids, tokens))
    }
}

/// Scores by one form. The lengths fit, centroids are in the table, and `form` is available.
fn score(
    form: CpuForm,
    query: &ResidualQuery,
    products: CentroidProducts<'_>,
    centroids: &[u16],
    tokens: &[u8],
) -> f32 {
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX2.
        CpuForm::Avx2 | CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => unsafe {
            avx2::score(query, products, centroids, tokens)
        },
        _ => score_by::<portable::Portable>(query, products, centroids, tokens),
    }
}

/// What differs between forms.
trait Form {
    /// The greater of each pair of lanes, in place.
    fn raise(maxima: &mut [u8; CENTROID_LANES], row: &[u8; CENTROID_LANES]);

    /// A bit for each lane of the row that is at least the threshold's.
    fn at_least(row: &[u8; CENTROID_LANES], threshold: &[u8; CENTROID_LANES]) -> u32;

    /// `Σ query[d] · weights[code of d]`; `query` has the slots' components for each group of codes, the last of which
    /// may not be whole.
    fn product(bits: ResidualBits, weights: &[u8; 16], codes: &[u8], query: &[i8]) -> i32;
}

/// The score; the lengths fit, and centroids are in the table.
#[inline(always)]
fn score_by<F: Form>(
    query: &ResidualQuery,
    CentroidProducts { table, products }: CentroidProducts<'_>,
    centroids: &[u16],
    tokens: &[u8],
) -> f32 {
    if centroids.is_empty() {
        return 0.0;
    }
    let (n_query, n_panels) = (query.n_query, query.n_query.div_ceil(CENTROID_LANES));
    let per_query = query.codes.len() / n_query;
    let mut sum = 0.0;
    for panel in 0..n_panels {
        let mut threshold = [0; CENTROID_LANES];
        for &centroid in centroids {
            F::raise(&mut threshold, &table[usize::from(centroid) * n_panels + panel]);
        }
        for lane in &mut threshold {
            *lane = lane.saturating_sub(query.margin);
        }
        let first = panel * CENTROID_LANES;
        let n_lanes = CENTROID_LANES.min(n_query - first);
        let there = u32::MAX >> (CENTROID_LANES - n_lanes);
        let mut best = [f32::NEG_INFINITY; CENTROID_LANES];
        for (&centroid, token) in centroids.iter().zip(tokens.chunks_exact(query.token_bytes())) {
            let mut counts = F::at_least(&table[usize::from(centroid) * n_panels + panel], &threshold) & there;
            if counts == 0 {
                continue;
            }
            let (factors, codes) = token.split_at(FACTOR_BYTES);
            let size = f16_to_f32(u16::from_le_bytes([factors[0], factors[1]]));
            let factor = f16_to_f32(u16::from_le_bytes([factors[2], factors[3]]));
            while counts != 0 {
                let lane = counts.trailing_zeros() as usize;
                counts &= counts - 1;
                let i = first + lane;
                let own = &query.codes[i * per_query..(i + 1) * per_query];
                let (scale, least) = query.scales[i];
                let residual = F::product(query.bits, &query.weights, codes, own) as f32 * scale + least;
                let product = factor * (products[usize::from(centroid) * n_query + i] + size * residual);
                if product > best[lane] {
                    best[lane] = product;
                }
            }
        }
        for product in &best[..n_lanes] {
            sum += product;
        }
    }
    sum
}

//! What tokens are coded by: centroids, and the buckets of what tokens differ from them by.

use half::f16;
use raglan_kernels::{decode_residuals, encode_residuals, from_f16};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use crate::centroids::{Centroids, n_centroids, train};
use crate::config::FACTOR_BYTES;
use crate::files::{LEAST_UNIT, N_WEIGHTS};
use crate::{LateConfig, Result, TokenStorage};

/// Tokens that buckets are learned from, and a codebook is tried on.
pub const TRIED: usize = 4096;
/// Rounds that buckets are improved in.
const BUCKET_ROUNDS: usize = 60;
/// A codebook is outgrown by tokens that would have more than this many times its centroids, which are sixteen times the
/// tokens that it was learned for.
const OUTGROWN: usize = 4;
/// A codebook serves tokens that are at most this many times as far from their centroids as those it was learned from;
/// those are nearer than others of their kind, by some hundredths.
const LEEWAY: f32 = 1.2;
/// Tokens are nearer than this to what is stored of them, so that no factor is far from 1.
const LEAST_PRODUCT: f32 = 0.25;

/// Centroids and buckets.
pub struct Codebook {
    pub dim: usize,
    pub storage: TokenStorage,
    /// What each bucket stands for; zeros beyond the last.
    pub weights: [f32; N_WEIGHTS],
    /// What each component of a residual is counted in.
    pub units: Vec<f32>,
    /// `[n_centroids, dim]`
    pub centroids: Vec<f32>,
    /// `1 − cosine` of a token and its centroid, on average over some that they were learned from.
    pub distance: f32,
    /// The centroids by component in units of it, to which residuals are added; none where there are no residuals.
    pub scaled: Vec<f32>,
    /// Equal for equal codebooks.
    pub key: u128,
}

impl Codebook {
    /// A codebook of these parts.
    pub fn new(
        storage: TokenStorage,
        weights: [f32; N_WEIGHTS],
        units: Vec<f32>,
        centroids: Vec<f32>,
        distance: f32,
    ) -> Self {
        let scaled = match storage {
            TokenStorage::F16 => Vec::new(),
            _ => in_units(&centroids, &units),
        };
        let mut key = Xxh3::new();
        key.update(&storage.to_number().to_le_bytes());
        for numbers in [&weights[..], &units, &centroids] {
            numbers.iter().for_each(|x| key.update(&x.to_le_bytes()));
        }
        Self { dim: units.len(), storage, weights, units, centroids, distance, scaled, key: key.digest128() }
    }

    /// Learns a codebook for `n_tokens` tokens from some of them, in half precision and in random order.
    pub fn learn(sample: &[u16], dim: usize, n_tokens: usize, config: &LateConfig) -> Result<Self> {
        let centroids = train(sample, dim, n_centroids(n_tokens), config.iterations)?;
        let mut rows = vec![0.0; sample.len().min(TRIED * dim)];
        from_f16(&sample[..rows.len()], &mut rows)?;
        let nearest = Centroids::new(&centroids, dim)?.nearest(&rows)?;
        let (weights, units) = match config.storage {
            TokenStorage::F16 => ([0.0; N_WEIGHTS], vec![1.0; dim]),
            storage => learn_buckets(&rows, dim, &nearest, &centroids, 1 << storage.to_number()),
        };
        Ok(Self::new(config.storage, weights, units, centroids, mean_distance(&nearest)))
    }

    /// How many centroids there are.
    pub fn n_centroids(&self) -> usize {
        self.centroids.len() / self.dim
    }

    /// Whether `n_tokens` tokens, of which these are some, may be coded by this codebook instead of one of their own.
    pub fn serves(&self, n_tokens: usize, some: &[f32]) -> Result<bool> {
        if n_centroids(n_tokens) > OUTGROWN * self.n_centroids() {
            return Ok(false);
        }
        let nearest = Centroids::new(&self.centroids, self.dim)?.nearest(some)?;
        Ok(mean_distance(&nearest) <= LEEWAY * self.distance.max(f32::EPSILON))
    }

    /// The vector of a token's bytes, if residuals are stored.
    #[inline]
    pub fn decode(&self, centroid: u16, bytes: &[u8], row: &mut [f32]) -> Result<()> {
        let Some(bits) = self.storage.residual_bits() else { return Ok(()) };
        let centroid = &self.scaled[usize::from(centroid) * self.dim..][..self.dim];
        let (factors, codes) = bytes.split_at(FACTOR_BYTES);
        let size = f16::from_le_bytes([factors[0], factors[1]]).to_f32();
        let factor = f16::from_le_bytes([factors[2], factors[3]]).to_f32();
        let weights = self.weights.map(|weight| weight * size);
        decode_residuals(bits, &weights[..bits.n_buckets()], codes, centroid, row)?;
        row.iter_mut().zip(&self.units).for_each(|(x, unit)| *x *= unit * factor);
        Ok(())
    }
}

/// Codes tokens by a codebook.
pub struct Coder<'a> {
    codebook: &'a Codebook,
    grouped: Centroids,
    cutoffs: Vec<f32>,
}

impl<'a> Coder<'a> {
    pub fn new(codebook: &'a Codebook) -> Result<Self> {
        let n_buckets = codebook.storage.residual_bits().map_or(1, raglan_kernels::ResidualBits::n_buckets);
        let grouped = Centroids::new(&codebook.centroids, codebook.dim)?;
        Ok(Self { codebook, grouped, cutoffs: middles(&codebook.weights[..n_buckets]) })
    }

    /// The centroids of tokens, and their bytes.
    pub fn code(&self, rows: &[f32]) -> Result<(Vec<u16>, Vec<u8>)> {
        let Codebook { dim, storage, .. } = *self.codebook;
        let nearest = self.grouped.nearest(rows)?;
        let mut bytes = vec![0; nearest.len() * storage.token_bytes(dim)];
        let places = bytes.par_chunks_exact_mut(storage.token_bytes(dim)).zip(rows.par_chunks_exact(dim)).zip(&nearest);
        places.try_for_each(|((bytes, row), &(centroid, _))| self.store(row, centroid, bytes))?;
        Ok((nearest.into_iter().map(|(centroid, _)| centroid).collect(), bytes))
    }

    fn store(&self, row: &[f32], centroid: u16, bytes: &mut [u8]) -> Result<()> {
        let Codebook { dim, storage, units, scaled, .. } = self.codebook;
        let Some(bits) = storage.residual_bits() else {
            for (to, x) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(row) {
                *to = f16::from_f32(*x).to_le_bytes();
            }
            return Ok(());
        };
        let of_centroid = &scaled[usize::from(centroid) * dim..][..*dim];
        let in_units = in_units(row, units);
        let size = residual_size(&in_units, of_centroid);
        let cutoffs: Vec<f32> = self.cutoffs.iter().map(|cutoff| cutoff * size.to_f32()).collect();
        let (factors, codes) = bytes.split_at_mut(FACTOR_BYTES);
        factors[..2].copy_from_slice(&size.to_le_bytes());
        factors[2..].copy_from_slice(&f16::ONE.to_le_bytes());
        encode_residuals(bits, &cutoffs, &in_units, of_centroid, codes)?;
        // The factor makes the product of the token with what is stored of it 1, so that a query's product with it is
        // right on average (as RaBitQ has it, Gao and Long 2024).
        let mut stored = vec![0.0; *dim];
        self.codebook.decode(centroid, bytes, &mut stored)?;
        let product: f32 = stored.iter().zip(row).map(|(x, y)| x * y).sum();
        bytes[2..FACTOR_BYTES].copy_from_slice(&f16::from_f32(1.0 / product.max(LEAST_PRODUCT)).to_le_bytes());
        Ok(())
    }
}

fn mean_distance(nearest: &[(u16, f32)]) -> f32 {
    let sum: f64 = nearest.iter().map(|&(_, product)| 1.0 - f64::from(product)).sum();
    (sum / nearest.len().max(1) as f64).max(0.0) as f32
}

/// Vectors by component in units of it.
fn in_units(rows: &[f32], units: &[f32]) -> Vec<f32> {
    rows.chunks_exact(units.len()).flat_map(|row| row.iter().zip(units).map(|(x, unit)| x / unit)).collect()
}

/// The root mean square of what a token differs from its centroid by: the unit that its residuals are cut in. Some tokens
/// are much nearer to their centroid than others; with one unit for all, the near ones would use only the middle buckets.
fn residual_size(row: &[f32], centroid: &[f32]) -> f16 {
    let squares = row.iter().zip(centroid).map(|(x, c)| f64::from(x - c) * f64::from(x - c));
    f16::from_f64((squares.sum::<f64>() / row.len() as f64).sqrt())
}

/// What separates buckets: the bucket of a cut-off is the one below it.
fn middles(weights: &[f32]) -> Vec<f32> {
    weights.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
}

/// The weights of `n` buckets of least squared error for some tokens' residuals, in units of each component, which are
/// the second result, and of each token's [`residual_size`].
///
/// Lloyd's rounds: each weight is the mean of its bucket, each cut-off the middle of two weights. `ColBERTv2` stays with
/// the quantiles that the rounds begin with; buckets that are equally full are narrow where most residuals are, and far
/// too wide where large ones are: in four bits, their error is four times as large.
fn learn_buckets(
    rows: &[f32],
    dim: usize,
    nearest: &[(u16, f32)],
    centroids: &[f32],
    n: usize,
) -> ([f32; N_WEIGHTS], Vec<f32>) {
    let with_centroid =
        || rows.chunks_exact(dim).zip(nearest).map(|(row, &(c, _))| (row, &centroids[usize::from(c) * dim..][..dim]));
    let mut squares = vec![0.0f64; dim];
    for (row, centroid) in with_centroid() {
        for (sum, (x, c)) in squares.iter_mut().zip(row.iter().zip(centroid)) {
            *sum += f64::from(x - c) * f64::from(x - c);
        }
    }
    // A component that never differs has some unit as well.
    let unit = |sum: f64| ((sum / nearest.len().max(1) as f64).sqrt() as f32).max(LEAST_UNIT);
    let units: Vec<f32> = squares.into_iter().map(unit).collect();
    let mut residuals = Vec::with_capacity(rows.len());
    for (row, centroid) in with_centroid() {
        let (row, centroid) = (in_units(row, &units), in_units(centroid, &units));
        let per_unit = 1.0 / residual_size(&row, &centroid).to_f32().max(f32::MIN_POSITIVE);
        residuals.extend(row.iter().zip(&centroid).map(|(x, c)| (x - c) * per_unit));
    }
    let mut weights = [0.0; N_WEIGHTS];
    if residuals.is_empty() {
        return (weights, units);
    }
    residuals.par_sort_unstable_by(f32::total_cmp);
    let quantile = |i: usize| residuals[((residuals.len() - 1) as f64 * (i as f64 + 0.5) / n as f64).round() as usize];
    for (i, weight) in weights[..n].iter_mut().enumerate() {
        *weight = quantile(i);
    }
    let sums: Vec<f64> = std::iter::once(0.0)
        .chain(residuals.iter().scan(0.0, |sum, &x| {
            *sum += f64::from(x);
            Some(*sum)
        }))
        .collect();
    for _ in 0..BUCKET_ROUNDS {
        let mut start = 0;
        let ends = middles(&weights[..n]).into_iter().map(|cutoff| residuals.partition_point(|&x| x <= cutoff));
        for (weight, end) in weights.iter_mut().zip(ends.chain([residuals.len()])) {
            if end > start {
                *weight = ((sums[end] - sums[start]) / (end - start) as f64) as f32;
            }
            start = end;
        }
    }
    (weights, units)
}

//! Which documents may be among the best for a query, from what their tokens' centroids say.

use std::cmp::Reverse;

use raglan_kernels::{
    CENTROID_LANES, CentroidProducts, Epilogue, PackedMatrix, ResidualQuery, centroid_max_sim, matrix_product,
};
use rayon::prelude::*;

use crate::Result;
use crate::codebook::Codebook;
use crate::segment::Segment;

/// Documents whose centroids one task looks at.
const SCAN_TASK: usize = 256;
/// A token's product with a query vector is seldom farther from its centroid's than this share of the size of residuals:
/// the rest of the tokens are not looked at.
const MARGIN: f32 = 0.25;
/// The steps of a product in a byte.
const STEPS: usize = 256;

/// A query and a codebook.
pub struct Asked {
    n_query: usize,
    n_panels: usize,
    /// `[n_centroids, n_query]`
    products: Vec<f32>,
    /// The same in bytes, `[n_centroids, n_panels]` of 32 lanes.
    table: Vec<[u8; CENTROID_LANES]>,
    /// Bytes of a product of 1.
    per_unit: f32,
    /// What the greatest products of all query vectors add up to.
    greatest: f32,
    /// None where no residuals are stored.
    residual: Option<ResidualQuery>,
}

impl Asked {
    /// `query` packs `rows`, which are `[n_query, dim]`.
    ///
    /// In bytes, a query vector's greatest product with a centroid is 255; all have one unit, such that 0 is, for the one
    /// with the widest range, the mean of its products. What is below is of no document that will be found.
    pub fn new(codebook: &Codebook, query: &PackedMatrix, rows: &[f32]) -> Result<Self> {
        let (k, n_query) = (codebook.n_centroids(), query.n_out());
        let mut products = vec![0.0; k * n_query];
        matrix_product(&codebook.centroids, query, Epilogue::default(), &mut products)?;
        let (mut greatest, mut sums) = (vec![f32::NEG_INFINITY; n_query], vec![0.0f32; n_query]);
        for row in products.chunks_exact(n_query) {
            for ((greatest, sum), &x) in greatest.iter_mut().zip(&mut sums).zip(row) {
                *greatest = greatest.max(x);
                *sum += x;
            }
        }
        let ranges = greatest.iter().zip(&sums).map(|(greatest, sum)| greatest - sum / k as f32);
        let per_unit = 255.0 / ranges.fold(1e-6, f32::max);
        let n_panels = n_query.div_ceil(CENTROID_LANES);
        let mut table = vec![[0; CENTROID_LANES]; k * n_panels];
        for (panels, products) in table.chunks_exact_mut(n_panels).zip(products.chunks_exact(n_query)) {
            for ((to, &x), greatest) in panels.as_flattened_mut().iter_mut().zip(products).zip(&greatest) {
                *to = (255.5 - (greatest - x) * per_unit) as u8; // Below 0 is 0.
            }
        }
        let residual = match codebook.storage.residual_bits() {
            None => None,
            Some(bits) => {
                // The squared length of the difference of two unit vectors is `2 − 2 · cosine`.
                let margin = (MARGIN * (2.0 * codebook.distance).sqrt() * per_unit).ceil() as u8;
                let in_units: Vec<f32> = rows
                    .chunks_exact(codebook.dim)
                    .flat_map(|row| row.iter().zip(&codebook.units).map(|(q, unit)| q * unit))
                    .collect();
                let weights = &codebook.weights[..bits.n_buckets()];
                Some(ResidualQuery::new(bits, &in_units, codebook.dim, weights, margin)?)
            }
        };
        Ok(Self { n_query, n_panels, products, table, per_unit, greatest: greatest.iter().sum(), residual })
    }

    /// What scores documents by their tokens' codes, if residuals are stored.
    pub fn residual(&self) -> Option<(&ResidualQuery, CentroidProducts<'_>)> {
        Some((self.residual.as_ref()?, CentroidProducts { table: &self.table, products: &self.products }))
    }

    /// The scores of rows by their tokens' centroids, `Σ_i max_j q_i · c_j`.
    pub fn centroid_scores(&self, segment: &Segment, rows: &[u32]) -> Result<Vec<f32>> {
        let of_task = |rows: &[u32]| -> Result<Vec<f32>> {
            let scored = rows.iter().map(|&row| {
                let bytes = centroid_max_sim(&self.table, self.n_panels, segment.codes(row))?;
                Ok(self.greatest - (255.0 * self.n_query as f32 - bytes as f32) / self.per_unit)
            });
            scored.collect()
        };
        Ok(rows.par_chunks(SCAN_TASK).map(of_task).collect::<Result<Vec<_>>>()?.concat())
    }

    /// About the best `n` of a segment's rows, of those that are allowed, in no order; as many as there are, if fewer.
    ///
    /// Each query vector goes through the postings of its best centroids, best first, until they have `n_postings`
    /// documents, repeats counted. A document gets the product of the first that it is met in; one that is not met, the
    /// product at which the vector stopped, as WARP imputes what is missing (Scheerer et al. 2025). What a document has
    /// above that adds up in integers.
    pub fn probe(&self, segment: &Segment, n_postings: u64, n: usize, is_allowed: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut gains = vec![(0u32, u32::MAX); segment.ids().len()];
        let cuts = self.cuts(segment, n_postings);
        let mut probed: Vec<Vec<(Reverse<u8>, u32)>> = vec![Vec::new(); self.n_query];
        for (centroid, row) in (0u32..).zip(self.table.chunks_exact(self.n_panels)) {
            for ((probed, &byte), &cut) in probed.iter_mut().zip(row.as_flattened()).zip(&cuts) {
                if byte >= cut {
                    probed.push((Reverse(byte), centroid));
                }
            }
        }
        for ((i, mut probed), cut) in (0u32..).zip(probed).zip(cuts) {
            probed.sort_unstable();
            for (Reverse(byte), centroid) in probed {
                let gain = u32::from(byte - cut) + 1;
                for &row in segment.posting(centroid as usize) {
                    let (sum, last) = &mut gains[row as usize];
                    if *last != i {
                        *last = i;
                        *sum += gain;
                    }
                }
            }
        }
        let rows = (0u32..).zip(&gains).filter(|(row, _)| is_allowed(*row));
        let mut found: Vec<(Reverse<u32>, u32)> = rows.map(|(row, (gain, _))| (Reverse(*gain), row)).collect();
        if n == 0 {
            return Vec::new();
        }
        if found.len() > n {
            found.select_nth_unstable(n - 1);
            found.truncate(n);
        }
        found.into_iter().map(|(_, row)| row).collect()
    }

    /// For each query vector the byte of the worst centroid whose postings it goes through.
    fn cuts(&self, segment: &Segment, n_postings: u64) -> Vec<u8> {
        let mut lengths = vec![[0u64; STEPS]; self.n_query];
        for (centroid, row) in self.table.chunks_exact(self.n_panels).enumerate() {
            let length = segment.posting(centroid).len() as u64;
            for (lengths, &byte) in lengths.iter_mut().zip(row.as_flattened()) {
                lengths[usize::from(byte)] += length;
            }
        }
        let cut = |lengths: &[u64; STEPS]| {
            let mut sum = 0;
            let enough = (0..=u8::MAX).rev().find(|&byte| {
                sum += lengths[usize::from(byte)];
                sum >= n_postings
            });
            enough.unwrap_or(0)
        };
        lengths.iter().map(cut).collect()
    }
}

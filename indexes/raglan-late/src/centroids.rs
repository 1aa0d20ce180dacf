//! Spherical k-means: unit vectors that tokens are near to.

use raglan_kernels::{Epilogue, PackedMatrix, l2_normalize, matrix_product, top_k};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::Result;

/// Centroids of so many tokens at least, so that each stands for some; k-means of fewer points than this is of no use.
const TOKENS_PER_CENTROID: usize = 39;
/// Tokens that k-means learns from, for each centroid; what faiss takes at most is 256.
const SAMPLE_PER_CENTROID: usize = 64;
/// Tokens that one task finds centroids for: enough that most groups meet some dozens.
const BLOCK: usize = 1024;
/// From so many centroids on they are grouped.
const GROUPED_FROM: usize = 512;
/// Groups whose centroids a token is compared with.
const PROBES: usize = 8;
/// Rounds of k-means that group centroids.
const GROUPING_ITERATIONS: usize = 4;
/// More centroids have no number in two bytes.
const MOST: usize = 1 << 16;

/// How many centroids a segment of so many tokens has: `2^⌊log2(16·√n)⌋` as in `ColBERTv2`, but at most a 39th of the
/// tokens, and one.
pub fn n_centroids(n_tokens: usize) -> usize {
    let wanted = (16.0 * (n_tokens as f64).sqrt()).log2().floor().exp2() as usize;
    wanted.min(n_tokens / TOKENS_PER_CENTROID).clamp(1, MOST)
}

/// Tokens of many documents, by number, without a copy of them.
pub struct Tokens<'a> {
    pub dim: usize,
    /// The rows of each document.
    pub documents: Vec<&'a [f32]>,
    /// Tokens before the end of each document.
    pub ends: Vec<usize>,
}

impl Tokens<'_> {
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// A token's vector.
    pub fn row(&self, token: usize) -> &[f32] {
        let document = self.ends.partition_point(|&end| end <= token);
        let start = if document == 0 { 0 } else { self.ends[document - 1] };
        &self.documents[document][(token - start) * self.dim..][..self.dim]
    }
}

/// The centroids of tokens, `[k, dim]`, of length 1. Equal seeds and tokens give equal bits on any number of threads.
pub fn train(tokens: &Tokens, k: usize, iterations: usize, seed: u64) -> Result<Vec<f32>> {
    let dim = tokens.dim;
    let sample = sample(tokens, k * SAMPLE_PER_CENTROID, seed);
    let n = sample.len() / dim;
    if n == 0 {
        let mut centroids = vec![0.0; k * dim];
        centroids.chunks_exact_mut(dim).for_each(|centroid| centroid[0] = 1.0);
        return Ok(centroids);
    }
    // The sample is in random order, so its first rows are a random choice.
    let mut centroids: Vec<f32> = sample.iter().copied().cycle().take(k * dim).collect();
    for _ in 0..iterations {
        let nearest = Centroids::new(&centroids, dim)?.nearest(&sample)?;
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); k];
        for (token, &(centroid, _)) in nearest.iter().enumerate() {
            members[usize::from(centroid)].push(token as u32);
        }
        centroids.par_chunks_exact_mut(dim).zip(&members).for_each(|(centroid, members)| {
            if members.is_empty() {
                return;
            }
            let mut sums = vec![0.0f64; dim];
            for &token in members {
                let row = &sample[token as usize * dim..][..dim];
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            // Opposite tokens may cancel; their centroid stays where it was.
            if sums.iter().any(|sum| sum.abs() > 1e-6) {
                centroid.iter_mut().zip(&sums).for_each(|(to, sum)| *to = *sum as f32);
            }
        });
        l2_normalize(&mut centroids, dim)?;
        replace_empty(&mut centroids, &members, &nearest, &sample, dim);
    }
    Ok(centroids)
}

/// Puts centroids that no token is nearest to where tokens are farthest from theirs.
fn replace_empty(centroids: &mut [f32], members: &[Vec<u32>], nearest: &[(u16, f32)], sample: &[f32], dim: usize) {
    let empty: Vec<usize> = (0..members.len()).filter(|&c| members[c].is_empty()).collect();
    if empty.is_empty() {
        return;
    }
    let mut farthest: Vec<usize> = (0..nearest.len()).collect();
    farthest.sort_by(|&a, &b| nearest[a].1.total_cmp(&nearest[b].1).then(a.cmp(&b)));
    for (centroid, token) in empty.into_iter().zip(farthest) {
        centroids[centroid * dim..][..dim].copy_from_slice(&sample[token * dim..][..dim]);
    }
}

/// At most `most` tokens in random order.
fn sample(tokens: &Tokens, most: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    let n = most.min(order.len());
    for i in 0..n {
        let j = rng.random_range(i..order.len());
        order.swap(i, j);
    }
    order[..n].iter().flat_map(|&token| tokens.row(token)).copied().collect()
}

/// Centroids to find the nearest among.
pub enum Centroids {
    /// All are compared.
    All(PackedMatrix),
    /// Those that are near to each other are in groups, so that a token need not be compared with all.
    Grouped(Groups),
}

/// Groups of centroids.
pub struct Groups {
    centres: PackedMatrix,
    /// The numbers of each group's centroids, increasing, and their vectors.
    members: Vec<(Vec<u16>, PackedMatrix)>,
}

impl Centroids {
    /// Centroids `[k, dim]`, in about `√k` groups if there are many.
    pub fn new(rows: &[f32], dim: usize) -> Result<Self> {
        let k = rows.len() / dim;
        if k < GROUPED_FROM {
            return Ok(Self::All(PackedMatrix::new(rows, k, dim)?));
        }
        let centroids = Tokens { dim, documents: vec![rows], ends: vec![k] };
        let centres = train(&centroids, (k as f64).sqrt() as usize, GROUPING_ITERATIONS, 0)?;
        let mut numbers: Vec<Vec<u16>> = vec![Vec::new(); centres.len() / dim];
        for (centroid, (group, _)) in Self::new(&centres, dim)?.nearest(rows)?.into_iter().enumerate() {
            numbers[usize::from(group)].push(centroid as u16);
        }
        let (mut taken, mut members) = (Vec::new(), Vec::new());
        for (centre, numbers) in centres.chunks_exact(dim).zip(numbers).filter(|(_, numbers)| !numbers.is_empty()) {
            let of_group: Vec<f32> =
                numbers.iter().flat_map(|&c| &rows[usize::from(c) * dim..][..dim]).copied().collect();
            taken.extend_from_slice(centre);
            members.push((numbers, PackedMatrix::new(&of_group, of_group.len() / dim, dim)?));
        }
        Ok(Self::Grouped(Groups { centres: PackedMatrix::new(&taken, members.len(), dim)?, members }))
    }

    /// A near centroid of each row and the inner product with it; equal ones go to the lower number. It is the nearest
    /// one, or, of many centroids, the nearest one in the [`PROBES`] groups whose centres are nearest.
    pub fn nearest(&self, rows: &[f32]) -> Result<Vec<(u16, f32)>> {
        let (Self::All(packed) | Self::Grouped(Groups { centres: packed, .. })) = self;
        let blocks = rows.par_chunks(BLOCK * packed.n_in()).map(|block| match self {
            Self::All(centroids) => nearest(block, centroids),
            Self::Grouped(groups) => groups.nearest(block),
        });
        Ok(blocks.collect::<Result<Vec<_>>>()?.concat())
    }
}

impl Groups {
    fn nearest(&self, rows: &[f32]) -> Result<Vec<(u16, f32)>> {
        let (dim, n_groups) = (self.centres.n_in(), self.centres.n_out());
        let n = rows.len() / dim;
        let mut products = vec![0.0; n * n_groups];
        matrix_product(rows, &self.centres, Epilogue::default(), &mut products)?;
        let mut probing: Vec<Vec<usize>> = vec![Vec::new(); n_groups];
        for (token, products) in products.chunks_exact(n_groups).enumerate() {
            for (_, group) in top_k(products, PROBES)? {
                probing[group as usize].push(token);
            }
        }
        let mut best = vec![(u16::MAX, f32::NEG_INFINITY); n];
        let mut gathered = Vec::new();
        for (tokens, (numbers, centroids)) in probing.iter().zip(&self.members).filter(|(tokens, _)| !tokens.is_empty())
        {
            gathered.clear();
            tokens.iter().for_each(|&token| gathered.extend_from_slice(&rows[token * dim..][..dim]));
            for (&token, (place, product)) in tokens.iter().zip(nearest(&gathered, centroids)?) {
                let (number, best) = (numbers[usize::from(place)], &mut best[token]);
                if product > best.1 || (product == best.1 && number < best.0) {
                    *best = (number, product);
                }
            }
        }
        Ok(best)
    }
}

/// The nearest of some centroids for each of a block of rows; equal ones go to the lower number.
fn nearest(rows: &[f32], centroids: &PackedMatrix) -> Result<Vec<(u16, f32)>> {
    let (n, k) = (rows.len() / centroids.n_in(), centroids.n_out());
    let mut products = vec![0.0; n * k];
    matrix_product(rows, centroids, Epilogue::default(), &mut products)?;
    let of_row = products.chunks_exact(k).map(|row| {
        let mut greatest = [f32::NEG_INFINITY; 16];
        let (blocks, tail) = row.as_chunks::<16>();
        for block in blocks {
            for lane in 0..16 {
                greatest[lane] = greatest[lane].max(block[lane]);
            }
        }
        let greatest = greatest.iter().chain(tail).copied().fold(f32::NEG_INFINITY, f32::max);
        let centroid = row.iter().position(|&x| x == greatest).expect("products of finite vectors have a greatest");
        (u16::try_from(centroid).expect("there are at most 65,536 centroids"), greatest)
    });
    Ok(of_row.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_centroids_as_tokens_bear() {
        assert_eq!(n_centroids(0), 1);
        assert_eq!(n_centroids(100), 2); // 100 / 39
        assert_eq!(n_centroids(1 << 16), 1680); // 65,536 / 39
        assert_eq!(n_centroids(1_300_000), 16_384); // 16 · 1140, down to a power of two
        assert_eq!(n_centroids(1 << 40), MOST);
    }

    #[test]
    fn centroids_of_clear_clusters_are_their_middles_on_any_number_of_threads() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let (k, dim, per_cluster) = (8, 8, 60);
        let mut rows = Vec::new();
        for token in 0..k * per_cluster {
            let mut row: Vec<f32> = (0..dim).map(|_| rng.random_range(-0.05..0.05)).collect();
            row[token % k] = 1.0;
            rows.extend(row);
        }
        l2_normalize(&mut rows, dim).unwrap();
        let tokens =
            Tokens { dim, documents: vec![&rows[..10 * dim], &[], &rows[10 * dim..]], ends: vec![10, 10, 480] };
        assert_eq!(tokens.row(10), &rows[10 * dim..11 * dim]);
        let train_on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&tokens, k, 6, 1)).unwrap()
        };
        let centroids = train_on(1);
        assert_eq!(centroids, train_on(3));
        let nearest = Centroids::new(&centroids, dim).unwrap().nearest(&rows).unwrap();
        assert!(nearest.iter().all(|(_, product)| *product > 0.98), "an empty cluster goes where it is needed");
    }

    #[test]
    fn groups_hold_the_nearest_centroid_of_nearly_all_tokens() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let (k, dim, n) = (600, 24, 3000);
        let mut centroids: Vec<f32> = (0..k * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        l2_normalize(&mut centroids, dim).unwrap();
        let near = |rng: &mut ChaCha8Rng| {
            let centroid = rng.random_range(0..k) * dim;
            (0..dim).map(|d| centroids[centroid + d] + rng.random_range(-0.2..0.2)).collect::<Vec<f32>>()
        };
        let mut rows: Vec<f32> = (0..n).flat_map(|_| near(&mut rng)).collect();
        l2_normalize(&mut rows, dim).unwrap();
        let grouped = Centroids::new(&centroids, dim).unwrap();
        assert!(matches!(grouped, Centroids::Grouped(_)));
        let all = Centroids::All(PackedMatrix::new(&centroids, k, dim).unwrap()).nearest(&rows).unwrap();
        let found = grouped.nearest(&rows).unwrap();
        let same = found.iter().zip(&all).filter(|(found, all)| found == all).count();
        assert!(same >= n * 95 / 100, "{same} of {n}");
        assert!(found.iter().zip(&all).all(|(found, all)| found.1 <= all.1));
    }
}

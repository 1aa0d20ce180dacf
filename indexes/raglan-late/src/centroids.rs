//! Spherical k-means: unit vectors that tokens are near to.

use half::f16;
use raglan_kernels::{Epilogue, PackedMatrix, from_f16, l2_normalize, matrix_product, to_f16, top_k};
use rayon::prelude::*;

use crate::Result;

/// Centroids of so many tokens at least, so that each stands for some; k-means of fewer points than this is of no use.
const TOKENS_PER_CENTROID: usize = 39;
/// Tokens that k-means learns from, for each centroid; what faiss takes at most is 256.
const SAMPLE_PER_CENTROID: usize = 64;
/// Bytes of those tokens, at most, in half precision: 700,000 of 384 dimensions.
const SAMPLE_BYTES: usize = 512 << 20;
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

/// How many tokens the `k` centroids of vectors of this dimension are learned from, if there are as many.
pub fn n_sampled(k: usize, dim: usize) -> usize {
    (k * SAMPLE_PER_CENTROID).min(SAMPLE_BYTES / (2 * dim)).max(k)
}

/// The centroids of tokens in half precision, `[k, dim]`, of length 1; the tokens are in random order. Equal tokens give
/// equal bits on any number of threads.
pub fn train(sample: &[u16], dim: usize, k: usize, iterations: usize) -> Result<Vec<f32>> {
    if sample.is_empty() {
        let mut centroids = vec![0.0; k * dim];
        centroids.chunks_exact_mut(dim).for_each(|centroid| centroid[0] = 1.0);
        return Ok(centroids);
    }
    // The first rows of a random order are a random choice.
    let mut centroids: Vec<f32> = sample.iter().cycle().take(k * dim).map(|&bits| wide(bits)).collect();
    l2_normalize(&mut centroids, dim)?;
    for _ in 0..iterations {
        let nearest = Centroids::new(&centroids, dim)?.nearest_of_halves(sample)?;
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
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(wide(x)));
            }
            // Opposite tokens may cancel; their centroid stays where it was.
            if sums.iter().any(|sum| sum.abs() > 1e-6) {
                centroid.iter_mut().zip(&sums).for_each(|(to, sum)| *to = *sum as f32);
            }
        });
        l2_normalize(&mut centroids, dim)?;
        replace_empty(&mut centroids, &members, &nearest, sample, dim);
    }
    Ok(centroids)
}

/// Puts centroids that no token is nearest to where tokens are farthest from theirs.
fn replace_empty(centroids: &mut [f32], members: &[Vec<u32>], nearest: &[(u16, f32)], sample: &[u16], dim: usize) {
    let empty: Vec<usize> = (0..members.len()).filter(|&c| members[c].is_empty()).collect();
    if empty.is_empty() {
        return;
    }
    let mut farthest: Vec<usize> = (0..nearest.len()).collect();
    farthest.sort_by(|&a, &b| nearest[a].1.total_cmp(&nearest[b].1).then(a.cmp(&b)));
    for (centroid, token) in empty.into_iter().zip(farthest) {
        let row = &sample[token * dim..][..dim];
        centroids[centroid * dim..][..dim].iter_mut().zip(row).for_each(|(to, &x)| *to = wide(x));
    }
}

fn wide(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
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
        let mut halves = vec![0; rows.len()];
        to_f16(rows, &mut halves)?;
        let centres = train(&halves, dim, (k as f64).sqrt() as usize, GROUPING_ITERATIONS)?;
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
        let blocks = rows.par_chunks(BLOCK * self.dim()).map(|block| self.nearest_of_block(block));
        Ok(blocks.collect::<Result<Vec<_>>>()?.concat())
    }

    /// As [`nearest`](Self::nearest), of rows in half precision.
    pub fn nearest_of_halves(&self, rows: &[u16]) -> Result<Vec<(u16, f32)>> {
        let blocks = rows.par_chunks(BLOCK * self.dim()).map(|block| {
            let mut rows = vec![0.0; block.len()];
            from_f16(block, &mut rows)?;
            self.nearest_of_block(&rows)
        });
        Ok(blocks.collect::<Result<Vec<_>>>()?.concat())
    }

    fn dim(&self) -> usize {
        let (Self::All(packed) | Self::Grouped(Groups { centres: packed, .. })) = self;
        packed.n_in()
    }

    fn nearest_of_block(&self, block: &[f32]) -> Result<Vec<(u16, f32)>> {
        match self {
            Self::All(centroids) => nearest(block, centroids),
            Self::Grouped(groups) => groups.nearest(block),
        }
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
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn there_are_as_many_centroids_as_tokens_bear() {
        assert_eq!(n_centroids(0), 1);
        assert_eq!(n_centroids(100), 2); // 100 / 39
        assert_eq!(n_centroids(1 << 16), 1680); // 65,536 / 39
        assert_eq!(n_centroids(1_300_000), 16_384); // 16 · 1140, down to a power of two
        assert_eq!(n_centroids(1 << 40), MOST);
        assert_eq!(n_sampled(1000, 128), 64_000);
        assert_eq!(n_sampled(MOST, 384), 699_050); // 2²⁹ / 768
        assert_eq!(n_sampled(MOST, 1 << 20), MOST);
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
        let mut tokens = vec![0; rows.len()];
        to_f16(&rows, &mut tokens).unwrap();
        let train_on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&tokens, dim, k, 6)).unwrap()
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

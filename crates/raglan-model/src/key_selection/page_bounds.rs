//! Quest: bounds of scores over pages of keys.

use std::ops::Range;

use raglan_kernels::{AttentionShape, from_f16, inner_products_f16, to_f16};
use raglan_kv::{KvCache, KvShape};

use crate::Result;

/// Keys of a page. Quest has 16; bounds over 8 are tighter, which models with small heads need.
pub(super) const PAGE: usize = 8;
/// Layers that attend to all keys: what they look for is spread too wide.
pub(super) const DENSE_LAYERS: usize = 2;
/// Pages that are always read, whatever their bounds: the first, which soaks up attention that has nowhere to go, and the
/// last full ones.
const FIRST_PAGES: usize = 1;
const LAST_PAGES: usize = 2;
/// The fewest pages that are read.
const FEWEST_PAGES: usize = FIRST_PAGES + LAST_PAGES;

/// For each full page and head of keys of a layer the greatest and the least of each component.
///
/// A query's product with any key of a page is at most `Σ_c max(q_c · max_c, q_c · min_c)`, which is the inner product of
/// `[q⁺, q⁻]`, its positive and its negative part, with `[max, min]`.
#[derive(Clone, Debug)]
pub(super) struct PageBounds {
    shape: KvShape,
    /// Of each head `[n_pages, 2 · head_dim]`: half-precision bits, rounded outwards.
    heads: Vec<Vec<u16>>,
    n_pages: usize,
}

impl PageBounds {
    pub fn new(shape: KvShape) -> Self {
        Self { shape, heads: vec![Vec::new(); shape.n_kv_heads], n_pages: 0 }
    }

    /// Bytes of the bounds.
    pub fn n_bytes(&self) -> usize {
        self.heads.iter().map(Vec::len).sum::<usize>() * size_of::<u16>()
    }

    /// Takes in the pages that were filled since; those of slots that are there no more are forgotten.
    pub fn update(&mut self, layer: usize, cache: &KvCache, n_keys: usize) -> Result<()> {
        let (dim, width) = (self.shape.head_dim, self.shape.n_kv_heads * self.shape.head_dim);
        let n_full = n_keys / PAGE;
        if n_full < self.n_pages {
            self.heads.iter_mut().for_each(|bounds| bounds.truncate(n_full * 2 * dim));
            self.n_pages = n_full;
        }
        let mut keys = vec![0.0; PAGE * width];
        let mut bounds = vec![0.0; 2 * dim];
        let mut rounded = vec![0; 2 * dim];
        for page in self.n_pages..n_full {
            let mut rest = &mut keys[..];
            for run in cache.runs(layer, page * PAGE..(page + 1) * PAGE) {
                let here;
                (here, rest) = rest.split_at_mut(run.positions.len() * width);
                run.keys.read(0..here.len(), here)?;
            }
            for (head, all) in self.heads.iter_mut().enumerate() {
                let (most, least) = bounds.split_at_mut(dim);
                most.fill(f32::NEG_INFINITY);
                least.fill(f32::INFINITY);
                for key in keys.chunks_exact(width) {
                    for (d, &x) in key[head * dim..(head + 1) * dim].iter().enumerate() {
                        most[d] = most[d].max(x);
                        least[d] = least[d].min(x);
                    }
                }
                round_outwards(&bounds, dim, &mut rounded)?;
                all.extend_from_slice(&rounded);
            }
        }
        self.n_pages = n_full;
        Ok(())
    }

    /// An upper bound, for each of a head's `queries`, `[group, head_dim]`, and each full page, of the query's products with
    /// the page's keys: `[group, n_pages]`.
    pub fn bounds(&self, head: usize, queries: &[f32], head_dim: usize) -> Result<Vec<f32>> {
        let parts: Vec<f32> = queries
            .chunks_exact(head_dim)
            .flat_map(|query| query.iter().map(|x| x.max(0.0)).chain(query.iter().map(|x| x.min(0.0))))
            .collect();
        let mut products = vec![0.0; queries.len() / head_dim * self.n_pages];
        inner_products_f16(&parts, &self.heads[head], 2 * head_dim, &mut products)?;
        Ok(products)
    }

    /// The slots of the first page, of the last ones, of the pages between whose bounds come nearest to the highest for any
    /// of the queries, as many as `budget` allows, and of the page that is not full.
    pub fn select(
        &self,
        head: usize,
        queries: &[f32],
        shape: &AttentionShape,
        n_keys: usize,
        budget: usize,
    ) -> Result<Vec<Range<usize>>> {
        let tail = self.n_pages * PAGE..n_keys;
        let n = (budget.saturating_sub(tail.len()).div_ceil(PAGE)).max(FEWEST_PAGES);
        let mut ranges = Vec::new();
        if n >= self.n_pages {
            super::extend(&mut ranges, 0..n_keys);
            return Ok(ranges);
        }
        let bounds = self.bounds(head, queries, shape.head_dim)?;
        let mut scores = super::nearest_to_best(&bounds, self.n_pages, shape.scale);
        scores[..FIRST_PAGES].fill(f32::INFINITY);
        scores[self.n_pages - LAST_PAGES..].fill(f32::INFINITY);
        for page in super::best(n, &scores) {
            super::extend(&mut ranges, page * PAGE..(page + 1) * PAGE);
        }
        super::extend(&mut ranges, tail);
        Ok(ranges)
    }
}

/// Rounds the first `dim` numbers up and the others down, to half precision.
fn round_outwards(bounds: &[f32], dim: usize, rounded: &mut [u16]) -> Result<()> {
    to_f16(bounds, rounded)?;
    let mut back = vec![0.0; bounds.len()];
    from_f16(rounded, &mut back)?;
    for (i, (&bound, &back)) in bounds.iter().zip(&back).enumerate() {
        let bits = &mut rounded[i];
        // Bits of a sign and a size: a size one greater is farther from 0.
        if i < dim && back < bound {
            *bits = if *bits == 0x8000 {
                1
            } else if *bits & 0x8000 == 0 {
                *bits + 1
            } else {
                *bits - 1
            };
        } else if i >= dim && back > bound {
            *bits = if *bits == 0 {
                0x8001
            } else if *bits & 0x8000 == 0 {
                *bits - 1
            } else {
                *bits + 1
            };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raglan_kv::KvPrecision;

    use super::*;
    use crate::key_selection::tests::{SHAPE, cache, dot, random};

    #[test]
    fn no_key_of_a_page_scores_above_its_bound() {
        for precision in [KvPrecision::F16, KvPrecision::F32] {
            let n_keys = 20 * PAGE + 5;
            let cache = cache(n_keys, precision, 3);
            let mut bounds = PageBounds::new(SHAPE);
            // In steps as keys come, with some that are taken back.
            for n in [7, PAGE, 100, 90, n_keys] {
                bounds.update(1, &cache, n).unwrap();
            }
            let (dim, width) = (SHAPE.head_dim, SHAPE.n_kv_heads * SHAPE.head_dim);
            let mut keys = vec![0.0; n_keys * width];
            for run in cache.runs(1, 0..n_keys) {
                let first = run.positions[0] as usize * width;
                let n = run.positions.len() * width;
                run.keys.read(0..n, &mut keys[first..first + n]).unwrap();
            }
            for head in 0..SHAPE.n_kv_heads {
                let queries = random(3 * dim, 5 + head as u64);
                let found = bounds.bounds(head, &queries, dim).unwrap();
                assert_eq!(found.len(), 3 * 20);
                for (query, bounds) in queries.chunks_exact(dim).zip(found.chunks_exact(20)) {
                    for (slot, key) in keys.chunks_exact(width).take(20 * PAGE).enumerate() {
                        let product = dot(query, &key[head * dim..(head + 1) * dim]);
                        assert!(product <= bounds[slot / PAGE] + 1e-4, "{product} {}", bounds[slot / PAGE]);
                    }
                }
            }
        }
    }

    #[test]
    fn rounding_goes_outwards() {
        let numbers = [0.1, -0.1, 1e-9, -1e-9, 0.0, -0.0, 1.0, 3.33333, -7.77, 60_000.5];
        let both: Vec<f32> = numbers.iter().chain(&numbers).copied().collect();
        let (mut bits, mut back) = (vec![0; both.len()], vec![0.0; both.len()]);
        round_outwards(&both, numbers.len(), &mut bits).unwrap();
        from_f16(&bits, &mut back).unwrap();
        for (i, (back, x)) in back.iter().zip(&both).enumerate() {
            assert!(if i < numbers.len() { back >= x } else { back <= x }, "{back} {x}");
            assert!((back - x).abs() <= x.abs() / 512.0 + 1e-7, "{back} {x}");
        }
    }
}

//! `RetrievalAttention`: an index of keys that is asked with each query.

use std::ops::Range;

use raglan_kernels::{AttentionShape, Int8Query, quantize_i8};
use raglan_kv::{KvCache, KvShape};

use crate::Result;

/// The first keys, which are always read.
const SINKS: usize = 4;
/// The last keys, which are always read, at the least.
const WINDOW: usize = 64;
/// Keys that the index takes in at once.
const FLUSH: usize = 64;

/// Keys of a layer in bytes, of each head apart, so that all of them are scored in a fraction of the time that attention
/// to them takes.
#[derive(Clone, Debug)]
pub(super) struct KeyIndex {
    shape: KvShape,
    heads: Vec<Codes>,
    /// What it holds.
    slots: Range<usize>,
}

#[derive(Clone, Debug, Default)]
struct Codes {
    /// `[n, head_dim]`
    codes: Vec<i8>,
    /// `[n]`
    scales: Vec<f32>,
}

impl KeyIndex {
    pub fn new(shape: KvShape) -> Self {
        Self { shape, heads: vec![Codes::default(); shape.n_kv_heads], slots: SINKS..SINKS }
    }

    /// Bytes of the index.
    pub fn n_bytes(&self) -> usize {
        self.heads.iter().map(|head| head.codes.len() + head.scales.len() * size_of::<f32>()).sum()
    }

    /// Takes in all keys but the last ones, block by block.
    pub fn update(&mut self, layer: usize, cache: &KvCache, n_keys: usize) -> Result<()> {
        let dim = self.shape.head_dim;
        if n_keys < self.slots.end + WINDOW {
            // The cache was cut.
            let n = n_keys.saturating_sub(WINDOW).max(SINKS) - SINKS;
            if n < self.slots.len() {
                self.slots.end = SINKS + n;
                for head in &mut self.heads {
                    head.codes.truncate(n * dim);
                    head.scales.truncate(n);
                }
            }
        }
        let n_new = n_keys.saturating_sub(self.slots.end + WINDOW) / FLUSH * FLUSH;
        if n_new == 0 {
            return Ok(());
        }
        let width = self.shape.n_kv_heads * dim;
        let mut rows = Vec::new();
        let mut keys = Vec::new();
        for run in cache.runs(layer, self.slots.end..self.slots.end + n_new) {
            let n = run.positions.len();
            rows.resize(n * width, 0.0);
            run.keys.read(0..n * width, &mut rows)?;
            for (h, Codes { codes, scales }) in self.heads.iter_mut().enumerate() {
                keys.clear();
                keys.extend(rows.chunks_exact(width).flat_map(|row| &row[h * dim..(h + 1) * dim]));
                let there = scales.len();
                codes.resize((there + n) * dim, 0);
                scales.resize(there + n, 0.0);
                quantize_i8(&keys, dim, &mut codes[there * dim..], &mut scales[there..])?;
            }
        }
        self.slots.end += n_new;
        Ok(())
    }

    /// The slots that a head's `queries`, `[group, head_dim]`, read: the first, the last, and of the others those that
    /// come nearest to the best one for any of the queries; `budget` in all, where the first and the last are fewer.
    pub fn select(
        &self,
        head: usize,
        queries: &[f32],
        shape: &AttentionShape,
        n_keys: usize,
        budget: usize,
    ) -> Result<Vec<Range<usize>>> {
        let mut ranges = Vec::new();
        let n_always = SINKS.min(n_keys) + n_keys.saturating_sub(self.slots.end);
        let n = budget.saturating_sub(n_always);
        if n >= self.slots.len() {
            super::extend(&mut ranges, 0..n_keys);
            return Ok(ranges);
        }
        super::extend(&mut ranges, 0..SINKS);
        let Codes { codes, scales } = &self.heads[head];
        let queries =
            queries.chunks_exact(shape.head_dim).map(Int8Query::new).collect::<raglan_kernels::Result<Vec<_>>>()?;
        let mut products = vec![0.0; queries.len() * scales.len()];
        Int8Query::inner_products(&queries, codes, scales, &mut products)?;
        for place in super::best(n, &super::nearest_to_best(&products, scales.len(), shape.scale)) {
            super::extend(&mut ranges, SINKS + place..SINKS + place + 1);
        }
        super::extend(&mut ranges, self.slots.end..n_keys);
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use raglan_kv::KvPrecision;

    use super::*;
    use crate::key_selection::tests::{SHAPE, cache, dot, random};

    #[test]
    fn the_keys_with_the_highest_scores_are_found() {
        let (dim, width, n_keys) = (SHAPE.head_dim, SHAPE.n_kv_heads * SHAPE.head_dim, 2000);
        let cache = cache(n_keys, KvPrecision::F16, 2);
        let mut index = KeyIndex::new(SHAPE);
        for n in [10, 700, 500, n_keys] {
            index.update(1, &cache, n).unwrap();
        }
        let mut keys = vec![0.0; n_keys * width];
        for run in cache.runs(1, 0..n_keys) {
            let (first, n) = (run.positions[0] as usize * width, run.positions.len() * width);
            run.keys.read(0..n, &mut keys[first..first + n]).unwrap();
        }
        let shape =
            AttentionShape { n_heads: SHAPE.n_kv_heads, n_kv_heads: SHAPE.n_kv_heads, head_dim: dim, scale: 1.0 };
        for head in 0..SHAPE.n_kv_heads {
            let query = random(dim, 90 + head as u64);
            let slots: Vec<usize> =
                index.select(head, &query, &shape, n_keys, 250).unwrap().into_iter().flatten().collect();
            assert_eq!(slots.len(), 250);
            assert!(
                slots.is_sorted() && slots.starts_with(&[0, 1, 2, 3]) && slots.ends_with(&[n_keys - 2, n_keys - 1])
            );
            let score = |slot: &usize| dot(&query, &keys[slot * width + head * dim..][..dim]);
            let mut all: Vec<usize> = (0..n_keys).collect();
            all.sort_by(|a, b| score(b).total_cmp(&score(a)));
            let found = all[..100].iter().filter(|slot| slots.contains(slot)).count();
            assert!(found >= 98, "{found} of 100");
        }
    }
}

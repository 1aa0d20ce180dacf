//! `RetrievalAttention`: an index of keys that is asked with each query.

use std::ops::Range;

use raglan_kernels::{AttentionShape, Int8Query, inner_products, quantize_i8};
use raglan_kv::{KvCache, KvShape};
use rayon::prelude::*;

use crate::Result;

/// The first keys, which are always read.
const SINKS: usize = 4;
/// The last keys, which are always read, at the least.
const WINDOW: usize = 32;
/// Keys that the index takes in at once.
const FLUSH: usize = 16;

/// Lists of a head of queries.
const N_LISTS: usize = 32;
/// The fewest keys of a list.
const SHORTEST_LIST: usize = 256;
/// Rounds of k-means, after which clusters of queries hardly change.
const ROUNDS: usize = 4;

/// Keys of a layer in bytes, of each head apart, so that they are scored in a fraction of the time that attention to them
/// takes.
///
/// Where there are many, [`train`](Self::train) says which of them are worth it. Queries lie elsewhere than keys, so an
/// index whose clusters are those of keys looks in the wrong ones; here it is the prompt's queries that are clustered, and
/// each cluster lists the keys with the highest products with its mean. A question is few among many tokens, so what the
/// prompt's last queries look for has a list of its own, which is always looked at.
#[derive(Clone, Debug)]
pub(super) struct KeyIndex {
    shape: KvShape,
    heads: Vec<Codes>,
    /// What it holds.
    slots: Range<usize>,
    /// By head of queries; none where all keys are scored.
    lists: Vec<QueryLists>,
}

/// What queries like those of the prompt look for.
#[derive(Clone, Debug)]
struct QueryLists {
    means: Means,
    quantized: Vec<Int8Query>,
    lists: Vec<List>,
    /// The keys that come nearest to the best one for any of the last queries.
    asked: Vec<u32>,
}

/// The means of clusters of queries.
#[derive(Clone, Debug)]
struct Means {
    /// `[n, head_dim]`
    means: Vec<f32>,
    /// Half of each mean's squared length.
    half_squares: Vec<f32>,
}

/// Keys by a mean of queries.
#[derive(Clone, Debug)]
struct List {
    /// Places in the index, ascending.
    places: Vec<u32>,
    /// The lowest product that is worth a place.
    least: f32,
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
        Self { shape, heads: vec![Codes::default(); shape.n_kv_heads], slots: SINKS..SINKS, lists: Vec::new() }
    }

    /// Bytes of the index.
    pub fn n_bytes(&self) -> usize {
        let codes = self.heads.iter().map(|head| head.codes.len() + head.scales.len() * size_of::<f32>());
        let lists = self.lists.iter().map(|of_head| {
            let listed = of_head.lists.iter().map(|list| list.places.len()).sum::<usize>() + of_head.asked.len();
            of_head.means.means.len() * (size_of::<f32>() + size_of::<i16>()) + listed * size_of::<u32>()
        });
        codes.sum::<usize>() + lists.sum::<usize>()
    }

    /// Learns where to look, for when so many keys are asked for: from queries all over a prompt, and from its last ones;
    /// both `[n, n_heads · head_dim]`.
    ///
    /// # Errors
    ///
    /// When a number is not finite.
    pub fn train(&mut self, sample: &[f32], last: &[f32], shape: &AttentionShape, budget: usize) -> Result<()> {
        let (dim, n_heads, n_keys) = (shape.head_dim, shape.n_heads, self.slots.len());
        let n_listed = budget.max(SHORTEST_LIST);
        if n_keys < 2 * n_listed || sample.is_empty() || last.is_empty() {
            return Ok(());
        }
        let of_head = |head: usize| {
            let Codes { codes, scales } = &self.heads[head * shape.n_kv_heads / n_heads];
            let score = |queries: &[&[f32]]| {
                let quantized = queries.iter().copied().map(Int8Query::new);
                let quantized = quantized.collect::<raglan_kernels::Result<Vec<_>>>()?;
                let mut products = vec![0.0; quantized.len() * n_keys];
                Int8Query::inner_products(&quantized, codes, scales, &mut products)?;
                Ok::<_, raglan_kernels::Error>((quantized, products))
            };
            let [sample, last] =
                [sample, last].map(|all| all.chunks_exact(dim).skip(head).step_by(n_heads).collect::<Vec<_>>());
            let means = Means::of(&sample.concat(), dim)?;
            let (quantized, products) = score(&means.means.chunks_exact(dim).collect::<Vec<_>>())?;
            let places = |places: Vec<usize>| places.into_iter().map(|place| place as u32).collect::<Vec<_>>();
            let list = |products: &[f32]| {
                let listed = super::best(n_listed, products);
                let least = listed.iter().map(|place| products[*place]).fold(f32::INFINITY, f32::min);
                List { places: places(listed), least }
            };
            let lists = products.chunks_exact(n_keys).map(list).collect();
            let (_, products) = score(&last)?;
            let asked = super::best(n_listed, &super::nearest_to_best(&products, n_keys, shape.scale));
            Ok(QueryLists { means, quantized, lists, asked: places(asked) })
        };
        self.lists = (0..n_heads).into_par_iter().map(of_head).collect::<Result<_>>()?;
        Ok(())
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
                for of_head in &mut self.lists {
                    let lists = of_head.lists.iter_mut().map(|list| &mut list.places);
                    for places in lists.chain([&mut of_head.asked]) {
                        places.truncate(places.partition_point(|&place| (place as usize) < n));
                    }
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
        let n_before = self.slots.len();
        self.slots.end += n_new;
        self.list(n_before)
    }

    /// Puts the keys from a place on into the lists in which they are worth it.
    fn list(&mut self, first: usize) -> Result<()> {
        let (dim, n_heads, n_new) = (self.shape.head_dim, self.lists.len(), self.slots.len() - first);
        let mut products = Vec::new();
        for (head, of_head) in self.lists.iter_mut().enumerate() {
            let Codes { codes, scales } = &self.heads[head * self.shape.n_kv_heads / n_heads];
            products.resize(of_head.lists.len() * n_new, 0.0);
            Int8Query::inner_products(&of_head.quantized, &codes[first * dim..], &scales[first..], &mut products)?;
            for (list, products) in of_head.lists.iter_mut().zip(products.chunks_exact(n_new)) {
                let worth_it = (first..).zip(products).filter(|(_, product)| **product > list.least);
                list.places.extend(worth_it.map(|(place, _)| place as u32));
            }
        }
        Ok(())
    }

    /// Places of keys that queries of heads which share keys may look for, ascending, as far as that was learned.
    fn candidates(&self, head: usize, queries: &[f32]) -> Result<Option<Vec<u32>>> {
        if self.lists.is_empty() {
            return Ok(None);
        }
        let (dim, group) = (self.shape.head_dim, self.lists.len() / self.shape.n_kv_heads);
        let mut listed = vec![0u64; self.slots.len().div_ceil(64)];
        for (of_head, query) in self.lists[head * group..].iter().zip(queries.chunks_exact(dim)) {
            let like_it = &of_head.lists[of_head.means.nearest(query)?[0]];
            for &place in like_it.places.iter().chain(&of_head.asked) {
                listed[place as usize / 64] |= 1 << (place % 64);
            }
        }
        let mut places = Vec::new();
        for (word, &bits) in listed.iter().enumerate() {
            let mut rest = bits;
            while rest != 0 {
                places.push(64 * word as u32 + rest.trailing_zeros());
                rest &= rest - 1;
            }
        }
        Ok(Some(places))
    }

    /// The slots that a head's `queries`, `[group, head_dim]`, read: the first, the last, and of the others those that
    /// come nearest to the best one for any of the queries; `budget` in all, where the first and the last are fewer and
    /// as many are looked at.
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
        let quantized =
            queries.chunks_exact(shape.head_dim).map(Int8Query::new).collect::<raglan_kernels::Result<Vec<_>>>()?;
        let candidates = self.candidates(head, queries)?;
        let mut read = |place: usize| super::extend(&mut ranges, SINKS + place..SINKS + place + 1);
        match candidates {
            None => {
                let mut products = vec![0.0; quantized.len() * scales.len()];
                Int8Query::inner_products(&quantized, codes, scales, &mut products)?;
                super::best(n, &super::nearest_to_best(&products, scales.len(), shape.scale))
                    .into_iter()
                    .for_each(read);
            }
            Some(places) => {
                // Together, so that the queries share the widening of a key.
                let (mut rows, dim) = (Vec::with_capacity(places.len() * shape.head_dim), shape.head_dim);
                for &place in &places {
                    rows.extend_from_slice(&codes[place as usize * dim..][..dim]);
                }
                let scales: Vec<f32> = places.iter().map(|&place| scales[place as usize]).collect();
                let mut products = vec![0.0; quantized.len() * places.len()];
                Int8Query::inner_products(&quantized, &rows, &scales, &mut products)?;
                let found = super::best(n, &super::nearest_to_best(&products, places.len(), shape.scale));
                found.into_iter().for_each(|i| read(places[i] as usize));
            }
        }
        super::extend(&mut ranges, self.slots.end..n_keys);
        Ok(ranges)
    }
}

impl Means {
    /// Those of `[n, dim]` queries by k-means, from ones at even distances.
    fn of(queries: &[f32], dim: usize) -> Result<Self> {
        let n_queries = queries.len() / dim;
        let n = N_LISTS.min(n_queries);
        let first = (0..n).flat_map(|i| &queries[i * n_queries / n * dim..][..dim]);
        let mut found = Self { means: first.copied().collect(), half_squares: vec![0.0; n] };
        found.measure(dim);
        for _ in 0..ROUNDS {
            let (mut sums, mut counts) = (vec![0.0; n * dim], vec![0usize; n]);
            for (query, at) in queries.chunks_exact(dim).zip(found.nearest(queries)?) {
                counts[at] += 1;
                sums[at * dim..][..dim].iter_mut().zip(query).for_each(|(sum, x)| *sum += x);
            }
            for (at, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let mean = found.means[at * dim..].iter_mut().zip(&sums[at * dim..][..dim]);
                mean.for_each(|(mean, sum)| *mean = sum / count as f32);
            }
            found.measure(dim);
        }
        Ok(found)
    }

    fn measure(&mut self, dim: usize) {
        for (half, mean) in self.half_squares.iter_mut().zip(self.means.chunks_exact(dim)) {
            *half = mean.iter().map(|x| x * x).sum::<f32>() / 2.0;
        }
    }

    /// By query the mean with the least distance, `|q|² − 2 (q · m − |m|² / 2)`; of equal ones the first.
    fn nearest(&self, queries: &[f32]) -> Result<Vec<usize>> {
        let n = self.half_squares.len();
        let dim = self.means.len() / n;
        let mut products = vec![0.0; queries.len() / dim * n];
        inner_products(queries, &self.means, dim, &mut products)?;
        let nearest = products.chunks_exact(n).map(|products| {
            let mut found = (f32::NEG_INFINITY, 0);
            for (at, (product, half)) in products.iter().zip(&self.half_squares).enumerate() {
                if product - half > found.0 {
                    found = (product - half, at);
                }
            }
            found.1
        });
        Ok(nearest.collect())
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
    /// Queries that lie in a few places, elsewhere than the keys, as those of trained models do.
    fn queries(n: usize, seed: u64) -> Vec<f32> {
        let dim = SHAPE.head_dim;
        let noise = random(n * SHAPE.n_kv_heads * dim, seed);
        noise
            .chunks_exact(dim)
            .enumerate()
            .flat_map(|(i, noise)| {
                let place = random(dim, 1000 + (i / SHAPE.n_kv_heads % 5) as u64);
                noise.iter().zip(place).map(|(x, place)| 3.0 * place + 0.5 * x).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn lists_that_queries_trained_find_more_for_less() {
        let (dim, width, n_keys, budget) = (SHAPE.head_dim, SHAPE.n_kv_heads * SHAPE.head_dim, 6000, 300);
        let cache = cache(n_keys, KvPrecision::F16, 2);
        let shape =
            AttentionShape { n_heads: SHAPE.n_kv_heads, n_kv_heads: SHAPE.n_kv_heads, head_dim: dim, scale: 1.0 };
        let mut index = KeyIndex::new(SHAPE);
        // A third of the keys come after it was trained, and some go.
        index.update(1, &cache, 4000).unwrap();
        let untrained = index.n_bytes();
        index.train(&queries(256, 7), &queries(32, 9), &shape, budget).unwrap();
        assert!(index.n_bytes() > untrained);
        for n in [5000, 4500, n_keys] {
            index.update(1, &cache, n).unwrap();
        }
        let exact = KeyIndex { lists: Vec::new(), ..index.clone() };
        for (i, query) in queries(20, 8).chunks_exact(width).enumerate() {
            for head in 0..SHAPE.n_kv_heads {
                let query = &query[head * dim..(head + 1) * dim];
                let places = index.candidates(head, query).unwrap().unwrap();
                assert!(places.is_sorted() && places.len() < index.slots.len() / 4, "{}", places.len());
                let slots = |index: &KeyIndex| -> Vec<usize> {
                    index.select(head, query, &shape, n_keys, budget).unwrap().into_iter().flatten().collect()
                };
                let (found, all) = (slots(&index), slots(&exact));
                assert_eq!(found.len(), budget);
                let n_same = found.iter().filter(|slot| all.contains(slot)).count();
                assert!(n_same * 10 >= budget * 9, "query {i}: {n_same} of {budget}");
            }
        }
        // All keys are read where all are asked for.
        assert_eq!(index.select(0, &random(dim, 1), &shape, n_keys, n_keys).unwrap(), vec![0..n_keys]);
    }
}

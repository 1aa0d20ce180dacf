//! The keys that a text attends to while it is written, chosen by an [`AttentionPolicy`].
//!
//! A prompt is read while a [`QueryRecord`] takes down what its last tokens asked; from the two and the cache a
//! [`KeySelection`] begins, which then chooses for each token, layer and head of keys. Cache and selection belong
//! together: the cache may only grow or be cut at its end, and its slots stand in the order of their positions.

mod far_heads;
mod key_index;
mod page_bounds;
mod query_record;
mod sinks;
mod snap_kv;

use std::ops::Range;

use raglan_kernels::{KvRun, selected_attention};
use raglan_kv::{KvCache, LayerRotary};
use rayon::prelude::*;

pub(crate) use self::far_heads::probe;
use self::far_heads::{LeftOut, SINKS};
use self::key_index::KeyIndex;
use self::page_bounds::{DENSE_LAYERS, PageBounds};
pub use self::query_record::QueryRecord;
use crate::{AttentionPolicy, DecoderModel, Result};

/// Keys whose scan by one head is worth a second thread.
const WORTH_THREADS: usize = 2048;

/// What one text attends to from now on.
#[derive(Clone, Debug)]
pub struct KeySelection {
    policy: AttentionPolicy,
    layers: Vec<LayerKeys>,
    traffic: KeyTraffic,
}

/// How many keys were read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KeyTraffic {
    /// Keys that were read, over all tokens, layers and heads of keys.
    pub read: u64,
    /// Keys that full attention would have read.
    pub there: u64,
}

impl KeyTraffic {
    /// The share that was read; 1 where nothing was there.
    pub fn share(self) -> f64 {
        if self.there == 0 { 1.0 } else { self.read as f64 / self.there as f64 }
    }
}

/// How a layer chooses.
#[derive(Clone, Debug)]
enum LayerKeys {
    /// It does not.
    All,
    /// The first and the last.
    Sinks,
    /// By head the slots that are kept of the first so many.
    Kept { slots: Vec<Vec<Range<usize>>>, of: usize },
    /// The best pages.
    Pages(PageBounds),
    /// All for the heads of keys that look far, the first and the last for the others, and their mean.
    Far { heads: Vec<bool>, left_out: LeftOut },
    /// The first, the last, and what is found.
    Found(KeyIndex),
}

/// The tokens of one sequence in one layer, and the room for what they get.
pub(crate) struct LayerRows<'a> {
    pub layer: usize,
    /// `[n_rows, n_heads · head_dim]`, as `mixed`.
    pub queries: &'a [f32],
    pub positions: &'a [u32],
    pub slots: &'a [usize],
    pub mixed: &'a mut [f32],
    /// `[n_rows, n_heads]`.
    pub lse: &'a mut [f32],
}

impl KeySelection {
    /// Begins behind what `cache` has read, whose last tokens asked what `record` says.
    ///
    /// # Errors
    ///
    /// [`Error::NotOnDevice`](crate::Error::NotOnDevice) when the model is on a device; else only when it is damaged.
    pub fn begin(model: &DecoderModel, policy: AttentionPolicy, cache: &KvCache, record: &QueryRecord) -> Result<Self> {
        model.on_processor("attention to chosen keys")?;
        let config = model.config();
        let layers = (0..config.n_layers).map(|layer| {
            if config.windows[layer].is_some() {
                return Ok(LayerKeys::All);
            }
            Ok(match policy {
                AttentionPolicy::Full => LayerKeys::All,
                AttentionPolicy::Sinks { .. } => LayerKeys::Sinks,
                AttentionPolicy::SnapKv { budget } => {
                    let slots = snap_kv::kept(model, layer, cache, record, budget.of(cache.len()))?;
                    LayerKeys::Kept { slots, of: cache.len() }
                }
                AttentionPolicy::Quest { .. } if layer < DENSE_LAYERS => LayerKeys::All,
                AttentionPolicy::Quest { .. } => {
                    let mut bounds = PageBounds::new(model.kv_shape());
                    bounds.update(layer, cache, cache.len())?;
                    LayerKeys::Pages(bounds)
                }
                AttentionPolicy::Razor { .. } | AttentionPolicy::RandomRazor { .. } => {
                    let found = model.far_heads()?;
                    let drawn;
                    let heads = match policy {
                        AttentionPolicy::RandomRazor { .. } => {
                            drawn = far_heads::drawn(found);
                            &drawn
                        }
                        _ => found,
                    };
                    LayerKeys::Far { heads: heads[layer].clone(), left_out: LeftOut::new(model.kv_shape()) }
                }
                AttentionPolicy::Retrieval { budget } => {
                    let mut index = KeyIndex::new(model.kv_shape());
                    index.update(layer, cache, cache.len())?;
                    let (sample, last) = (record.sample(layer), record.queries(layer));
                    index.train(sample, last, &config.attention_shape(), budget.of(cache.len()))?;
                    LayerKeys::Found(index)
                }
            })
        });
        let layers = model.install(|| layers.collect::<Result<_>>())?;
        Ok(Self { policy, layers, traffic: KeyTraffic::default() })
    }

    /// How it chooses.
    pub fn policy(&self) -> AttentionPolicy {
        self.policy
    }

    /// How many keys were read since it began.
    pub fn traffic(&self) -> KeyTraffic {
        self.traffic
    }

    /// Bytes of the keys and values of `cache` that may be asked for again, and of what keys are found by.
    pub fn n_bytes_kept(&self, model: &DecoderModel, cache: &KvCache) -> usize {
        let config = model.config();
        let n = cache.len();
        let budget = self.policy.budget().map_or(n, |budget| budget.of(n)).min(n);
        let (mut slots, mut found_by) = (0, 0);
        for layer in &self.layers {
            slots += match layer {
                LayerKeys::All => n * config.n_kv_heads,
                LayerKeys::Sinks => budget * config.n_kv_heads,
                LayerKeys::Kept { slots, of } => {
                    slots.iter().flatten().map(Range::len).sum::<usize>() + (n - of) * config.n_kv_heads
                }
                LayerKeys::Pages(bounds) => {
                    found_by += bounds.n_bytes();
                    n * config.n_kv_heads
                }
                LayerKeys::Found(index) => {
                    found_by += index.n_bytes();
                    n * config.n_kv_heads
                }
                LayerKeys::Far { heads, .. } => {
                    let n_far = heads.iter().filter(|is_far| **is_far).count();
                    n_far * n + (heads.len() - n_far) * (budget + 1).min(n)
                }
            };
        }
        let page = model.kv_arena().page_bytes() / (raglan_kv::KV_PAGE * config.n_layers * config.n_kv_heads);
        slots * page + found_by
    }

    /// Whether a layer chooses; otherwise its rows attend as they would without a selection.
    pub(crate) fn chooses(&self, layer: usize) -> bool {
        !matches!(self.layers[layer], LayerKeys::All)
    }

    /// Whether tokens may stand beyond the model's context.
    pub(crate) fn is_endless(&self) -> bool {
        matches!(self.policy, AttentionPolicy::Sinks { .. })
            && self.layers.iter().all(|l| matches!(l, LayerKeys::Sinks))
    }

    /// Counts what rows read in a layer that does not choose, which may see a window only.
    pub(crate) fn count_all(&mut self, slots: &[usize], n_kv_heads: usize, window: Option<u32>) {
        let most = window.map_or(usize::MAX, |window| window as usize);
        let n: usize = slots.iter().map(|slot| (slot + 1).min(most)).sum();
        self.traffic.read += (n * n_kv_heads) as u64;
        self.traffic.there += (n * n_kv_heads) as u64;
    }

    /// Lets rows attend in a layer that chooses.
    pub(crate) fn attend(&mut self, model: &DecoderModel, cache: &KvCache, rows: LayerRows<'_>) -> Result<()> {
        let config = model.config();
        let (shape, layer) = (config.attention_shape(), rows.layer);
        let budget = self.policy.budget().expect("a policy that chooses has a budget");
        if let LayerKeys::Sinks = self.layers[layer] {
            let budget = budget.of(cache.len()).max(2);
            for slot in rows.slots {
                self.traffic.read += ((slot + 1).min(budget) * config.n_kv_heads) as u64;
                self.traffic.there += ((slot + 1) * config.n_kv_heads) as u64;
            }
            return sinks::attend(&shape, model.rotary(layer), cache, budget, rows);
        }
        let (width, group) = (config.n_heads * config.head_dim, config.n_heads / config.n_kv_heads * config.head_dim);
        let queries = rows.queries.chunks_exact(width);
        let outs = rows.mixed.chunks_exact_mut(width).zip(rows.lse.chunks_exact_mut(config.n_heads));
        for ((query, &slot), (out, lse)) in queries.zip(rows.slots).zip(outs) {
            let n_keys = slot + 1;
            let budget = budget.of(n_keys);
            match &mut self.layers[layer] {
                LayerKeys::Pages(bounds) => bounds.update(layer, cache, n_keys)?,
                LayerKeys::Found(index) => index.update(layer, cache, n_keys)?,
                LayerKeys::Far { left_out, .. } => {
                    left_out.reach(layer, cache, n_keys.saturating_sub(budget.saturating_sub(SINKS).max(1)))?;
                }
                LayerKeys::Kept { .. } | LayerKeys::All | LayerKeys::Sinks => {}
            }
            let keys = &self.layers[layer];
            let select = |(head, query): (usize, &[f32])| {
                let mut mean = None;
                let slots = match keys {
                    LayerKeys::Pages(bounds) => bounds.select(head, query, &shape, n_keys, budget)?,
                    LayerKeys::Found(index) => index.select(head, query, &shape, n_keys, budget)?,
                    LayerKeys::Far { heads, left_out } => {
                        mean = left_out.run().filter(|_| !heads[head]);
                        let mut slots = Vec::new();
                        let first = if mean.is_some() { 0..SINKS } else { 0..left_out.end().min(n_keys) };
                        extend(&mut slots, first);
                        extend(&mut slots, left_out.end()..n_keys);
                        slots
                    }
                    LayerKeys::Kept { slots, of } => {
                        let mut slots = slots[head].clone();
                        extend(&mut slots, *of..n_keys);
                        slots
                    }
                    LayerKeys::All | LayerKeys::Sinks => unreachable!("these are dealt with before"),
                };
                let n_read = slots.iter().map(Range::len).sum::<usize>();
                let runs = slots.into_iter().flat_map(|slots| cache.runs(layer, slots)).chain(mean).collect();
                Ok((n_read, runs))
            };
            let selected: Vec<(usize, Vec<KvRun<'_>>)> = match keys {
                LayerKeys::Found(_) if n_keys >= WORTH_THREADS => {
                    query.par_chunks_exact(group).enumerate().with_max_len(1).map(select).collect::<Result<_>>()?
                }
                _ => query.chunks_exact(group).enumerate().map(select).collect::<Result<_>>()?,
            };
            let (n_read, runs): (Vec<usize>, Vec<_>) = selected.into_iter().unzip();
            self.traffic.read += n_read.into_iter().sum::<usize>() as u64;
            self.traffic.there += (n_keys * config.n_kv_heads) as u64;
            selected_attention(&shape, query, &runs, out, lse)?;
        }
        Ok(())
    }
}

/// Appends slots behind the last, as one range where they follow on.
fn extend(ranges: &mut Vec<Range<usize>>, slots: Range<usize>) {
    if slots.is_empty() {
        return;
    }
    match ranges.last_mut() {
        Some(last) if last.end == slots.start => last.end = slots.end,
        _ => ranges.push(slots),
    }
}

/// By key how far its score is below the best key's of the same query, for the query to which it is nearest.
///
/// `products` are `[n_queries, n_keys]`, before they are multiplied by `scale`. Queries of heads that share keys differ
/// in length, so their scores do not compare; what they fall short of their best does, since shares of attention are powers
/// of it.
fn nearest_to_best(products: &[f32], n_keys: usize, scale: f32) -> Vec<f32> {
    let mut nearest = vec![f32::NEG_INFINITY; n_keys];
    for products in products.chunks_exact(n_keys.max(1)) {
        let best = products.iter().fold(f32::NEG_INFINITY, |best, product| best.max(*product));
        for (nearest, product) in nearest.iter_mut().zip(products) {
            *nearest = nearest.max(scale * (product - best));
        }
    }
    nearest
}

/// The places of the `n` greatest numbers, ascending; of equal ones the first. None of the numbers is NaN.
fn best(n: usize, scores: &[f32]) -> Vec<usize> {
    /// The highest bits of a number, by which they are counted first.
    const BITS: u32 = 12;
    if n >= scores.len() {
        return (0..scores.len()).collect();
    }
    // As whole numbers of the same order: negative ones turned over, the others above them.
    let order = |score: f32| {
        let bits = (score + 0.0).to_bits(); // Both zeros are one.
        if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
    };
    let mut counts = vec![0usize; 1 << BITS];
    for &score in scores {
        counts[(order(score) >> (32 - BITS)) as usize] += 1;
    }
    let (mut bin, mut n_above) = (counts.len(), 0);
    while bin > 0 && n_above + counts[bin - 1] <= n {
        bin -= 1;
        n_above += counts[bin];
    }
    // Those of this bin and above are among the best, and some of the bin below.
    let (mut places, mut border) = (Vec::with_capacity(n), Vec::new());
    for (place, &score) in scores.iter().enumerate() {
        let order = order(score);
        let of = (order >> (32 - BITS)) as usize;
        if of >= bin {
            places.push(place);
        } else if of + 1 == bin {
            border.push((!order, place));
        }
    }
    let n_missing = n - n_above;
    if n_missing > 0 {
        border.select_nth_unstable(n_missing - 1);
        places.extend(border[..n_missing].iter().map(|(_, place)| place));
        places.sort_unstable();
    }
    places
}

#[cfg(test)]
mod tests {
    use raglan_kv::{KvArena, KvPrecision, KvShape};

    use super::*;

    pub(super) const SHAPE: KvShape = KvShape { n_layers: 2, n_kv_heads: 2, head_dim: 32 };

    /// Numbers between -1 and 1.
    pub(super) fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    /// Tokens at the positions of their slots.
    pub(super) fn cache(n_tokens: usize, precision: KvPrecision, seed: u64) -> KvCache {
        let mut cache = KvArena::new(SHAPE, precision).cache();
        cache.leave(n_tokens, 0).unwrap();
        let width = SHAPE.n_kv_heads * SHAPE.head_dim;
        let numbers = random(n_tokens * 2 * width, seed);
        for (slot, numbers) in numbers.chunks_exact(2 * width).enumerate() {
            cache.write(1, slot, &numbers[..width], &numbers[width..]);
        }
        cache
    }

    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn the_best_are_those_of_a_sort() {
        let mut state = 1u32;
        for len in [0, 1, 2, 17, 1000] {
            for spread in [3, 1 << 20] {
                let scores: Vec<f32> = (0..len)
                    .map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        ((state >> 8) as i32 % spread - spread / 2) as f32 / 7.0
                    })
                    .collect();
                let mut sorted: Vec<usize> = (0..len).collect();
                sorted.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
                for n in [0, 1, len / 3, len, len + 5] {
                    let mut expected = sorted[..n.min(len)].to_vec();
                    expected.sort_unstable();
                    assert_eq!(best(n, &scores), expected);
                }
            }
        }
        assert_eq!(best(1, &[f32::NEG_INFINITY, -0.0, 0.0]), [1]);
    }
}

//! `SnapKV`: what the end of a prompt looks at.

use std::ops::Range;

use raglan_kernels::{AttentionMask, KvRun, QueryRows, attention_mass, causal_attention};
use raglan_kv::KvCache;

use super::QueryRecord;
use crate::{DecoderModel, Result};

/// Keys over which attention is averaged, so that what stands around a key is kept with it.
const POOL: usize = 5;

/// By head of keys the slots that are kept: the last ones, whose queries were taken down, and those of the others that
/// got most of these queries' attention, `budget` in all.
pub(super) fn kept(
    model: &DecoderModel,
    layer: usize,
    cache: &KvCache,
    record: &QueryRecord,
    budget: usize,
) -> Result<Vec<Vec<Range<usize>>>> {
    let config = model.config();
    let (n_keys, n_observed) = (cache.len(), record.positions().len());
    let n_before = n_keys.saturating_sub(n_observed);
    if budget >= n_keys {
        return Ok(vec![std::iter::once(0..n_keys).collect(); config.n_kv_heads]);
    }
    let n = budget.saturating_sub(n_keys - n_before);
    let shape = config.attention_shape();
    let queries = QueryRows { rows: record.queries(layer), positions: record.positions(), segments: None };
    let runs: Vec<KvRun<'_>> = cache.runs(layer, 0..n_keys).collect();
    let (mut mixed, mut lse) = (vec![0.0; queries.rows.len()], vec![0.0; n_observed * config.n_heads]);
    let mask = AttentionMask::default();
    causal_attention(&shape, &queries, &runs, &mask, &mut mixed, Some(&mut lse))?;
    let each: Vec<Range<usize>> = (0..n_before).map(|slot| slot..slot + 1).collect();
    let mut mass = vec![0.0; config.n_heads * n_before];
    attention_mass(&shape, &queries, &runs, &mask, &lse, &each, &mut mass)?;
    let group = config.n_heads / config.n_kv_heads;
    Ok((0..config.n_kv_heads)
        .map(|kv_head| {
            let mut sums = vec![0.0; n_before];
            for head in mass[kv_head * group * n_before..(kv_head + 1) * group * n_before].chunks_exact(n_before.max(1))
            {
                sums.iter_mut().zip(head).for_each(|(sum, mass)| *sum += mass);
            }
            let mut slots = Vec::new();
            for slot in super::best(n, &pooled(&sums)) {
                super::extend(&mut slots, slot..slot + 1);
            }
            super::extend(&mut slots, n_before..n_keys);
            slots
        })
        .collect())
}

/// The mean of each number and its neighbours, as many as there are of [`POOL`].
fn pooled(numbers: &[f32]) -> Vec<f32> {
    (0..numbers.len())
        .map(|i| {
            let near = &numbers[i.saturating_sub(POOL / 2)..(i + POOL / 2 + 1).min(numbers.len())];
            near.iter().sum::<f32>() / POOL as f32
        })
        .collect()
}

//! `StreamingLLM`: the first and the last keys.

use raglan_kernels::{AttentionMask, AttentionShape, QueryRows, RotaryEmbedding, causal_attention, merge_attention};
use raglan_kv::KvCache;

use super::LayerRows;
use crate::Result;

/// The first keys, which soak up attention that has nowhere to go.
const SINKS: usize = 4;

/// Lets rows attend to the first keys and to the last before them, `budget` in all, 2 at least.
///
/// Positions are counted within these. For the last keys that changes no distance; to the first ones a row stands where
/// the last of `budget` tokens would, so its query is turned back to there.
pub(super) fn attend(
    shape: &AttentionShape,
    rotary: &RotaryEmbedding,
    cache: &KvCache,
    budget: usize,
    rows: LayerRows<'_>,
) -> Result<()> {
    let LayerRows { layer, queries, positions, slots, mixed, lse } = rows;
    let end = slots.iter().max().map_or(0, |last| last + 1);
    let seen = QueryRows { rows: queries, positions, segments: None };
    if end <= budget {
        let runs: Vec<_> = cache.runs(layer, 0..end).collect();
        return Ok(causal_attention(shape, &seen, &runs, &AttentionMask::default(), mixed, Some(lse))?);
    }
    let n_sinks = SINKS.min(budget / 2);
    let window = budget - n_sinks;
    let first = slots.iter().min().map_or(0, |first| (first + 1).saturating_sub(window)).max(n_sinks);
    let last_keys: Vec<_> = cache.runs(layer, first..end).collect();
    let mask = AttentionMask { window: Some(window as u32), sinks: 0 };
    causal_attention(shape, &seen, &last_keys, &mask, mixed, Some(lse))?;

    let first_keys: Vec<_> = cache.runs(layer, 0..n_sinks).collect();
    let mut turned = queries.to_vec();
    let farthest = budget as u32 - 1;
    for (query, &position) in turned.chunks_exact_mut(shape.n_heads * shape.head_dim).zip(positions) {
        rotary.shift(query, shape.n_heads, i64::from(position.min(farthest)) - i64::from(position))?;
    }
    let seen = QueryRows { rows: &turned, ..seen };
    let (mut of_first, mut lse_of_first) = (vec![0.0; mixed.len()], vec![0.0; lse.len()]);
    causal_attention(shape, &seen, &first_keys, &AttentionMask::default(), &mut of_first, Some(&mut lse_of_first))?;
    Ok(merge_attention(shape.head_dim, mixed, lse, &of_first, &lse_of_first)?)
}

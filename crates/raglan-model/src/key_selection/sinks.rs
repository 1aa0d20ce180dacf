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

#[cfg(test)]
mod tests {
    use raglan_kernels::{RotaryPairs, RotaryScaling};
    use raglan_kv::{KvArena, KvPrecision};

    use super::*;
    use crate::key_selection::tests::{SHAPE, random};

    #[test]
    fn positions_are_counted_within_what_is_kept() {
        let (n_keys, budget, layer) = (300, 50, 1);
        let width = SHAPE.n_kv_heads * SHAPE.head_dim;
        let shape = AttentionShape {
            n_heads: 2 * SHAPE.n_kv_heads,
            n_kv_heads: SHAPE.n_kv_heads,
            head_dim: SHAPE.head_dim,
            scale: 0.3,
        };
        let rotary = RotaryEmbedding::new(SHAPE.head_dim, 1e4, RotaryPairs::Halves, &RotaryScaling::None).unwrap();
        let (keys, values) = (random(n_keys * width, 1), random(n_keys * width, 2));
        // A cache of these tokens, the first of them at position 0.
        let filled = |tokens: &[usize]| {
            let mut cache = KvArena::new(SHAPE, KvPrecision::F32).cache();
            cache.leave(tokens.len(), 0).unwrap();
            for (slot, &token) in tokens.iter().enumerate() {
                let mut key = keys[token * width..(token + 1) * width].to_vec();
                rotary.rotate(&mut key, width, SHAPE.n_kv_heads, &[slot as u32]).unwrap();
                cache.write(layer, slot, &key, &values[token * width..(token + 1) * width]);
            }
            cache
        };
        let all = filled(&(0..n_keys).collect::<Vec<_>>());
        let query = random(2 * width, 3);
        let turned = |position: u32| {
            let mut query = query.clone();
            rotary.rotate(&mut query, 2 * width, shape.n_heads, &[position]).unwrap();
            query
        };
        for last in [20, 49, 50, 51, 299] {
            let first = if last < budget { 4 } else { last + 1 - (budget - 4) };
            let kept: Vec<usize> = (0..4).chain(first..last + 1).collect();
            let (mut expected, mut expected_lse) = (vec![0.0; 2 * width], vec![0.0; shape.n_heads]);
            let position = kept.len() as u32 - 1;
            let seen = QueryRows { rows: &turned(position), positions: &[position], segments: None };
            let there = filled(&kept);
            let runs: Vec<_> = there.runs(layer, 0..kept.len()).collect();
            let mask = AttentionMask::default();
            causal_attention(&shape, &seen, &runs, &mask, &mut expected, Some(&mut expected_lse)).unwrap();
            let (mut mixed, mut lse) = (vec![0.0; 2 * width], vec![0.0; shape.n_heads]);
            let rows = LayerRows {
                layer,
                queries: &turned(last as u32),
                positions: &[last as u32],
                slots: &[last],
                mixed: &mut mixed,
                lse: &mut lse,
            };
            attend(&shape, &rotary, &all, budget, rows).unwrap();
            for (got, expected) in mixed.iter().chain(&lse).zip(expected.iter().chain(&expected_lse)) {
                assert!((got - expected).abs() <= 1e-4, "{last}: {got} {expected}");
            }
        }
    }
}

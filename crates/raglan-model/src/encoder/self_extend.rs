//! Attention over texts that are longer than a model's rotations were trained for: near keys at their true distance,
//! far ones at a distance in groups.

use raglan_kernels::{
    AttentionMask, AttentionShape, KvRun, KvSlice, QueryRows, RotaryEmbedding, causal_attention, merge_attention,
};

use crate::Result;

/// `SelfExtend` (Jin et al. 2024) in both directions, for one sequence.
///
/// A key `j` fewer than `window` tokens from the query `i` has the rotation of its distance, `i − j`. One that is further
/// before it has `⌊i / group⌋ + window − ⌊window / group⌋ − ⌊j / group⌋`, and what stands behind it the mirror image.
/// So a query has four disjoint sets of keys, near and far on either side; each is attended to with rotations of its
/// own, and the parts are merged by their log-sum-exp. What stands behind a query is seen by reversing the order.
///
/// `qkv` is `[n_tokens, 3 · dim]` without rotations, `out` `[n_tokens, dim]`; `window` and `group` are at least 1.
pub(super) fn self_extend_attention(
    shape: &AttentionShape,
    rotary: &RotaryEmbedding,
    qkv: &[f32],
    window: usize,
    group: usize,
    out: &mut [f32],
) -> Result<()> {
    let (heads, dim) = (shape.n_heads, shape.n_heads * shape.head_dim);
    let n = out.len() / dim;
    let part = |part: usize| -> Vec<f32> {
        qkv.chunks_exact(3 * dim).flat_map(|row| &row[part * dim..(part + 1) * dim]).copied().collect()
    };
    let (queries, keys, values) = (part(0), part(1), part(2));
    let rotated = |rows: &[f32], positions: &[u32]| -> Result<Vec<f32>> {
        let mut rows = rows.to_vec();
        rotary.rotate(&mut rows, dim, heads, positions)?;
        Ok(rows)
    };
    let forth: Vec<u32> = (0..n as u32).collect();
    let back: Vec<u32> = forth.iter().rev().copied().collect();
    let grouped: Vec<u32> = forth.iter().map(|place| place / group as u32).collect();
    let shift = (window - window / group) as u32;
    let shifted: Vec<u32> = grouped.iter().map(|place| place + shift).collect();
    let mut lse = vec![0.0; n * heads];

    let (near_queries, near_keys) = (rotated(&queries, &forth)?, rotated(&keys, &forth)?);
    let run = |keys, positions| KvRun {
        keys: KvSlice::F32(keys),
        values: KvSlice::F32(&values),
        positions,
        segments: None,
        log_weights: None,
    };
    let near = AttentionMask { window: Some(window as u32), sinks: 0 };
    let rows = QueryRows { rows: &near_queries, positions: &forth, segments: None };
    causal_attention(shape, &rows, &[run(&near_keys, &forth)], &near, out, Some(&mut lse))?;

    // The rows from `first` on that there are places for, each of which sees the keys that stand no later than its place.
    let mut join = |queries: &[f32], first: usize, places: &[u32], run: KvRun, mask: &AttentionMask| -> Result<()> {
        let last = first + places.len();
        let rows = QueryRows { rows: &queries[first * dim..last * dim], positions: places, segments: None };
        let (mut other, mut other_lse) = (vec![0.0; places.len() * dim], vec![0.0; places.len() * heads]);
        causal_attention(shape, &rows, &[run], mask, &mut other, Some(&mut other_lse))?;
        let (out, lse) = (&mut out[first * dim..last * dim], &mut lse[first * heads..last * heads]);
        Ok(merge_attention(shape.head_dim, out, lse, &other, &other_lse)?)
    };
    if n > 1 && window > 1 {
        // Behind the query, itself left out: its place, in reversed order, less one.
        let mask = AttentionMask { window: Some(window as u32 - 1), sinks: 0 };
        join(&near_queries, 0, &back[1..], run(&near_keys, &back), &mask)?;
    }
    if n > window {
        let (all, n_far) = (AttentionMask::default(), n - window);
        let (far_queries, far_keys) = (rotated(&queries, &shifted)?, rotated(&keys, &grouped)?);
        join(&far_queries, window, &forth[..n_far], run(&far_keys, &forth), &all)?;
        let (far_queries, far_keys) = (rotated(&queries, &grouped)?, rotated(&keys, &shifted)?);
        join(&far_queries, 0, &back[window..], run(&far_keys, &back), &all)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raglan_kernels::{RotaryPairs, RotaryScaling};

    use super::*;

    const SHAPE: AttentionShape = AttentionShape { n_heads: 2, n_kv_heads: 2, head_dim: 4, scale: 0.5 };
    const DIM: usize = 8;

    fn numbers(n: usize, mut seed: u64) -> Vec<f32> {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The definition: each pair's own rotations, and one softmax over all keys.
    fn plain(rotary: &RotaryEmbedding, qkv: &[f32], window: i64, group: i64) -> Vec<f32> {
        let n = qkv.len() / (3 * DIM);
        let row = |token: usize, part: usize| &qkv[(token * 3 + part) * DIM..][..DIM];
        let turned = |row: &[f32], position: i64| {
            let mut row = row.to_vec();
            rotary.rotate(&mut row, DIM, 2, &[u32::try_from(position).unwrap()]).unwrap();
            row
        };
        let mut out = vec![0.0; n * DIM];
        for i in 0..n {
            let distance = |i: i64, j: i64| match i - j {
                near if near < window => near,
                _ => i / group + window - window / group - j / group,
            };
            let scores: Vec<[f64; 2]> = (0..n)
                .map(|j| {
                    let (a, b) = (i as i64, j as i64);
                    let distance = if a >= b { distance(a, b) } else { -distance(b, a) };
                    // Only the difference of two places counts.
                    let (q, k) = (turned(row(i, 0), distance.max(0)), turned(row(j, 1), (-distance).max(0)));
                    [0, 1].map(|head| {
                        let products = q[head * 4..][..4].iter().zip(&k[head * 4..][..4]);
                        0.5 * products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
                    })
                })
                .collect();
            for (c, out) in out[i * DIM..][..DIM].iter_mut().enumerate() {
                let shares: Vec<f64> = scores.iter().map(|score| score[c / 4].exp()).collect();
                let sum: f64 = shares.iter().sum();
                *out = (0..n).map(|j| shares[j] / sum * f64::from(row(j, 2)[c])).sum::<f64>() as f32;
            }
        }
        out
    }

    #[track_caller]
    fn check(n: usize, window: usize, group: usize) {
        let rotary = RotaryEmbedding::new(4, 100.0, RotaryPairs::Halves, &RotaryScaling::None).unwrap();
        let qkv = numbers(n * 3 * DIM, (n * 100 + window * 10 + group) as u64);
        let mut got = vec![f32::NAN; n * DIM];
        self_extend_attention(&SHAPE, &rotary, &qkv, window, group, &mut got).unwrap();
        let want = plain(&rotary, &qkv, window as i64, group as i64);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 1e-5, "{n} tokens, window {window}, group {group}: {got} for {want}");
        }
    }

    #[test]
    fn near_and_far_keys_have_the_distances_of_the_definition() {
        for n in [0, 1, 2, 3, 7, 20, 33] {
            for window in [1, 2, 3, 8, 40] {
                for group in [1, 2, 3, 9] {
                    check(n, window, group);
                }
            }
        }
    }

    #[test]
    fn distances_are_true_up_to_the_window_and_in_groups_behind_it() {
        // Window 4, groups of 2: 4 − 2 is added, so that the first far key of an even query is where it is.
        let far = |i: i64, j: i64| i / 2 + 4 - 4 / 2 - j / 2;
        assert_eq!((far(8, 4), far(8, 3), far(8, 2), far(8, 0)), (4, 5, 5, 6));
    }
}

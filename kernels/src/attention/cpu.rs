//! The reference: the plain formula, one score after the other, in `f64`.

use std::ops::Range;

use super::{AttentionMask, AttentionShape, KvRun, KvSlice, QueryRows};
use crate::half_product::f16_to_f32;

/// `[n_rows, n_heads, n_keys]`, −∞ where a key is not seen.
pub fn scores(shape: &AttentionShape, queries: &QueryRows, runs: &[KvRun], mask: &AttentionMask) -> Vec<f64> {
    let dim = shape.head_dim;
    let mut scores = Vec::new();
    for (row, &position) in queries.positions.iter().enumerate() {
        let segment = queries.segments.map_or(u32::MAX, |segments| segments[row]);
        for head in 0..shape.n_heads {
            let query = &queries.rows[(row * shape.n_heads + head) * dim..][..dim];
            let kv_head = head * shape.n_kv_heads / shape.n_heads;
            for run in runs {
                for (key, &key_position) in run.positions.iter().enumerate() {
                    let key_segment = run.segments.map_or(0, |segments| segments[key]);
                    let visible = key_position <= position
                        && (mask.window.is_none_or(|window| position - key_position < window)
                            || key_position < mask.sinks)
                        && (key_segment == 0 || key_segment == segment || segment == u32::MAX);
                    let mut sum = 0.0;
                    for (d, &query) in query.iter().enumerate() {
                        sum += f64::from(query) * number(&run.keys, (key * shape.n_kv_heads + kv_head) * dim + d);
                    }
                    let log_weight = run.log_weights.map_or(0.0, |weights| f64::from(weights[key]));
                    let score = sum * f64::from(shape.scale) + log_weight;
                    scores.push(if visible { score } else { f64::NEG_INFINITY });
                }
            }
        }
    }
    scores
}

/// `out`, `[n_rows, n_heads, head_dim]`, and `lse`, `[n_rows, n_heads]`.
pub fn attention(
    shape: &AttentionShape,
    queries: &QueryRows,
    runs: &[KvRun],
    mask: &AttentionMask,
) -> (Vec<f64>, Vec<f64>) {
    let (dim, n_rows) = (shape.head_dim, queries.positions.len() * shape.n_heads);
    let (mut out, mut lse) = (vec![0.0; n_rows * dim], vec![f64::NEG_INFINITY; n_rows]);
    let scores = scores(shape, queries, runs, mask);
    let n_keys = scores.len().checked_div(n_rows).unwrap_or(0);
    for row in 0..n_rows {
        let scores = &scores[row * n_keys..(row + 1) * n_keys];
        let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if maximum == f64::NEG_INFINITY {
            continue;
        }
        let sum: f64 = scores.iter().map(|score| (score - maximum).exp()).sum();
        lse[row] = maximum + sum.ln();
        let kv_head = row % shape.n_heads * shape.n_kv_heads / shape.n_heads;
        let mut score = scores.iter();
        for run in runs {
            for key in 0..run.positions.len() {
                let share = (score.next().expect("a score for each key") - lse[row]).exp();
                for d in 0..dim {
                    out[row * dim + d] += share * number(&run.values, (key * shape.n_kv_heads + kv_head) * dim + d);
                }
            }
        }
    }
    (out, lse)
}

/// `mass[h, i] = Σ_r Σ_{j in ranges[i]} exp(score − lse)`.
pub fn mass(shape: &AttentionShape, scores: &[f64], lse: &[f64], ranges: &[Range<usize>]) -> Vec<f64> {
    let mut mass = vec![0.0; shape.n_heads * ranges.len()];
    let n_keys = scores.len().checked_div(lse.len()).unwrap_or(0);
    for (row, lse) in lse.iter().enumerate().filter(|(_, lse)| lse.is_finite()) {
        for (i, range) in ranges.iter().enumerate() {
            for key in range.clone() {
                mass[row % shape.n_heads * ranges.len() + i] += (scores[row * n_keys + key] - lse).exp();
            }
        }
    }
    mass
}

fn number(slice: &KvSlice, index: usize) -> f64 {
    match slice {
        KvSlice::F32(numbers) => f64::from(numbers[index]),
        KvSlice::F16(bits) => f64::from(f16_to_f32(bits[index])),
    }
}

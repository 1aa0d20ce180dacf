//! Terms side by side, tokens one after the other.

use crate::forms::forms;

/// So many terms' maxima stay in the nearest cache from token to token.
const TILE: usize = 4096;

forms! {
    /// `max[v] = max(max[v], logits[t, v])` over rows of `n_terms`, which is not 0 and the length of `max`.
    pub fn running_max(logits: &[f32], n_terms: usize, max: &mut [f32]) {
        for (tile, max) in max.chunks_mut(TILE).enumerate() {
            for row in logits.chunks_exact(n_terms) {
                for (max, &logit) in max.iter_mut().zip(&row[tile * TILE..]) {
                    *max = if logit > *max { logit } else { *max };
                }
            }
        }
    }
}

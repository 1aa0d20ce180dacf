//! Terms side by side, tokens one after the other.

use crate::device::CpuForm;
use crate::forms::forms;

forms! {
    /// `max[v] = max(max[v], logits[t, v])` over rows of `n_terms`, which is not 0 and the length of `max`.
    pub fn running_max(logits: &[f32], n_terms: usize, max: &mut [f32]) {
        for row in logits.chunks_exact(n_terms) {
            for (max, &logit) in max.iter_mut().zip(row) {
                *max = if logit > *max { logit } else { *max };
            }
        }
    }
}

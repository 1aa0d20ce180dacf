//! What was asked while a prompt was read.

use crate::DecoderConfig;

/// The queries of a prompt's last tokens, and of some of all its tokens, in every layer.
///
/// Invariant: each layer has a query for each position, once a forward is over.
#[derive(Clone, Debug)]
pub struct QueryRecord {
    positions: Vec<u32>,
    /// Of each layer `[n, n_heads · head_dim]`, rotated.
    layers: Vec<Vec<f32>>,
    samples: Vec<Sample>,
}

/// The queries of every so many-th token, of which there are never more than [`QueryRecord::N_SAMPLES`].
#[derive(Clone, Debug)]
struct Sample {
    stride: u32,
    positions: Vec<u32>,
    queries: Vec<f32>,
}

impl QueryRecord {
    /// How many last tokens' queries are taken down: as many as `SnapKV` looks at.
    pub const N_TOKENS: usize = 32;
    /// How many tokens' queries stand for those of the whole prompt, at most.
    pub const N_SAMPLES: usize = 256;

    /// An empty record.
    pub fn new(config: &DecoderConfig) -> Self {
        let sample = Sample { stride: 1, positions: Vec::new(), queries: Vec::new() };
        Self {
            positions: Vec::new(),
            layers: vec![Vec::new(); config.n_layers],
            samples: vec![sample; config.n_layers],
        }
    }

    /// Takes a layer's queries of some more tokens.
    pub(crate) fn push(&mut self, layer: usize, queries: &[f32], positions: &[u32]) {
        let width = queries.len() / positions.len().max(1);
        if layer == 0 {
            keep_last(&mut self.positions, positions, Self::N_TOKENS);
        }
        keep_last(&mut self.layers[layer], queries, Self::N_TOKENS * width);
        for (query, &position) in queries.chunks_exact(width.max(1)).zip(positions) {
            self.samples[layer].push(query, position);
        }
    }

    /// Where the last tokens stand, the last of the text last.
    pub(crate) fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The queries of a layer by the last tokens: `[n, n_heads · head_dim]`.
    pub(crate) fn queries(&self, layer: usize) -> &[f32] {
        &self.layers[layer]
    }

    /// Queries of a layer by tokens from all over the prompt: `[n, n_heads · head_dim]`.
    pub(crate) fn sample(&self, layer: usize) -> &[f32] {
        &self.samples[layer].queries
    }
}

impl Sample {
    /// Takes a token whose turn it is; which ones these are depends on positions alone, not on how a prompt is cut.
    fn push(&mut self, query: &[f32], position: u32) {
        if !position.is_multiple_of(self.stride) {
            return;
        }
        if self.positions.len() == QueryRecord::N_SAMPLES {
            self.stride *= 2;
            let mut kept = 0;
            for i in 0..self.positions.len() {
                if self.positions[i].is_multiple_of(self.stride) {
                    self.positions[kept] = self.positions[i];
                    self.queries.copy_within(i * query.len()..(i + 1) * query.len(), kept * query.len());
                    kept += 1;
                }
            }
            self.positions.truncate(kept);
            self.queries.truncate(kept * query.len());
            return self.push(query, position);
        }
        self.positions.push(position);
        self.queries.extend_from_slice(query);
    }
}

/// Appends, and forgets all but the last `n`.
fn keep_last<T: Copy>(all: &mut Vec<T>, more: &[T], n: usize) {
    let more = &more[more.len().saturating_sub(n)..];
    let n_gone = (all.len() + more.len()).saturating_sub(n);
    all.drain(..n_gone);
    all.extend_from_slice(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_over_all_tokens() {
        for n in [10, 256, 257, 5_000] {
            let mut sample = Sample { stride: 1, positions: Vec::new(), queries: Vec::new() };
            for position in 0..n {
                sample.push(&[position as f32, 0.5], position);
            }
            let stride = n.div_ceil(256).next_power_of_two();
            let expected: Vec<u32> = (0..n).step_by(stride as usize).collect();
            assert_eq!(sample.positions, expected);
            let firsts: Vec<u32> = sample.queries.chunks_exact(2).map(|query| query[0] as u32).collect();
            assert_eq!(firsts, expected);
        }
    }
}

//! What was asked while a prompt was read.

use crate::DecoderConfig;

/// The queries of the last tokens of a prompt that were read, in every layer.
///
/// Invariant: each layer has a query for each position, once a forward is over.
#[derive(Clone, Debug)]
pub struct QueryRecord {
    positions: Vec<u32>,
    /// Of each layer `[n, n_heads · head_dim]`, rotated.
    layers: Vec<Vec<f32>>,
}

impl QueryRecord {
    /// How many tokens' queries are taken down: as many as `SnapKV` looks at.
    pub const N_TOKENS: usize = 32;

    /// An empty record.
    pub fn new(config: &DecoderConfig) -> Self {
        let layers = vec![Vec::new(); config.n_layers];
        Self { positions: Vec::new(), layers }
    }

    /// Takes a layer's queries of some more tokens.
    pub(crate) fn push(&mut self, layer: usize, queries: &[f32], positions: &[u32]) {
        let width = queries.len() / positions.len().max(1);
        if layer == 0 {
            keep_last(&mut self.positions, positions, Self::N_TOKENS);
        }
        keep_last(&mut self.layers[layer], queries, Self::N_TOKENS * width);
    }

    /// Where the tokens stand, the last of the text last.
    pub(crate) fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The queries of a layer: `[n, n_heads · head_dim]`.
    pub(crate) fn queries(&self, layer: usize) -> &[f32] {
        &self.layers[layer]
    }
}

/// Appends, and forgets all but the last `n`.
fn keep_last<T: Copy>(all: &mut Vec<T>, more: &[T], n: usize) {
    let more = &more[more.len().saturating_sub(n)..];
    let n_gone = (all.len() + more.len()).saturating_sub(n);
    all.drain(..n_gone);
    all.extend_from_slice(more);
}

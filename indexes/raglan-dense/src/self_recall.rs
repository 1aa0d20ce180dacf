//! How much of what an exact scan finds an index finds, asked with its own vectors.

use raglan_core::{ChunkId, DenseVector, VectorIndex};

use crate::bits::mixed;
use crate::{DenseIndex, SearchMode};

/// The recall of an index in the mode it is searched in.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfRecall {
    /// How many vectors were asked for.
    pub n_queries: usize,
    /// The share of the exact scan's hits that were found, from 0 to 1; hits whose score equals that of the last count
    /// as found. 1 when nothing was asked.
    pub recall: f64,
    /// Chunks whose own vector does not find them, nor another chunk of the same score, increasing.
    pub not_found: Vec<ChunkId>,
}

impl DenseIndex {
    /// Asks for the best `k` with the vectors of `sample` chunks that are not deleted, drawn as `seed` says, and
    /// compares with the exact scan.
    ///
    /// Every chunk is asked for when there are no more than `sample`.
    ///
    /// # Errors
    ///
    /// As searching.
    pub fn self_recall(&self, sample: usize, k: usize, seed: u64) -> raglan_core::Result<SelfRecall> {
        const QUERIES: usize = 256; // Asked at once, so that a large sample needs little memory.
        let mut live: Vec<(u64, ChunkId)> = self.live_ids().map(|id| (mixed(seed, id.0), id)).collect();
        let n_queries = sample.min(live.len());
        if n_queries > 0 && n_queries < live.len() {
            live.select_nth_unstable(n_queries - 1);
        }
        live.truncate(n_queries);
        let mut chunks: Vec<ChunkId> = live.into_iter().map(|(_, id)| id).collect();
        chunks.sort_unstable();
        let exact = self.clone().with_mode(SearchMode::Exact);
        let (mut n_hits, mut n_found, mut not_found) = (0, 0, Vec::new());
        for chunks in chunks.chunks(QUERIES) {
            let queries = chunks
                .iter()
                .map(|&chunk| DenseVector::new(self.vector(chunk).expect("the chunk is there").into_owned()))
                .collect::<raglan_core::Result<Vec<_>>>()?;
            let allowed = vec![None; queries.len()];
            let found = self.search(&queries, k, &allowed)?;
            let expected = exact.search(&queries, k, &allowed)?;
            for ((&chunk, found), expected) in chunks.iter().zip(&found).zip(&expected) {
                let (found, expected) = (found.hits(), expected.hits());
                let Some(last) = expected.last() else { continue };
                n_hits += expected.len();
                n_found += found.iter().filter(|hit| hit.score >= last.score).count().min(expected.len());
                let own = expected.iter().find(|hit| hit.chunk == chunk).map_or(last.score, |hit| hit.score);
                if !found.iter().any(|hit| hit.chunk == chunk || hit.score == own) {
                    not_found.push(chunk);
                }
            }
        }
        let recall = if n_hits == 0 { 1.0 } else { f64::from(n_found as u32) / f64::from(n_hits as u32) };
        Ok(SelfRecall { n_queries, recall, not_found })
    }
}

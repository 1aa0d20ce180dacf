//! Ranked chunks.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{ChunkId, Error, Result};

/// A chunk that was found, and how good it is by the measure of whoever found it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its score; higher is better.
    pub score: f32,
}

impl Hit {
    /// A hit on `chunk` with `score`.
    pub fn new(chunk: ChunkId, score: f32) -> Self {
        Self { chunk, score }
    }

    /// The order of every ranking: higher scores first, equal scores by lower id.
    pub fn cmp_best_first(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.chunk.cmp(&other.chunk))
    }
}

/// Chunks in order of their scores.
///
/// Invariant: scores are finite and do not increase; equal scores go by lower id; no chunk is there twice.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Ranking {
    hits: Vec<Hit>,
}

impl Ranking {
    /// The best `k` of the hits, which may come in any order.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when a score is infinite or not a number; [`Error::Invalid`] when a chunk is there twice.
    pub fn best(mut hits: Vec<Hit>, k: usize) -> Result<Self> {
        for hit in &mut hits {
            if !hit.score.is_finite() {
                return Err(Error::NotFinite { what: "score" });
            }
            hit.score += 0.0; // Makes −0 equal to 0 in the total order.
        }
        let mut ids: Vec<_> = hits.iter().map(|hit| hit.chunk).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Invalid { what: "ranking", problem: format!("chunk {} is there twice", twice[0].0) });
        }
        if k < hits.len() {
            hits.select_nth_unstable_by(k, Hit::cmp_best_first);
            hits.truncate(k);
        }
        hits.sort_unstable_by(Hit::cmp_best_first);
        Ok(Self { hits })
    }

    /// The hits, best first.
    pub fn hits(&self) -> &[Hit] {
        &self.hits
    }

    /// The chunks, best first.
    pub fn ids(&self) -> Vec<ChunkId> {
        self.hits.iter().map(|hit| hit.chunk).collect()
    }

    /// How many hits there are.
    pub fn len(&self) -> usize {
        self.hits.len()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.hits.is_empty()
    }

    /// The first `k` hits.
    pub fn truncated(mut self, k: usize) -> Self {
        self.hits.truncate(k);
        self
    }

    /// Rank (from 1) and score of a chunk, if it is in the ranking.
    pub fn position(&self, chunk: ChunkId) -> Option<(usize, f32)> {
        self.hits.iter().position(|hit| hit.chunk == chunk).map(|i| (i + 1, self.hits[i].score))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_infinity_and_doubles_are_refused() {
        let hit = |id, score| Hit::new(ChunkId(id), score);
        assert!(matches!(Ranking::best(vec![hit(0, f32::NAN)], 1), Err(Error::NotFinite { .. })));
        assert!(matches!(Ranking::best(vec![hit(0, f32::INFINITY)], 1), Err(Error::NotFinite { .. })));
        assert!(Ranking::best(vec![hit(3, 1.0), hit(3, 2.0)], 5).is_err());
    }

    #[test]
    fn ties_at_the_cut_keep_the_lower_id() {
        let hits = (0..100).rev().map(|id| Hit::new(ChunkId(id), if id % 2 == 0 { 1.0 } else { -0.0 })).collect();
        let ranking = Ranking::best(hits, 51).unwrap();
        let expected: Vec<_> = (0..100).step_by(2).chain([1]).map(ChunkId).collect();
        assert_eq!(ranking.ids(), expected);
    }
}

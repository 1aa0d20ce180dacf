//! Ranking chunks by a walk that begins at what a question finds.

use std::collections::BTreeMap;

use raglan_core::{ChunkId, ChunkSet, Hit, Ranking};

use crate::{EntityId, Error, GraphIndex, PageRank, Result};

/// How a question's walk begins and goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraphSearch {
    /// How the walk goes.
    pub walk: PageRank,
    /// How many entities it begins at, those of the greatest weight.
    pub max_seeds: usize,
    /// What a chunk weighs as a beginning that is found best by itself; the others weigh less, down to nothing.
    pub chunk_weight: f64,
}

impl Default for GraphSearch {
    /// HippoRAG 2's.
    fn default() -> Self {
        Self { walk: PageRank::default(), max_seeds: 5, chunk_weight: 0.05 }
    }
}

impl GraphIndex {
    /// The best `k` chunks by the walk that begins at these entities, with scores above 0, and at these chunks, as they were
    /// found; with equal scores, those with lower ids.
    ///
    /// An entity weighs its score by the number of chunks that name it: what few name tells more. A chunk weighs
    /// [`GraphSearch::chunk_weight`] times its score between the least and the greatest of them (1 when all are equal).
    /// Without any entity, chunks are ranked as they were found.
    ///
    /// A chunk's score is how likely the walk is at it. There are fewer than `k` only when it comes to no other allowed one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when an entity or a score is not what it must be; [`Error::Parameter`].
    ///
    /// # Panics
    ///
    /// When an entity is of another index.
    pub fn rank(
        &self,
        entities: &[(EntityId, f32)],
        chunks: &[Hit],
        search: &GraphSearch,
        k: usize,
        allowed: Option<&ChunkSet>,
    ) -> Result<Ranking> {
        search.walk.check()?;
        if !(search.chunk_weight >= 0.0 && search.chunk_weight.is_finite()) {
            return Err(Error::Parameter { name: "chunk_weight", value: search.chunk_weight, range: "0 or above" });
        }
        let invalid = |what, score: f32| Error::Invalid { what, problem: format!("{score} is no score") };
        let mut weights: BTreeMap<EntityId, f64> = BTreeMap::new();
        for &(entity, score) in entities {
            if !(score > 0.0 && score.is_finite()) {
                return Err(invalid("entity", score));
            }
            let weight = weights.entry(entity).or_default();
            *weight = weight.max(f64::from(score) / self.n_mentions(entity) as f64);
        }
        if let Some(hit) = chunks.iter().find(|hit| !hit.score.is_finite()) {
            return Err(invalid("chunk", hit.score));
        }
        let is_allowed = |chunk: ChunkId| allowed.is_none_or(|allowed| allowed.contains(chunk));
        let ranked = |hits: Vec<Hit>| {
            let problem = |error: raglan_core::Error| Error::Invalid { what: "ranking", problem: error.to_string() };
            Ranking::best(hits, k).map_err(problem)
        };
        let mut weights: Vec<(EntityId, f64)> = weights.into_iter().collect();
        weights.sort_by(|a, b| b.1.total_cmp(&a.1));
        weights.truncate(search.max_seeds);
        if weights.is_empty() {
            return ranked(chunks.iter().filter(|hit| is_allowed(hit.chunk)).copied().collect());
        }

        let n_entities = self.n_entities();
        let mut reset = vec![0.0; self.graph().n_nodes()];
        for (entity, weight) in weights {
            reset[entity.0 as usize] = weight;
        }
        let least = chunks.iter().map(|hit| f64::from(hit.score)).fold(f64::INFINITY, f64::min);
        let most = chunks.iter().map(|hit| f64::from(hit.score)).fold(f64::NEG_INFINITY, f64::max);
        for hit in chunks {
            let share = if most > least { (f64::from(hit.score) - least) / (most - least) } else { 1.0 };
            if let Some(i) = self.place_of(hit.chunk) {
                reset[n_entities + i] = search.chunk_weight * share;
            }
        }
        let mass = self.graph().personalized_page_rank(&reset, &search.walk)?;
        let hits = self.chunks().zip(&mass[n_entities..]).map(|(chunk, &mass)| Hit::new(chunk, mass as f32));
        ranked(hits.filter(|hit| hit.score > 0.0 && is_allowed(hit.chunk)).collect())
    }
}

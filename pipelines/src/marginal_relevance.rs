//! Rankings without repetition.

use std::ops::Deref;

use raglan_core::{ChunkVectors, DenseVector, Error, Hit, Ranking, Result};

use crate::{Ranked, Stage};

/// Chooses `k` hits of each ranking that are good and unlike each other: `Vec<Ranked>` → `Vec<Ranked>`.
///
/// Maximal marginal relevance (Carbonell and Goldstein 1998): the next hit is the one with the greatest
/// `λ · relevance − (1 − λ) · max cos(hit, chosen)`, which becomes its score; equal values go by lower id. The relevance
/// is the ranking's score, brought to 0 … 1 over the ranking. `lambda` 1 keeps the order, 0 looks at the vectors alone.
///
/// The vectors come by reference, `Arc` or `Box`.
pub fn mmr<V>(vectors: V, lambda: f32, k: usize) -> MarginalRelevance<V>
where
    V: Deref<Target: ChunkVectors> + Send + Sync,
{
    MarginalRelevance { vectors, lambda, k }
}

/// Maximal marginal relevance as a stage; see [`mmr`].
#[derive(Clone, Debug)]
pub struct MarginalRelevance<V> {
    vectors: V,
    lambda: f32,
    k: usize,
}

impl<V> MarginalRelevance<V>
where
    V: Deref<Target: ChunkVectors> + Send + Sync,
{
    fn choose(&self, ranking: &Ranking) -> Result<Ranking> {
        let hits = ranking.hits();
        let (Some(first), Some(last)) = (hits.first(), hits.last()) else { return Ok(Ranking::default()) };
        let vectors = self.vectors.vectors(&ranking.ids())?;
        if vectors.len() != hits.len() {
            return Err(Error::Shape { what: "vectors", expected: hits.len(), found: vectors.len() });
        }
        let range = first.score - last.score;
        let relevance = |hit: &Hit| if range > 0.0 { (hit.score - last.score) / range } else { 0.5 };
        let mut left: Vec<Candidate> = hits
            .iter()
            .zip(&vectors)
            .map(|(&hit, vector)| Candidate { hit, vector, relevance: relevance(&hit), nearest: f32::NEG_INFINITY })
            .collect();
        let mut chosen = Vec::with_capacity(self.k.min(hits.len()));
        while chosen.len() < self.k && !left.is_empty() {
            let value = |candidate: &Candidate| {
                // Nothing is like what is not chosen yet.
                let repeated = if chosen.is_empty() { 0.0 } else { candidate.nearest };
                self.lambda * candidate.relevance - (1.0 - self.lambda) * repeated
            };
            let valued =
                left.iter().enumerate().map(|(i, candidate)| (i, Hit::new(candidate.hit.chunk, value(candidate))));
            let (i, best) = valued.min_by(|(_, a), (_, b)| a.cmp_best_first(b)).expect("a candidate is left");
            let taken = left.swap_remove(i);
            for candidate in &mut left {
                let cosine = candidate.vector.cosine(taken.vector) as f32;
                candidate.nearest = candidate.nearest.max(cosine);
            }
            chosen.push(best);
        }
        // Values never rise from one choice to the next, but for rounding.
        for i in 1..chosen.len() {
            chosen[i].score = chosen[i].score.min(chosen[i - 1].score);
        }
        Ranking::best(chosen, self.k)
    }
}

struct Candidate<'a> {
    hit: Hit,
    vector: &'a DenseVector,
    relevance: f32,
    /// The greatest cosine with a chosen hit.
    nearest: f32,
}

impl<V> Stage<Vec<Ranked>> for MarginalRelevance<V>
where
    V: Deref<Target: ChunkVectors> + Send + Sync,
{
    type Out = Vec<Ranked>;

    fn run(&self, batch: Vec<Ranked>) -> Result<Vec<Ranked>> {
        batch.into_iter().map(|item| Ok(Ranked { ranking: self.choose(&item.ranking)?, ..item })).collect()
    }

    fn name(&self) -> String {
        format!("mmr({}, {})", self.lambda, self.k)
    }
}

#[cfg(test)]
mod tests {
    use raglan_core::ChunkId;

    use super::*;

    /// Chunks 1 and 2 say the same, 3 says something else.
    struct Three;

    impl ChunkVectors for Three {
        fn vectors(&self, ids: &[ChunkId]) -> Result<Vec<DenseVector>> {
            ids.iter().map(|id| DenseVector::new(if id.0 < 3 { vec![1.0, 0.0] } else { vec![0.0, 1.0] })).collect()
        }
    }

    #[track_caller]
    fn check(lambda: f32, k: usize, expected: &[(u32, f32)]) {
        let hits = [(1, 1.0), (2, 0.9), (3, 0.5)].map(|(id, score)| Hit::new(ChunkId(id), score));
        let ranked = Ranked::new("q".into(), Ranking::best(hits.to_vec(), 3).unwrap());
        let found = mmr(&Three, lambda, k).run(vec![ranked]).unwrap();
        let found: Vec<(u32, f32)> = found[0].ranking.hits().iter().map(|hit| (hit.chunk.0, hit.score)).collect();
        assert_eq!(found.len(), expected.len());
        for ((id, score), (expected_id, expected_score)) in found.iter().zip(expected) {
            assert!(id == expected_id && (score - expected_score).abs() <= 1e-6, "{found:?}");
        }
    }

    #[test]
    fn repetitions_come_last() {
        // Relevance: 1, 0.8, 0. After 1: 2 is worth 0.5 · 0.8 − 0.5 · 1, and 3 is worth 0.
        check(0.5, 3, &[(1, 0.5), (3, 0.0), (2, -0.1)]);
        check(0.5, 2, &[(1, 0.5), (3, 0.0)]);
    }

    #[test]
    fn with_lambda_one_the_order_stays() {
        check(1.0, 3, &[(1, 1.0), (2, 0.8), (3, 0.0)]);
    }

    #[test]
    fn nothing_comes_of_nothing() {
        let found = mmr(&Three, 0.5, 3).run(vec![Ranked::new("q".into(), Ranking::default())]).unwrap();
        assert!(found[0].ranking.is_empty());
    }
}

//! Rerankers as stages.

use std::ops::Deref;

use raglan_core::{Error, Query, Ranking, Reranker, Result, SharedBudget};

use crate::{Ranked, Stage};

/// Scores the first `depth` hits of each ranking anew and keeps the best `k` of them: `Vec<Ranked>` → `Vec<Ranked>`.
///
/// The reranker comes by reference, `Arc` or `Box`, and may be a `dyn Reranker`. When the [`SharedBudget`] is
/// spent, the hits stay as they are.
pub fn rerank<R>(reranker: R, depth: usize, k: usize) -> Rerank<R>
where
    R: Deref<Target: Reranker> + Send + Sync,
{
    Rerank { reranker, depth, k }
}

/// A reranker as a stage; see [`rerank`].
#[derive(Clone, Debug)]
pub struct Rerank<R> {
    reranker: R,
    depth: usize,
    k: usize,
}

impl<R> Stage<Vec<Ranked>> for Rerank<R>
where
    R: Deref<Target: Reranker> + Send + Sync,
{
    type Out = Vec<Ranked>;

    fn run(&self, batch: Vec<Ranked>) -> Result<Vec<Ranked>> {
        let queries: Vec<Query> = batch.iter().map(|item| item.query.clone()).collect();
        let heads: Vec<Ranking> = batch.iter().map(|item| item.ranking.clone().truncated(self.depth)).collect();
        let rankings =
            if SharedBudget::current().is_spent() { heads } else { self.reranker.rerank(&queries, &heads)? };
        if rankings.len() != batch.len() {
            return Err(Error::Shape { what: "rankings", expected: batch.len(), found: rankings.len() });
        }
        let kept = rankings.into_iter().map(|ranking| ranking.truncated(self.k));
        Ok(batch.into_iter().zip(kept).map(|(item, ranking)| Ranked { ranking, ..item }).collect())
    }

    fn name(&self) -> String {
        format!("rerank({}, {})", self.depth, self.k)
    }
}

#[cfg(test)]
mod tests {
    use raglan_core::{ChunkId, Hit};

    use super::*;

    /// Likes chunks with high ids, and knows none above 100.
    struct ById;

    impl Reranker for ById {
        fn rerank(&self, _: &[Query], rankings: &[Ranking]) -> Result<Vec<Ranking>> {
            let known =
                |ranking: &Ranking| ranking.hits().iter().map(|hit| hit.chunk).filter(|id| id.0 <= 100).collect();
            let scored = |ids: Vec<ChunkId>| {
                let k = ids.len();
                Ranking::best(ids.into_iter().map(|id| Hit::new(id, id.0 as f32)).collect(), k)
            };
            rankings.iter().map(|ranking| scored(known(ranking))).collect()
        }
    }

    #[test]
    fn the_head_of_each_ranking_is_scored_anew() {
        let ranked = |ids: &[u32]| {
            let hits = ids.iter().enumerate().map(|(i, &id)| Hit::new(ChunkId(id), 1.0 - i as f32 / 10.0)).collect();
            Ranked::new("q".into(), Ranking::best(hits, ids.len()).unwrap())
        };
        let batch = vec![ranked(&[3, 200, 7, 9]), ranked(&[])];
        let found = rerank(&ById, 3, 9).run(batch.clone()).unwrap();
        assert_eq!(found[0].ranking.ids(), [7, 3].map(ChunkId));
        assert!(found[1].ranking.is_empty());
        // What is kept is the head of that.
        assert_eq!(rerank(&ById, 3, 1).run(batch).unwrap()[0].ranking.ids(), [7].map(ChunkId));
    }
}

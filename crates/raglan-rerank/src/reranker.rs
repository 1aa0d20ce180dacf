//! A judge as a stage's reranker.

use std::sync::{Arc, Mutex};

use raglan_core::{ChunkId, ChunkStore, Hit, Query, Ranking, Reranker};

use crate::{Budget, Cost, Judge, Task};

/// Lets a judge put the chunks of rankings in order: no chunk is lost or comes twice, whatever it says.
pub struct PassageReranker<J> {
    judge: J,
    store: Arc<dyn ChunkStore>,
    depth: usize,
    budget: Budget,
    spent: Mutex<Cost>,
}

impl<J: Judge> PassageReranker<J> {
    /// A reranker whose judge reads the first `depth` chunks of a ranking in `store`, each below the line of its headings,
    /// within a budget for each query and an equal part of what is left of the
    /// [current one](raglan_core::SharedBudget::current). The other chunks follow as they came.
    pub fn new(judge: J, store: Arc<dyn ChunkStore>, depth: usize, budget: Budget) -> Self {
        Self { judge, store, depth, budget, spent: Mutex::default() }
    }

    /// What all rankings so far have cost.
    pub fn spent(&self) -> Cost {
        *self.spent.lock().expect("no thread panics while it adds")
    }
}

impl<J: Judge> Reranker for PassageReranker<J> {
    fn rerank(&self, queries: &[Query], rankings: &[Ranking]) -> raglan_core::Result<Vec<Ranking>> {
        if queries.len() != rankings.len() {
            let (expected, found) = (queries.len(), rankings.len());
            return Err(raglan_core::Error::Shape { what: "rankings", expected, found });
        }
        let first = |ranking: &Ranking| ranking.hits().iter().map(|hit| hit.chunk).take(self.depth).collect();
        let ids: Vec<Vec<ChunkId>> = rankings.iter().map(first).collect();
        let texts = |ids: &Vec<ChunkId>| {
            let chunks = self.store.chunks(ids)?;
            Ok(chunks.iter().map(|chunk| chunk.embedded_text(true)).collect::<Vec<_>>())
        };
        let texts = ids.iter().map(texts).collect::<raglan_core::Result<Vec<_>>>()?;
        let passages: Vec<Vec<&str>> = texts.iter().map(|texts| texts.iter().map(String::as_str).collect()).collect();
        let tasks = queries.iter().zip(&passages).zip(&ids);
        let tasks = tasks.map(|((query, passages), chunks)| Task { question: &query.text, passages, chunks });
        let tasks: Vec<Task<'_>> = tasks.collect();
        let shared = raglan_core::SharedBudget::current();
        let judgements = self.judge.judge(&tasks, &self.budget.within_shared(queries.len()))?;
        let judged = rankings.iter().zip(judgements).map(|(ranking, judgement)| {
            *self.spent.lock().expect("no thread panics while it adds") += judgement.cost;
            shared.spend(judgement.cost);
            let ranked = judgement.verdict.ranked(ranking.len()).into_iter();
            let hits = ranked.map(|(i, score)| Hit::new(ranking.hits()[i].chunk, score)).collect();
            Ranking::best(hits, ranking.len())
        });
        judged.collect()
    }
}

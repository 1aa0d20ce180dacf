//! Reranking by the attention of the model that answers, in the prompt that it answers from.

use std::sync::Arc;

use raglan_core::{Context, Generator, Hit, Query, Ranking, Reranker};
use raglan_pipeline::{Ranked, Stage, read};
use raglan_rerank::{Verdict, attention_scores};
use raglan_store::Snapshot;

/// Puts the first chunks of a ranking in the order of the attention that the question pays to them in the prompt that the
/// generator would answer it from; a prompt that has been read so need not be read again for the answer.
///
/// It is in-context reranking (Chen et al. 2025) whose prompt is the answer's: chunks that do not fit into that keep
/// their order behind the others.
pub(crate) struct AttentionReranker {
    pub generator: Arc<dyn Generator>,
    pub store: Snapshot,
    /// How many of the first chunks are read.
    pub depth: usize,
    /// The first layer that counts.
    pub first_layer: usize,
    /// How many layers count from there on; all, with none.
    pub n_layers: Option<usize>,
}

impl AttentionReranker {
    /// The places of the passages in a context, best first; the other passages are not judged.
    fn verdict(&self, context: &Context) -> raglan_core::Result<Verdict> {
        let mut scores = vec![None; context.passages.len()];
        if let Some(found) = self.generator.attention(context, self.first_layer, self.n_layers)? {
            let of_shown = attention_scores(&found.of_question, found.of_nothing.as_deref(), &found.lengths);
            found.shown.iter().zip(of_shown).for_each(|(&i, score)| scores[i] = Some(score));
        }
        Ok(Verdict::Scores(scores))
    }
}

impl Reranker for AttentionReranker {
    fn rerank(&self, queries: &[Query], rankings: &[Ranking]) -> raglan_core::Result<Vec<Ranking>> {
        if queries.len() != rankings.len() {
            let (expected, found) = (queries.len(), rankings.len());
            return Err(raglan_core::Error::Shape { what: "rankings", expected, found });
        }
        let head =
            |(query, ranking): (&Query, &Ranking)| Ranked::new(query.clone(), ranking.clone().truncated(self.depth));
        let contexts = read(&self.store).run(queries.iter().zip(rankings).map(head).collect())?;
        let judged = rankings.iter().zip(&contexts).map(|(ranking, context)| {
            let ranked = self.verdict(context)?.ranked(ranking.len()).into_iter();
            let hits = ranked.map(|(i, score)| Hit::new(ranking.hits()[i].chunk, score)).collect();
            Ranking::best(hits, ranking.len())
        });
        judged.collect()
    }
}

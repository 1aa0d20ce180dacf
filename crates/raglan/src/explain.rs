//! How a query finds a chunk, or why it does not.

use raglan_core::{Chunk, ChunkId, LeftOutReason, Query, Retriever, VectorIndex};
use raglan_dense::SearchMode;
use raglan_pipeline::{Bm25Spec, Recipe, StageSpec, Value};
use raglan_sparse::{Bm25Explanation, Bm25Parameters};
use serde::Serialize;

use crate::filter::Filter;
use crate::index::Index;
use crate::search::without_generation;
use crate::{Error, Result};

/// How a query meets some chunks.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The query.
    pub query: String,
    /// The terms that BM25 looks for.
    pub terms: Vec<String>,
    /// What was asked about, chunk by chunk, best first.
    pub chunks: Vec<ExplainedChunk>,
}

/// How a query meets a chunk.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedChunk {
    /// The chunk.
    pub chunk: u32,
    /// The document's path.
    pub path: String,
    /// Where in the document.
    pub locator: String,
    /// The beginning of the chunk.
    pub beginning: String,
    /// BM25: rank among all chunks and the score term by term; none when no term is shared.
    pub bm25: Option<ExplainedBm25>,
    /// Vectors: rank among all chunks and the inner product; none when the index has no vectors.
    pub dense: Option<RankAndScore>,
    /// The recipe's ranking stages in order, with the chunk's place in each.
    pub stages: Vec<ExplainedStage>,
    /// Whether the recipe's last ranking holds the chunk.
    pub found: bool,
    /// Why, in words.
    pub verdict: String,
}

/// A rank, from 1, and a score.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RankAndScore {
    /// From 1.
    pub rank: usize,
    /// Higher is better.
    pub score: f32,
}

/// A chunk's BM25 score.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedBm25 {
    /// Rank among all chunks, from 1.
    pub rank: usize,
    /// The score and its terms.
    #[serde(flatten)]
    pub explanation: Bm25Explanation,
}

/// A chunk's place in a stage's ranking.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedStage {
    /// The stage's name.
    pub stage: String,
    /// The stage's kind.
    pub kind: &'static str,
    /// How many chunks the stage ranked.
    pub ranked: usize,
    /// The chunk's place, if it is in the ranking.
    pub place: Option<RankAndScore>,
    /// Why the stage left the chunk out, if it says so.
    pub left_out: Option<LeftOutReason>,
}

/// The parameters of the recipe's first search by words, or the usual ones.
fn bm25_parameters(recipe: &Recipe) -> Result<Bm25Parameters> {
    let parameters = recipe.all_stages().into_iter().find_map(|stage| match stage.spec {
        StageSpec::Bm25(Bm25Spec { k1, b, .. }) => Some(Bm25Parameters::new(k1, b)),
        _ => None,
    });
    Ok(parameters.transpose()?.unwrap_or_default())
}

impl Index {
    /// Explains how a recipe finds a chunk, given by its number, or the chunks of a document, given by its path.
    ///
    /// The cost is that of ranking every chunk.
    ///
    /// # Errors
    ///
    /// [`Error::NotIndexed`] when there is no such chunk or document.
    pub fn explain(&self, recipe: &Recipe, query: &str, target: &str) -> Result<Explanation> {
        let chunks = self.chunks_named(target)?;
        let everything = self.snapshot().n_chunks();
        let asked = Query::new(query);
        let bm25 = self.bm25(bm25_parameters(recipe)?)?;
        let by_words = &bm25.search(std::slice::from_ref(&asked), everything)?[0];
        let by_vectors = if self.has_dense() {
            let vectors = self.embedder()?.encoder()?.encode_queries(&[query])?;
            Some(self.dense_in(SearchMode::Exact)?.search(&vectors, everything, &[None])?.swap_remove(0))
        } else {
            None
        };
        let pipeline = self.pipeline(without_generation(recipe)?, None)?;
        let runs = pipeline.trace(vec![self.query(query, &Filter::default())?], &mut |_, _| {})?;

        let mut explained = Vec::new();
        for chunk in chunks {
            let place =
                |rank_and_score: Option<(usize, f32)>| rank_and_score.map(|(rank, score)| RankAndScore { rank, score });
            let words = match (by_words.position(chunk.id), bm25.explain(query, chunk.id)?) {
                (Some((rank, _)), Some(explanation)) => Some(ExplainedBm25 { rank, explanation }),
                _ => None,
            };
            let dense = by_vectors.as_ref().and_then(|ranking| place(ranking.position(chunk.id)));
            let mut stages = Vec::new();
            for (stage, run) in pipeline.recipe().stages().iter().zip(&runs) {
                let Value::Rankings(rankings) = &run.output else { continue };
                let ranked = &rankings[0];
                let left_out = ranked.left_out.iter().find(|left| left.chunk == chunk.id).map(|left| left.reason);
                stages.push(ExplainedStage {
                    stage: stage.name.clone(),
                    kind: stage.spec.kind(),
                    ranked: ranked.ranking.len(),
                    place: place(ranked.ranking.position(chunk.id)),
                    left_out,
                });
            }
            let document = raglan_core::ChunkStore::document(self.snapshot(), chunk.doc)?;
            let found = stages.last().is_some_and(|stage| stage.place.is_some());
            let verdict = verdict(&stages, words.is_some(), self.has_dense());
            explained.push(ExplainedChunk {
                chunk: chunk.id.0,
                path: document.path.clone(),
                locator: chunk.locator.to_string(),
                beginning: chunk.text.chars().take(120).collect(),
                bm25: words,
                dense,
                stages,
                found,
                verdict,
            });
        }
        let last =
            |chunk: &ExplainedChunk| chunk.stages.last().and_then(|stage| stage.place).map_or(usize::MAX, |p| p.rank);
        let nearest = |chunk: &ExplainedChunk| chunk.dense.map_or(usize::MAX, |place| place.rank);
        explained.sort_by_key(|chunk| (last(chunk), nearest(chunk), chunk.chunk));
        let terms = self.analyzer().tokens(query).into_iter().map(|token| token.text).collect();
        Ok(Explanation { query: query.to_owned(), terms, chunks: explained })
    }

    /// The chunk with this number, or the chunks of the document with this path.
    ///
    /// # Errors
    ///
    /// [`Error::NotIndexed`] when there is neither.
    pub fn chunks_named(&self, target: &str) -> Result<Vec<Chunk>> {
        if let Some(entry) = self.snapshot().ledger()?.by_path(target) {
            return Ok(self.snapshot().chunks_of(entry.document.id)?);
        }
        let number: Option<u32> = target.parse().ok();
        let chunk = number.and_then(|n| raglan_core::ChunkStore::chunks(self.snapshot(), &[ChunkId(n)]).ok());
        chunk.ok_or_else(|| Error::NotIndexed { name: target.to_owned() })
    }
}

/// What became of a chunk, from its places in the stages.
fn verdict(stages: &[ExplainedStage], shares_words: bool, has_dense: bool) -> String {
    match stages.last() {
        None => "the recipe ranks nothing".to_owned(),
        Some(ExplainedStage { place: Some(place), .. }) => format!("found at rank {}", place.rank),
        Some(_) => {
            let last_seen = stages.iter().rposition(|stage| stage.place.is_some());
            match last_seen.map(|i| (&stages[i], stages.get(i + 1))) {
                None if !shares_words && !has_dense => "not found: it has none of the query's terms".to_owned(),
                None => "not found: no retriever ranks it high enough".to_owned(),
                Some((_, Some(next))) if next.left_out == Some(LeftOutReason::Irrelevant) => {
                    format!("left out by `{}`: its evidence is below the thresholds", next.stage)
                }
                Some((seen, Some(next))) => {
                    format!("lost after `{}`: it is not among the best {} of `{}`", seen.stage, next.ranked, next.stage)
                }
                Some((seen, None)) => format!("lost after `{}`", seen.stage),
            }
        }
    }
}

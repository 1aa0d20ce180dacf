//! Retrieval and reranking by the learned sparse vectors and the token vectors of an index.

use std::sync::Arc;

use raglan_core::VectorIndex;
use raglan_core::{ChunkSet, Encoder, Hit, Query, Ranking, Reranker, Result, Retriever, SparseVector, TokenMatrix};
use raglan_embed::TokenBag;
use raglan_late::LateIndex;
use raglan_sparse::ImpactIndex;

/// How a question becomes a learned sparse vector.
#[derive(Clone)]
pub enum SparseQuery {
    /// By the model that made the passages' vectors.
    Encoded(Arc<dyn Encoder<Vector = SparseVector>>),
    /// By the model's tokenizer alone: each distinct token weighs what a published table says, or its idf in the index.
    InferenceFree(Arc<TokenBag>),
}

impl SparseQuery {
    fn vectors(&self, index: &ImpactIndex, queries: &[Query]) -> Result<Vec<SparseVector>> {
        match self {
            Self::Encoded(encoder) => {
                let texts: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
                encoder.encode_queries(&texts)
            }
            Self::InferenceFree(bag) => {
                let vector = |query: &Query| match bag.weighted(&query.text)? {
                    Some(vector) => Ok(vector),
                    None => Ok(index.inference_free_query(&bag.tokens(&query.text)?)),
                };
                queries.iter().map(vector).collect()
            }
        }
    }
}

/// Finds and scores chunks by their learned sparse vectors.
///
/// As a reranker of what BM25 found, with inference-free queries, this is TILDEv2 (Zhuang and Zuccon 2021) with
/// another model's expansions.
pub struct SparseVectors {
    /// How questions become vectors.
    pub query: SparseQuery,
    /// The chunks' vectors.
    pub index: Arc<ImpactIndex>,
}

impl Retriever for SparseVectors {
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
        let vectors = self.query.vectors(&self.index, queries)?;
        let allowed: Vec<Option<&ChunkSet>> = queries.iter().map(|query| query.allowed.as_deref()).collect();
        self.index.search(&vectors, k, &allowed)
    }
}

impl Reranker for SparseVectors {
    fn rerank(&self, queries: &[Query], rankings: &[Ranking]) -> Result<Vec<Ranking>> {
        let vectors = self.query.vectors(&self.index, queries)?;
        let scored = |(vector, ranking): (&SparseVector, &Ranking)| {
            let ids = ranking.ids();
            let scores = self.index.scores(vector, &ids)?;
            let hits = ids.into_iter().zip(scores).filter_map(|(id, score)| Some(Hit::new(id, score?)));
            Ranking::best(hits.collect(), ranking.len())
        };
        vectors.iter().zip(rankings).map(scored).collect()
    }
}

/// Scores chunks by late interaction with their token vectors.
pub struct TokenVectors {
    /// What encodes questions.
    pub encoder: Arc<dyn Encoder<Vector = TokenMatrix>>,
    /// The chunks' token vectors.
    pub index: Arc<LateIndex>,
}

impl Reranker for TokenVectors {
    fn rerank(&self, queries: &[Query], rankings: &[Ranking]) -> Result<Vec<Ranking>> {
        let texts: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
        let vectors = self.encoder.encode_queries(&texts)?;
        let scored = |(vectors, ranking): (&TokenMatrix, &Ranking)| {
            let ids = ranking.ids();
            let scores = self.index.scores(vectors, &ids)?;
            let hits = ids.into_iter().zip(scores).map(|(id, score)| Hit::new(id, score));
            Ranking::best(hits.collect(), ranking.len())
        };
        vectors.iter().zip(rankings).map(scored).collect()
    }
}

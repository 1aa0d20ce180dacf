//! Retrievers as stages, and the retriever that an encoder and an index make.

use std::ops::Deref;
use std::sync::Arc;

use raglan_core::{ChunkSet, Encoder, Error, Query, Ranking, Result, Retriever, VectorIndex};

use crate::{Ranked, Stage};

/// Finds the best `k` chunks of each query: `Vec<Query>` → `Vec<Ranked>`.
///
/// The retriever comes by reference, `Arc` or `Box`, and may be a `dyn Retriever`.
pub fn retrieve<R>(retriever: R, k: usize) -> Retrieve<R>
where
    R: Deref<Target: Retriever> + Send + Sync,
{
    Retrieve { retriever, k }
}

/// A retriever as a stage; see [`retrieve`].
#[derive(Clone, Debug)]
pub struct Retrieve<R> {
    retriever: R,
    k: usize,
}

impl<R> Stage<Vec<Query>> for Retrieve<R>
where
    R: Deref<Target: Retriever> + Send + Sync,
{
    type Out = Vec<Ranked>;

    fn run(&self, queries: Vec<Query>) -> Result<Vec<Ranked>> {
        let rankings = self.retriever.search(&queries, self.k)?;
        if rankings.len() != queries.len() {
            return Err(Error::Shape { what: "rankings", expected: queries.len(), found: rankings.len() });
        }
        Ok(queries.into_iter().zip(rankings).map(|(query, ranking)| Ranked::new(query, ranking)).collect())
    }

    fn name(&self) -> String {
        format!("retrieve({})", self.k)
    }
}

/// An encoder and the index of its vectors: a retriever.
///
/// The vectors must be of one kind. An encoder of sparse vectors beside an index of dense ones does not compile:
///
/// ```compile_fail,E0271
/// use std::sync::Arc;
/// use raglan_core::{DenseVector, Encoder, SparseVector, VectorIndex};
/// use raglan_pipeline::DenseRetriever;
///
/// fn pair(splade: Arc<dyn Encoder<Vector = SparseVector>>, hnsw: Arc<dyn VectorIndex<Vector = DenseVector>>) {
///     DenseRetriever::new(splade, hnsw);
/// }
/// ```
///
/// ```
/// # use std::sync::Arc;
/// # use raglan_core::{DenseVector, Encoder, VectorIndex};
/// # use raglan_pipeline::DenseRetriever;
/// fn pair(minilm: Arc<dyn Encoder<Vector = DenseVector>>, hnsw: Arc<dyn VectorIndex<Vector = DenseVector>>) {
///     DenseRetriever::new(minilm, hnsw);
/// }
/// ```
pub struct DenseRetriever<E: ?Sized, I: ?Sized> {
    encoder: Arc<E>,
    index: Arc<I>,
}

impl<E, I> DenseRetriever<E, I>
where
    E: Encoder + ?Sized,
    I: VectorIndex<Vector = E::Vector> + ?Sized,
{
    /// A retriever that encodes queries with `encoder` and looks their vectors up in `index`.
    pub fn new(encoder: Arc<E>, index: Arc<I>) -> Self {
        Self { encoder, index }
    }
}

impl<E, I> Retriever for DenseRetriever<E, I>
where
    E: Encoder + ?Sized,
    I: VectorIndex<Vector = E::Vector> + ?Sized,
{
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
        let texts: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
        let vectors = self.encoder.encode_queries(&texts)?;
        let allowed: Vec<Option<&ChunkSet>> = queries.iter().map(|query| query.allowed.as_deref()).collect();
        self.index.search(&vectors, k, &allowed)
    }
}

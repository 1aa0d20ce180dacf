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
/// use raglan_pipeline::VectorRetriever;
///
/// fn pair(splade: Arc<dyn Encoder<Vector = SparseVector>>, hnsw: Arc<dyn VectorIndex<Vector = DenseVector>>) {
///     VectorRetriever::new(splade, hnsw);
/// }
/// ```
///
/// ```
/// # use std::sync::Arc;
/// # use raglan_core::{DenseVector, Encoder, VectorIndex};
/// # use raglan_pipeline::VectorRetriever;
/// fn pair(minilm: Arc<dyn Encoder<Vector = DenseVector>>, hnsw: Arc<dyn VectorIndex<Vector = DenseVector>>) {
///     VectorRetriever::new(minilm, hnsw);
/// }
/// ```
pub struct VectorRetriever<E: ?Sized, I: ?Sized> {
    encoder: Arc<E>,
    index: Arc<I>,
}

impl<E, I> VectorRetriever<E, I>
where
    E: Encoder + ?Sized,
    I: VectorIndex<Vector = E::Vector> + ?Sized,
{
    /// A retriever that encodes queries with `encoder` and looks their vectors up in `index`.
    pub fn new(encoder: Arc<E>, index: Arc<I>) -> Self {
        Self { encoder, index }
    }
}

impl<E, I> Retriever for VectorRetriever<E, I>
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

#[cfg(test)]
mod tests {
    use raglan_core::{ChunkId, DenseVector, Hit};

    use super::*;

    /// Encodes a text as its length.
    struct Length;

    impl Encoder for Length {
        type Vector = DenseVector;

        fn encode_queries(&self, queries: &[&str]) -> Result<Vec<DenseVector>> {
            queries.iter().map(|query| DenseVector::new(vec![query.len() as f32])).collect()
        }

        fn encode_passages(&self, passages: &[&str]) -> Result<Vec<DenseVector>> {
            self.encode_queries(passages)
        }
    }

    /// Ten chunks; chunk `n` stands at the number `n`, and near is good.
    struct NumberLine;

    impl VectorIndex for NumberLine {
        type Vector = DenseVector;

        fn search(&self, queries: &[DenseVector], k: usize, allowed: &[Option<&ChunkSet>]) -> Result<Vec<Ranking>> {
            let nearest = |(query, allowed): (&DenseVector, &Option<&ChunkSet>)| {
                let ids = (0..10).map(ChunkId).filter(|&id| allowed.is_none_or(|allowed| allowed.contains(id)));
                let hits = ids.map(|id| Hit::new(id, -(query.as_slice()[0] - id.0 as f32).abs()));
                Ranking::best(hits.collect(), k)
            };
            queries.iter().zip(allowed).map(nearest).collect()
        }
    }

    #[test]
    fn encoder_and_index_make_a_retriever_that_keeps_to_each_query_s_filter() {
        let retriever = VectorRetriever::new(Arc::new(Length), Arc::new(NumberLine));
        let even: ChunkSet = (0..10).step_by(2).map(ChunkId).collect();
        let queries = vec![Query::new("abc"), Query::new("abc").among(Arc::new(even)), Query::new("")];
        let found = retrieve(&retriever, 2).run(queries.clone()).unwrap();
        let ids: Vec<_> = found.iter().map(|item| item.ranking.ids()).collect();
        assert_eq!(ids, [[3, 2], [2, 4], [0, 1]].map(|ids| ids.map(ChunkId).to_vec()));
        assert!(found.iter().map(|item| &item.query).eq(&queries));
        assert!(retrieve(&retriever, 2).run(vec![]).unwrap().is_empty());
    }

    #[test]
    fn a_retriever_that_loses_a_query_is_refused() {
        struct Loses;

        impl Retriever for Loses {
            fn search(&self, _: &[Query], _: usize) -> Result<Vec<Ranking>> {
                Ok(vec![])
            }
        }

        assert!(matches!(retrieve(&Loses, 1).run(vec!["q".into()]), Err(Error::Shape { .. })));
    }
}

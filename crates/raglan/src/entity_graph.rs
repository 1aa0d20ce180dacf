//! Retrieval by association: the graph of an index's entities and chunks, searched from what a question finds.

use std::sync::Arc;

use raglan_core::{Query, Ranking, Retriever};
use raglan_graph::{EntityId, Extractor, GraphIndex, GraphSearch};
use raglan_store::ModelStamp;

use crate::embedder::DenseEncoder;

/// What finds the entities of chunks and questions, with the stamp by which an index knows it.
pub struct GraphExtractor {
    /// What the index writes down of it.
    pub stamp: ModelStamp,
    /// What finds entities and relations.
    pub extractor: Arc<dyn Extractor>,
}

/// A name of a question that no chunk has is taken for the nearest entity from this cosine on, as synonyms are.
const NEAR: f32 = 0.8;

/// Finds chunks by a walk over the entities of the question (HippoRAG; Gutiérrez et al. 2024, 2025).
///
/// The walk begins at the entities that the question names, as they are written or, with vectors, nearly so, and at the
/// chunks that another retriever finds. A question without entities is answered by that retriever alone.
pub struct EntityGraph {
    /// The graph.
    pub index: Arc<GraphIndex>,
    /// What finds the question's names.
    pub extractor: Arc<dyn Extractor>,
    /// What makes vectors of names that no chunk has, if entities have vectors.
    pub encoder: Option<DenseEncoder>,
    /// What finds the chunks at which the walk begins besides.
    pub first: Arc<dyn Retriever>,
    /// How many of these there are at most; as many as are asked for at least.
    pub depth: usize,
    /// How the walk begins and goes.
    pub search: GraphSearch,
}

impl EntityGraph {
    /// The entities that each question means, and how certainly.
    fn entities(&self, queries: &[Query]) -> raglan_core::Result<Vec<Vec<(EntityId, f32)>>> {
        let texts: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
        let certain = |text: &&str| self.index.entities_in(text).into_iter().map(|entity| (entity, 1.0)).collect();
        let mut entities: Vec<Vec<(EntityId, f32)>> = texts.iter().map(certain).collect();
        let Some(encoder) = self.encoder.as_ref().filter(|_| self.index.dim() > 0) else { return Ok(entities) };
        let said = self.extractor.extract(&texts)?;
        let mut unknown: Vec<(usize, &str)> = Vec::new();
        for (i, said) in said.iter().enumerate() {
            // A name of which a part is known means that.
            let names = said.entities().iter().filter(|name| self.index.entities_in(name).is_empty());
            unknown.extend(names.map(|name| (i, name.as_str())));
        }
        let names: Vec<&str> = unknown.iter().map(|(_, name)| *name).collect();
        for ((i, _), vector) in unknown.into_iter().zip(encoder.encode_passages(&names)?) {
            let nearest = self.index.nearest(vector.as_slice())?;
            entities[i].extend(nearest.filter(|&(_, cosine)| cosine >= NEAR));
        }
        Ok(entities)
    }
}

impl Retriever for EntityGraph {
    fn search(&self, queries: &[Query], k: usize) -> raglan_core::Result<Vec<Ranking>> {
        let found = self.first.search(queries, self.depth.max(k))?;
        let entities = self.entities(queries)?;
        let walked = |((query, found), entities): ((&Query, &Ranking), Vec<(EntityId, f32)>)| {
            Ok(self.index.rank(&entities, found.hits(), &self.search, k, query.allowed.as_deref())?)
        };
        queries.iter().zip(&found).zip(entities).map(walked).collect()
    }
}

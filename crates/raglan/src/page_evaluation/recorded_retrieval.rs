//! A recipe as a retriever that remembers what its stages found.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use raglan_core::{Chunk, ChunkId, ChunkStore, DocId, Document, Error as CoreError, Hit, Query, Ranking, Retriever};
use raglan_pipeline::{Pipeline, Recipe, Value};

use crate::Result;
use crate::index::Index;
use crate::search::without_generation;

/// Finds chunks by the retrieval stages of a recipe, always as many as it was made for, and gives the best of them.
pub(super) struct RecordedRetrieval {
    pipeline: Pipeline,
    record: Mutex<Record>,
}

/// What was found since it was last asked for.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Every chunk that any stage had in its ranking.
    pub anywhere: Vec<ChunkId>,
    /// The ranking of the first search.
    pub first: Option<Ranking>,
}

impl RecordedRetrieval {
    pub fn new(index: &Index, recipe: &Recipe, depth: usize) -> Result<Self> {
        let recipe = without_generation(recipe)?.with_k(depth);
        Ok(Self { pipeline: index.pipeline(recipe, None)?, record: Mutex::default() })
    }

    /// Gives the record and begins another.
    pub fn take(&self) -> Record {
        std::mem::take(&mut *self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Retriever for RecordedRetrieval {
    fn search(&self, queries: &[Query], k: usize) -> raglan_core::Result<Vec<Ranking>> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let runs = self.pipeline.trace(queries.to_vec(), &mut |_, _| {})?;
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = Vec::new();
        for run in runs {
            let rankings = match run.output {
                Value::Rankings(ranked) => ranked.into_iter().map(|ranked| ranked.ranking).collect(),
                Value::Contexts(contexts) => {
                    let ranking = |context: raglan_core::Context| {
                        // A context's order is its own: what comes first is better, whatever its score.
                        let n = context.passages.len();
                        let hits = context.passages.iter().enumerate();
                        Ranking::best(hits.map(|(i, p)| Hit::new(p.chunk.id, (n - i) as f32)).collect(), n)
                    };
                    contexts.into_iter().map(ranking).collect::<raglan_core::Result<Vec<_>>>()?
                }
                _ => continue,
            };
            record.anywhere.extend(rankings.iter().flat_map(Ranking::ids));
            last = rankings;
        }
        if record.first.is_none() {
            record.first = last.first().cloned();
        }
        Ok(last.into_iter().map(|ranking| ranking.truncated(k)).collect())
    }
}

/// Finds, of the chunks that a query allows, the best of each document first, then the second best of each, and so on, so
/// that every document is there, also one that the query has no word of.
pub(super) struct EveryDocument {
    /// Ranks chunks; those that it does not find come behind, in order.
    pub retriever: Arc<dyn Retriever>,
    /// Knows whose chunks they are.
    pub store: Arc<dyn ChunkStore>,
}

impl Retriever for EveryDocument {
    fn search(&self, queries: &[Query], k: usize) -> raglan_core::Result<Vec<Ranking>> {
        let ranked = |query: &Query| {
            let Some(allowed) = &query.allowed else { return Ok(Ranking::default()) };
            let found = self.retriever.search(std::slice::from_ref(query), allowed.len())?;
            let mut ids: Vec<ChunkId> = found.first().map(Ranking::ids).unwrap_or_default();
            let known: HashSet<ChunkId> = ids.iter().copied().collect();
            ids.extend(allowed.iter().filter(|id| !known.contains(id)));
            let mut places: Vec<(usize, usize, ChunkId)> = Vec::with_capacity(ids.len());
            let mut depths: HashMap<DocId, usize> = HashMap::new();
            for (i, chunk) in self.store.chunks(&ids)?.into_iter().enumerate() {
                let depth = depths.entry(chunk.doc).or_default();
                places.push((*depth, i, chunk.id));
                *depth += 1;
            }
            places.sort_unstable();
            let n = places.len();
            Ranking::best(places.iter().enumerate().map(|(i, place)| Hit::new(place.2, (n - i) as f32)).collect(), k)
        };
        queries.iter().map(ranked).collect()
    }
}

/// Where there are no pages at all: nothing is found.
pub(super) struct NoPages;

impl NoPages {
    pub fn sources() -> raglan_multistep::Sources {
        raglan_multistep::Sources {
            retriever: Arc::new(Self),
            store: Arc::new(Self),
            unit: raglan_multistep::Unit::Passages,
        }
    }
}

impl Retriever for NoPages {
    fn search(&self, queries: &[Query], _: usize) -> raglan_core::Result<Vec<Ranking>> {
        Ok(vec![Ranking::default(); queries.len()])
    }
}

impl ChunkStore for NoPages {
    fn chunks(&self, ids: &[ChunkId]) -> raglan_core::Result<Vec<Chunk>> {
        match ids.first() {
            None => Ok(Vec::new()),
            Some(id) => Err(CoreError::Unknown { what: "chunk", id: id.0.into() }),
        }
    }

    fn chunks_of(&self, _: DocId) -> raglan_core::Result<Vec<Chunk>> {
        Ok(Vec::new())
    }

    fn document(&self, id: DocId) -> raglan_core::Result<Arc<Document>> {
        Err(CoreError::Unknown { what: "document", id: id.0.into() })
    }
}

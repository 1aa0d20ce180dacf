//! From ids to texts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Deref;
use std::sync::Arc;

use raglan_core::{ChunkStore, Context, DocId, Document, Error, Hit, Passage, Result};

use crate::{Ranked, Stage};

/// Fetches the texts of ranked chunks and their documents: `Vec<Ranked>` → `Vec<Context>`.
///
/// The store comes by reference, `Arc` or `Box`. It is asked once for the chunks of the whole batch and once for each
/// document.
pub fn read<S>(store: S) -> Read<S>
where
    S: Deref<Target: ChunkStore> + Send + Sync,
{
    Read { store }
}

/// A chunk store as a stage; see [`read`].
#[derive(Clone, Debug)]
pub struct Read<S> {
    store: S,
}

impl<S> Stage<Vec<Ranked>> for Read<S>
where
    S: Deref<Target: ChunkStore> + Send + Sync,
{
    type Out = Vec<Context>;

    fn run(&self, batch: Vec<Ranked>) -> Result<Vec<Context>> {
        let mut ids: Vec<_> = batch.iter().flat_map(|item| item.ranking.hits()).map(|hit| hit.chunk).collect();
        ids.sort_unstable();
        ids.dedup();
        let chunks = self.store.chunks(&ids)?;
        if chunks.len() != ids.len() {
            return Err(Error::Shape { what: "chunks", expected: ids.len(), found: chunks.len() });
        }
        let mut documents: HashMap<DocId, Arc<Document>> = HashMap::new();
        for chunk in &chunks {
            if let Entry::Vacant(entry) = documents.entry(chunk.doc) {
                entry.insert(self.store.document(chunk.doc)?);
            }
        }
        let passage = |hit: &Hit| {
            let chunk = chunks[ids.binary_search(&hit.chunk).expect("every hit's id was collected")].clone();
            let document = documents[&chunk.doc].clone();
            Passage { chunk, document, score: hit.score }
        };
        let contexts = batch.into_iter().map(|item| {
            let passages = item.ranking.hits().iter().map(passage).collect();
            Context { left_out: item.left_out, ..Context::new(item.query.text, passages) }
        });
        Ok(contexts.collect())
    }

    fn name(&self) -> String {
        "read".to_owned()
    }
}

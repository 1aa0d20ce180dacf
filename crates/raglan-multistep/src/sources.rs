//! Where passages come from, and what was found of them.

use std::collections::HashSet;
use std::sync::Arc;

use raglan_core::{ChunkId, ChunkStore, DocId, Passage, Query, Retriever};

use crate::Result;

/// Of how many chunks for each document that is wanted the best documents are chosen.
const CHUNKS_A_DOCUMENT: usize = 10;

/// A retriever, and the texts of what it finds.
#[derive(Clone)]
pub struct Sources {
    /// Finds chunks.
    pub retriever: Arc<dyn Retriever>,
    /// Has their texts.
    pub store: Arc<dyn ChunkStore>,
    /// What a search counts.
    pub unit: Unit,
}

/// What a search for the best `k` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Passages.
    #[default]
    Passages,
    /// Documents, each of which is read at its best passage.
    Documents,
}

impl Sources {
    /// The best `k` passages of each query, best first.
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Vec<Passage>>> {
        if k == 0 || queries.is_empty() {
            return Ok(vec![Vec::new(); queries.len()]);
        }
        let depth = match self.unit {
            Unit::Passages => k,
            Unit::Documents => k.saturating_mul(CHUNKS_A_DOCUMENT),
        };
        let mut found = Vec::with_capacity(queries.len());
        for ranking in self.retriever.search(queries, depth)? {
            let chunks = self.store.chunks(&ranking.ids())?;
            let mut documents: HashSet<DocId> = HashSet::new();
            let mut passages = Vec::new();
            for (chunk, hit) in chunks.into_iter().zip(ranking.hits()) {
                if passages.len() == k {
                    break;
                }
                if self.unit == Unit::Documents && !documents.insert(chunk.doc) {
                    continue;
                }
                let document = self.store.document(chunk.doc)?;
                passages.push(Passage { chunk, document, score: hit.score });
            }
            found.push(passages);
        }
        Ok(found)
    }
}

/// What has been found for a question, no chunk twice.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub passages: Vec<Passage>,
    /// The best rank that each passage had for any query, from 0.
    pub ranks: Vec<usize>,
    chunks: HashSet<ChunkId>,
    documents: HashSet<DocId>,
}

/// What a search brought.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Places in the evidence of all that was found: the best of each query first, then the second best.
    pub all: Vec<usize>,
    /// The chunks among them that were new.
    pub found: Vec<ChunkId>,
    /// Their documents, those that were new, by path.
    pub documents: Vec<String>,
}

impl Evidence {
    /// Adds the best `k` of each query until there are `most` passages.
    pub fn gather(&mut self, sources: &Sources, queries: &[Query], k: usize, most: usize) -> Result<Gathered> {
        let lists = sources.search(queries, k)?;
        let mut gathered = Gathered::default();
        for rank in 0..k {
            for passage in lists.iter().filter_map(|list| list.get(rank)) {
                self.add(passage, rank, most, &mut gathered);
            }
        }
        Ok(gathered)
    }

    fn add(&mut self, passage: &Passage, rank: usize, most: usize, gathered: &mut Gathered) {
        let id = passage.chunk.id;
        if self.chunks.contains(&id) {
            let place = self.passages.iter().position(|held| held.chunk.id == id).expect("its id was taken down");
            self.ranks[place] = self.ranks[place].min(rank);
            if !gathered.all.contains(&place) {
                gathered.all.push(place);
            }
            return;
        }
        if self.passages.len() >= most {
            return;
        }
        self.chunks.insert(id);
        gathered.all.push(self.passages.len());
        gathered.found.push(id);
        if self.documents.insert(passage.chunk.doc) {
            gathered.documents.push(passage.document.path.clone());
        }
        self.passages.push(passage.clone());
        self.ranks.push(rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{page, sources};

    #[test]
    fn no_chunk_comes_twice_and_the_most_is_kept_to() {
        let sources = sources(&[page("a", "cat one"), page("b", "cat two"), page("c", "dog three")], Unit::Passages);
        let mut evidence = Evidence::default();
        let first = evidence.gather(&sources, &["cat".into()], 2, 9).unwrap();
        assert_eq!((first.all, first.documents), (vec![0, 1], vec!["a".to_owned(), "b".to_owned()]));
        let second = evidence.gather(&sources, &["two dog".into(), "cat".into()], 2, 3).unwrap();
        // The best of both queries, then the second best: `b` and `c` match one word of the first, `a` one of the second.
        assert_eq!((second.all, second.documents), (vec![1, 0, 2], vec!["c".to_owned()]));
        let full = evidence.gather(&sources, &["three".into()], 2, 3).unwrap();
        assert_eq!((full.all, full.found.len()), (vec![2], 0));
        assert!(evidence.gather(&sources, &[], 2, 3).unwrap().all.is_empty());
        assert!(evidence.gather(&sources, &["cat".into()], 0, 3).unwrap().all.is_empty());
    }

    #[test]
    fn a_document_is_read_at_its_best_passage() {
        let pages = [page("a", "cat"), page("a", "cat cat dog"), page("b", "cat fish")];
        let mut evidence = Evidence::default();
        evidence.gather(&sources(&pages, Unit::Documents), &["cat dog".into()], 2, 9).unwrap();
        let texts: Vec<&str> = evidence.passages.iter().map(|passage| passage.chunk.text.as_str()).collect();
        assert_eq!(texts, ["cat cat dog", "cat fish"]);
    }
}

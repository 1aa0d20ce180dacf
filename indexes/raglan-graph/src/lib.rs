//! Retrieval by association: which chunks speak of what the question's entities have to do with?
//!
//! An [`Extractor`] says which entities a text names and which of them it relates: [`RuleExtractor`] by capitals and
//! sentences, a language model by what it reads. [`SegmentDraft`] writes what was said of a batch of chunks; its entities
//! may get vectors, and those that are near to each other are then synonyms. A [`GraphIndex`] joins many such segments into
//! one graph of entities and chunks. From the entities and the chunks that a question finds, personalised PageRank spreads
//! over the graph, and chunks are ranked by what comes to rest on them (HippoRAG; Gutiérrez et al. 2024, 2025).
//!
//! ```
//! use raglan_core::{ChunkId, ChunkSet};
//! use raglan_graph::{Extractor, GraphIndex, GraphSearch, RuleExtractor, SegmentDraft};
//!
//! let folder = tempfile::tempdir()?;
//! let texts = ["The Collegian is a paper of Houston Baptist University.", "Houston Baptist University opened in 1960."];
//! let said = RuleExtractor.extract(&texts)?;
//! SegmentDraft::new(&[ChunkId(0), ChunkId(1)], said)?.write(folder.path())?;
//!
//! let index = GraphIndex::open(&[folder.path().to_path_buf()], &ChunkSet::new())?;
//! let entities = index.entities_in("Who owns the Collegian?");
//! assert_eq!(index.name(entities[0]), "collegian");
//! let seeds: Vec<_> = entities.into_iter().map(|entity| (entity, 1.0)).collect();
//! let ranking = index.rank(&seeds, &[], &GraphSearch::default(), 10, None)?;
//! assert_eq!(ranking.ids(), [ChunkId(0), ChunkId(1)]); // The second does not name the paper.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod extraction;
mod graph;
mod index;
mod rules;
mod search;
mod segment;
mod segment_file;
mod synonyms;
#[cfg(test)]
mod tests;

pub use error::{Error, Result};
pub use extraction::{Extraction, Extractor, normalized};
pub use graph::{Graph, PageRank};
pub use index::{EntityId, GraphIndex};
pub use rules::RuleExtractor;
pub use search::GraphSearch;
pub use segment::{SegmentDraft, merge_segments};
pub use synonyms::SynonymConfig;

//! Sparse retrieval: which chunks share the rarest words with a query?
//!
//! Texts become terms by an [`Analyzer`], which keeps identifiers whole and splits them too. A [`Bm25SegmentWriter`]
//! writes the terms of a batch of chunks as one immutable segment; tantivy builds and compresses the postings. A
//! [`Bm25Index`] scores many segments as one, exactly: the statistics are those of all live chunks, so neither the
//! number of segments nor deleted chunks change a score.
//!
//! Weights that a model gave to terms go into segments of their own, by [`write_impact_segment`]; an [`ImpactIndex`]
//! searches those, exactly or nearly so, for vectors from a model or for the mere tokens of a query.
//!
//! ```
//! use raglan_core::{ChunkId, ChunkSet, Query, Retriever};
//! use raglan_sparse::{AnalyzerConfig, Bm25Index, Bm25SegmentWriter};
//!
//! let folder = tempfile::tempdir()?;
//! let config = AnalyzerConfig::default();
//! let mut writer = Bm25SegmentWriter::create(folder.path(), &config, 1)?;
//! writer.add(ChunkId(0), "A page cache keeps pages in memory.")?;
//! writer.add(ChunkId(1), "Eviction removes the coldest page.")?;
//! writer.finish()?;
//!
//! let index = Bm25Index::open(&[folder.path().to_path_buf()], &ChunkSet::new(), &config)?;
//! let rankings = index.search(&["which page is evicted?".into()], 10)?;
//! assert_eq!(rankings[0].ids(), [ChunkId(1), ChunkId(0)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod analyzer;
mod bm25;
mod error;
mod explain;
mod impact;
mod index;
mod part_directory;
mod query_terms;
mod segment;
mod segment_files;
#[cfg(test)]
mod tests;
mod writer;

pub use analyzer::{Analyzer, AnalyzerConfig, StemLanguage, Token};
pub use bm25::Bm25Parameters;
pub use error::{Error, Result};
pub use explain::{Bm25Explanation, TermExplanation};
pub use impact::{ImpactConfig, ImpactIndex, ImpactSearch, write_impact_segment};
pub use index::Bm25Index;
pub use writer::Bm25SegmentWriter;

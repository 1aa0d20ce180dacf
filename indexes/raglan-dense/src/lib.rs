//! Dense retrieval: which of many vectors are nearest to a query's?
//!
//! A [`DenseIndex`] searches immutable segments, each written once by [`write_segment`]: a memory-mapped file of
//! vectors, and for large segments a navigable graph (HNSW, Malkov and Yashunin 2016) beside it. The exact scan is the
//! base case and reads every vector at the speed of memory; the graph reads a few thousand and finds nearly the same.
//! [`SearchMode`] chooses. Scores are inner products, which for unit vectors are cosines.
//!
//! ```
//! use raglan_core::{ChunkId, ChunkSet, DenseVector, VectorIndex};
//! use raglan_dense::{DenseConfig, DenseIndex, write_segment};
//!
//! let folder = tempfile::tempdir()?;
//! let config = DenseConfig::default();
//! write_segment(folder.path(), &[ChunkId(4), ChunkId(9)], &[1.0, 0.0, 0.6, 0.8], 2, &config, 1)?;
//!
//! let index = DenseIndex::open(&[folder.path().to_path_buf()], 2, &ChunkSet::new(), &config)?;
//! let rankings = index.search(&[DenseVector::new(vec![0.0, 1.0])?], 1, &[None])?;
//! assert_eq!(rankings[0].ids(), [ChunkId(9)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod bits;
mod config;
mod error;
mod exact_scan;
mod files;
mod graph;
mod graph_build;
mod index;
mod segment;
#[cfg(test)]
mod tests;

pub use config::{DenseConfig, SearchMode};
pub use error::{Error, Result};
pub use index::DenseIndex;
pub use segment::write_segment;

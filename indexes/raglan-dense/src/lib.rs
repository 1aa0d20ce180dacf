//! Dense retrieval: which of many vectors are nearest to a query's?
//!
//! A [`DenseIndex`] searches immutable segments, each written once by [`write_segment`]: memory-mapped files of the full
//! vectors, of codes of a byte or a bit a component, and for large segments of a navigable graph (after HNSW, Malkov and
//! Yashunin 2016). The exact scan is the base case and reads every vector at the speed of memory; scans of codes read a
//! quarter or a twenty-fifth of that and score the best again from the full vectors; the graph reads a few hundred.
//! [`SearchMode`] chooses, and one folder serves all. Scores are inner products, which for unit vectors are cosines.
//!
//! | mode | files read |
//! |---|---|
//! | [`SearchMode::Exact`] | `vectors.bin` |
//! | [`SearchMode::Int8`] | `int8.bin`; of `vectors.bin` the candidates |
//! | [`SearchMode::OneBit`] | `bits.bin`; of `vectors.bin` the candidates |
//! | [`SearchMode::Graph`] | `graph.bin`, `int8.bin`; of `vectors.bin` the candidates |
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
#![forbid(unsafe_code)]

mod bits;
mod code_scan;
mod codes;
mod config;
mod error;
mod exact_scan;
mod full_vectors;
mod graph;
mod graph_build;
mod index;
mod scan;
mod segment;
mod self_recall;
#[cfg(test)]
mod tests;

pub use config::{DenseConfig, SearchMode, VectorStorage};
pub use error::{Error, Result};
pub use index::DenseIndex;
pub use segment::write_segment;
pub use self_recall::SelfRecall;

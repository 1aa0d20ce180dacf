//! Late interaction: which texts have, for each of a question's tokens, one that means nearly the same?
//!
//! A text is a [`TokenMatrix`](raglan_core::TokenMatrix), a vector a token, and its score for a query is
//! `Σ_i max_j q_i · d_j` (`ColBERT`, Khattab and Zaharia 2020). A [`LateIndex`] searches immutable segments, each written
//! once by a [`LateSegmentWriter`]: k-means centroids of tokens, each token's centroid in two bytes, and what it differs
//! from the centroid by in four or two bits a component (`ColBERTv2`, Santhanam et al. 2022). Memory holds the centroids,
//! two bytes a token, and at most four for the lists of the documents that have each centroid; the rest is read from the
//! file for the documents that a query comes to. [`merge_late_segments`] makes one segment of many and copies bytes
//! where it can.
//!
//! A search goes from many documents to few. Each query vector goes through the lists of its best centroids, and what a
//! document is not found for counts as what the vector stopped at (WARP, Scheerer et al. 2025). The best are scored by all
//! their tokens' centroids, from one table of the query's products with them, in bytes (PLAID, Santhanam et al. 2022); the
//! best of those by the codes of the tokens that may matter, in integers; and the best of those by their tokens as they
//! are stored. Scores are therefore those of the stored tokens and do not depend on the stages before; since segments may
//! have centroids of their own, they do depend a little on how chunks lie in segments, by what four or two bits a
//! component leave out. [`TokenStorage::F16`] leaves out next to nothing. One dial says how many documents each stage
//! takes: [`LateConfig::n_candidates`].
//!
//! A token takes [`TokenStorage::token_bytes`] and two bytes; at 128 dimensions that is 70 bytes with four bits, 38 with
//! two and 258 in half precision. [`pool_tokens`] makes them fewer.
//!
//! ```
//! use raglan_core::{ChunkId, ChunkSet, TokenMatrix, VectorIndex};
//! use raglan_late::{LateConfig, LateIndex, write_late_segment};
//!
//! let folder = tempfile::tempdir()?;
//! let config = LateConfig::default();
//! let texts = [TokenMatrix::new(2, vec![1.0, 0.0, 0.6, 0.8])?, TokenMatrix::new(2, vec![0.0, 1.0])?];
//! write_late_segment(folder.path(), &[ChunkId(4), ChunkId(9)], &texts, &config)?;
//!
//! let index = LateIndex::open(&[folder.path().to_path_buf()], &ChunkSet::new(), &config)?;
//! let query = TokenMatrix::new(2, vec![0.0, 1.0])?;
//! let rankings = index.search(&[query.clone()], 1, &[None])?;
//! assert_eq!(rankings[0].ids(), [ChunkId(9)]);
//! assert!((index.scores(&query, &[ChunkId(4)])?[0] - 0.8).abs() < 0.05);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod candidates;
mod centroids;
mod codebook;
mod config;
mod error;
mod files;
mod index;
mod merge;
mod pooling;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use config::{LateConfig, TokenStorage};
pub use error::{Error, Result};
pub use index::LateIndex;
pub use merge::merge_late_segments;
pub use pooling::pool_tokens;
pub use writer::{LateSegmentWriter, write_late_segment};

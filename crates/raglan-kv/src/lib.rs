//! Keys and values: what attention remembers of the tokens that a model has read.
//!
//! A [`KvCache`] holds those of one sequence, in pages from a [`KvArena`]. A [`KvBlock`] holds those of one chunk of a
//! document, which any sequence may take over, at any position. A [`ChunkCache`] holds the blocks of an index, in memory
//! and in its folder; a [`PrefixTree`] the beginnings of whole texts. A [`DriftRecord`]
//! says how far answers by such blocks were from those of computing all.
#![forbid(unsafe_code)]

mod block;
mod block_file;
mod cache;
mod chunk_cache;
#[cfg(feature = "cuda")]
mod device_blocks;
mod drift;
mod error;
mod journal;
mod prefix_tree;
#[cfg(feature = "cuda")]
mod upload;

pub use block::{BlockKey, BlockPrecision, BlockStatistics, KvBlock, KvShape, LayerBytes, LayerRotary, TokensHash};
pub use block_file::{open_block, write_block};
pub use cache::{KV_PAGE, KvArena, KvCache, KvPrecision, ParallelContext, ReservedPages};
pub use chunk_cache::{CacheLimits, CacheUsage, ChunkCache, Eviction};
pub use drift::{DRIFT_WINDOW, Drift, DriftKey, DriftRecord, DriftSample};
pub use error::{Error, Result};
pub use prefix_tree::PrefixTree;

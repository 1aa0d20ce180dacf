//! Keys and values: what attention remembers of the tokens that a model has read.
//!
//! A [`KvCache`] holds those of one sequence, in pages from a [`KvArena`]. A [`KvBlock`] holds those of one chunk of a
//! document, which any sequence may take over, at any position.
#![forbid(unsafe_code)]

mod block;
mod cache;
mod error;

pub use block::{BlockPrecision, KvBlock, KvShape, LayerRotary};
pub use cache::{KV_PAGE, KvArena, KvCache, KvPrecision, ReservedPages};
pub use error::{Error, Result};

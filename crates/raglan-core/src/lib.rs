//! The words that every part of raglan shares.
//!
//! A question moves through four types, and each stage of work is one of them:
//! [`Query`] → [`Ranking`] (ids and scores) → [`Context`] (texts) → [`Answer`] (text with sources).
//! Documents enter as [`ParsedDocument`]s, are cut into [`Chunk`]s by a [`Chunker`], encoded by an
//! [`Encoder`] and found again by a [`Retriever`]. This crate knows no file, no model and no device.
//!
//! ```
//! use raglan_core::{ChunkId, Hit, Ranking};
//!
//! let hits = vec![Hit::new(ChunkId(7), 0.5), Hit::new(ChunkId(2), 0.5), Hit::new(ChunkId(9), 0.8)];
//! let ranking = Ranking::best(hits, 2)?;
//! assert_eq!(ranking.ids(), [ChunkId(9), ChunkId(2)]); // Equal scores go by lower id.
//! # Ok::<(), raglan_core::Error>(())
//! ```
#![forbid(unsafe_code)]

mod answer;
mod budget;
mod chunk;
mod chunk_set;
mod context;
mod document;
mod error;
mod format;
mod locator;
mod passage_attention;
mod query;
mod ranking;
mod roles;
mod sentences;
mod shared_budget;
mod vector;

pub use answer::{
    Answer, AnswerSentence, AnswerStep, Attribution, KvFallback, KvFallbackReason, KvUsage, Source, Timings, TokenUsage,
};
pub use budget::{Budget, Cost, Meter};
pub use chunk::{Chunk, ChunkId, ChunkSpan};
pub use chunk_set::ChunkSet;
pub use context::{Context, LeftOut, LeftOutReason, Passage};
pub use document::{Block, BlockKind, ContentHash, DocId, Document, Mark, MarkKind, ParsedDocument, SpanOf};
pub use error::{Error, Result};
pub use format::{Format, Language};
pub use locator::Locator;
pub use passage_attention::PassageAttention;
pub use query::Query;
pub use ranking::{Hit, Ranking};
pub use roles::{
    ChunkStore, ChunkVectors, Chunker, Encoder, ExampleSource, Generator, PassageSetScorer, QueryRewriter, Reranker,
    Retriever, StepwiseGenerator, TokenCounter, VectorIndex,
};
pub use sentences::sentence_spans;
pub use shared_budget::SharedBudget;
pub use vector::{DenseVector, SparseVector, TokenMatrix};

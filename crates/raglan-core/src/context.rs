//! What a generator answers from.

use std::sync::Arc;

use serde::Serialize;

use crate::{Chunk, ChunkId, Document};

/// A chunk with its document and the score that brought it here.
#[derive(Clone, Debug, PartialEq)]
pub struct Passage {
    /// The chunk.
    pub chunk: Chunk,
    /// Its document.
    pub document: Arc<Document>,
    /// The score of the last stage that ranked it.
    pub score: f32,
}

/// A question with the passages that may answer it, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// What is asked.
    pub question: String,
    /// The passages, best first.
    pub passages: Vec<Passage>,
    /// What was ranked and is nevertheless not among the passages.
    pub left_out: Vec<LeftOut>,
    /// Questions like this one with their answers, to be shown beside the passages; empty for none.
    pub examples: String,
}

impl Context {
    /// A question with passages, nothing left out and no examples.
    pub fn new(question: impl Into<String>, passages: Vec<Passage>) -> Self {
        Self { question: question.into(), passages, left_out: Vec::new(), examples: String::new() }
    }
}

/// A chunk that did not make it into a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The chunk.
    pub chunk: ChunkId,
    /// Why it was left out.
    pub reason: LeftOutReason,
}

/// Why a ranked chunk is not in a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutReason {
    /// The token budget was spent.
    Budget,
    /// Its evidence for the question was below the threshold.
    Irrelevant,
    /// Its text repeats that of a better passage.
    Duplicate,
}

//! The roles that parts play: small, synchronous, object-safe traits whose base case is the batch.

use std::ops::Range;
use std::sync::Arc;

use crate::{
    Answer, Chunk, ChunkId, ChunkSet, ChunkSpan, Context, DenseVector, DocId, Document, ParsedDocument, Passage,
    PassageAttention, Query, Ranking, Result,
};

/// Counts the tokens of a text as some model does.
pub trait TokenCounter: Send + Sync {
    /// The byte ranges of the text's tokens, in order, without special tokens.
    ///
    /// Ranges of one text do not overlap and lie on character boundaries; white space may belong to none.
    fn token_spans(&self, text: &str) -> Result<Vec<Range<usize>>>;

    /// How many tokens the text has, without special tokens.
    fn count(&self, text: &str) -> Result<usize> {
        Ok(self.token_spans(text)?.len())
    }
}

/// Cuts a document into chunks.
pub trait Chunker: Send + Sync {
    /// The chunks of a document, in order of their starts.
    ///
    /// Every byte of the text that is not white space is in at least one chunk; spans lie on character boundaries,
    /// begin and end with something other than white space, and are not empty. A document without text has no chunks.
    fn chunk(&self, document: &ParsedDocument) -> Result<Vec<ChunkSpan>>;

    /// Name, version and parameters, such as `structure/1 max_tokens=254 overlap=0`: equal strings mean equal chunks.
    fn fingerprint(&self) -> String;
}

/// Turns texts into vectors.
///
/// An encoder of sparse vectors does not fit an index of dense ones; the compiler says so.
pub trait Encoder: Send + Sync {
    /// The kind of vector.
    type Vector;

    /// One vector for each query, in order.
    fn encode_queries(&self, queries: &[&str]) -> Result<Vec<Self::Vector>>;

    /// One vector for each passage, in order. A vector does not depend on the other passages of the batch.
    fn encode_passages(&self, passages: &[&str]) -> Result<Vec<Self::Vector>>;
}

/// Finds the chunks whose vectors are nearest.
pub trait VectorIndex: Send + Sync {
    /// The kind of vector.
    type Vector;

    /// The best `k` chunks for each vector; equal scores go by lower id.
    ///
    /// `allowed` holds one set a query, or `None` for all chunks; only chunks of the set are returned.
    /// A ranking is shorter than `k` only when fewer chunks are allowed.
    fn search(&self, queries: &[Self::Vector], k: usize, allowed: &[Option<&ChunkSet>]) -> Result<Vec<Ranking>>;
}

/// Finds chunks for queries.
pub trait Retriever: Send + Sync {
    /// The best `k` chunks of each query, best first; equal scores go by lower id.
    ///
    /// There is one ranking a query, in the order of `queries`. A ranking is shorter than `k` only when fewer
    /// chunks match.
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>>;
}

/// Writes other texts to search with for a question.
pub trait QueryRewriter: Send + Sync {
    /// The texts for each question, in order of the questions; none where nothing came of it.
    ///
    /// The question itself is not among them, and no text is there twice.
    fn rewrite(&self, questions: &[&str]) -> Result<Vec<Vec<String>>>;
}

/// Has questions with their answers to show beside the one that is asked.
pub trait ExampleSource: Send + Sync {
    /// The `n` examples that help most with each question, as the text that a prompt is to hold; empty when there are
    /// none. What is asked itself is not among them.
    fn examples(&self, questions: &[&str], n: usize) -> Result<Vec<String>>;
}

/// Says how well sets of passages answer a question together.
pub trait PassageSetScorer: Send + Sync {
    /// A score for each list of passages, which stand in the order in which they would be read: from 0 to 1, higher for
    /// better. Equal lists have equal scores.
    fn scores(&self, question: &str, lists: &[Vec<&Passage>]) -> Result<Vec<f32>>;
}

/// Orders chunks that were found by looking closer.
pub trait Reranker: Send + Sync {
    /// The chunks of each ranking with new scores, best first; equal scores go by lower id.
    ///
    /// There is one ranking a query, in order. A new ranking has the same chunks, but for those that the reranker knows
    /// nothing of.
    fn rerank(&self, queries: &[Query], rankings: &[Ranking]) -> Result<Vec<Ranking>>;
}

/// Gives the texts of chunks.
pub trait ChunkStore: Send + Sync {
    /// The chunks with these ids, in the same order.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`](crate::Error::Unknown) when there is no such chunk.
    fn chunks(&self, ids: &[ChunkId]) -> Result<Vec<Chunk>>;

    /// All chunks of a document, in order of id; none when there is no such document.
    fn chunks_of(&self, doc: DocId) -> Result<Vec<Chunk>>;

    /// The document with this id.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`](crate::Error::Unknown) when there is no such document.
    fn document(&self, id: DocId) -> Result<Arc<Document>>;
}

/// Gives the vectors of chunks.
pub trait ChunkVectors: Send + Sync {
    /// The vectors of these chunks, in the same order.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`](crate::Error::Unknown) when a chunk has none.
    fn vectors(&self, ids: &[ChunkId]) -> Result<Vec<DenseVector>>;
}

/// Answers questions by searching for passages itself, in as many steps as it takes.
pub trait StepwiseGenerator: Send + Sync {
    /// For each question, in order, its answer or why it has none; the others are answered all the same.
    ///
    /// `on_text` is called with the index of the question and each piece of its answer that stands, as it is made. Only
    /// chunks that a question allows are searched for. Work within a [`SharedBudget`](crate::SharedBudget) is told it,
    /// and ends with what it leaves.
    ///
    /// # Errors
    ///
    /// What keeps every question from being answered, such as [`Error::Interrupted`](crate::Error::Interrupted).
    fn answer(
        &self,
        questions: &[Query],
        retriever: &Arc<dyn Retriever>,
        on_text: &mut dyn FnMut(usize, &str),
    ) -> Result<Vec<Result<Answer>>>;
}

/// Answers questions from passages.
pub trait Generator: Send + Sync {
    /// For each context, in order, its answer or why it has none; the others are answered all the same.
    ///
    /// `on_text` is called with the index of the context and each piece of its answer as it is made.
    ///
    /// # Errors
    ///
    /// What keeps every context from being answered, such as [`Error::Interrupted`](crate::Error::Interrupted).
    fn generate(&self, contexts: &[Context], on_text: &mut dyn FnMut(usize, &str)) -> Result<Vec<Result<Answer>>>;

    /// Where the question looks in the prompt that a context is answered from, over `n_layers` of the model's layers from
    /// `first_layer` on, or all of those; nothing for a generator that cannot tell.
    ///
    /// What was read for it, a generator may keep for the answer.
    ///
    /// # Errors
    ///
    /// When the model fails, or has no such layer.
    fn attention(
        &self,
        _context: &Context,
        _first_layer: usize,
        _n_layers: Option<usize>,
    ) -> Result<Option<PassageAttention>> {
        Ok(None)
    }
}

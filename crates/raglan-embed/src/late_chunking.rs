//! Vectors of chunks that have seen the text around them.

use std::ops::Range;

use raglan_core::DenseVector;

use crate::{Error, Pooling, Result, SentenceEncoder};

/// How many tokens of the text before it a window reads again: what the paper's implementation takes for texts that are
/// longer than its model reads. Where that is more than half of a window, half of it.
const OVERLAP: usize = 512;

impl SentenceEncoder {
    /// A vector for each chunk of a text, after the model has read the text as a whole: late chunking (Günther et al.
    /// 2024). A chunk is a range of bytes, its vector the mean of its tokens, and a token belongs to the chunks that its
    /// first character lies in. Special tokens and the prefix are read and have no part in the means.
    ///
    /// A text that is longer than `max_tokens` is read, whatever [`LongInputs`](crate::LongInputs) says, in windows of
    /// that length, each of which begins with the last tokens of the one before; a token's vector is that of the first
    /// window that holds it. Models that were trained on short texts gain little.
    ///
    /// # Errors
    ///
    /// [`Error::NotMean`] for models that pool otherwise, [`Error::NoTokenVectors`] for those that pool by themselves, [`Error::NoTokens`] for a chunk in which no token begins,
    /// [`Error::NoRoom`] when the prefix fills a window, and what the model gives.
    pub fn encode_chunks(&self, text: &str, chunks: &[Range<usize>]) -> Result<Vec<DenseVector>> {
        if self.config.pooling != Pooling::Mean {
            return Err(Error::NotMean { pooling: self.config.pooling });
        }
        let windows = self.reader.windows(&self.config.passage_prefix, text, self.config.max_tokens, OVERLAP)?;
        let mut spans = Vec::with_capacity(chunks.len());
        for (chunk, bytes) in chunks.iter().enumerate() {
            let tokens = [bytes.start, bytes.end].map(|byte| windows.starts.partition_point(|&start| start < byte));
            if tokens[0] >= tokens[1] {
                return Err(Error::NoTokens { chunk });
            }
            spans.push(tokens[0]..tokens[1]);
        }
        if spans.is_empty() {
            return Ok(Vec::new());
        }
        let dim = self.config.dim;
        let read = self.token_vectors(&windows.texts)?;
        let mut tokens = Vec::with_capacity(windows.starts.len() * dim);
        for (window, states) in read.iter().enumerate() {
            let known = if window == 0 { 0 } else { windows.overlap };
            tokens.extend_from_slice(&states[(windows.n_before + known) * dim..states.len() - dim]);
        }
        let pooled = spans.iter().map(|span| Pooling::Mean.pool(&tokens[span.start * dim..span.end * dim], dim));
        pooled.map(|vector| self.finished(vector)).collect()
    }
}

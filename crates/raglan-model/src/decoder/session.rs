//! A text that one model reads and goes on with.

use std::ops::ControlFlow;

use raglan_kv::KvCache;

use super::{Attending, DecoderModel, ForwardRows, ForwardSequence, Want};
use crate::{Error, Result};

/// How many tokens of a prompt go through the model at once: enough for full-speed products, few enough that an
/// interruption is heard soon.
const CHUNK: usize = 256;

/// A text in the course of being read and written: the keys and values of its tokens so far.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m DecoderModel,
    cache: KvCache,
}

impl DecoderModel {
    /// Begins a text.
    pub fn session(&self) -> Session<'_> {
        Session { model: self, cache: self.cache() }
    }
}

impl Session<'_> {
    /// Reads tokens and returns the logits of the one that would follow.
    ///
    /// # Errors
    ///
    /// [`Error::ContextOverflow`] when the text would become longer than the model's context; it is left as it was.
    /// [`Error::EmptyPrompt`] when there are no tokens.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.prefill_with(tokens, &mut |_| ControlFlow::Continue(()))
    }

    /// Like [`prefill`](Self::prefill), and calls `on_progress` with the number of tokens read after each few hundred.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when `on_progress` breaks; the tokens read so far are then part of the text.
    pub fn prefill_with(
        &mut self,
        tokens: &[u32],
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<f32>> {
        let config = &self.model.config;
        let (len, limit) = (self.cache.len() + tokens.len(), config.context_len);
        if len > limit {
            return Err(Error::ContextOverflow { tokens: len, limit });
        }
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(Error::UnknownToken { id });
        }
        let mut n_read = 0;
        for chunk in tokens.chunks(CHUNK) {
            n_read += chunk.len();
            let is_last = n_read == tokens.len();
            let last = [chunk.len() - 1];
            let logits = self.append(chunk, if is_last { &last } else { &[] })?;
            if is_last {
                return Ok(logits);
            }
            if on_progress(n_read).is_break() {
                return Err(Error::Interrupted);
            }
        }
        Err(Error::EmptyPrompt)
    }

    /// Reads one token and returns the logits of the next.
    ///
    /// # Errors
    ///
    /// As for [`prefill`](Self::prefill).
    pub fn step(&mut self, token: u32) -> Result<Vec<f32>> {
        self.prefill(&[token])
    }

    /// Reads a few tokens at once and returns the logits after each of them, `[n_tokens, vocab_size]`: what
    /// [`step`](Self::step) would give for one after the other, to the bit.
    ///
    /// # Errors
    ///
    /// As for [`prefill`](Self::prefill).
    pub fn steps(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let all: Vec<usize> = (0..tokens.len()).collect();
        self.append(tokens, &all)
    }

    fn append(&mut self, tokens: &[u32], logits: &[usize]) -> Result<Vec<f32>> {
        let slots: Vec<usize> = (self.cache.len()..self.cache.len() + tokens.len()).collect();
        let positions: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
        let rows = ForwardRows { tokens, positions: &positions, slots: &slots, ..ForwardRows::default() };
        let want = Want { logits, ..Want::default() };
        let sequence = ForwardSequence { rows, cache: &mut self.cache, want, attending: Attending::All };
        let forwarded = self.model.forward(&mut [sequence])?;
        Ok(forwarded.into_iter().flat_map(|sequence| sequence.logits).collect())
    }

    /// Number of tokens read.
    pub fn n_tokens(&self) -> usize {
        self.cache.len()
    }

    /// Forgets all but the first `n_tokens` tokens.
    pub fn truncate(&mut self, n_tokens: usize) {
        self.cache.truncate(n_tokens);
    }
}

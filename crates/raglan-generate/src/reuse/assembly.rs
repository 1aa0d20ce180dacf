//! A prompt whose passages' keys and values are there already, but for what has to be computed.

use std::ops::Range;

use raglan_kv::{KvBlock, KvCache};
use raglan_model::{DecoderModel, LayerPass};

use crate::{PromptPiece, Result};

/// A prompt in a cache: the templates' first piece, exactly; passages as their blocks have them; and room for all else.
///
/// The last token is not in it: reading that one gives the first token of the answer.
#[derive(Clone, Debug)]
pub struct Assembly<'m> {
    model: &'m DecoderModel,
    cache: KvCache,
    /// By slot.
    tokens: Vec<u32>,
    /// Slots that have to be computed, ascending.
    fresh: Vec<usize>,
    /// Slots of the passages that are shown, in order.
    passages: Vec<Range<usize>>,
    /// Slots behind the last passage.
    tail: Range<usize>,
}

impl<'m> Assembly<'m> {
    /// Puts a prompt together from a cache that has read its first piece, and the blocks of its passages that there are.
    ///
    /// # Errors
    ///
    /// [`Error::Model`](crate::Error::Model) when the cache cannot grow, or a block is of another model.
    pub fn new(
        model: &'m DecoderModel,
        prefix: &KvCache,
        pieces: &[PromptPiece],
        blocks: &[Option<&KvBlock>],
    ) -> Result<Self> {
        let mut tokens: Vec<u32> = pieces.iter().flat_map(|piece| &piece.ids).copied().collect();
        tokens.pop();
        let mut cache = prefix.clone();
        let (mut fresh, mut passages) = (Vec::new(), Vec::new());
        for (i, piece) in pieces.iter().enumerate().skip(1) {
            let first = cache.len();
            let slots = first..(first + piece.ids.len()).min(tokens.len());
            let block = piece.passage.and_then(|passage| blocks[passage]);
            match block {
                Some(block) if block.n_tokens() == slots.len() => {
                    cache.append(block, first as u32, model).map_err(raglan_model::Error::from)?;
                }
                _ => {
                    cache.leave(slots.len(), first as u32).map_err(raglan_model::Error::from)?;
                    fresh.extend(slots.clone());
                }
            }
            if piece.passage.is_some() {
                passages.push(slots);
            } else if i + 1 == pieces.len() {
                return Ok(Self { model, cache, tokens, fresh, passages, tail: slots });
            }
        }
        let tail = cache.len()..cache.len();
        Ok(Self { model, cache, tokens, fresh, passages, tail })
    }

    /// Slots of the passages, in order.
    pub fn passages(&self) -> &[Range<usize>] {
        &self.passages
    }

    /// Slots that have to be computed in any case.
    pub fn fresh(&self) -> &[usize] {
        &self.fresh
    }

    /// Keys and values as they are.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Begins to compute what has to be, and some slots besides; their indices need no order.
    ///
    /// # Errors
    ///
    /// [`Error::Model`](crate::Error::Model) when shared pages cannot be copied.
    pub fn begin<'c>(&'c mut self, chosen: &[usize]) -> Result<LayerPass<'m, 'c>> {
        let mut slots: Vec<usize> = self.fresh.iter().chain(chosen).copied().collect();
        slots.sort_unstable();
        slots.dedup();
        let tokens: Vec<u32> = slots.iter().map(|&slot| self.tokens[slot]).collect();
        let positions: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
        Ok(self.model.begin_pass(&mut self.cache, &tokens, &positions, &slots)?)
    }

    /// Computes what has to be computed, and some slots besides; gives the cache of all but the last token.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub fn compute(mut self, chosen: &[usize]) -> Result<KvCache> {
        self.begin(chosen)?.finish()?;
        Ok(self.cache)
    }

    /// How much the tail attends to each slot, layer by layer, summed over its rows and over heads: what the question
    /// looks at, as far as it can be seen from the blocks as they are. `weigh` says what a layer counts for; those
    /// behind the last that counts are not computed.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub fn tail_attention(&self, weigh: &dyn Fn(usize) -> f32) -> Result<Vec<f32>> {
        let mut probe = self.clone();
        let n_layers = self.model.config().n_layers;
        let n_wanted = (0..n_layers).rev().find(|&layer| weigh(layer) > 0.0).map_or(0, |last| last + 1);
        let n_slots = self.tail.start;
        let ranges: Vec<Range<usize>> = (0..n_slots).map(|slot| slot..slot + 1).collect();
        let mut attention = vec![0.0; n_slots];
        let mut pass = probe.begin(&[])?;
        let first = pass.slots().partition_point(|&slot| slot < self.tail.start);
        let rows: Vec<usize> = (first..pass.slots().len()).collect();
        for layer in 0..n_wanted {
            pass.layer()?;
            let weight = weigh(layer);
            if weight > 0.0 {
                let mass = pass.attention_mass(&rows, &ranges)?;
                for head in mass.chunks_exact(n_slots.max(1)) {
                    attention.iter_mut().zip(head).for_each(|(sum, mass)| *sum += weight * mass);
                }
            }
        }
        Ok(attention)
    }
}

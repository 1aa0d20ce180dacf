//! Where the model that answers looks, in the prompt that it answers from.

use std::ops::Range;

use raglan_core::{Context, PassageAttention};

use crate::generator::Reading;
use crate::{ChatGenerator, Error, Result};

impl ChatGenerator {
    /// Reads the prompt of a context as for an answer, with the keys and values that are kept, and looks where the
    /// question looks; gives nothing when the prompt's template does not write each passage once and as it is.
    ///
    /// With a keeper, what has been read is there for the answer to the same question from the same passages, and as far
    /// as its prompt begins with the same ones; [`PassageOrder::Shared`](crate::reuse::PassageOrder::Shared) has it
    /// begin so where it can.
    ///
    /// # Errors
    ///
    /// As [`prompt`](Self::prompt); [`Error::Option`] when the model has no such layers; [`Error::Model`],
    /// [`Error::Interrupted`].
    pub fn passage_attention(&self, context: &Context, layers: Range<usize>) -> Result<Option<PassageAttention>> {
        let n_layers = self.model().transformer.config().n_layers;
        if layers.is_empty() || layers.end > n_layers {
            let problem = format!("are {} to {}, and the model has {n_layers}", layers.start, layers.end);
            return Err(Error::Option { option: "layers", problem });
        }
        let Reading { prompt, tokens, cache, kv } = self.read(context, true)?;
        let transformer = &self.model().transformer;
        let mut cache = cache.expect("a prompt that is wanted read is");
        let mut end = 0;
        let mut passages = Vec::with_capacity(prompt.shown.len());
        for piece in &prompt.pieces {
            if piece.passage.is_some() {
                passages.push(end..end + piece.ids.len());
            }
            end += piece.ids.len();
        }
        let Some(tail) = passages.last().map(|last| last.end).filter(|&tail| tail < tokens.len()) else {
            return Ok(None);
        };
        let n_computed = kv.as_ref().map_or(tokens.len(), |kv| kv.computed_tokens);
        let each: Vec<Range<usize>> = passages.iter().cloned().flatten().map(|slot| slot..slot + 1).collect();
        cache.truncate(tail);
        let mut attention = |ids: &[u32]| {
            if self.is_interrupted() {
                return Err(Error::Interrupted);
            }
            let sums = transformer.append_attending(&mut cache, ids, layers.clone(), &each)?;
            cache.truncate(tail);
            Ok::<_, Error>(sums)
        };
        let of_question = attention(&tokens[tail..])?;
        let nothing = self.prompt_of_nothing(context, &prompt)?;
        let nothing: Option<Vec<u32>> =
            nothing.map(|nothing| nothing.ids()).filter(|ids| ids.starts_with(&tokens[..tail]));
        let of_nothing = nothing.as_ref().map(|ids| attention(&ids[tail..])).transpose()?;
        Ok(Some(PassageAttention {
            shown: prompt.shown,
            lengths: passages.iter().map(ExactSizeIterator::len).collect(),
            of_question,
            of_nothing,
            kv,
            computed_tokens: n_computed + tokens.len() - tail + nothing.map_or(0, |ids| ids.len() - tail),
        }))
    }
}

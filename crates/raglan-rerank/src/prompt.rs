//! Prompts in pieces, and what a language model says next.

use std::ops::Range;

use raglan_core::Meter;
use raglan_kv::KvCache;
use raglan_model::{Attending, ForwardRows, ForwardSequence, LanguageModel, Want};

use crate::{Error, Result};

/// About how many tokens pass through a model together.
const BATCH_TOKENS: usize = 2048;

/// The tokens of a piece of a prompt; texts of users must be defused.
pub(crate) fn encode(model: &LanguageModel, text: &str) -> Result<Vec<u32>> {
    Ok(model.tokenizer.encode(text, false)?.ids)
}

/// Labels `A`, `B`, … behind an opening bracket, one token each.
#[derive(Clone, Debug)]
pub(crate) struct Labels {
    /// The tokens of `[`.
    pub bracket: Vec<u32>,
    /// The token of each letter behind it.
    pub letters: Vec<u32>,
}

impl Labels {
    /// As many labels as are wanted, at most 26.
    pub fn of(model: &LanguageModel, n: usize) -> Result<Self> {
        let bracket = encode(model, "[")?;
        let mut letters = Vec::with_capacity(n);
        for label in ('A'..='Z').take(n) {
            let ids = encode(model, &format!("[{label}"))?;
            match ids.strip_prefix(&*bracket) {
                Some(&[letter]) if !letters.contains(&letter) => letters.push(letter),
                _ => return Err(Error::Labels { label: label.into() }),
            }
        }
        Ok(Self { bracket, letters })
    }

    pub fn label(i: usize) -> char {
        char::from(b'A' + i as u8)
    }
}

/// A prompt, or what follows what a cache has read of it, and the rows after which logits are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub behind: Option<KvCache>,
    pub ids: Vec<u32>,
    pub rows: Range<usize>,
}

impl Wanted {
    /// A prompt whose next token is asked for.
    pub fn next(ids: Vec<u32>) -> Self {
        let last = ids.len() - 1;
        Self { behind: None, ids, rows: last..last + 1 }
    }
}

/// The logits of prompts, `[n_rows, vocab_size]` each, read together as far as they fit; `take` is called with each
/// prompt's place and logits. Prompts for which nothing of the budget is left are not read.
pub(crate) fn read_prompts(
    model: &LanguageModel,
    prompts: &[Wanted],
    meter: &mut Meter,
    mut take: impl FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let transformer = &model.transformer;
    let mut first = 0;
    while first < prompts.len() {
        let Some((end, n_tokens)) = batch_from(first, prompts.len(), meter, |i| prompts[i].ids.len()) else { break };
        let batch = &prompts[first..end];
        let mut caches: Vec<KvCache> =
            batch.iter().map(|prompt| prompt.behind.clone().unwrap_or_else(|| transformer.cache())).collect();
        let ends = |cache: &KvCache| (cache.len(), cache.next_position());
        let ends: Vec<(usize, u32)> = caches.iter().map(ends).collect();
        let from = batch.iter().zip(&ends);
        let slots = from.clone().map(|(prompt, &(len, _))| (len..len + prompt.ids.len()).collect());
        let positions = from.map(|(prompt, &(_, next))| (next..).take(prompt.ids.len()).collect());
        let (slots, positions): (Vec<Vec<usize>>, Vec<Vec<u32>>) = (slots.collect(), positions.collect());
        let rows: Vec<Vec<usize>> = batch.iter().map(|prompt| prompt.rows.clone().collect()).collect();
        let mut sequences: Vec<ForwardSequence<'_>> = Vec::with_capacity(batch.len());
        for (i, (prompt, cache)) in batch.iter().zip(&mut caches).enumerate() {
            let own = ForwardRows {
                tokens: &prompt.ids,
                positions: &positions[i],
                slots: &slots[i],
                ..ForwardRows::default()
            };
            let want = Want { logits: &rows[i], ..Want::default() };
            sequences.push(ForwardSequence { rows: own, cache, want, attending: Attending::default() });
        }
        let forwarded = transformer.forward(&mut sequences)?;
        meter.count(batch.len(), n_tokens, 0);
        for (i, forwarded) in (first..).zip(forwarded) {
            take(i, &forwarded.logits)?;
        }
        first = end;
    }
    Ok(())
}

/// How far of `n` texts those from one on pass together, and how many tokens they have; none when the budget does not allow
/// for that one.
pub(crate) fn batch_from(
    first: usize,
    n: usize,
    meter: &Meter,
    n_tokens: impl Fn(usize) -> usize,
) -> Option<(usize, usize)> {
    let (mut end, mut n_all) = (first + 1, n_tokens(first));
    while end < n && n_all + n_tokens(end) <= BATCH_TOKENS {
        n_all += n_tokens(end);
        end += 1;
    }
    // What is over budget is tried with fewer at a time.
    while end > first && !meter.allows(n_all) {
        end -= 1;
        n_all -= n_tokens(end);
    }
    (end > first).then_some((end, n_all))
}

/// How many tokens a passage may have so that `n` of them and the rest of a prompt fit the model.
pub(crate) fn passage_room(model: &LanguageModel, rest: usize, n: usize, max_tokens: usize) -> Result<usize> {
    let limit = model.transformer.config().context_len;
    let room = limit.saturating_sub(rest) / n.max(1);
    if room == 0 {
        return Err(Error::NoRoom { needed: rest + n, limit });
    }
    Ok(room.min(max_tokens))
}

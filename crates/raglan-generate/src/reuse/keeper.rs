//! Keys and values that are kept beside an index, and how prompts are read with them.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use raglan_core::{ChunkId, KvUsage};
use raglan_kv::{BlockKey, BlockPrecision, ChunkCache, KV_PAGE, KvBlock, KvCache, PrefixTree, TokensHash};
use raglan_model::DecoderModel;

use super::{Prefilled, ReuseMethod, capture, model_hash, prefill};
use crate::{Error, Prompt, Result};

/// Bytes of whole texts whose beginnings are kept in memory: four prompts of the usual length of a model of a billion
/// parameters.
const PREFIX_BYTES: usize = 256 << 20;
/// Tokens that are read between two looks at whether to go on.
const STEP: usize = 256;

/// Reads prompts with the keys and values that are kept beside an index, and keeps those that were missing.
///
/// It serves one model and one index. Passages that had none are noted while prompts are read, and
/// [`remember`](Self::remember) computes theirs when there is time.
#[derive(Debug)]
pub struct KvKeeper {
    method: ReuseMethod,
    precision: BlockPrecision,
    chunks: Arc<ChunkCache>,
    weights: String,
    prefixes: OnceLock<PrefixTree>,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    /// Passages without a block, and the first piece of their prompt.
    missing: Vec<(ChunkId, Vec<u32>, Arc<[u32]>)>,
    /// Blocks that were read from files.
    read: Vec<(ChunkId, KvBlock)>,
}

/// A prompt that was read but for its last token.
#[derive(Debug)]
pub(crate) struct ReadPrompt {
    pub tokens: Vec<u32>,
    pub cache: KvCache,
    pub usage: KvUsage,
}

impl KvKeeper {
    /// Keeps keys and values in `chunks`; `weights` names the model's weights, such as the hash of their file.
    pub fn new(method: ReuseMethod, precision: BlockPrecision, chunks: Arc<ChunkCache>, weights: &str) -> Self {
        Self {
            method,
            precision,
            chunks,
            weights: weights.to_owned(),
            prefixes: OnceLock::new(),
            pending: Mutex::default(),
        }
    }

    /// How keys and values are used.
    pub fn method(&self) -> ReuseMethod {
        self.method
    }

    /// Where they are kept.
    pub fn chunks(&self) -> &Arc<ChunkCache> {
        &self.chunks
    }

    fn prefixes(&self, model: &DecoderModel) -> &PrefixTree {
        let token_bytes = model.kv_arena().page_bytes().div_ceil(KV_PAGE).max(1);
        self.prefixes.get_or_init(|| PrefixTree::new(PREFIX_BYTES / token_bytes))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // A panic leaves lists that are too short or too long at worst.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a prompt, all but its last token. `chunks` are the passages that are shown; `go_on` is asked now and then.
    pub(crate) fn read(
        &self,
        model: &DecoderModel,
        prompt: &Prompt,
        chunks: &[ChunkId],
        go_on: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<ReadPrompt> {
        let ids = prompt.ids();
        let n_read = ids.len().saturating_sub(1);
        let exact = self.prefixes(model).longest(&ids[..n_read]);
        let n_exact = exact.as_ref().map_or(0, KvCache::len);
        let tail = prompt
            .pieces
            .iter()
            .rposition(|piece| piece.passage.is_some())
            .map_or(0, |last| prompt.pieces[..=last].iter().map(|piece| piece.ids.len()).sum::<usize>());
        if self.method == ReuseMethod::Prefix || chunks.is_empty() || tail == 0 || n_exact >= tail {
            return self.read_exactly(model, ids, exact, go_on);
        }
        let first = &prompt.pieces[0].ids;
        let prefix = self.prefix(model, first, exact)?;
        let hash = model_hash(model, &self.weights);
        let behind = TokensHash::of(first);
        let is_craft = matches!(self.method, ReuseMethod::CacheCraft { .. });
        let passages: Vec<&Vec<u32>> =
            prompt.pieces.iter().filter(|piece| piece.passage.is_some()).map(|piece| &piece.ids).collect();
        let variants: Vec<Vec<KvBlock>> = passages
            .iter()
            .zip(chunks)
            .map(|(ids, &chunk)| {
                let mut variants = self.chunks.variants(chunk, TokensHash::of(ids), hash);
                variants.retain(|block| {
                    let own = block.key().behind == behind;
                    let was_watched = !block.statistics().seen.is_empty();
                    block.precision() == self.precision && if is_craft { was_watched } else { own }
                });
                variants
            })
            .collect();
        let read = prefill(model, &prefix, &prompt.pieces, &variants, self.method, is_craft)?;
        self.note(model, hash, &read, &variants, (chunks, &passages), first)?;
        if go_on().is_break() {
            return Err(Error::Interrupted);
        }
        let Prefilled { tokens, cache, cost, used, .. } = read;
        let hits = used.iter().flatten().count();
        let usage = KvUsage {
            method: self.method.to_string(),
            hits,
            misses: used.len() - hits,
            reused_tokens: cost.reused_tokens + prefix.len(),
            computed_tokens: cost.computed_tokens + 1,
            recomputed_share: cost.recomputed_share,
        };
        Ok(ReadPrompt { tokens, cache, usage })
    }

    /// Reads a prompt on from what an earlier one began with.
    fn read_exactly(
        &self,
        model: &DecoderModel,
        ids: Vec<u32>,
        exact: Option<KvCache>,
        go_on: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<ReadPrompt> {
        let n_read = ids.len().saturating_sub(1);
        let mut cache = exact.unwrap_or_else(|| model.cache());
        let reused_tokens = cache.len();
        for tokens in ids[reused_tokens..n_read].chunks(STEP) {
            if go_on().is_break() {
                return Err(Error::Interrupted);
            }
            append(model, &mut cache, tokens)?;
        }
        self.prefixes(model).insert(&ids[..n_read], &cache);
        let usage = KvUsage {
            method: ReuseMethod::Prefix.to_string(),
            reused_tokens,
            computed_tokens: ids.len() - reused_tokens,
            ..KvUsage::default()
        };
        Ok(ReadPrompt { tokens: ids, cache, usage })
    }

    /// The cache of a prompt's first piece, of which `exact` may be more.
    fn prefix(&self, model: &DecoderModel, first: &[u32], exact: Option<KvCache>) -> Result<KvCache> {
        let mut cache = exact.unwrap_or_else(|| model.cache());
        cache.truncate(first.len());
        if cache.len() < first.len() {
            let rest = &first[cache.len()..];
            append(model, &mut cache, rest)?;
            self.prefixes(model).insert(first, &cache);
        }
        Ok(cache)
    }

    /// Notes what was used and what was missing; keeps what was computed whole where the method wants it so.
    fn note(
        &self,
        model: &DecoderModel,
        hash: TokensHash,
        read: &Prefilled,
        variants: &[Vec<KvBlock>],
        (chunks, passages): (&[ChunkId], &[&Vec<u32>]),
        first: &[u32],
    ) -> Result<()> {
        let mut pending = self.pending();
        let kept = 1.0 - read.cost.recomputed_share;
        let first: Arc<[u32]> = first.into();
        for (i, (used, &chunk)) in read.used.iter().zip(chunks).enumerate() {
            let slots = &read.passages[i];
            match used {
                Some(at) => {
                    let block = &variants[i][*at];
                    self.chunks.used(chunk, block.key(), (slots.len() as f32 * kept) as usize);
                    if !block.is_resident() {
                        pending.read.push((chunk, block.clone()));
                    }
                }
                None => {
                    self.chunks.missed();
                    match read.statistics.as_ref().and_then(|statistics| statistics[i].clone()) {
                        Some(statistics) => {
                            let key = BlockKey {
                                tokens: TokensHash::of(passages[i]),
                                behind: TokensHash::of(&read.tokens[..slots.start]),
                                model: hash,
                            };
                            let shape = model.kv_shape();
                            let block = KvBlock::from_cache(&read.cache, slots.clone(), shape, self.precision, model);
                            let block = block.map_err(raglan_model::Error::from)?;
                            self.chunks.insert(chunk, block.described(key, statistics));
                        }
                        None => pending.missing.push((chunk, passages[i].clone(), first.clone())),
                    }
                }
            }
        }
        Ok(())
    }

    /// Computes the blocks of passages that had none, and writes them beside the index. Gives how many there were.
    ///
    /// `go_on` is asked before each few of them; what is left then is left for the next time.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when blocks cannot be computed or written.
    pub fn remember(&self, model: &DecoderModel, go_on: &dyn Fn() -> ControlFlow<()>) -> Result<usize> {
        let Pending { mut missing, read } = std::mem::take(&mut *self.pending());
        for (chunk, block) in read {
            // One that has gone since is as if it had never been there.
            let _ = self.chunks.keep_resident(chunk, &block);
        }
        missing.sort();
        missing.dedup();
        let mut n = 0;
        for of_prefix in missing.chunk_by(|a, b| a.2 == b.2) {
            let first = &of_prefix[0].2;
            for some in of_prefix.chunks(4) {
                if go_on().is_break() {
                    break;
                }
                let passages: Vec<(ChunkId, &[u32])> = some.iter().map(|(chunk, ids, _)| (*chunk, &**ids)).collect();
                n += self.keep(model, first, &passages)?;
            }
        }
        self.chunks.flush().map_err(raglan_model::Error::from)?;
        Ok(n)
    }

    /// Computes the blocks of passages behind a prompt's first piece. Those that are there already are left. Gives how
    /// many there were not; [`ChunkCache::flush`] writes them.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when they cannot be computed.
    pub fn keep(&self, model: &DecoderModel, first: &[u32], passages: &[(ChunkId, &[u32])]) -> Result<usize> {
        let hash = model_hash(model, &self.weights);
        let behind = TokensHash::of(first);
        let is_missing = |(chunk, ids): &&(ChunkId, &[u32])| {
            let variants = self.chunks.variants(*chunk, TokensHash::of(ids), hash);
            !variants.iter().any(|block| block.key().behind == behind && block.precision() == self.precision)
        };
        let missing: Vec<_> = passages.iter().filter(is_missing).copied().collect();
        if missing.is_empty() {
            return Ok(0);
        }
        let prefix = self.prefix(model, first, self.prefixes(model).longest(first))?;
        let ids: Vec<&[u32]> = missing.iter().map(|(_, ids)| *ids).collect();
        let blocks = capture(model, hash, (&prefix, first), &ids, self.precision)?;
        for ((chunk, _), block) in missing.iter().zip(blocks) {
            self.chunks.insert(*chunk, block);
        }
        Ok(missing.len())
    }
}

fn append(model: &DecoderModel, cache: &mut KvCache, tokens: &[u32]) -> Result<()> {
    if tokens.is_empty() {
        return Ok(());
    }
    let slots: Vec<usize> = (cache.len()..cache.len() + tokens.len()).collect();
    let positions: Vec<u32> = (cache.next_position()..).take(tokens.len()).collect();
    Ok(model.begin_pass(cache, tokens, &positions, &slots)?.finish()?)
}

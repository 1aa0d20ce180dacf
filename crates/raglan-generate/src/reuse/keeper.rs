//! Keys and values that are kept beside an index, and how prompts are read with them.

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use raglan_core::{ChunkId, KvFallbackReason, KvUsage};
use raglan_kv::{
    BlockKey, BlockPrecision, BlockStatistics, ChunkCache, DriftKey, DriftSample, KV_PAGE, KvBlock, KvCache,
    KvPrecision, PrefixTree, TokensHash,
};
use raglan_model::{Attending, DecoderModel, ForwardRows, ForwardSequence, Want, capture, model_hash};

use super::PassageOrder;
use super::passage_order::shared_order;
use super::safety_switch::Verdict;
use super::{Assembly, Continuation, Prefilled, ReuseMethod, SafetySwitch, prefill_while, read_tokens};
use crate::{Error, Prompt, PromptPiece, Result};

/// Bytes of whole texts whose beginnings are kept in memory: four prompts of the usual length of a model of a billion
/// parameters.
const PREFIX_BYTES: usize = 256 << 20;
/// Tokens that are read between two looks at whether to go on.
const STEP: usize = 256;
/// Tokens of the continuation by which a method is tested, as many as `raglan eval kv` compares.
const TEST_TOKENS: usize = 32;

/// Reads prompts with the keys and values that are kept beside an index, and keeps those that were missing.
///
/// It serves one model and one index. Passages that had none are noted while prompts are read, and
/// [`remember`](Self::remember) keeps theirs when there is time: where the method is exact, as they stand in the prompts
/// that were read, and otherwise computed behind the first piece alone.
#[derive(Debug)]
pub struct KvKeeper {
    method: ReuseMethod,
    order: PassageOrder,
    precision: BlockPrecision,
    chunks: Arc<ChunkCache>,
    weights: String,
    prefixes: OnceLock<PrefixTree>,
    switch: Option<SafetySwitch>,
    pending: Mutex<Pending>,
}

/// What is left for when no one waits.
#[derive(Debug, Default)]
struct Pending {
    /// Passages without a block, and the first piece of their prompt.
    missing: Vec<(ChunkId, Vec<u32>, Arc<[u32]>)>,
    /// Prompts that were read exactly and have passages without a block as they stand there.
    exact: Vec<ExactPrompt>,
    /// Blocks that were read from files.
    read: Vec<(ChunkId, KvBlock)>,
    /// Questions that were asked by a method that is watched.
    n_asked: u64,
    shadows: Vec<Shadow>,
}

/// A prompt by which the method is tested.
#[derive(Debug)]
struct Shadow {
    pieces: Vec<PromptPiece>,
    chunks: Vec<ChunkId>,
    /// What the method read; `None` where the prompt was computed exactly, since the method had not been tested.
    by_method: Option<KvCache>,
}

/// A prompt that was read exactly: its tokens, and its passages with their slots.
#[derive(Debug)]
struct ExactPrompt {
    ids: Vec<u32>,
    passages: Vec<(ChunkId, Range<usize>)>,
}

/// What was done when no one waited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered {
    /// Passages whose keys and values were kept.
    pub blocks: usize,
    /// Tokens that were computed for that; none where they were taken out of prompts that had been read.
    pub block_tokens: usize,
    /// What tests of the method found.
    pub tests: Vec<DriftSample>,
    /// Tokens of prompts that were computed for them.
    pub test_tokens: usize,
}

/// What became of passages whose keys and values were wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Those that were computed.
    pub blocks: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those that there was no room for.
    pub left_out: usize,
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
            order: PassageOrder::default(),
            precision,
            chunks,
            weights: weights.to_owned(),
            prefixes: OnceLock::new(),
            switch: None,
            pending: Mutex::default(),
        }
    }

    /// The same keeper, whose method is tested and may be switched off. What is exact needs no test.
    pub fn watched_by(self, switch: SafetySwitch) -> Self {
        Self { switch: (!self.method.is_exact()).then_some(switch), ..self }
    }

    /// The same keeper, for prompts that show their passages in another order.
    pub fn ordered_by(self, order: PassageOrder) -> Self {
        Self { order, ..self }
    }

    /// The order in which a prompt had better show its passages, by their indices in it, if it is another. `chunks` are
    /// the passages that are shown.
    pub(crate) fn order(&self, model: &DecoderModel, pieces: &[PromptPiece], chunks: &[ChunkId]) -> Option<Vec<usize>> {
        if self.order == PassageOrder::Rank || pieces.len() <= 3 {
            return None;
        }
        let tree = self.prefixes(model);
        let keeps_exact = self.keeps_exact(model);
        let hash = model_hash(model, &self.weights);
        let is_known = |tokens: &[u32], start: usize, passage: usize| {
            tree.common_len(tokens) == tokens.len()
                || keeps_exact && self.chunks.contains(chunks[passage], &exact_key(hash, tokens, start..tokens.len()))
        };
        Some(shared_order(pieces, &is_known)).filter(|order| !order.is_sorted())
    }

    /// Whether passages of prompts that were read exactly are kept as they stand there: where blocks give a cache back
    /// what it had, bit for bit.
    fn keeps_exact(&self, model: &DecoderModel) -> bool {
        let is_lossless = match self.precision {
            BlockPrecision::F32 => true,
            BlockPrecision::F16 => model.kv_arena().precision() == KvPrecision::F16,
            BlockPrecision::Bf16 | BlockPrecision::Int8 => false,
        };
        self.method == ReuseMethod::Prefix && is_lossless
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
        // Of an arena with a budget, answers need the most.
        let n_bytes = PREFIX_BYTES.min(model.kv_arena().budget() / 4);
        self.prefixes.get_or_init(|| PrefixTree::new(n_bytes / token_bytes))
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
        if chunks.is_empty() || tail == 0 {
            return self.read_exactly(model, ids, exact, go_on);
        }
        if self.method.is_exact() {
            return self.read_on(model, prompt, chunks, exact, go_on);
        }
        let hash = model_hash(model, &self.weights);
        let mut is_tested = false;
        // A single passage stands where its block was computed.
        let is_exact = chunks.len() == 1 && !self.is_craft() && !self.is_parallel();
        if let Some(switch) = self.switch.as_ref().filter(|_| !is_exact) {
            let n_asked = self.pending().n_asked;
            match switch.verdict(&self.drift_key(hash), n_asked)? {
                Verdict::Use { is_tested: tested } => is_tested = tested,
                Verdict::Exact(fallback) => {
                    let mut read = self.read_exactly(model, ids, exact, go_on)?;
                    let mut pending = self.pending();
                    // One test is enough, however many questions are asked at once.
                    if fallback.reason == KvFallbackReason::Untested && pending.shadows.is_empty() {
                        pending.n_asked += 1;
                        let (pieces, chunks) = (prompt.pieces.clone(), chunks.to_vec());
                        pending.shadows.push(Shadow { pieces, chunks, by_method: None });
                    }
                    read.usage.instead_of = Some(fallback);
                    return Ok(read);
                }
            }
        }
        if n_exact >= tail {
            return self.read_exactly(model, ids, exact, go_on);
        }
        let (read, prefix, variants) = loop {
            let (prefix, variants) = self.blocks(model, hash, &prompt.pieces, chunks, exact.clone())?;
            match prefill_while(model, &prefix, &prompt.pieces, &variants, self.method, self.is_craft(), go_on) {
                // It is one of finitely many files, and not among the blocks again.
                Err(Error::Model(raglan_model::Error::Kv(raglan_kv::Error::Damaged { path, .. })))
                    if self.chunks.forget_file(&path) => {}
                read => break (read?, prefix, variants),
            }
        };
        self.note(model, hash, &read, &variants, (chunks, &prompt.pieces))?;
        if self.switch.is_some() {
            let mut pending = self.pending();
            pending.n_asked += 1;
            if is_tested && self.is_telling(&read) {
                let (pieces, chunks) = (prompt.pieces.clone(), chunks.to_vec());
                pending.shadows.push(Shadow { pieces, chunks, by_method: Some(read.cache.clone()) });
            }
        }
        if go_on().is_break() {
            return Err(Error::Interrupted);
        }
        if read.used.iter().all(Option::is_none) {
            // All was computed, so whoever begins in the same way takes it over exactly.
            self.prefixes(model).insert(&read.tokens[..read.cache.len()], &read.cache);
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
            instead_of: None,
        };
        Ok(ReadPrompt { tokens, cache, usage })
    }

    fn is_craft(&self) -> bool {
        matches!(self.method, ReuseMethod::CacheCraft { .. })
    }

    fn is_parallel(&self) -> bool {
        matches!(self.method, ReuseMethod::Parallel { .. })
    }

    fn drift_key(&self, model: TokensHash) -> DriftKey {
        DriftKey { method: self.method.to_string(), precision: self.precision, model }
    }

    /// Whether a prompt shows what the method does: a first passage stands where its block was computed.
    fn is_telling(&self, read: &Prefilled) -> bool {
        read.used.iter().enumerate().any(|(i, used)| used.is_some() && (i > 0 || self.is_parallel()))
    }

    /// What has read a prompt's first piece, and the blocks of its passages, those first that come first.
    fn blocks(
        &self,
        model: &DecoderModel,
        hash: TokensHash,
        pieces: &[PromptPiece],
        chunks: &[ChunkId],
        exact: Option<KvCache>,
    ) -> Result<(KvCache, Vec<Vec<KvBlock>>)> {
        let first = &pieces[0].ids;
        let prefix = self.prefix(model, first, exact)?;
        let behind = TokensHash::of(first);
        let variants = |(ids, &chunk): (&Vec<u32>, &ChunkId)| {
            let mut variants = self.chunks.variants(chunk, TokensHash::of(ids), hash);
            variants.retain(|block| {
                let own = block.key().behind == behind;
                let was_watched = !block.statistics().seen.is_empty();
                block.precision() == self.precision && if self.is_craft() { was_watched } else { own }
            });
            variants
        };
        Ok((prefix, bodies(pieces).zip(chunks).map(variants).collect()))
    }

    /// Reads a prompt on from what earlier ones began with, in memory and behind that in blocks.
    fn read_on(
        &self,
        model: &DecoderModel,
        prompt: &Prompt,
        chunks: &[ChunkId],
        exact: Option<KvCache>,
        go_on: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<ReadPrompt> {
        let ids = prompt.ids();
        let passages = with_slots(&prompt.pieces, chunks);
        let hash = model_hash(model, &self.weights);
        let keeps_exact = self.keeps_exact(model);
        let (exact, n_between) =
            if keeps_exact { self.run(model, hash, &ids, &passages, exact, go_on)? } else { (exact, 0) };
        let n_known = exact.as_ref().map_or(0, KvCache::len);
        let mut read = self.read_exactly(model, ids, exact, go_on)?;
        read.usage.reused_tokens -= n_between;
        read.usage.computed_tokens += n_between;
        let mut unkept = Vec::new();
        for (chunk, slots) in passages {
            let key = exact_key(hash, &read.tokens, slots.clone());
            if slots.end <= n_known {
                read.usage.hits += 1;
                self.chunks.used(chunk, &key, slots.len());
            } else {
                read.usage.misses += 1;
                self.chunks.missed(chunk);
            }
            if keeps_exact && !self.chunks.contains(chunk, &key) {
                unkept.push((chunk, slots));
            }
        }
        if !unkept.is_empty() {
            self.pending().exact.push(ExactPrompt { ids: read.tokens.clone(), passages: unkept });
        }
        Ok(read)
    }

    /// Extends what earlier prompts began with by blocks of the passages behind it that stood behind the very same
    /// tokens, as far as one follows the other; and says how many tokens between them were computed.
    fn run(
        &self,
        model: &DecoderModel,
        hash: TokensHash,
        ids: &[u32],
        passages: &[(ChunkId, Range<usize>)],
        exact: Option<KvCache>,
        go_on: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<(Option<KvCache>, usize)> {
        let n_exact = exact.as_ref().map_or(0, KvCache::len);
        loop {
            let mut pieces = vec![PromptPiece { ids: Vec::new(), passage: None }];
            let mut blocks: Vec<Option<KvBlock>> = Vec::new();
            let mut end = n_exact;
            // The last token of a prompt is left to be read.
            for (chunk, slots) in passages.iter().filter(|(_, slots)| slots.end > n_exact && slots.end < ids.len()) {
                let key = exact_key(hash, ids, slots.clone());
                let fits = |block: &KvBlock| {
                    *block.key() == key
                        && block.precision() == self.precision
                        && block.start() as usize == slots.start
                        && block.n_tokens() == slots.len()
                };
                let Some(block) = self.chunks.variants(*chunk, key.tokens, hash).into_iter().find(fits) else { break };
                if blocks.is_empty() {
                    end = end.min(slots.start);
                    pieces[0].ids = ids[..end].to_vec();
                }
                pieces.push(PromptPiece { ids: ids[end..slots.start].to_vec(), passage: None });
                pieces.push(PromptPiece { ids: ids[slots.clone()].to_vec(), passage: Some(blocks.len()) });
                blocks.push(Some(block));
                end = slots.end;
            }
            if blocks.is_empty() {
                return Ok((exact, 0));
            }
            pieces.push(PromptPiece { ids: vec![ids[end]], passage: None });
            let mut before = exact.clone().unwrap_or_else(|| model.cache());
            before.truncate(pieces[0].ids.len());
            match placed(model, &before, &pieces, &blocks, go_on) {
                Err(Error::Model(raglan_model::Error::Kv(raglan_kv::Error::Damaged { path, .. })))
                    if self.chunks.forget_file(&path) => {}
                read => return read.map(|(cache, n_between)| (Some(cache), n_between)),
            }
        }
    }

    /// Reads a prompt on from what an earlier one began with.
    fn read_exactly(
        &self,
        model: &DecoderModel,
        ids: Vec<u32>,
        exact: Option<KvCache>,
        go_on: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<ReadPrompt> {
        let (cache, reused_tokens) = self.exactly(model, &ids, exact, go_on)?;
        let usage = KvUsage {
            method: ReuseMethod::Prefix.to_string(),
            reused_tokens,
            computed_tokens: ids.len() - reused_tokens,
            ..KvUsage::default()
        };
        Ok(ReadPrompt { tokens: ids, cache, usage })
    }

    /// Keys and values of all tokens but the last, read on from what `exact` has; and how many that were.
    fn exactly(
        &self,
        model: &DecoderModel,
        ids: &[u32],
        exact: Option<KvCache>,
        go_on: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<(KvCache, usize)> {
        let n_read = ids.len().saturating_sub(1);
        let cache = exact.unwrap_or_else(|| model.cache());
        let n_reused = cache.len();
        let cache = read_while(model, cache, &ids[n_reused..n_read], go_on)?;
        self.prefixes(model).insert(&ids[..n_read], &cache);
        Ok((cache, n_reused))
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
        (chunks, pieces): (&[ChunkId], &[PromptPiece]),
    ) -> Result<()> {
        let kept = 1.0 - read.cost.recomputed_share;
        let first: Arc<[u32]> = pieces[0].ids[..].into();
        for (i, ((used, &chunk), ids)) in read.used.iter().zip(chunks).zip(bodies(pieces)).enumerate() {
            let Some(at) = used else {
                self.chunks.missed(chunk);
                match seen(read, i) {
                    Some(statistics) => self.keep_seen(model, hash, read, (chunk, i), statistics)?,
                    None => self.pending().missing.push((chunk, ids.clone(), first.clone())),
                }
                continue;
            };
            let block = &variants[i][*at];
            self.chunks.used(chunk, block.key(), (read.passages[i].len() as f32 * kept) as usize);
            if !block.is_resident() {
                self.pending().read.push((chunk, block.clone()));
            }
        }
        Ok(())
    }

    /// Keeps a passage of a prompt that was computed whole, with what was seen of its attention.
    fn keep_seen(
        &self,
        model: &DecoderModel,
        hash: TokensHash,
        read: &Prefilled,
        (chunk, passage): (ChunkId, usize),
        statistics: BlockStatistics,
    ) -> Result<()> {
        let slots = read.passages[passage].clone();
        let mut key = exact_key(hash, &read.tokens, slots.clone());
        if read.used[..passage].iter().any(Option::is_some) {
            // What stands behind blocks is not what stands behind their tokens.
            key.behind = TokensHash::of(&[&[u32::MAX], &read.tokens[..slots.start]].concat());
        }
        let block = KvBlock::from_cache(&read.cache, slots, model.kv_shape(), self.precision, model);
        self.chunks.insert(chunk, block.map_err(raglan_model::Error::from)?.described(key, statistics));
        Ok(())
    }

    /// Does what was left for when no one waits: computes the blocks of passages that had none, and writes them beside
    /// the index; tests the method where that is due, and notes what came of it.
    ///
    /// `go_on` is asked now and then; blocks that are left then are left for the next time.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when blocks cannot be computed or written, or when a whole computation gives
    /// no numbers.
    pub fn remember(&self, model: &DecoderModel, go_on: &dyn Fn() -> ControlFlow<()>) -> Result<Remembered> {
        let Pending { mut missing, exact, read, n_asked, shadows } = std::mem::take(&mut *self.pending());
        for (chunk, block) in read {
            // One that has gone since is as if it had never been there.
            let _ = self.chunks.keep_resident(chunk, &block);
        }
        let untested = shadows.iter().filter(|shadow| shadow.by_method.is_none() && !self.is_craft());
        for Shadow { pieces, chunks, .. } in untested {
            let first: Arc<[u32]> = pieces[0].ids[..].into();
            let wanted = bodies(pieces).zip(chunks).map(|(ids, &chunk)| (chunk, ids.clone(), first.clone()));
            missing.extend(wanted);
        }
        missing.sort();
        missing.dedup();
        let mut remembered = Remembered::default();
        for prompt in exact {
            if go_on().is_break() {
                break;
            }
            remembered.blocks += self.keep_exact(model, &prompt)?;
            self.chunks.flush().map_err(raglan_model::Error::from)?;
        }
        for of_prefix in missing.chunk_by(|a, b| a.2 == b.2) {
            let first = &of_prefix[0].2;
            for some in of_prefix.chunks(4) {
                if go_on().is_break() {
                    break;
                }
                let passages: Vec<(ChunkId, &[u32])> = some.iter().map(|(chunk, ids, _)| (*chunk, &**ids)).collect();
                let kept = self.keep(model, first, &passages, u64::MAX)?;
                remembered.blocks += kept.blocks;
                remembered.block_tokens += kept.tokens;
            }
        }
        self.chunks.flush().map_err(raglan_model::Error::from)?;
        if let Some(switch) = &self.switch
            && n_asked > 0
        {
            let hash = model_hash(model, &self.weights);
            let key = self.drift_key(hash);
            switch.asked(&key, n_asked)?;
            for shadow in shadows {
                match self.test(model, hash, shadow, &mut remembered, go_on) {
                    Ok(Some(sample)) => {
                        switch.tested(&key, &sample)?;
                        remembered.tests.push(sample);
                    }
                    Ok(None) => {}
                    Err(Error::Interrupted) => break,
                    Err(e) => return Err(e),
                }
            }
            self.chunks.flush().map_err(raglan_model::Error::from)?;
        }
        Ok(remembered)
    }

    /// Keeps passages as they stand in a prompt that was read exactly, as far as memory still has it; gives their number.
    fn keep_exact(&self, model: &DecoderModel, prompt: &ExactPrompt) -> Result<usize> {
        let ExactPrompt { ids, passages } = prompt;
        let hash = model_hash(model, &self.weights);
        let Some(cache) = self.prefixes(model).longest(ids) else { return Ok(0) };
        let mut n = 0;
        for (chunk, slots) in passages.iter().filter(|(_, slots)| slots.end <= cache.len()) {
            let key = exact_key(hash, ids, slots.clone());
            if self.chunks.contains(*chunk, &key) {
                continue; // The same prompt was read twice.
            }
            let block = KvBlock::from_cache(&cache, slots.clone(), model.kv_shape(), self.precision, model);
            let block = block.map_err(raglan_model::Error::from)?;
            self.chunks.insert(*chunk, block.described(key, BlockStatistics::default()));
            n += 1;
        }
        Ok(n)
    }

    /// Compares what the method makes of a prompt with the whole; gives nothing where the prompt tells nothing.
    fn test(
        &self,
        model: &DecoderModel,
        hash: TokensHash,
        shadow: Shadow,
        remembered: &mut Remembered,
        go_on: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<Option<DriftSample>> {
        let Shadow { mut pieces, mut chunks, by_method } = shadow;
        let mut by_method = match by_method {
            Some(cache) => cache,
            None => {
                if self.is_craft() {
                    // In its own order a prompt is exact: what was seen in it is used with the passages turned round.
                    let (prefix, _) = self.blocks(model, hash, &pieces, &chunks, None)?;
                    let none = vec![Vec::new(); chunks.len()];
                    let read = prefill_while(model, &prefix, &pieces, &none, self.method, true, go_on)?;
                    remembered.test_tokens += read.cost.computed_tokens;
                    for (i, &chunk) in chunks.iter().enumerate() {
                        if let Some(statistics) = seen(&read, i) {
                            self.keep_seen(model, hash, &read, (chunk, i), statistics)?;
                        }
                    }
                    turn_round(&mut pieces);
                    chunks.reverse();
                }
                let (prefix, variants) = self.blocks(model, hash, &pieces, &chunks, None)?;
                let read = prefill_while(model, &prefix, &pieces, &variants, self.method, false, go_on)?;
                remembered.test_tokens += read.cost.computed_tokens;
                if !self.is_telling(&read) {
                    return Ok(None);
                }
                read.cache
            }
        };
        let ids: Vec<u32> = pieces.iter().flat_map(|piece| &piece.ids).copied().collect();
        let n_read = ids.len() - 1;
        let (mut whole, n_reused) = self.exactly(model, &ids, self.prefixes(model).longest(&ids[..n_read]), go_on)?;
        remembered.test_tokens += n_read - n_reused;
        let first = read_tokens(model, &mut whole, &ids[n_read..], &[0])?;
        let continuation = Continuation::greedy(model, &mut whole, first, TEST_TOKENS, go_on)?;
        let first = read_tokens(model, &mut by_method, &ids[n_read..], &[0])?;
        continuation.drift(model, &mut by_method, first).map(Some)
    }

    /// Computes the blocks of passages behind a prompt's first piece, as far as `room` bytes reach. Those that are there
    /// already are left. [`ChunkCache::flush`] writes them.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when they cannot be computed.
    pub(crate) fn keep(
        &self,
        model: &DecoderModel,
        first: &[u32],
        passages: &[(ChunkId, &[u32])],
        room: u64,
    ) -> Result<Kept> {
        let hash = model_hash(model, &self.weights);
        let behind = TokensHash::of(first);
        let is_missing = |(chunk, ids): &&(ChunkId, &[u32])| {
            let variants = self.chunks.variants(*chunk, TokensHash::of(ids), hash);
            !variants.iter().any(|block| block.key().behind == behind && block.precision() == self.precision)
        };
        let mut missing: Vec<_> = passages.iter().filter(is_missing).copied().collect();
        let n_missing = missing.len();
        let mut left = Some(room);
        missing.retain(|(_, ids)| {
            left = left.and_then(|left| left.checked_sub(self.precision.file_bytes(ids.len(), model.kv_shape())));
            left.is_some()
        });
        let left_out = n_missing - missing.len();
        if missing.is_empty() {
            return Ok(Kept { left_out, ..Kept::default() });
        }
        let prefix = self.prefix(model, first, self.prefixes(model).longest(first))?;
        let ids: Vec<&[u32]> = missing.iter().map(|(_, ids)| *ids).collect();
        let blocks = capture(model, hash, (&prefix, first), &ids, self.precision)?;
        for ((chunk, _), block) in missing.iter().zip(blocks) {
            self.chunks.insert(*chunk, block);
        }
        Ok(Kept { blocks: missing.len(), tokens: ids.iter().map(|ids| ids.len()).sum(), left_out })
    }
}

/// The tokens of a prompt's passages, in order.
fn bodies(pieces: &[PromptPiece]) -> impl Iterator<Item = &Vec<u32>> {
    pieces.iter().filter(|piece| piece.passage.is_some()).map(|piece| &piece.ids)
}

/// The passages of a prompt with their slots.
fn with_slots(pieces: &[PromptPiece], chunks: &[ChunkId]) -> Vec<(ChunkId, Range<usize>)> {
    let mut end = 0;
    let mut slots = Vec::with_capacity(chunks.len());
    for piece in pieces {
        let start = end;
        end += piece.ids.len();
        if piece.passage.is_some() {
            slots.push(start..end);
        }
    }
    chunks.iter().copied().zip(slots).collect()
}

/// What the keys and values of some tokens of a prompt depend on when it is computed exactly.
fn exact_key(model: TokensHash, ids: &[u32], slots: Range<usize>) -> BlockKey {
    BlockKey { tokens: TokensHash::of(&ids[slots.clone()]), behind: TokensHash::of(&ids[..slots.start]), model }
}

/// Puts blocks behind what has read a prompt's first piece, and computes what stands between them; gives all but the
/// last token, and how many were computed.
fn placed(
    model: &DecoderModel,
    before: &KvCache,
    pieces: &[PromptPiece],
    blocks: &[Option<KvBlock>],
    go_on: &dyn Fn() -> ControlFlow<()>,
) -> Result<(KvCache, usize)> {
    let mut assembly = Assembly::new(model, before, pieces, blocks)?.interrupted_by(go_on);
    let n_fresh = assembly.fresh().len();
    if n_fresh == 0 {
        assembly.load(model.config().n_layers)?;
    } else {
        assembly.compute(&[])?;
    }
    Ok((assembly.into_cache(), n_fresh))
}

/// What was seen of a passage's attention while a prompt was read.
fn seen(read: &Prefilled, passage: usize) -> Option<BlockStatistics> {
    read.statistics.as_ref().and_then(|statistics| statistics[passage].clone())
}

/// Puts the passages of a prompt into the opposite order, and leaves what stands between them.
fn turn_round(pieces: &mut [PromptPiece]) {
    let mut ids: Vec<Vec<u32>> = bodies(pieces).cloned().collect();
    for piece in pieces.iter_mut().filter(|piece| piece.passage.is_some()) {
        piece.ids = ids.pop().expect("there are as many as passages");
    }
}

/// A cache with tokens behind what it has; `go_on` is asked now and then.
pub(crate) fn read_while(
    model: &DecoderModel,
    mut cache: KvCache,
    tokens: &[u32],
    go_on: &dyn Fn() -> ControlFlow<()>,
) -> Result<KvCache> {
    for tokens in tokens.chunks(STEP) {
        if go_on().is_break() {
            return Err(Error::Interrupted);
        }
        append(model, &mut cache, tokens)?;
    }
    Ok(cache)
}

fn append(model: &DecoderModel, cache: &mut KvCache, tokens: &[u32]) -> Result<()> {
    if tokens.is_empty() {
        return Ok(());
    }
    let slots: Vec<usize> = (cache.len()..cache.len() + tokens.len()).collect();
    let positions: Vec<u32> = (cache.next_position()..).take(tokens.len()).collect();
    let rows = ForwardRows { tokens, positions: &positions, slots: &slots, ..ForwardRows::default() };
    model.forward(&mut [ForwardSequence { rows, cache, want: Want::default(), attending: Attending::All }])?;
    Ok(())
}

//! Reading a prompt by one of the methods.

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use raglan_kv::{BlockStatistics, KvBlock, KvCache, TokensHash};
use raglan_model::DecoderModel;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

use super::cache_craft::fix_share;
use super::{Assembly, AttentionWatch, ReuseMethod};
use crate::{PromptPiece, Result};

/// Layers that `CacheBlend` computes whole; values are compared in the last of them.
const BLEND_LAYERS: usize = 2;
/// Layers over which the passages that a question looks at must stay the same before the others are left as they are.
const FOCUS_WINDOW: usize = 3;
/// How much more attention the last of them must have than the next.
const FOCUS_GAP: f32 = 2.0;

/// A prompt that has been read but for its last token.
#[derive(Clone, Debug)]
pub struct Prefilled {
    /// The prompt's tokens; the cache has all but the last.
    pub tokens: Vec<u32>,
    /// Their keys and values.
    pub cache: KvCache,
    /// Slots of the passages, in order.
    pub passages: Vec<Range<usize>>,
    /// By passage the block that was used, as an index among its variants.
    pub used: Vec<Option<usize>>,
    /// What it took.
    pub cost: ReuseCost,
    /// What was seen of passages that were computed whole, if that was asked for: by passage.
    pub statistics: Option<Vec<Option<BlockStatistics>>>,
}

/// What reading a prompt took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ReuseCost {
    /// Tokens of passages.
    pub passage_tokens: usize,
    /// Of these the ones whose keys and values were there.
    pub reused_tokens: usize,
    /// Of those the share that was computed anew, a token in a layer counting as one part of the layers.
    pub recomputed_share: f32,
    /// Tokens that were computed in all layers or some: what was not there, what was anew, and the tail.
    pub computed_tokens: usize,
    /// Seconds to put the prompt together.
    pub assemble_s: f64,
    /// Seconds to choose tokens.
    pub choose_s: f64,
    /// Seconds to compute, blocks being loaded meanwhile where nothing had to be chosen.
    pub compute_s: f64,
}

/// Reads a prompt, all but its last token.
///
/// `prefix` has read the first piece, or more than that where the method is exact; `variants` are each passage's
/// blocks, in the order of the passages that are shown. With `watch`, what is seen of passages that have no block is
/// gathered while they are computed.
///
/// # Errors
///
/// [`Error::Model`](crate::Error::Model) when the prompt is longer than the model's context, caches cannot grow, a
/// block's file cannot be read, or the model is on a device and the method [needs the
/// processor](ReuseMethod::needs_processor).
pub fn prefill(
    model: &DecoderModel,
    prefix: &KvCache,
    pieces: &[PromptPiece],
    variants: &[Vec<KvBlock>],
    method: ReuseMethod,
    watch: bool,
) -> Result<Prefilled> {
    prefill_while(model, prefix, pieces, variants, method, watch, &|| ControlFlow::Continue(()))
}

/// Reads a prompt as [`prefill`] does; `go_on` is asked before each layer.
///
/// # Errors
///
/// As [`prefill`]; [`Error::Interrupted`](crate::Error::Interrupted).
pub fn prefill_while(
    model: &DecoderModel,
    prefix: &KvCache,
    pieces: &[PromptPiece],
    variants: &[Vec<KvBlock>],
    method: ReuseMethod,
    watch: bool,
    go_on: &dyn Fn() -> ControlFlow<()>,
) -> Result<Prefilled> {
    if method.needs_processor() && model.is_on_device() {
        let what = "the methods `blend`, `cache-craft`, `parallel` and `focus` of `kv`";
        return Err(raglan_model::Error::NotOnDevice { what }.into());
    }
    let begin = Instant::now();
    let n_layers = model.config().n_layers;
    let n_heads = model.config().n_heads;
    let hashes: Vec<TokensHash> = passages(pieces).map(|ids| TokensHash::of(ids)).collect();
    let mut shares = Vec::new();
    let used: Vec<Option<usize>> = match method {
        ReuseMethod::Full | ReuseMethod::Prefix => vec![None; variants.len()],
        ReuseMethod::CacheCraft { alpha } => {
            let best = |(i, variants): (usize, &Vec<KvBlock>)| {
                let share = |block: &KvBlock| fix_share(alpha, block.statistics(), &hashes[..i]);
                let all = variants.iter().map(share).enumerate();
                // A block that has to be computed whole is none.
                all.min_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, share)| *share < 1.0)
            };
            let chosen: Vec<_> = variants.iter().enumerate().map(best).collect();
            shares = chosen.iter().map(|chosen| chosen.map_or(0.0, |(_, share)| share)).collect();
            chosen.into_iter().map(|chosen| chosen.map(|(at, _)| at)).collect()
        }
        _ => variants.iter().map(|variants| (!variants.is_empty()).then_some(0)).collect(),
    };
    let chosen = |(used, variants): (&Option<usize>, &Vec<KvBlock>)| used.map(|at| variants[at].clone());
    let blocks: Vec<Option<KvBlock>> = used.iter().zip(variants).map(chosen).collect();
    let mut assembly = if let ReuseMethod::Parallel { temperature, scale } = method
        && blocks.iter().all(Option::is_some)
    {
        Assembly::parallel(model, prefix, pieces, &blocks, (temperature, scale))?
    } else {
        Assembly::new(model, prefix, pieces, &blocks)?
    }
    .interrupted_by(go_on);
    let mut cost = ReuseCost {
        passage_tokens: assembly.passages().iter().map(ExactSizeIterator::len).sum(),
        reused_tokens: assembly.blocks().iter().map(|(_, slots)| slots.len()).sum(),
        computed_tokens: assembly.fresh().len(),
        assemble_s: begin.elapsed().as_secs_f64(),
        ..ReuseCost::default()
    };
    let begin = Instant::now();
    let reused: Vec<usize> = assembly.blocks().iter().flat_map(|(_, slots)| slots.clone()).collect();
    let n_of = |share: f32| (share * reused.len() as f32).ceil() as usize;
    let choice: Vec<usize> = match method {
        ReuseMethod::Random { share } => {
            let mut random = ChaCha8Rng::seed_from_u64(hashes.iter().fold(0, |seed, hash| {
                seed ^ u64::from_le_bytes(hash.0[..8].try_into().expect("a hash has eight bytes"))
            }));
            let mut shuffled = reused.clone();
            for i in (1..shuffled.len()).rev() {
                shuffled.swap(i, (random.next_u64() % (i as u64 + 1)) as usize);
            }
            shuffled.truncate(n_of(share));
            shuffled
        }
        ReuseMethod::Link { tokens } => {
            let behind_others =
                assembly.blocks().iter().filter(|(_, slots)| slots.start != assembly.passages()[0].start);
            behind_others.flat_map(|(_, slots)| slots.start..(slots.start + tokens).min(slots.end)).collect()
        }
        ReuseMethod::CacheCraft { .. } => {
            let mut choice = Vec::new();
            let of_passages = assembly.passages().iter().zip(&blocks).zip(&shares);
            for ((slots, block), share) in
                of_passages.filter_map(|((slots, block), share)| Some(((slots, block.as_ref()?), share)))
            {
                let seen = &block.statistics().seen;
                let n = (share * slots.len() as f32).ceil() as usize;
                choice.extend(best(n, slots.clone(), |slot| seen.get(slot - slots.start).copied().unwrap_or(0.0)));
            }
            choice
        }
        ReuseMethod::Focus { share } if share > 0.0 && !reused.is_empty() => {
            let attention = assembly.tail_attention()?;
            best(n_of(share), reused.iter().copied(), |slot| attention[slot])
        }
        ReuseMethod::Blend { share } if share < 1.0 => {
            return blend(assembly, &reused, n_of(share), used, cost, begin);
        }
        ReuseMethod::Blend { .. } => reused.clone(),
        _ => Vec::new(),
    };
    cost.choose_s = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let mut statistics = None;
    let mut passed = vec![0usize; n_layers];
    let missing: Vec<usize> = (0..used.len()).filter(|&i| used[i].is_none()).collect();
    if watch && !missing.is_empty() {
        passed = vec![choice.len(); n_layers];
        let mut watching = AttentionWatch::new(assembly.passages(), missing);
        assembly.pass(&choice, n_layers, &mut |pass| watching.layer(pass, n_heads))?;
        statistics = Some(watching.finish(&hashes));
    } else if matches!(method, ReuseMethod::CacheCraft { .. }) {
        let mut focus = FocusWatch::new(&assembly);
        let is_chosen = |slot: &usize| choice.binary_search(slot).is_ok();
        let (tail, n) = (assembly.tail().clone(), assembly.passages().to_vec());
        assembly.pass(&choice, n_layers, &mut |pass| {
            passed[pass.n_passed() - 1] = pass.slots().iter().filter(|slot| is_chosen(slot)).count();
            if let Some(focused) = focus.layer(pass, &tail, &n)? {
                let rows =
                    pass.slots().iter().enumerate().filter(|(_, slot)| {
                        !is_chosen(slot) || focused.iter().any(|&passage| n[passage].contains(slot))
                    });
                let rows: Vec<usize> = rows.map(|(row, _)| row).collect();
                pass.retain(&rows);
            }
            Ok(())
        })?;
    } else {
        passed = vec![choice.len(); n_layers];
        assembly.compute(&choice)?;
    }
    cost.compute_s = begin.elapsed().as_secs_f64();
    cost.computed_tokens += choice.len();
    let parts = (reused.len() * n_layers).max(1);
    cost.recomputed_share = passed.iter().sum::<usize>() as f32 / parts as f32;
    Ok(finished(assembly, used, cost, statistics))
}

fn finished(
    assembly: Assembly<'_>,
    used: Vec<Option<usize>>,
    cost: ReuseCost,
    statistics: Option<Vec<Option<BlockStatistics>>>,
) -> Prefilled {
    let (tokens, passages) = (assembly.tokens().to_vec(), assembly.passages().to_vec());
    Prefilled { tokens, cache: assembly.into_cache(), passages, used, cost, statistics }
}

/// Computes two layers whole, and goes on with the tokens whose values in the second differ most from those of their
/// blocks.
fn blend(
    mut assembly: Assembly<'_>,
    reused: &[usize],
    n: usize,
    used: Vec<Option<usize>>,
    mut cost: ReuseCost,
    begin: Instant,
) -> Result<Prefilled> {
    let model = assembly.model();
    let n_layers = model.config().n_layers;
    let n_whole = BLEND_LAYERS.min(n_layers);
    // The blocks' own values, before the pass writes over them.
    assembly.load(n_whole)?;
    let kept = assembly.cache().values(n_whole - 1, reused);
    let fresh = assembly.fresh().to_vec();
    assembly.pass(reused, n_layers, &mut |pass| {
        if pass.n_passed() == n_whole {
            let values = pass.cache().values(n_whole - 1, reused);
            let dim = values.len() / reused.len().max(1);
            let differences: Vec<f32> = values
                .chunks_exact(dim.max(1))
                .zip(kept.chunks_exact(dim.max(1)))
                .map(|(new, old)| new.iter().zip(old).map(|(new, old)| (new - old) * (new - old)).sum())
                .collect();
            let chosen = best(n, 0..reused.len(), |i| differences[i]);
            let mut slots: Vec<usize> = chosen.into_iter().map(|i| reused[i]).chain(fresh.iter().copied()).collect();
            slots.sort_unstable();
            let rows: Vec<usize> =
                (0..pass.slots().len()).filter(|&row| slots.binary_search(&pass.slots()[row]).is_ok()).collect();
            pass.retain(&rows);
        }
        Ok(())
    })?;
    cost.compute_s = begin.elapsed().as_secs_f64();
    cost.computed_tokens += reused.len();
    let passed = n_whole * reused.len() + (n_layers - n_whole) * n.min(reused.len());
    cost.recomputed_share = passed as f32 / (n_layers * reused.len()).max(1) as f32;
    Ok(finished(assembly, used, cost, None))
}

/// Which passages a question looks at, found out on the way.
struct FocusWatch {
    attention: Vec<f32>,
    /// The last sets, newest last.
    sets: Vec<Option<Vec<usize>>>,
    is_found: bool,
}

impl FocusWatch {
    fn new(assembly: &Assembly<'_>) -> Self {
        Self { attention: vec![0.0; assembly.passages().len()], sets: Vec::new(), is_found: false }
    }

    /// The passages that are looked at, in the layer in which that becomes clear.
    fn layer(
        &mut self,
        pass: &raglan_model::LayerPass<'_, '_>,
        tail: &Range<usize>,
        passages: &[Range<usize>],
    ) -> Result<Option<Vec<usize>>> {
        if self.is_found || passages.len() < 2 || pass.is_finished() {
            return Ok(None);
        }
        let first = pass.slots().partition_point(|&slot| slot < tail.start);
        let rows: Vec<usize> = (first..pass.slots().len()).collect();
        let mass = pass.attention_mass(&rows, passages)?;
        for head in mass.chunks_exact(passages.len()) {
            self.attention.iter_mut().zip(head).for_each(|(sum, mass)| *sum += mass);
        }
        let order = best(passages.len(), 0..passages.len(), |passage| self.attention[passage]);
        let mut by_attention = order.clone();
        by_attention.sort_by(|&a, &b| self.attention[b].total_cmp(&self.attention[a]));
        let gap = (1..by_attention.len())
            .find(|&n| self.attention[by_attention[n - 1]] >= FOCUS_GAP * self.attention[by_attention[n]]);
        self.sets.push(gap.map(|n| {
            let mut set = by_attention[..n].to_vec();
            set.sort_unstable();
            set
        }));
        let last = &self.sets[self.sets.len().saturating_sub(FOCUS_WINDOW)..];
        let set =
            last[0].clone().filter(|set| last.len() == FOCUS_WINDOW && last.iter().all(|s| s.as_ref() == Some(set)));
        self.is_found = set.is_some();
        Ok(set)
    }
}

/// Tokens of the passages, in order.
fn passages(pieces: &[PromptPiece]) -> impl Iterator<Item = &Vec<u32>> {
    pieces.iter().filter(|piece| piece.passage.is_some()).map(|piece| &piece.ids)
}

/// The `n` with the greatest scores, ascending; equal ones by the lower.
fn best(n: usize, of: impl Iterator<Item = usize>, score: impl Fn(usize) -> f32) -> Vec<usize> {
    let mut all: Vec<usize> = of.collect();
    all.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
    all.truncate(n);
    all.sort_unstable();
    all
}

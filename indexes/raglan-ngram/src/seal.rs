//! What n-grams say of chunks (SEAL; Bevilacqua et al. 2022).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use raglan_core::{ChunkId, ChunkSet, Hit, Ranking};
use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{Error, NgramIndex, Occurrences, Result};

/// No probability is nearer to 1 than this, so that log-odds are finite.
const CERTAIN: f64 = 1e-9;

/// An n-gram that chunks are found by.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// The natural logarithm of how likely it is, given the question.
    pub log_probability: f64,
}

/// How n-grams score chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SealScoring {
    /// What the difference of an n-gram's log-odds, given the question and without it, is raised to.
    pub exponent: f64,
    /// Occurrences that are added to an n-gram's and to the corpus's, so that rare ones do not weigh all.
    pub smoothing: f64,
    /// From 0 to 1: how much less an n-gram counts that repeats tokens of heavier ones in the same chunk.
    pub repetition: f64,
    /// N-grams with more occurrences find no chunks, as long as there are others; they score those that are found.
    pub max_hits: u64,
    /// How many of the chunks that rare n-grams find, the best by these, are scored by all.
    pub fully_scored: usize,
    /// How many single tokens, the heaviest, count where no n-gram covers them.
    pub n_unigrams: usize,
}

impl Default for SealScoring {
    /// The searcher's of SEAL, but for the number of chunks that are fully scored, which is the paper's.
    fn default() -> Self {
        Self { exponent: 2.0, smoothing: 5.0, repetition: 0.8, max_hits: 1500, fully_scored: 500, n_unigrams: 1000 }
    }
}

impl SealScoring {
    /// What an n-gram weighs that stands `count` times among `n_tokens` tokens:
    /// `max(0, log_odds(p) − log_odds((count + s) / (n_tokens + s)))^exponent`, `log_odds(p) = ln p − ln(1 − p)`.
    pub fn weight(&self, log_probability: f64, count: u64, n_tokens: u64) -> f64 {
        let anyway = ((count as f64 + self.smoothing) / (n_tokens as f64 + self.smoothing)).ln();
        (log_odds(log_probability) - log_odds(anyway)).max(0.0).powf(self.exponent)
    }

    fn check(&self) -> Result<()> {
        let refused = |name, value, range| Err(Error::Parameter { name, value, range });
        if !(self.exponent > 0.0 && self.exponent <= 16.0) {
            return refused("exponent", self.exponent, "above 0, and at most 16");
        }
        if !(self.smoothing > 0.0 && self.smoothing.is_finite()) {
            return refused("smoothing", self.smoothing, "above 0");
        }
        if !(0.0..=1.0).contains(&self.repetition) {
            return refused("repetition", self.repetition, "from 0 to 1");
        }
        Ok(())
    }
}

fn log_odds(log_probability: f64) -> f64 {
    let log_probability = log_probability.min(-CERTAIN);
    log_probability - (-log_probability.exp_m1()).ln()
}

/// The question's own n-grams of up to `max_n` tokens that begin with a token that may begin one, each once: what finds
/// chunks without a model.
///
/// An n-gram's probability is its share of the question, `count / (n_tokens + 1)`.
pub fn question_ngrams(question: &[u32], max_n: usize, may_begin: &dyn Fn(u32) -> bool) -> Vec<Key> {
    let mut counts: BTreeMap<&[u32], usize> = BTreeMap::new();
    for start in (0..question.len()).filter(|&start| may_begin(question[start])) {
        for n in 1..=max_n.min(question.len() - start) {
            *counts.entry(&question[start..start + n]).or_default() += 1;
        }
    }
    let share = |count: usize| (count as f64 / (question.len() + 1) as f64).ln();
    let key = |(tokens, count): (&[u32], usize)| Key { tokens: tokens.to_vec(), log_probability: share(count) };
    counts.into_iter().map(key).collect()
}

/// A key that weighs something.
struct Weighed<'a> {
    tokens: &'a [u32],
    weight: f64,
    occurrences: Occurrences,
}

/// What chunks are scored by.
struct Weights<'a> {
    /// The heaviest first, equal ones in order of their tokens.
    keys: Vec<Weighed<'a>>,
    /// The places of the keys that begin with a token, increasing.
    by_first: FxHashMap<u32, Vec<u32>>,
    unigrams: FxHashMap<u32, f64>,
    repetition: f64,
}

impl NgramIndex {
    /// The best `k` chunks by the n-grams that stand in them; with equal scores, those with lower ids.
    ///
    /// A chunk's n-grams are taken in order of their [weights](SealScoring::weight), each once; an occurrence that overlaps
    /// a heavier one's does not count. Each adds its weight times `(1 − r) + r · new`, where `r` is
    /// [`SealScoring::repetition`] and `new` the share of its distinct tokens that no heavier one of the chunk had. The
    /// heaviest of `unigrams`, tokens with the natural logarithms of their probabilities, add their weights where no n-gram
    /// had them.
    ///
    /// There are fewer than `k` only when no other allowed chunk has an n-gram that weighs anything, or
    /// [`SealScoring::fully_scored`] is less.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`].
    pub fn rank(
        &self,
        keys: &[Key],
        unigrams: &[(u32, f64)],
        scoring: &SealScoring,
        k: usize,
        allowed: Option<&ChunkSet>,
    ) -> Result<Ranking> {
        scoring.check()?;
        let weights = self.weights(keys, unigrams, scoring);
        let is_allowed = |chunk: ChunkId| allowed.is_none_or(|allowed| allowed.contains(chunk));
        let (rare, frequent): (Vec<_>, Vec<_>) =
            weights.keys.iter().partition(|key| key.occurrences.count() <= scoring.max_hits);
        let mut found: FxHashMap<ChunkId, f64> = FxHashMap::default();
        let mut find = |key: &Weighed<'_>| {
            let chunks: FxHashSet<ChunkId> =
                self.places(&key.occurrences).map(|place| place.chunk).filter(|&chunk| is_allowed(chunk)).collect();
            for chunk in chunks {
                *found.entry(chunk).or_default() += key.weight;
            }
            found.len()
        };
        let mut n_found = 0;
        for key in rare {
            n_found = find(key);
        }
        let mut frequent = frequent;
        frequent.sort_by_key(|key| key.occurrences.count());
        for key in frequent {
            if n_found >= k.min(scoring.fully_scored) {
                break;
            }
            n_found = find(key);
        }

        let mut found: Vec<(ChunkId, f64)> = found.into_iter().collect();
        found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.truncate(scoring.fully_scored);
        let hit = |&(chunk, _): &(ChunkId, f64)| {
            let tokens = self.tokens(chunk).expect("places are in live chunks");
            Hit::new(chunk, weights.score(tokens) as f32)
        };
        let hits = found.par_iter().map(hit).collect();
        Ok(Ranking::best(hits, k).expect("weights are finite and chunks are found once"))
    }

    fn weights<'a>(&self, keys: &'a [Key], unigrams: &[(u32, f64)], scoring: &SealScoring) -> Weights<'a> {
        let n_tokens = self.n_tokens();
        let mut best: BTreeMap<&[u32], f64> = BTreeMap::new();
        for key in keys.iter().filter(|key| !key.tokens.is_empty() && !key.log_probability.is_nan()) {
            let log_probability = best.entry(&key.tokens).or_insert(f64::NEG_INFINITY);
            *log_probability = log_probability.max(key.log_probability);
        }
        let weighed = best.into_iter().map(|(tokens, log_probability)| {
            let occurrences = self.find(tokens);
            let weight = scoring.weight(log_probability, occurrences.count(), n_tokens);
            Weighed { tokens, weight, occurrences }
        });
        let mut keys: Vec<_> = weighed.filter(|key| key.weight > 0.0 && key.occurrences.count() > 0).collect();
        keys.sort_by(|a, b| heavier_first(a.weight, b.weight));
        let mut by_first: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
        for (i, key) in keys.iter().enumerate() {
            by_first.entry(key.tokens[0]).or_default().push(i as u32);
        }
        let weigh = |&(token, log_probability): &(u32, f64)| {
            let count = self.find(&[token]).count();
            (token, scoring.weight(log_probability, count, n_tokens))
        };
        let mut unigrams: Vec<(u32, f64)> = unigrams.iter().map(weigh).filter(|&(_, weight)| weight > 0.0).collect();
        unigrams.sort_by(|a, b| heavier_first(a.1, b.1).then(a.0.cmp(&b.0)));
        unigrams.truncate(scoring.n_unigrams);
        let unigrams = unigrams.into_iter().collect();
        Weights { keys, by_first, unigrams, repetition: scoring.repetition }
    }
}

fn heavier_first(a: f64, b: f64) -> Ordering {
    b.total_cmp(&a)
}

impl Weights<'_> {
    fn score(&self, tokens: &[u32]) -> f64 {
        // By key, the heaviest first, where it begins.
        let mut places: Vec<(u32, usize)> = Vec::new();
        for (start, first) in tokens.iter().enumerate() {
            let keys = self.by_first.get(first).map_or(&[][..], |keys| keys);
            let stands = |&&i: &&u32| tokens[start..].starts_with(self.keys[i as usize].tokens);
            places.extend(keys.iter().filter(stands).map(|&i| (i, start)));
        }
        places.sort_unstable();

        let mut is_covered = vec![false; tokens.len()];
        let mut seen: FxHashSet<u32> = FxHashSet::default();
        let mut score = 0.0;
        let mut last = None;
        for (i, start) in places {
            let key = &self.keys[i as usize];
            let covered = &mut is_covered[start..start + key.tokens.len()];
            if last == Some(i) || covered.contains(&true) {
                continue;
            }
            covered.fill(true);
            last = Some(i);
            let distinct: FxHashSet<u32> = key.tokens.iter().copied().collect();
            let n_new = distinct.iter().filter(|&&token| seen.insert(token)).count();
            let new = n_new as f64 / distinct.len() as f64;
            score += key.weight * (1.0 - self.repetition + self.repetition * new);
        }
        if !self.unigrams.is_empty() {
            for token in tokens {
                if let Some(weight) = self.unigrams.get(token)
                    && seen.insert(*token)
                {
                    score += weight;
                }
            }
        }
        score
    }
}

//! Generation that is held to the corpus (SEAL; Bevilacqua et al. 2022).

use std::cmp::Ordering;
use std::collections::BTreeSet;

use raglan_core::{Error, Result};

use crate::{Key, NgramIndex, Occurrences};

/// Says how likely each token is to come next in what a language model says to a question.
pub trait NextTokens {
    /// The natural logarithms of the probabilities of all tokens after each of these prefixes, one list a prefix, all of the
    /// same length.
    ///
    /// The prefixes are distinct. Each is empty or goes on, by one token, from one of a call before.
    fn log_probabilities(&mut self, prefixes: &[&[u32]]) -> Result<Vec<Vec<f32>>>;
}

/// How n-grams are generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeamSearch {
    /// How many n-grams are followed at a time.
    pub beams: usize,
    /// The most tokens of an n-gram.
    pub max_tokens: usize,
}

impl Default for BeamSearch {
    /// What SEAL generates with: 15 beams, 10 tokens.
    fn default() -> Self {
        Self { beams: 15, max_tokens: 10 }
    }
}

/// What a model says when it is held to the corpus.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// Every n-gram that was followed, and every beginning of it, each once, in no telling order.
    pub keys: Vec<Key>,
    /// How likely each token of the corpus is to come first, as a natural logarithm, in order of the tokens.
    pub unigrams: Vec<(u32, f64)>,
}

/// An n-gram on the way.
struct Beam {
    tokens: Vec<u32>,
    log_probability: f64,
    occurrences: Occurrences,
}

impl Beam {
    /// More likely ones first, equal ones in order of their tokens.
    fn cmp_best_first(&self, other: &Self) -> Ordering {
        other.log_probability.total_cmp(&self.log_probability).then_with(|| self.tokens.cmp(&other.tokens))
    }
}

impl NgramIndex {
    /// The n-grams of the corpus that a model is most likely to say, by beam search.
    ///
    /// Probabilities are those over the whole vocabulary: what the corpus does not go on with is left out only afterwards,
    /// so that n-grams of all beams can be compared. `may_begin` says which tokens an n-gram may begin with: without
    /// stop words among them, these do not take all the beams.
    ///
    /// # Errors
    ///
    /// Those of the model; [`Error::Shape`] and [`Error::NotFinite`] when what it says is not a list of logarithms of
    /// probabilities for each prefix. A token beyond the end of a list has no probability.
    pub fn generate(
        &self,
        model: &mut dyn NextTokens,
        search: &BeamSearch,
        may_begin: &dyn Fn(u32) -> bool,
    ) -> Result<Generated> {
        let mut generated = Generated::default();
        let mut beams = vec![Beam { tokens: Vec::new(), log_probability: 0.0, occurrences: self.empty() }];
        for n in 0..search.max_tokens {
            let prefixes: Vec<&[u32]> = beams.iter().map(|beam| &*beam.tokens).collect();
            let said = log_probabilities(model, &prefixes)?;
            // Only those among the best of their beam can be among the best of all.
            let mut longer = Vec::new();
            for (i, (beam, said)) in beams.iter().zip(&said).enumerate() {
                let mut next = Vec::new();
                for (token, occurrences) in self.next_tokens(&beam.occurrences) {
                    let Some(log_probability) = log_probability(said, token)? else { continue };
                    if n == 0 {
                        generated.unigrams.push((token, log_probability));
                        if !may_begin(token) {
                            continue;
                        }
                    }
                    next.push((beam.log_probability + log_probability, token, occurrences));
                }
                next.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                next.truncate(search.beams);
                longer.extend(next.into_iter().map(|(log_probability, token, occurrences)| {
                    let tokens = beams[i].tokens.iter().copied().chain([token]).collect();
                    Beam { tokens, log_probability, occurrences }
                }));
            }
            longer.sort_by(Beam::cmp_best_first);
            longer.truncate(search.beams);
            beams = longer;
            if beams.is_empty() {
                break;
            }
            let key = |beam: &Beam| Key { tokens: beam.tokens.clone(), log_probability: beam.log_probability };
            generated.keys.extend(beams.iter().map(key));
        }
        Ok(generated)
    }

    /// How likely a model is to say each of these n-grams, of which those that do not stand in the corpus are left out, and
    /// so are doubles; in order of their tokens.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate).
    pub fn scored_by(&self, model: &mut dyn NextTokens, ngrams: &[Vec<u32>]) -> Result<Vec<Key>> {
        let is_there = |ngram: &&Vec<u32>| !ngram.is_empty() && self.find(ngram).count() > 0;
        let wanted: BTreeSet<&Vec<u32>> = ngrams.iter().filter(is_there).collect();
        let longest = wanted.iter().map(|ngram| ngram.len()).max().unwrap_or(0);
        let mut keys: Vec<Key> =
            wanted.iter().map(|&ngram| Key { tokens: ngram.clone(), log_probability: 0.0 }).collect();
        for n in 0..longest {
            let prefixes: BTreeSet<&[u32]> = wanted.iter().filter(|g| g.len() > n).map(|g| &g[..n]).collect();
            let prefixes: Vec<&[u32]> = prefixes.into_iter().collect();
            let said = log_probabilities(model, &prefixes)?;
            for key in keys.iter_mut().filter(|key| key.tokens.len() > n) {
                let at = prefixes.binary_search(&&key.tokens[..n]).expect("every n-gram's beginning is asked for");
                let next = log_probability(&said[at], key.tokens[n])?;
                key.log_probability += next.unwrap_or(f64::NEG_INFINITY);
            }
        }
        keys.retain(|key| key.log_probability.is_finite());
        Ok(keys)
    }
}

fn log_probabilities(model: &mut dyn NextTokens, prefixes: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
    let said = model.log_probabilities(prefixes)?;
    if said.len() == prefixes.len() {
        return Ok(said);
    }
    Err(Error::Shape { what: "log-probabilities", expected: prefixes.len(), found: said.len() })
}

/// That of a token; none when it has no probability at all.
fn log_probability(said: &[f32], token: u32) -> Result<Option<f64>> {
    let Some(&log_probability) = said.get(token as usize) else { return Ok(None) };
    // Rounding may lift what is certain above 0.
    if log_probability.is_nan() || log_probability > 1e-3 {
        return Err(Error::NotFinite { what: "log-probability" });
    }
    Ok(log_probability.is_finite().then_some(f64::from(log_probability).min(0.0)))
}

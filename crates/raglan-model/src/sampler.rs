//! Choosing the next token from a model's scores.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::{Error, Result};

/// How the next token is chosen, in the order of the fields: scores of tokens already in the answer are lowered, all
/// are divided by the temperature, and three filters thin out the candidates before one is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides positive scores of tokens already written, and multiplies negative ones; 1 leaves them (Keskar et al.
    /// 2019, CTRL). Tokens of the prompt are not counted: a passage may be quoted. Mind that it changes numbers where a
    /// tokenizer splits digits; an answer that goes in circles is ended in any case.
    pub repetition_penalty: f32,
    /// 0 takes the best token always; higher values even out the odds.
    pub temperature: f32,
    /// Keeps the best so many; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest best whose probabilities reach this sum (Holtzman et al. 2020); 1 keeps all.
    pub top_p: f32,
    /// Keeps those at least this share as probable as the best (Nguyen et al. 2024); 0 keeps all.
    pub min_p: f32,
    /// Equal seeds give equal answers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// Chooses tokens; remembers those it has chosen.
///
/// Equal options and equal scores give equal tokens on every machine: ties go to the lower id, and draws come from
/// ChaCha8.
#[derive(Debug)]
pub struct Sampler {
    options: Sampling,
    rng: ChaCha8Rng,
    chosen: BTreeSet<u32>,
}

impl Sampler {
    /// A sampler that has chosen nothing yet.
    pub fn new(options: Sampling) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(options.seed);
        Self { options, rng, chosen: BTreeSet::new() }
    }

    /// The next token, given one score for each token of the vocabulary; the scores are used up.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] when a score is not a number or is +∞, or all are −∞. A score of −∞ rules a token out.
    pub fn next(&mut self, logits: &mut [f32]) -> Result<u32> {
        if logits.iter().any(|&x| x.is_nan() || x == f32::INFINITY) || logits.iter().all(|&x| x == f32::NEG_INFINITY) {
            return Err(Error::NotFinite { path: None });
        }
        let penalty = self.options.repetition_penalty;
        for &id in &self.chosen {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        let token = if self.options.temperature == 0.0 { argmax(logits) } else { self.draw(logits) };
        self.chosen.insert(token);
        Ok(token)
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.options;
        let mut candidates: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        let best_first = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if 0 < top_k && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k, best_first);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(best_first);
        // Probabilities relative to the best, whose own is 1.
        let best = candidates[0].1;
        let relative = |logit: f32| (f64::from(logit - best) / f64::from(temperature)).exp();
        let mut odds: Vec<f64> = candidates.iter().map(|&(_, logit)| relative(logit)).collect();
        let total: f64 = odds.iter().sum();
        let mut sum = 0.0;
        let nucleus_end = odds.iter().position(|p| {
            sum += p / total;
            sum >= f64::from(top_p)
        });
        let n_probable = odds.partition_point(|&p| p >= f64::from(min_p));
        odds.truncate(nucleus_end.map_or(odds.len(), |last| last + 1).min(n_probable).max(1));
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64; // 53 bits: what an f64 holds.
        let mut left = uniform * odds.iter().sum::<f64>();
        let drawn = odds.iter().position(|p| {
            left -= p;
            left < 0.0
        });
        candidates[drawn.unwrap_or(odds.len() - 1)].0
    }
}

/// The token with the highest score; the lowest id among equals.
fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(id, _)| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    /// Checks how often each of the tokens with these probabilities is chosen in 4,000 draws, in percent.
    #[track_caller]
    fn check(probabilities: &[f32], options: &Sampling, expected: &[f64]) {
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
        let mut shares = vec![0.0; logits.len()];
        for seed in 0..4000 {
            let token = Sampler::new(Sampling { seed, ..options.clone() }).next(&mut logits.clone()).unwrap();
            shares[token as usize] += 1.0 / 40.0;
        }
        for (got, want) in shares.iter().zip(expected) {
            assert!((got - want).abs() <= 3.2, "{got} % instead of {want} %"); // Four standard deviations.
        }
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_temperature() {
        check(&[0.1, 0.6, 0.3], &warm(), &[10.0, 60.0, 30.0]);
        // At temperature ½ the odds are squared: 0.01, 0.36, 0.09 of 0.46.
        check(&[0.1, 0.6, 0.3], &Sampling { temperature: 0.5, ..warm() }, &[2.2, 78.3, 19.6]);
    }

    #[test]
    fn filters_keep_the_best_tokens() {
        let probabilities = [0.1, 0.5, 0.1, 0.3];
        check(&probabilities, &Sampling { top_k: 2, ..warm() }, &[0.0, 62.5, 0.0, 37.5]);
        check(&probabilities, &Sampling { top_p: 0.75, ..warm() }, &[0.0, 62.5, 0.0, 37.5]);
        check(&probabilities, &Sampling { min_p: 0.5, ..warm() }, &[0.0, 62.5, 0.0, 37.5]);
        // The token that crosses the sum belongs to the nucleus; of equals the lower id comes first.
        check(&probabilities, &Sampling { top_p: 0.85, ..warm() }, &[11.1, 55.6, 0.0, 33.3]);
        check(&probabilities, &Sampling { top_p: 0.01, ..warm() }, &[0.0, 100.0, 0.0, 0.0]);
    }

    #[test]
    fn greedy_takes_the_best_and_the_lower_of_equals() {
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 1.0, ..Sampling::default() });
        assert_eq!(sampler.next(&mut [0.0, 2.0, 2.0, -1.0]).unwrap(), 1);
        assert_eq!(sampler.next(&mut [0.0, 2.0, 2.0, -1.0]).unwrap(), 1);
    }

    #[test]
    fn a_repeated_token_is_penalised_whatever_its_sign() {
        for scores in [[3.0, 2.0], [-1.0, -1.5]] {
            let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
            assert_eq!([(); 2].map(|()| sampler.next(&mut scores.clone()).unwrap()), [0, 1]);
        }
    }

    #[test]
    fn equal_seeds_give_equal_tokens() {
        let tokens = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, repetition_penalty: 1.0, ..warm() });
            (0..50).map(|_| sampler.next(&mut [0.0; 20]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(tokens(7), tokens(7));
        assert_ne!(tokens(7), tokens(8));
    }

    #[test]
    fn scores_that_are_not_numbers_are_refused() {
        for mut bad in [[0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            assert!(matches!(Sampler::new(warm()).next(&mut bad), Err(Error::NotFinite { path: None })));
        }
        assert_eq!(Sampler::new(warm()).next(&mut [f32::NEG_INFINITY, -5.0]).unwrap(), 1);
    }
}

//! How far what follows a prompt is from what follows it when it was computed whole.

use std::ops::ControlFlow;

use raglan_kv::{DriftSample, KvCache};
use raglan_model::{Attending, DecoderModel, Error as ModelError, ForwardRows, ForwardSequence, Want};

use crate::{Error, Result};

/// How probable each token is at each place of a text, as natural logarithms.
#[derive(Clone, Debug)]
pub struct Distributions(Vec<Vec<f64>>);

impl Distributions {
    /// Those that logits give.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when logits are not numbers.
    pub fn of(logits: &[Vec<f32>]) -> Result<Self> {
        logits.iter().map(|logits| log_softmax(logits)).collect::<Result<_>>().map(Self)
    }

    /// At each place `KL(p || q) = Σ p (ln p − ln q)` in nats, `q` being what the other logits give.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of).
    pub fn divergences(&self, others: &[Vec<f32>]) -> Result<Vec<f64>> {
        let divergence = |(p, other): (&Vec<f64>, &Vec<f32>)| {
            let q = log_softmax(other)?;
            // Rounding may take it below 0.
            Ok(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0))
        };
        self.0.iter().zip(others).map(divergence).collect()
    }

    /// The mean of `−ln p` of these tokens, one a place.
    pub fn surprise(&self, tokens: &[u32]) -> f64 {
        let sum: f64 = self.0.iter().zip(tokens).map(|(p, &token)| -p[token as usize]).sum();
        sum / tokens.len().max(1) as f64
    }
}

fn log_softmax(logits: &[f32]) -> Result<Vec<f64>> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - greatest).exp()).sum();
    if !sum.is_finite() {
        return Err(ModelError::NotFinite { path: None }.into());
    }
    let norm = f64::from(greatest) + sum.ln();
    Ok(logits.iter().map(|logit| f64::from(*logit) - norm).collect())
}

/// The greedy text behind a prompt that was computed whole, and how probable each token was at each place of it.
#[derive(Clone, Debug)]
pub struct Continuation {
    /// The best tokens; the last may be an end.
    pub tokens: Vec<u32>,
    /// What was as probable as what, before each of them.
    pub distributions: Distributions,
}

/// What came of reading a [`Continuation`] behind the same prompt, read otherwise.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The divergence at each place, in nats.
    pub kl: Vec<f64>,
    /// The best token at each place.
    pub best: Vec<u32>,
    /// The logits after the prompt.
    pub first: Vec<f32>,
}

impl Continuation {
    /// Goes on greedily from the logits after a prompt, for so many tokens, one at least, or to an end. `go_on` is asked
    /// before each.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`], [`Error::Model`].
    pub fn greedy(
        model: &DecoderModel,
        cache: &mut KvCache,
        first: Vec<f32>,
        n_tokens: usize,
        go_on: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<Self> {
        let best = |logits: &[f32]| best_token(logits).map_err(|error| error.of_weights(model.path()));
        let mut tokens = vec![best(&first)?];
        let mut logits = vec![first];
        while tokens.len() < n_tokens && !model.config().end_tokens.contains(&tokens[tokens.len() - 1]) {
            if go_on().is_break() {
                return Err(Error::Interrupted);
            }
            let next = read_tokens(model, cache, &tokens[tokens.len() - 1..], &[0])?;
            tokens.push(best(&next)?);
            logits.push(next);
        }
        Ok(Self { distributions: Distributions::of(&logits)?, tokens })
    }

    /// Reads the continuation behind a prompt, after which `first` were the logits, and compares.
    ///
    /// # Errors
    ///
    /// [`Error::Model`].
    pub fn follow(&self, model: &DecoderModel, cache: &mut KvCache, first: Vec<f32>) -> Result<Followed> {
        let mut logits = vec![first];
        let forced = &self.tokens[..self.tokens.len() - 1];
        if !forced.is_empty() {
            let rows: Vec<usize> = (0..forced.len()).collect();
            let rest = read_tokens(model, cache, forced, &rows)?;
            logits.extend(rest.chunks_exact(rest.len() / forced.len()).map(<[f32]>::to_vec));
        }
        let best = logits.iter().map(|logits| best_token(logits)).collect::<Result<Vec<u32>>>();
        let best = best.map_err(|error| error.of_weights(model.path()))?;
        let kl = self.distributions.divergences(&logits)?;
        let first = logits.swap_remove(0);
        Ok(Followed { kl, best, first })
    }

    /// The same in short; a method that gives no numbers is as far off as can be.
    ///
    /// # Errors
    ///
    /// [`Error::Model`].
    pub(crate) fn drift(&self, model: &DecoderModel, cache: &mut KvCache, first: Vec<f32>) -> Result<DriftSample> {
        let n_places = self.tokens.len();
        match self.follow(model, cache, first) {
            Ok(Followed { kl, best, .. }) => Ok(DriftSample {
                kl: kl.iter().sum::<f64>() / n_places as f64,
                first_kl: kl[0],
                n_agree: best.iter().zip(&self.tokens).filter(|(a, b)| a == b).count(),
                n_places,
            }),
            Err(Error::Model(ModelError::NotFinite { .. })) => {
                Ok(DriftSample { kl: f64::INFINITY, first_kl: f64::INFINITY, n_agree: 0, n_places })
            }
            Err(e) => Err(e),
        }
    }
}

/// Reads tokens behind what a cache has, and gives the logits after some of them.
///
/// # Errors
///
/// [`Error::Model`] when the cache cannot grow.
pub fn read_tokens(model: &DecoderModel, cache: &mut KvCache, tokens: &[u32], rows: &[usize]) -> Result<Vec<f32>> {
    let (first, next) = (cache.len(), cache.next_position());
    let positions: Vec<u32> = (next..).take(tokens.len()).collect();
    let slots: Vec<usize> = (first..first + tokens.len()).collect();
    let sequence = ForwardSequence {
        rows: ForwardRows { tokens, positions: &positions, slots: &slots, ..ForwardRows::default() },
        cache,
        want: Want { logits: rows, ..Want::default() },
        attending: Attending::All,
    };
    Ok(model.forward(&mut [sequence])?.remove(0).logits)
}

/// The best token, of several the first.
///
/// # Errors
///
/// [`Error::Model`] when logits are not numbers.
pub fn best_token(logits: &[f32]) -> Result<u32> {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return Err(ModelError::NotFinite { path: None }.into());
        }
        if *logit > logits[best] {
            best = i;
        }
    }
    Ok(best as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_formula() {
        let logits = |p: [f64; 2]| vec![p.map(|p| p.ln() as f32 + 3.0).to_vec()]; // Any constant may be added.
        let p = Distributions::of(&logits([0.25, 0.75])).unwrap();
        // .25 ln(.25/.5) + .75 ln(.75/.5) = -.1733 + .3041
        let got = p.divergences(&logits([0.5, 0.5])).unwrap()[0];
        assert!((got - 0.130_812).abs() <= 1e-5, "{got}");
        assert_eq!(p.divergences(&logits([0.25, 0.75])).unwrap(), [0.0]);
        assert!((p.surprise(&[1]) - 0.287_682).abs() <= 1e-5); // -ln .75
        assert!(Distributions::of(&[vec![f32::NAN, 0.0]]).is_err());
        assert!(p.divergences(&[vec![f32::INFINITY, 0.0]]).is_err());
        assert!(best_token(&[0.0, f32::NAN]).is_err());
        assert_eq!(best_token(&[0.0, 2.0, 2.0]).unwrap(), 1);
    }
}

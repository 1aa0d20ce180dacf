//! What an evaluation found: by prompt, by method, and by pairs of them.

use raglan_eval::significance::{bootstrap_interval, randomisation_p};
use raglan_generate::reuse::ReuseMethod;
use serde::Serialize;

use super::KvCapture;

/// What reading a prompt took before the first token, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct KvTimes {
    /// To open blocks and give them their places.
    pub assemble_ms: f64,
    /// To choose what is computed anew.
    pub choose_ms: f64,
    /// To load what blocks have and compute what they have not, but for the last token.
    pub compute_ms: f64,
    /// To read the last token.
    pub last_token_ms: f64,
}

/// One prompt read by one method.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvPromptScore {
    /// The question's name.
    pub question: String,
    /// Tokens of the prompt.
    pub n_prompt_tokens: usize,
    /// The share of the passages' tokens that was computed, a token in a layer counting as one part of the layers.
    pub recompute_share: f64,
    /// Milliseconds to the first token's distribution.
    pub ttft_ms: f64,
    /// Its parts.
    pub times: KvTimes,
    /// `KL(full || method)` in nats at each place of the full prompt's greedy continuation.
    pub kl: Vec<f64>,
    /// Places at which the best token is the same.
    pub n_agree: usize,
    /// Whether it is at all: then the greedy texts are equal.
    pub is_equal: bool,
    /// Whether the greedy answer is a right one, after SQuAD's normalisation.
    pub exact_match: f64,
    /// The F1 of its words.
    pub f1: f64,
    /// Whether a right answer stands in it.
    pub contains: f64,
    /// The mean surprise of the first right answer's tokens, in nats.
    pub answer_nats: f64,
    /// Whether each of them is the best one behind those before it.
    pub answer_is_best: bool,
    /// Bytes of the passages' blocks.
    pub block_bytes: usize,
    /// The mean divergence with as large a share of tokens that were drawn at random.
    pub random_kl: Option<f64>,
    /// The greedy answer.
    pub answer: String,
}

impl KvPromptScore {
    fn kl_mean(&self) -> f64 {
        mean(self.kl.iter().copied())
    }
}

/// The mean divergences of two methods on the same prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KvComparison {
    /// The other's mean, in nats.
    pub other_kl: f64,
    /// This one's over the other's.
    pub ratio: f64,
    /// This one's less the other's.
    pub difference: f64,
    /// The bootstrap interval of the difference that holds 95 of 100.
    pub interval: (f64, f64),
    /// How probable so large a difference is by chance, by the paired randomisation test.
    pub p: f64,
}

impl KvComparison {
    fn new(pairs: &[(f64, f64)]) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let (own, other) = (mean(pairs.iter().map(|pair| pair.0)), mean(pairs.iter().map(|pair| pair.1)));
        let differences: Vec<f64> = pairs.iter().map(|(own, other)| own - other).collect();
        Some(Self {
            other_kl: other,
            ratio: if other > 0.0 { own / other } else { 1.0 },
            difference: own - other,
            interval: bootstrap_interval(&differences),
            p: randomisation_p(&differences),
        })
    }
}

/// A method over all prompts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvRow {
    /// The method.
    pub method: String,
    /// What stood before passages when their blocks were captured.
    pub capture: Option<String>,
    /// The mean share of the passages' tokens that was computed.
    pub recompute_share: f64,
    /// The median of the time to the first token, in milliseconds.
    pub ttft_ms: f64,
    /// The median of how many times that is in the time of computing all.
    pub speedup: f64,
    /// The medians of the parts.
    pub times: KvTimes,
    /// The mean over prompts of the mean divergence from the full prompt, in nats.
    pub kl_mean: f64,
    /// Its bootstrap interval.
    pub kl_interval: (f64, f64),
    /// The divergence that 95 of 100 places do not exceed.
    pub kl_p95: f64,
    /// The share of places at which the best token is the same.
    pub top1: f64,
    /// The share of prompts whose greedy text is the same.
    pub greedy_equal: f64,
    /// The mean of exact matches.
    pub exact_match: f64,
    /// The mean F1.
    pub f1: f64,
    /// That less the full prompt's.
    pub f1_difference: f64,
    /// The bootstrap interval of the difference.
    pub f1_interval: (f64, f64),
    /// The share of answers in which a right one stands.
    pub contains: f64,
    /// The mean surprise of the right answer's tokens, in nats.
    pub answer_nats: f64,
    /// The share of prompts behind which the right answer's tokens are the best ones.
    pub answer_is_best: f64,
    /// The mean of the bytes of a prompt's blocks.
    pub block_bytes: f64,
    /// Against blocks behind the shared beginning that are taken as they are.
    pub versus_naive: Option<KvComparison>,
    /// Against as large a share of tokens drawn at random.
    pub versus_random: Option<KvComparison>,
    /// Prompt by prompt.
    pub prompts: Vec<KvPromptScore>,
}

impl KvRow {
    /// The method, with what stood before passages.
    pub fn label(&self) -> String {
        match &self.capture {
            Some(capture) => format!("{} ({capture})", self.method),
            None => self.method.clone(),
        }
    }
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvEvaluation {
    /// Prompts.
    pub n_prompts: usize,
    /// Their mean length in tokens.
    pub mean_tokens: f64,
    /// Where blocks were read from files: whether the system dropped all of them from its memory before.
    pub cold: Option<bool>,
    /// The methods, the full prompt first, then naive reuse behind the shared beginning.
    pub rows: Vec<KvRow>,
}

impl KvEvaluation {
    /// Sums up each run's scores, which are in the order of the prompts; the first run computes all, the second takes
    /// blocks as they are.
    pub(super) fn new(
        runs: Vec<(ReuseMethod, Option<KvCapture>)>,
        scores: Vec<Vec<KvPromptScore>>,
        cold: Option<bool>,
    ) -> Self {
        let (full, naive) = (scores[0].clone(), scores[1].clone());
        let rows = runs.into_iter().zip(scores).enumerate();
        let rows = rows.map(|(i, ((method, capture), prompts))| {
            let of = |value: fn(&KvPromptScore) -> f64| mean(prompts.iter().map(value));
            let middle = |value: fn(&KvPromptScore) -> f64| quantile(prompts.iter().map(value).collect(), 0.5);
            let kl: Vec<f64> = prompts.iter().map(KvPromptScore::kl_mean).collect();
            let places: Vec<f64> = prompts.iter().flat_map(|prompt| prompt.kl.iter().copied()).collect();
            let f1: Vec<f64> = prompts.iter().zip(&full).map(|(own, full)| own.f1 - full.f1).collect();
            let speedups = prompts.iter().zip(&full).map(|(own, full)| full.ttft_ms / own.ttft_ms);
            let against = |other: &[KvPromptScore]| -> Vec<(f64, f64)> {
                kl.iter().copied().zip(other.iter().map(KvPromptScore::kl_mean)).collect()
            };
            let drawn: Vec<(f64, f64)> =
                kl.iter().zip(&prompts).filter_map(|(kl, prompt)| Some((*kl, prompt.random_kl?))).collect();
            KvRow {
                method: method.to_string(),
                capture: capture.map(|capture| capture.to_string()),
                recompute_share: of(|prompt| prompt.recompute_share),
                ttft_ms: middle(|prompt| prompt.ttft_ms),
                speedup: quantile(speedups.collect(), 0.5),
                times: KvTimes {
                    assemble_ms: middle(|prompt| prompt.times.assemble_ms),
                    choose_ms: middle(|prompt| prompt.times.choose_ms),
                    compute_ms: middle(|prompt| prompt.times.compute_ms),
                    last_token_ms: middle(|prompt| prompt.times.last_token_ms),
                },
                kl_mean: mean(kl.iter().copied()),
                kl_interval: bootstrap_interval(&kl),
                top1: prompts.iter().map(|prompt| prompt.n_agree).sum::<usize>() as f64 / places.len().max(1) as f64,
                kl_p95: quantile(places, 0.95),
                greedy_equal: of(|prompt| f64::from(u8::from(prompt.is_equal))),
                exact_match: of(|prompt| prompt.exact_match),
                f1: of(|prompt| prompt.f1),
                f1_difference: mean(f1.iter().copied()),
                f1_interval: bootstrap_interval(&f1),
                contains: of(|prompt| prompt.contains),
                answer_nats: of(|prompt| prompt.answer_nats),
                answer_is_best: of(|prompt| f64::from(u8::from(prompt.answer_is_best))),
                block_bytes: of(|prompt| prompt.block_bytes as f64),
                versus_naive: (i > 1).then(|| KvComparison::new(&against(&naive))).flatten(),
                versus_random: KvComparison::new(&drawn),
                prompts,
            }
        });
        let rows: Vec<KvRow> = rows.collect();
        let mean_tokens = mean(full.iter().map(|prompt| prompt.n_prompt_tokens as f64));
        Self { n_prompts: full.len(), mean_tokens, cold, rows }
    }
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), value| (sum + value, n + 1));
    sum / n.max(1) as f64
}

/// The smallest value that at least this share of the values do not exceed; 0 of nothing.
pub(super) fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_compared_by_prompt() {
        let compared = KvComparison::new(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]).unwrap();
        assert_eq!((compared.ratio, compared.difference, compared.other_kl), (0.5, -2.0, 4.0));
        assert_eq!(compared.p, 2.0 / 8.0); // Of 8 choices of signs +++ and ---.
        assert!(compared.interval.0 >= -3.0 && compared.interval.1 <= -1.0);
        assert_eq!(KvComparison::new(&[]), None);
        assert_eq!(KvComparison::new(&[(0.0, 0.0)]).unwrap().ratio, 1.0);
    }

    #[test]
    fn quantiles_are_values() {
        assert_eq!(quantile((1..=20).map(f64::from).rev().collect(), 0.95), 19.0);
        assert_eq!(quantile(vec![3.0, 1.0], 0.5), 1.0);
        assert_eq!((quantile(vec![7.0], 0.95), quantile(Vec::new(), 0.5)), (7.0, 0.0));
    }
}

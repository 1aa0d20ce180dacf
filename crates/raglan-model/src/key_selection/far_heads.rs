//! `RazorAttention`: the heads that look far, and one key for all that the others do not see.

use std::ops::Range;

use raglan_kernels::{KvRun, KvSlice};
use raglan_kv::{KvCache, KvShape};

use crate::{DecoderConfig, DecoderModel, Result};

/// The first keys, which every head keeps.
pub(super) const SINKS: usize = 4;
/// How often the probe says the same.
const REPETITIONS: usize = 4;
/// The longest that it says: with 1024 tokens in all, the probe takes about as long as reading a short prompt.
const LONGEST: usize = 256;
/// Tokens whose attention is looked at.
const SAMPLES: usize = 96;
/// The shares of heads that look far: those with the most attention to the token's last occurrence, and to what came
/// after that.
const ECHO_HEADS: f64 = 0.01;
const INDUCTION_HEADS: f64 = 0.14;

/// Which heads of keys look far, layer by layer: those of which any query head does.
///
/// A sequence of tokens drawn at random says the same four times. From the second time on, a head's echo score is its
/// mean attention to the last occurrence of the token, its induction score that to the token after it; the hundredth of
/// the heads with the highest echo scores looks far, and so do the 14 of a hundred with the highest induction scores.
pub(crate) fn probe(model: &DecoderModel) -> Result<Vec<Vec<bool>>> {
    let config = model.config();
    let n_heads = config.n_layers * config.n_heads;
    let len = LONGEST.min(config.context_len.saturating_sub(1) / REPETITIONS).min(config.vocab_size / 2).max(2);
    let said = tokens(config, len);
    let bos = config.bos.into_iter().collect::<Vec<_>>();
    let tokens: Vec<u32> = bos.iter().copied().chain((0..REPETITIONS).flat_map(|_| said.iter().copied())).collect();
    let positions: Vec<u32> = (0..tokens.len() as u32).collect();
    let slots: Vec<usize> = (0..tokens.len()).collect();
    let mut cache = model.cache();
    let mut pass = model.begin_pass(&mut cache, &tokens, &positions, &slots)?;
    let (mut echo, mut induction) = (Vec::with_capacity(n_heads), Vec::with_capacity(n_heads));
    let sampled: Vec<usize> = (bos.len() + len..tokens.len()).step_by((3 * len).div_ceil(SAMPLES)).collect();
    while !pass.is_finished() {
        pass.layer()?;
        let mut sums = [vec![0.0; config.n_heads], vec![0.0; config.n_heads]];
        for &row in &sampled {
            for (after, sums) in sums.iter_mut().enumerate() {
                let slot = row - len + after;
                let share = pass.attention_share(row..row + 1, std::slice::from_ref(&(slot..slot + 1)))?;
                sums.iter_mut().zip(share).for_each(|(sum, share)| *sum += share);
            }
        }
        let [of_echo, of_induction] = sums;
        echo.extend(of_echo);
        induction.extend(of_induction);
    }
    let n_of = |share: f64| (share * n_heads as f64).ceil() as usize;
    let mut heads = vec![vec![false; config.n_kv_heads]; config.n_layers];
    let far = super::best(n_of(ECHO_HEADS), &echo).into_iter().chain(super::best(n_of(INDUCTION_HEADS), &induction));
    for head in far {
        let (layer, head) = (head / config.n_heads, head % config.n_heads);
        heads[layer][head * config.n_kv_heads / config.n_heads] = true;
    }
    Ok(heads)
}

/// As many heads as were found, drawn from all, the same every time.
pub(super) fn drawn(found: &[Vec<bool>]) -> Vec<Vec<bool>> {
    let mut drawn = found.to_vec();
    let places: Vec<(usize, usize)> =
        found.iter().enumerate().flat_map(|(layer, heads)| (0..heads.len()).map(move |head| (layer, head))).collect();
    let mut state = 1u64;
    for i in (1..places.len()).rev() {
        state = step(state);
        let j = ((state >> 32) as usize) % (i + 1);
        let ((a, b), (c, d)) = (places[i], places[j]);
        (drawn[a][b], drawn[c][d]) = (drawn[c][d], drawn[a][b]);
    }
    drawn
}

/// Knuth's generator, of which the high half is random enough for this.
fn step(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// Tokens in no order, the same for every run, none of which begins or ends a text.
fn tokens(config: &DecoderConfig, n: usize) -> Vec<u32> {
    let mut state = 1u64;
    let drawn = std::iter::repeat_with(|| {
        state = step(state);
        (((state >> 32) * config.vocab_size as u64) >> 32) as u32
    });
    drawn.filter(|token| !config.end_tokens.contains(token) && config.bos != Some(*token)).take(n).collect()
}

/// The mean of keys that are left out, and of their values.
#[derive(Clone, Debug)]
pub(super) struct LeftOut {
    slots: Range<usize>,
    /// Sums of keys and of values, over all heads.
    sums: [Vec<f64>; 2],
    keys: Vec<f32>,
    values: Vec<f32>,
    /// `ln n`, by which the mean of `n` keys counts for as many.
    log_weight: [f32; 1],
}

impl LeftOut {
    pub fn new(shape: KvShape) -> Self {
        let width = shape.n_kv_heads * shape.head_dim;
        let (sums, zeros) = ([vec![0.0; width], vec![0.0; width]], vec![0.0; width]);
        Self { slots: SINKS..SINKS, sums, keys: zeros.clone(), values: zeros, log_weight: [f32::NEG_INFINITY] }
    }

    /// The first slot that is not left out.
    pub fn end(&self) -> usize {
        self.slots.end
    }

    /// Leaves out all up to a slot, which may be before the last that was left out.
    pub fn reach(&mut self, layer: usize, cache: &KvCache, end: usize) -> Result<()> {
        let end = end.max(SINKS);
        if end < self.slots.end {
            self.sums.iter_mut().for_each(|sums| sums.fill(0.0));
            self.slots.end = SINKS;
        }
        if end == self.slots.end {
            return Ok(());
        }
        let width = self.keys.len();
        let mut row = vec![0.0; width];
        for run in cache.runs(layer, self.slots.end..end) {
            for (numbers, sums) in [run.keys, run.values].into_iter().zip(&mut self.sums) {
                for token in 0..run.positions.len() {
                    let at = token * width..(token + 1) * width;
                    numbers.read(at, &mut row)?;
                    sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += f64::from(*x));
                }
            }
        }
        self.slots.end = end;
        let n = self.slots.len() as f64;
        for (means, sums) in [&mut self.keys, &mut self.values].into_iter().zip(&self.sums) {
            means.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = (sum / n) as f32);
        }
        self.log_weight = [n.ln() as f32];
        Ok(())
    }

    /// What attention reads in place of what is left out; nothing where nothing is.
    pub fn run(&self) -> Option<KvRun<'_>> {
        (!self.slots.is_empty()).then_some(KvRun {
            keys: KvSlice::F32(&self.keys),
            values: KvSlice::F32(&self.values),
            positions: &[0],
            segments: None,
            log_weights: Some(&self.log_weight),
        })
    }
}

#[cfg(test)]
mod tests {
    use raglan_kv::KvPrecision;

    use super::*;
    use crate::key_selection::tests::{SHAPE, cache};

    #[test]
    fn drawn_heads_are_as_many_as_those_found() {
        let found: Vec<Vec<bool>> = (0..30).map(|layer| (0..3).map(|head| (layer + head) % 7 == 0).collect()).collect();
        let count = |heads: &[Vec<bool>]| heads.iter().flatten().filter(|is_far| **is_far).count();
        let heads = drawn(&found);
        assert!(count(&heads) == count(&found) && heads != found && heads == drawn(&found));
    }

    #[test]
    fn what_is_left_out_counts_as_its_mean() {
        let cache = cache(100, KvPrecision::F32, 1);
        let mut left_out = LeftOut::new(SHAPE);
        assert!(left_out.run().is_none());
        left_out.reach(1, &cache, 0).unwrap();
        assert!(left_out.run().is_none() && left_out.end() == SINKS);
        let width = SHAPE.n_kv_heads * SHAPE.head_dim;
        // On, and back where the cache was cut.
        for end in [SINKS + 1, 70, 71, 40] {
            left_out.reach(1, &cache, end).unwrap();
            let run = left_out.run().unwrap();
            let (KvSlice::F32(keys), KvSlice::F32(values)) = (run.keys, run.values) else { panic!("means are f32") };
            let n = (end - SINKS) as f64;
            assert!((f64::from(run.log_weights.unwrap()[0]) - n.ln()).abs() <= 1e-6);
            for (means, is_value) in [(keys, false), (values, true)] {
                for (d, &mean) in means.iter().enumerate() {
                    let number = |run: &KvRun<'_>, token: usize| {
                        let mut one = [0.0];
                        let at = token * width + d..token * width + d + 1;
                        if is_value { run.values } else { run.keys }.read(at, &mut one).unwrap();
                        f64::from(one[0])
                    };
                    let sum: f64 = cache
                        .runs(1, SINKS..end)
                        .map(|run| (0..run.positions.len()).map(|token| number(&run, token)).sum::<f64>())
                        .sum();
                    assert!((f64::from(mean) - sum / n).abs() <= 1e-6);
                }
            }
        }
    }
}

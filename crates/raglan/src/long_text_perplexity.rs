//! How well a model foretells the end of long texts when it attends to a part of the keys.

use std::time::Instant;

use raglan_generate::LanguageModel;
use raglan_kernels::log_softmax_at;
use raglan_model::{Attending, AttentionPolicy, KeySelection, QueryRecord};
use serde::Serialize;

use crate::Result;
use crate::long_context_evaluation::{SLICE, check, of_model, read};

/// Tokens at the end of a text that are foretold.
const N_FORETOLD: usize = 512;

/// A policy on the ends of texts of one length.
#[derive(Clone, Debug, Serialize)]
pub struct PerplexityRow {
    /// Tokens of each text.
    pub length: usize,
    /// The policy.
    pub policy: String,
    /// How many texts.
    pub n: usize,
    /// `exp` of the mean of `-ln p` over the last 512 tokens of all texts, fewer of shorter ones; none where the policy
    /// cannot read texts beyond the model's context.
    pub perplexity: Option<f64>,
    /// Mean share of the keys that were read, from where the policy chooses.
    pub key_share: Option<f64>,
    /// Tokens a second, over all texts.
    pub tokens_per_s: Option<f64>,
}

/// Reads the beginnings of texts, and what follows as each policy attends.
///
/// [`Sinks`](AttentionPolicy::Sinks) attends so from a text's first token on, so that texts may be longer than the model's
/// context. The others choose keys of what was read in full, token by token.
#[derive(Debug)]
pub struct PerplexityEvaluator<'m> {
    model: &'m LanguageModel,
    tokens: Vec<u32>,
}

impl<'m> PerplexityEvaluator<'m> {
    /// Takes a text, of which pieces will be read.
    ///
    /// # Errors
    ///
    /// When the model's vocabulary has no token for a part of it.
    pub fn new(model: &'m LanguageModel, text: &str) -> Result<Self> {
        Ok(Self { model, tokens: model.tokenizer.encode(text, false).map_err(of_model)?.ids })
    }

    /// Tokens of the text.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// What a policy makes of the first `limit` pieces of `longest` tokens, of which there must be one, when it reads the
    /// last `length` of each: so the same tokens are foretold at any length.
    ///
    /// # Errors
    ///
    /// Those of the model; [`Interrupted`](raglan_generate::Error::Interrupted) when `go_on` says so.
    pub fn evaluate(
        &self,
        policy: AttentionPolicy,
        length: usize,
        longest: usize,
        limit: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<PerplexityRow> {
        let is_endless = matches!(policy, AttentionPolicy::Sinks { .. });
        let pieces = self.tokens.chunks_exact(longest).take(limit);
        let pieces: Vec<&[u32]> = pieces.map(|piece| &piece[longest - length.min(longest)..]).collect();
        let mut row = PerplexityRow {
            length,
            policy: policy.to_string(),
            n: pieces.len(),
            perplexity: None,
            key_share: None,
            tokens_per_s: None,
        };
        if length > self.model.transformer.config().context_len && !is_endless {
            return Ok(row);
        }
        let begin = Instant::now();
        let (mut sum, mut n_foretold, mut share) = (0.0, 0, 0.0);
        for piece in &pieces {
            let (log_probabilities, of_keys) = self.foretell(policy, piece, go_on)?;
            sum -= log_probabilities.iter().sum::<f64>();
            n_foretold += log_probabilities.len();
            share += of_keys;
        }
        row.perplexity = Some((sum / n_foretold as f64).exp());
        row.key_share = Some(share / pieces.len() as f64);
        row.tokens_per_s = Some((pieces.len() * length) as f64 / begin.elapsed().as_secs_f64().max(1e-9));
        Ok(row)
    }

    /// `ln p` of a piece's last tokens, and the share of keys that they read.
    fn foretell(&self, policy: AttentionPolicy, piece: &[u32], go_on: &dyn Fn() -> bool) -> Result<(Vec<f64>, f64)> {
        let model = &self.model.transformer;
        let n_before = piece.len() - N_FORETOLD.min(piece.len() - 1);
        let mut cache = model.cache();
        let mut record = QueryRecord::new(model.config());
        let begin = |cache: &_, record: &_| KeySelection::begin(model, policy, cache, record).map_err(of_model);
        // The token before the first that is foretold is read with these.
        let (before, rest) = piece[..piece.len() - 1].split_at(n_before - 1);
        let mut selection = match policy {
            AttentionPolicy::Sinks { .. } => Some(begin(&cache, &record)?),
            _ => None,
        };
        for slice in before.chunks(SLICE) {
            check(go_on)?;
            let attending = match &mut selection {
                Some(selection) => Attending::Selected(selection),
                None => Attending::Observed(&mut record),
            };
            read(model, &mut cache, slice, &[], attending)?;
        }
        let mut selection = match selection {
            Some(selection) => selection,
            None => begin(&cache, &record)?,
        };
        let mut found = Vec::with_capacity(rest.len());
        for (slice, next) in rest.chunks(SLICE).zip(piece[n_before..].chunks(SLICE)) {
            check(go_on)?;
            let rows: Vec<usize> = (0..slice.len()).collect();
            let logits = read(model, &mut cache, slice, &rows, Attending::Selected(&mut selection))?;
            for (logits, &id) in logits.chunks_exact(logits.len() / slice.len()).zip(next) {
                let mut log_probability = [0.0];
                log_softmax_at(logits, &[id], &mut log_probability).map_err(|error| of_model(error.into()))?;
                found.push(f64::from(log_probability[0]));
            }
        }
        Ok((found, selection.traffic().share()))
    }
}

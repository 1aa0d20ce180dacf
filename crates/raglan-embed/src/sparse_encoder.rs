//! Weights of words by a masked-language head: learned sparse retrieval.

use std::cmp::Reverse;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use raglan_core::{Encoder, SparseVector};
use raglan_model::{EncoderModel, EncoderModelConfig, MaskedLanguageHead, Products, SafetensorsFile, TermWeights};
use serde::Deserialize;

use crate::encoder_config::{max_tokens, read};
use crate::sentence_encoder::check_max_tokens;
use crate::text_reader::{Start, TextReader};
use crate::workers::Workers;
use crate::{Error, LongInputs, Result};

/// How a model is to be used as a sparse encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseEncoderConfig {
    /// How many tokens the encoder reads of one text, special tokens included.
    pub max_tokens: usize,
    /// What is done with texts that have more.
    pub long_inputs: LongInputs,
    /// What becomes of a logit.
    pub activation: SparseActivation,
    /// How many words a query keeps at most, the heaviest; all when there is no number.
    pub query_terms: Option<usize>,
    /// How many words a passage keeps at most, the heaviest; all when there is no number.
    pub passage_terms: Option<usize>,
    /// Words of less weight are left out of passages; 0 keeps all.
    pub passage_min_weight: f32,
    /// How the model multiplies by its weights.
    pub products: Products,
}

impl SparseEncoderConfig {
    /// What the files beside a model's weights say: `config.json` must be there, `sentence_bert_config.json` and
    /// `1_SpladePooling/config.json` are read where they are. Nothing is pruned.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Malformed`] and [`Error::Unsupported`], with the file, and what `config.json` gives.
    pub fn for_model(dir: &Path) -> Result<Self> {
        let model = EncoderModelConfig::from_file(dir.join("config.json"))?;
        let path = dir.join("1_SpladePooling/config.json");
        let pooling: Option<SpladePooling> = read(&path)?;
        let activation = match pooling.as_ref().map(|p| (p.pooling_strategy.as_str(), p.activation_function.as_str())) {
            None | Some(("max", "relu")) => SparseActivation::Log1p,
            Some(("max", "log1p_relu")) => SparseActivation::Log1pTwice,
            Some((strategy, function)) => {
                let what = format!("pooling by {strategy} of {function} (can pool by max of relu or log1p_relu)");
                return Err(Error::Unsupported { path, what });
            }
        };
        Ok(Self {
            max_tokens: max_tokens(dir, model.max_tokens())?,
            long_inputs: LongInputs::default(),
            activation,
            query_terms: None,
            passage_terms: None,
            passage_min_weight: 0.0,
            products: Products::default(),
        })
    }
}

/// What becomes of the greatest logit `x` of a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SparseActivation {
    /// `ln(1 + max(0, x))`, as of SPLADE.
    #[default]
    Log1p,
    /// `ln(1 + ln(1 + max(0, x)))`, as of models trained to a bound on their number of words: OpenSearch's doc-v3 (Shen et
    /// al. 2025, the ℓ0 activation), whose files say `log1p_relu`.
    Log1pTwice,
}

impl fmt::Display for SparseActivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log1p => "log1p",
            Self::Log1pTwice => "log1p-twice",
        })
    }
}

impl FromStr for SparseActivation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "log1p" => Ok(Self::Log1p),
            "log1p-twice" => Ok(Self::Log1pTwice),
            _ => Err(format!("`{text}` is neither log1p nor log1p-twice")),
        }
    }
}

#[derive(Deserialize)]
struct SpladePooling {
    #[serde(default = "max")]
    pooling_strategy: String,
    #[serde(default = "relu")]
    activation_function: String,
}

fn max() -> String {
    "max".into()
}

fn relu() -> String {
    "relu".into()
}

/// Turns texts into weights of words, as SPLADE does (Formal et al. 2021): `w_v = max_t ln(1 + max(0, logit_{t,v}))`,
/// where `logit_{t,v}` is what a masked language model gives word `v` at token `t`; [`SparseActivation`] says otherwise for
/// some models.
///
/// The terms of a vector are the ids of the model's vocabulary, which [`SparseEncoder::token`] names. A vector has the
/// same bits whatever else is in the batch and however many threads work. What is done with texts that
/// are too long is [`LongInputs`]'s.
///
/// ```no_run
/// use std::path::Path;
///
/// use raglan_core::Encoder;
/// use raglan_embed::{SparseEncoder, SparseEncoderConfig};
///
/// let dir = Path::new("models/splade-tiny");
/// let config = SparseEncoderConfig { passage_terms: Some(200), ..SparseEncoderConfig::for_model(dir)? };
/// let encoder = SparseEncoder::load(dir, config, 2)?;
/// let vector = &encoder.encode_passages(&["A cache keeps what is used often."])?[0];
/// for (&term, weight) in vector.terms().iter().zip(vector.weights()) {
///     println!("{weight:.2} {}", encoder.token(term).unwrap_or_default());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SparseEncoder {
    pub(crate) config: SparseEncoderConfig,
    pub(crate) model: SparseModel,
    reader: TextReader,
    workers: Workers,
}

/// What gives the weights of words.
pub(crate) enum SparseModel {
    Kernels(Box<(EncoderModel, MaskedLanguageHead)>),
    #[cfg(feature = "cuda")]
    Device(Box<(raglan_model::DeviceEncoder, raglan_model::DeviceMaskedLanguageHead)>),
}

impl fmt::Debug for SparseEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_threads = self.workers.n_threads();
        f.debug_struct("SparseEncoder").field("config", &self.config).field("threads", &n_threads).finish()
    }
}

impl SparseEncoder {
    /// Loads `config.json`, `model.safetensors` (or its shards) and `tokenizer.json` of a folder, to work on `threads`
    /// threads.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] and [`Error::Malformed`], which name the file, when one is missing, damaged or does not fit the
    /// others; [`Error::Unsupported`] for a tokenizer that does not put one token before and one after each text.
    pub fn load(dir: &Path, config: SparseEncoderConfig, threads: usize) -> Result<Self> {
        let config_path = dir.join("config.json");
        let model = EncoderModelConfig::from_file(&config_path)?;
        check_max_tokens(&config_path, model.max_tokens(), config.max_tokens)?;
        config.long_inputs.check_without_mean(&config_path, &model, config.max_tokens)?;
        let reader = TextReader::load(dir)?;
        let file = SafetensorsFile::open(dir)?;
        let head = MaskedLanguageHead::from_safetensors(&file, &model, config.products)?;
        let model = EncoderModel::from_safetensors(&file, model, config.products)?;
        let model = SparseModel::Kernels(Box::new((model, head)));
        Ok(Self { config, model, reader, workers: Workers::new(threads)? })
    }

    /// How it turns texts into vectors.
    pub fn config(&self) -> &SparseEncoderConfig {
        &self.config
    }

    /// The word of a term, as it stands in the vocabulary.
    pub fn token(&self, term: u32) -> Option<String> {
        self.reader.tokenizer.token(term)
    }

    fn encode(&self, texts: &[Vec<u32>], min_weight: f32, most: Option<usize>) -> Result<Vec<SparseVector>> {
        let finished = |mut weights: TermWeights| {
            if self.config.activation == SparseActivation::Log1pTwice {
                // The logarithm increases: that of the greatest is the greatest.
                weights.iter_mut().for_each(|(_, weight)| *weight = weight.ln_1p());
            }
            SparseVector::new(prune(weights, min_weight, most)).map_err(Error::Vector)
        };
        match &self.model {
            SparseModel::Kernels(model) => self.workers.encode(texts, |batch| {
                let (model, head) = &**model;
                let hidden = self.config.long_inputs.hidden_states(model, batch, self.config.max_tokens)?;
                head.term_weights(&hidden)?.into_iter().map(finished).collect()
            }),
            #[cfg(feature = "cuda")]
            SparseModel::Device(model) => {
                let (model, head) = &**model;
                crate::batches::in_batches(texts, crate::on_device::SPARSE_TEXTS, |batch| {
                    let hidden = model.hidden_states_on_device(batch)?;
                    head.term_weights(&hidden)?.into_iter().map(finished).collect()
                })
            }
        }
    }
}

impl Encoder for SparseEncoder {
    type Vector = SparseVector;

    fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<SparseVector>> {
        let texts =
            self.reader.queries(&Start::Token(None), queries, self.config.max_tokens, self.config.long_inputs)?;
        Ok(self.encode(&texts, 0.0, self.config.query_terms)?)
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<SparseVector>> {
        let texts = self.reader.passages(
            &self.workers,
            &Start::Token(None),
            passages,
            self.config.max_tokens,
            self.config.long_inputs,
        )?;
        Ok(self.encode(&texts, self.config.passage_min_weight, self.config.passage_terms)?)
    }
}

/// The heaviest words of at least a weight; equal weights go by lower id.
fn prune(mut weights: TermWeights, min_weight: f32, most: Option<usize>) -> TermWeights {
    weights.retain(|&(_, weight)| weight >= min_weight);
    if let Some(most) = most.filter(|&most| most < weights.len()) {
        // Positive numbers are ordered as their bits are.
        weights.sort_unstable_by_key(|&(term, weight)| (Reverse(weight.to_bits()), term));
        weights.truncate(most);
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::prune;

    #[test]
    fn the_heaviest_words_stay_and_of_equal_ones_the_first() {
        let weights = vec![(2, 1.0), (5, 0.5), (7, 2.0), (8, 0.25), (9, 0.5)];
        assert_eq!(prune(weights.clone(), 0.0, None), weights);
        assert_eq!(prune(weights.clone(), 0.5, None), [(2, 1.0), (5, 0.5), (7, 2.0), (9, 0.5)]);
        assert_eq!(prune(weights.clone(), 0.0, Some(3)), [(7, 2.0), (2, 1.0), (5, 0.5)]);
        assert_eq!(prune(weights.clone(), 0.75, Some(9)), [(2, 1.0), (7, 2.0)]);
        assert!(prune(weights, 0.0, Some(0)).is_empty());
    }
}

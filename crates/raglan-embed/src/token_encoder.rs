//! A vector a token, for late interaction.

use std::fmt;
use std::path::Path;

use raglan_core::{Encoder, TokenMatrix};
use raglan_model::{EncoderModel, EncoderModelConfig, HiddenStates, Products, SafetensorsFile, TokenProjection};
use serde::Deserialize;

use crate::encoder_config::read;
use crate::pooling::normalize;
use crate::sentence_encoder::check_max_tokens;
use crate::text_reader::{Start, TextReader};
use crate::workers::Workers;
use crate::{EncoderConfig, Error, LongInputs, Result};

/// How a model is to be used as an encoder of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEncoderConfig {
    /// What makes a token's vector of its hidden state.
    pub head: TokenHead,
    /// How many tokens the encoder reads of a query, special tokens included.
    pub query_tokens: usize,
    /// How many tokens the encoder reads of a passage, special tokens included.
    pub passage_tokens: usize,
    /// What is done with passages that have more.
    pub long_inputs: LongInputs,
    /// The token that says that a text is a query.
    pub query_marker: Option<u32>,
    /// The token that says that a text is a passage.
    pub passage_marker: Option<u32>,
    /// The token that queries are filled up with to `query_tokens`, so that the model can add to them; none when they
    /// are left as they are.
    pub query_filler: Option<u32>,
    /// Whether a passage's punctuation marks have no vectors.
    pub skips_punctuation: bool,
    /// Whether the tokens that the tokenizer puts before and after every text have no vectors.
    pub skips_special_tokens: bool,
    /// How the model multiplies by its weights.
    pub products: Products,
}

/// What makes a token's vector, of length 1, of its last hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenHead {
    /// The linear map in the model's files, as late-interaction models have it.
    Projection,
    /// Nothing: the hidden state itself, as long as the model is wide.
    HiddenState,
}

impl TokenEncoderConfig {
    /// Token vectors of a model that was trained for one vector a text, such as MiniLM, without any training: the last
    /// hidden states of the text's own tokens, without special tokens and punctuation marks. They rank below those of a
    /// model that was trained for late interaction, and are of use to order what another search has found.
    ///
    /// # Errors
    ///
    /// [`Error::Model`], [`Error::Io`], [`Error::Malformed`] and [`Error::Unsupported`], with the file.
    pub fn for_sentence_model(dir: &Path) -> Result<Self> {
        let config = EncoderConfig::for_model(dir)?;
        Ok(Self {
            head: TokenHead::HiddenState,
            query_tokens: config.max_tokens,
            passage_tokens: config.max_tokens,
            long_inputs: LongInputs::default(),
            query_marker: None,
            passage_marker: None,
            query_filler: None,
            skips_punctuation: true,
            skips_special_tokens: true,
            products: config.products,
        })
    }

    /// What a folder's files ask for: [`for_model`](Self::for_model) when they say that the model is for late
    /// interaction, otherwise [`for_sentence_model`](Self::for_sentence_model).
    ///
    /// # Errors
    ///
    /// As these.
    pub fn for_files(dir: &Path) -> Result<Self> {
        let pylate = read::<PyLate>(&dir.join("config_sentence_transformers.json"))?;
        let is_late =
            dir.join("artifact.metadata").exists() || pylate.is_some_and(|config| config.query_length.is_some());
        if is_late { Self::for_model(dir) } else { Self::for_sentence_model(dir) }
    }

    /// What the files beside a model's weights say: `artifact.metadata` of the `ColBERT` library, or what `PyLate` adds
    /// to `config_sentence_transformers.json`. Where neither is, 32 and 180 tokens, no markers, and all vectors.
    ///
    /// Queries are filled up only for models whose tokens attend to the filling; in the others, such as ColBERTv2, it
    /// changes no vector of the query's own tokens, and is left away with its vectors.
    ///
    /// # Errors
    ///
    /// [`Error::Model`], [`Error::Io`], [`Error::Malformed`] and [`Error::Unsupported`], with the file.
    pub fn for_model(dir: &Path) -> Result<Self> {
        let model = EncoderModelConfig::from_file(dir.join("config.json"))?;
        let tokenizer = TextReader::load(dir)?.tokenizer;
        let mut config = Self {
            head: TokenHead::Projection,
            query_tokens: 32,
            passage_tokens: 180,
            long_inputs: LongInputs::default(),
            query_marker: None,
            passage_marker: None,
            query_filler: None,
            skips_punctuation: false,
            skips_special_tokens: false,
            products: Products::default(),
        };
        let marker = |path: &Path, name: &str| {
            let problem = || format!("token `{name}` is not in the vocabulary");
            let found = tokenizer.token_id(name).or_else(|| tokenizer.token_id(name.trim_end()));
            found.ok_or_else(|| Error::Malformed { path: path.to_owned(), problem: problem() })
        };
        let path = dir.join("artifact.metadata");
        let pylate = dir.join("config_sentence_transformers.json");
        if let Some(colbert) = read::<ColBert>(&path)? {
            config.query_tokens = colbert.query_maxlen;
            config.passage_tokens = colbert.doc_maxlen;
            config.query_marker = Some(marker(&path, &colbert.query_token_id)?);
            config.passage_marker = Some(marker(&path, &colbert.doc_token_id)?);
            config.skips_punctuation = colbert.mask_punctuation;
            if colbert.attend_to_mask_tokens {
                config.query_filler = Some(marker(&path, "[MASK]")?);
            }
        } else if let Some(pylate_config) = read::<PyLate>(&pylate)? {
            config.query_tokens = pylate_config.query_length.unwrap_or(config.query_tokens);
            config.passage_tokens = pylate_config.document_length.unwrap_or(config.passage_tokens);
            config.query_marker = pylate_config.query_prefix.map(|name| marker(&pylate, &name)).transpose()?;
            config.passage_marker = pylate_config.document_prefix.map(|name| marker(&pylate, &name)).transpose()?;
            config.skips_punctuation = !pylate_config.skiplist_words.is_empty();
            if pylate_config.do_query_expansion && pylate_config.attend_to_expansion_tokens {
                config.query_filler = Some(marker(&pylate, "[MASK]")?);
            }
        }
        config.query_tokens = config.query_tokens.min(model.max_tokens());
        config.passage_tokens = config.passage_tokens.min(model.max_tokens());
        Ok(config)
    }
}

#[derive(Deserialize)]
struct ColBert {
    query_maxlen: usize,
    doc_maxlen: usize,
    query_token_id: String,
    doc_token_id: String,
    #[serde(default)]
    mask_punctuation: bool,
    #[serde(default)]
    attend_to_mask_tokens: bool,
}

#[derive(Deserialize)]
struct PyLate {
    query_length: Option<usize>,
    document_length: Option<usize>,
    query_prefix: Option<String>,
    document_prefix: Option<String>,
    #[serde(default)]
    skiplist_words: Vec<String>,
    #[serde(default)]
    do_query_expansion: bool,
    #[serde(default)]
    attend_to_expansion_tokens: bool,
}

/// Turns texts into a vector of length 1 for each token, as `ColBERT` does (Khattab and Zaharia 2020).
///
/// What a passage is worth for a query is for the caller to sum: for each of the query's vectors the greatest inner
/// product with one of the passage's. A text's vectors have the same bits whatever else is in the batch and however
/// many threads work. Queries that are too long are cut with a warning; passages as the configuration says.
///
/// ```no_run
/// use std::path::Path;
///
/// use raglan_core::{Encoder, TokenMatrix};
/// use raglan_embed::{TokenEncoder, TokenEncoderConfig};
///
/// let dir = Path::new("models/colbertv2.0");
/// let encoder = TokenEncoder::load(dir, TokenEncoderConfig::for_model(dir)?, 2)?;
/// let vectors = &encoder.encode_queries(&["Why is the second read faster?"])?[0];
/// assert_eq!((vectors.n_tokens(), vectors.dim()), (32, 128));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TokenEncoder {
    pub(crate) config: TokenEncoderConfig,
    pub(crate) model: TokenModel,
    reader: TextReader,
    /// Tokens whose vectors a passage goes without, in order.
    skipped: Vec<u32>,
    workers: Workers,
}

/// What gives the vectors of tokens; without a head, they are the hidden states.
pub(crate) enum TokenModel {
    Kernels(Box<(EncoderModel, Option<TokenProjection>)>),
    #[cfg(feature = "cuda")]
    Device(Box<(raglan_model::DeviceEncoder, Option<raglan_model::DeviceTokenProjection>)>),
}

impl fmt::Debug for TokenEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_threads = self.workers.n_threads();
        f.debug_struct("TokenEncoder").field("config", &self.config).field("threads", &n_threads).finish()
    }
}

impl TokenEncoder {
    /// Loads `config.json`, `model.safetensors` (or its shards) and `tokenizer.json` of a folder, to work on `threads`
    /// threads. The projection, if the configuration has one, is in the model's file, or in that of the folder
    /// `1_Dense`.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] and [`Error::Malformed`], which name the file, when one is missing, damaged or does not fit the
    /// others; [`Error::Unsupported`] for a tokenizer that does not put one token before and one after each text.
    pub fn load(dir: &Path, config: TokenEncoderConfig, threads: usize) -> Result<Self> {
        let config_path = dir.join("config.json");
        let model = EncoderModelConfig::from_file(&config_path)?;
        for n_tokens in [config.query_tokens, config.passage_tokens] {
            check_max_tokens(&config_path, model.max_tokens(), n_tokens)?;
        }
        config.long_inputs.check_without_mean(&config_path, &model, config.passage_tokens)?;
        let reader = TextReader::load(dir)?;
        let file = SafetensorsFile::open(dir)?;
        let head = match config.head {
            TokenHead::HiddenState => None,
            TokenHead::Projection => {
                let file = projection_file(dir, &file)?;
                Some(TokenProjection::from_safetensors(&file, &model, config.products)?)
            }
        };
        let model = EncoderModel::from_safetensors(&file, model, config.products)?;
        let model = TokenModel::Kernels(Box::new((model, head)));
        let mut skipped = Vec::new();
        if config.skips_punctuation {
            for mark in (0..=127).map(char::from).filter(char::is_ascii_punctuation) {
                skipped.extend(reader.tokenizer.encode(&mark.to_string(), false)?.ids.first());
            }
            skipped.sort_unstable();
        }
        Ok(Self { config, model, reader, skipped, workers: Workers::new(threads)? })
    }

    /// How it turns texts into vectors.
    pub fn config(&self) -> &TokenEncoderConfig {
        &self.config
    }

    /// The vectors of each text's tokens but those in `skipped`, which is in order.
    fn encode(&self, texts: &[Vec<u32>], max_tokens: usize, skipped: &[u32]) -> Result<Vec<TokenMatrix>> {
        let hidden_states = |batch: &[&[u32]], hidden: &HiddenStates| self.kept(batch, hidden, skipped, normalize);
        let projected = |batch: &[&[u32]], tokens: &HiddenStates| self.kept(batch, tokens, skipped, |_| ());
        match &self.model {
            TokenModel::Kernels(model) => self.workers.encode(texts, |batch| {
                let (model, head) = &**model;
                let hidden = self.config.long_inputs.hidden_states(model, batch, max_tokens)?;
                match head {
                    None => hidden_states(batch, &hidden),
                    Some(head) => projected(batch, &head.project(&hidden)?),
                }
            }),
            #[cfg(feature = "cuda")]
            TokenModel::Device(model) => {
                let (model, head) = &**model;
                crate::batches::in_batches(texts, usize::MAX, |batch| match head {
                    None => hidden_states(batch, &model.hidden_states(batch)?),
                    Some(head) => projected(batch, &head.project(&model.hidden_states_on_device(batch)?)?),
                })
            }
        }
    }

    /// The rows of those tokens that have vectors, each finished by `finish`.
    fn kept(
        &self,
        batch: &[&[u32]],
        tokens: &HiddenStates,
        skipped: &[u32],
        finish: impl Fn(&mut [f32]),
    ) -> Result<Vec<TokenMatrix>> {
        let dim = tokens.dim();
        let special = usize::from(self.config.skips_special_tokens);
        let texts = batch.iter().zip(tokens.sequences()).map(|(ids, rows)| {
            let own = ids.iter().zip(rows.chunks_exact(dim)).skip(special).take(ids.len() - 2 * special);
            let kept = own.filter(|(id, _)| skipped.binary_search(id).is_err());
            let mut rows: Vec<f32> = kept.flat_map(|(_, row)| row).copied().collect();
            rows.chunks_exact_mut(dim).for_each(&finish);
            TokenMatrix::new(dim, rows).map_err(Error::Vector)
        });
        texts.collect()
    }
}

/// The file that has a model's projection: the model's own, or that of the folder `1_Dense`.
pub(crate) fn projection_file(dir: &Path, model: &SafetensorsFile) -> Result<SafetensorsFile> {
    let dense = dir.join("1_Dense/model.safetensors");
    let is_apart = !model.tensors().contains_key("linear.weight") && dense.exists();
    Ok(SafetensorsFile::open(if is_apart { &dense } else { dir })?)
}

impl Encoder for TokenEncoder {
    type Vector = TokenMatrix;

    fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<TokenMatrix>> {
        let (start, n_tokens) = (Start::Token(self.config.query_marker), self.config.query_tokens);
        let mut texts = self.reader.queries(&start, queries, n_tokens, LongInputs::Cut)?;
        if let Some(filler) = self.config.query_filler {
            texts.iter_mut().for_each(|text| text.resize(n_tokens.max(text.len()), filler));
        }
        Ok(self.encode(&texts, n_tokens, &[])?)
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<TokenMatrix>> {
        let (start, n_tokens) = (Start::Token(self.config.passage_marker), self.config.passage_tokens);
        let texts = self.reader.passages(&self.workers, &start, passages, n_tokens, self.config.long_inputs)?;
        Ok(self.encode(&texts, n_tokens, &self.skipped)?)
    }
}

//! A vector a token, for late interaction.

use std::fmt;
use std::path::Path;

use raglan_core::Encoder;
use raglan_model::{EncoderModel, EncoderModelConfig, Products, SafetensorsFile, TokenProjection};
use serde::Deserialize;

use crate::encoder_config::read;
use crate::sentence_encoder::check_max_tokens;
use crate::text_reader::{LongPassages, Start, TextReader};
use crate::workers::Workers;
use crate::{Error, Result};

/// How a model is to be used as an encoder of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEncoderConfig {
    /// How many tokens the encoder reads of a query, special tokens included.
    pub query_tokens: usize,
    /// How many tokens the encoder reads of a passage, special tokens included.
    pub passage_tokens: usize,
    /// What is done with passages that have more.
    pub long_passages: LongPassages,
    /// The token that says that a text is a query.
    pub query_marker: Option<u32>,
    /// The token that says that a text is a passage.
    pub passage_marker: Option<u32>,
    /// The token that queries are filled up with to `query_tokens`, so that the model can add to them; none when they
    /// are left as they are.
    pub query_filler: Option<u32>,
    /// Whether a passage's punctuation marks have no vectors.
    pub skips_punctuation: bool,
    /// How the model multiplies by its weights.
    pub products: Products,
}

impl TokenEncoderConfig {
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
            query_tokens: 32,
            passage_tokens: 180,
            long_passages: LongPassages::default(),
            query_marker: None,
            passage_marker: None,
            query_filler: None,
            skips_punctuation: false,
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

/// The vectors of a text's tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenVectors {
    /// The length of a vector.
    pub dim: usize,
    /// `[n_tokens, dim]`, each of length 1.
    pub rows: Vec<f32>,
}

/// Turns texts into a short vector for each token, as `ColBERT` does (Khattab and Zaharia 2020).
///
/// What a passage is worth for a query is for the caller to sum: for each of the query's vectors the greatest inner
/// product with one of the passage's. A text's vectors have the same bits whatever else is in the batch and however
/// many threads work. Queries that are too long are cut with a warning; passages as the configuration says.
///
/// ```no_run
/// use std::path::Path;
///
/// use raglan_core::Encoder;
/// use raglan_embed::{TokenEncoder, TokenEncoderConfig};
///
/// let dir = Path::new("models/colbertv2.0");
/// let encoder = TokenEncoder::load(dir, TokenEncoderConfig::for_model(dir)?, 2)?;
/// let vectors = &encoder.encode_queries(&["Why is the second read faster?"])?[0];
/// assert_eq!(vectors.rows.len() % vectors.dim, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TokenEncoder {
    config: TokenEncoderConfig,
    model: EncoderModel,
    head: TokenProjection,
    reader: TextReader,
    /// Tokens whose vectors a passage goes without, in order.
    skipped: Vec<u32>,
    workers: Workers,
}

impl fmt::Debug for TokenEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_threads = self.workers.n_threads();
        f.debug_struct("TokenEncoder").field("config", &self.config).field("threads", &n_threads).finish()
    }
}

impl TokenEncoder {
    /// Loads `config.json`, `model.safetensors` (or its shards) and `tokenizer.json` of a folder, to work on `threads`
    /// threads. The projection is in the model's file, or in that of the folder `1_Dense`.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] and [`Error::Malformed`], which name the file, when one is missing, damaged or does not fit the
    /// others; [`Error::Unsupported`] for a tokenizer that does not put one token before and one after each text.
    pub fn load(dir: &Path, config: TokenEncoderConfig, threads: usize) -> Result<Self> {
        let config_path = dir.join("config.json");
        let model = EncoderModelConfig::from_file(&config_path)?;
        for n_tokens in [config.query_tokens, config.passage_tokens] {
            check_max_tokens(&config_path, &model, n_tokens)?;
        }
        let reader = TextReader::load(dir)?;
        let file = SafetensorsFile::open(dir)?;
        let dense = dir.join("1_Dense/model.safetensors");
        let head = if !file.tensors().contains_key("linear.weight") && dense.exists() {
            TokenProjection::from_safetensors(&SafetensorsFile::open(dense)?, &model, config.products)?
        } else {
            TokenProjection::from_safetensors(&file, &model, config.products)?
        };
        let model = EncoderModel::from_safetensors(&file, model, config.products)?;
        let mut skipped = Vec::new();
        if config.skips_punctuation {
            for mark in (0..=127).map(char::from).filter(char::is_ascii_punctuation) {
                skipped.extend(reader.tokenizer.encode(&mark.to_string(), false)?.ids.first());
            }
            skipped.sort_unstable();
        }
        Ok(Self { config, model, head, reader, skipped, workers: Workers::new(threads)? })
    }

    /// How it turns texts into vectors.
    pub fn config(&self) -> &TokenEncoderConfig {
        &self.config
    }

    /// The vectors of each text's tokens but those in `skipped`, which is in order.
    fn encode(&self, texts: &[Vec<u32>], skipped: &[u32]) -> Result<Vec<TokenVectors>> {
        self.workers.encode(texts, |batch| {
            let projected = self.head.project(&self.model.hidden_states(batch)?)?;
            let dim = projected.dim();
            let texts = batch.iter().zip(projected.sequences()).map(|(ids, rows)| {
                let kept = ids.iter().zip(rows.chunks_exact(dim)).filter(|(id, _)| skipped.binary_search(id).is_err());
                TokenVectors { dim, rows: kept.flat_map(|(_, row)| row).copied().collect() }
            });
            Ok(texts.collect())
        })
    }
}

impl Encoder for TokenEncoder {
    type Vector = TokenVectors;

    fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<TokenVectors>> {
        let (start, n_tokens) = (Start::Token(self.config.query_marker), self.config.query_tokens);
        let mut texts = self.reader.queries(&start, queries, n_tokens)?;
        if let Some(filler) = self.config.query_filler {
            texts.iter_mut().for_each(|text| text.resize(n_tokens.max(text.len()), filler));
        }
        Ok(self.encode(&texts, &[])?)
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<TokenVectors>> {
        let (start, n_tokens) = (Start::Token(self.config.passage_marker), self.config.passage_tokens);
        Ok(self.encode(&self.reader.passages(&start, passages, n_tokens, self.config.long_passages)?, &self.skipped)?)
    }
}

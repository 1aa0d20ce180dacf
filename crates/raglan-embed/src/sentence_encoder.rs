//! One vector a text, by an encoder and pooling.

use std::fmt;
use std::path::Path;

use raglan_core::{DenseVector, Encoder};
use raglan_model::{EncoderModel, EncoderModelConfig};

use crate::pooling::normalize;
use crate::text_reader::{Start, TextReader};
use crate::workers::Workers;
use crate::{EncoderConfig, Error, LineWindows, LongInputs, Result, WindowAggregation};

/// Turns texts into vectors by an encoder and pooling, as sentence-transformers does.
///
/// A vector has the same bits whatever else is in the batch and however many threads work.
/// What is done with texts that are too long is [`LongInputs`]'s.
pub struct SentenceEncoder {
    pub(crate) config: EncoderConfig,
    pub(crate) model: EncoderModel,
    pub(crate) reader: TextReader,
    pub(crate) workers: Workers,
}

impl fmt::Debug for SentenceEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_threads = self.workers.n_threads();
        f.debug_struct("SentenceEncoder").field("config", &self.config).field("threads", &n_threads).finish()
    }
}

impl SentenceEncoder {
    /// Loads `config.json`, `model.safetensors` (or its shards) and `tokenizer.json` of a folder, to work on `threads`
    /// threads.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] and [`Error::Malformed`], which name the file, when one is missing, damaged or does not fit the
    /// others; [`Error::Unsupported`] for a tokenizer that does not put one token before and one after each text.
    pub fn load(dir: &Path, config: EncoderConfig, threads: usize) -> Result<Self> {
        let config_path = dir.join("config.json");
        let model = EncoderModelConfig::from_file(&config_path)?;
        if model.hidden_size != config.dim {
            let problem = format!("hidden_size is {}, and the encoder is to give {}", model.hidden_size, config.dim);
            return Err(Error::Malformed { path: config_path, problem });
        }
        if !(1..=config.dim).contains(&config.vector_dim()) {
            let problem = format!("of {} coordinates the encoder is to keep {}", config.dim, config.vector_dim());
            return Err(Error::Malformed { path: config_path, problem });
        }
        if let Some(windows) = config.line_windows.filter(|windows| !windows.is_sound()) {
            let problem = format!("windows of {} lines cannot be {} apart", windows.lines, windows.step);
            return Err(Error::Malformed { path: config_path, problem });
        }
        check_max_tokens(&config_path, &model, config.max_tokens)?;
        config.long_inputs.check(&config_path, &model, config.max_tokens)?;
        let reader = TextReader::load(dir)?;
        let model = EncoderModel::load(dir, model, config.products)?;
        Ok(Self { config, model, reader, workers: Workers::new(threads)? })
    }

    /// How it turns texts into vectors.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// One vector for each text in tokens, in order.
    fn encode(&self, texts: &[Vec<u32>]) -> Result<Vec<DenseVector>> {
        self.workers.encode(texts, |batch| {
            let hidden = self.config.long_inputs.hidden_states(&self.model, batch, self.config.max_tokens)?;
            let pooled = hidden.sequences().map(|tokens| self.config.pooling.pool(tokens, hidden.dim()));
            pooled.map(|vector| self.finished(vector)).collect()
        })
    }

    /// One vector for each passage, read whole.
    fn encode_whole(&self, passages: &[&str]) -> Result<Vec<DenseVector>> {
        let EncoderConfig { passage_prefix: prefix, max_tokens, long_inputs, .. } = &self.config;
        if *long_inputs == LongInputs::ParallelWindows {
            return self.encode_in_windows(prefix, passages);
        }
        self.encode(&self.reader.passages(&Start::Text(prefix), passages, *max_tokens, *long_inputs)?)
    }

    /// One vector for each text, the mean of those of its windows of tokens.
    fn encode_in_windows(&self, prefix: &str, texts: &[&str]) -> Result<Vec<DenseVector>> {
        let (mut windows, mut ends) = (Vec::new(), Vec::with_capacity(texts.len()));
        for text in texts {
            windows.extend(self.reader.windows(prefix, text, self.config.max_tokens, 0)?.texts);
            ends.push(windows.len());
        }
        self.aggregated(&self.encode(&windows)?, &ends, WindowAggregation::Mean)
    }

    /// One vector for each passage, from those of its windows of lines.
    fn encode_in_line_windows(&self, lines: &LineWindows, passages: &[&str]) -> Result<Vec<DenseVector>> {
        let (mut windows, mut ends) = (Vec::new(), Vec::with_capacity(passages.len()));
        for passage in passages {
            windows.extend(lines.of(passage).into_iter().map(|window| &passage[window]));
            ends.push(windows.len());
        }
        let vectors = self.encode_whole(&windows).map_err(|error| match error {
            Error::TooLong { passage: window, tokens, limit } => {
                Error::TooLong { passage: ends.partition_point(|&end| end <= window), tokens, limit }
            }
            error => error,
        })?;
        self.aggregated(&vectors, &ends, lines.aggregation)
    }

    /// One vector for each text from those of its windows, which end at `ends`; that of an only one is as it is.
    fn aggregated(
        &self,
        windows: &[DenseVector],
        ends: &[usize],
        aggregation: WindowAggregation,
    ) -> Result<Vec<DenseVector>> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let texts = starts.zip(ends).map(|(start, &end)| match &windows[start..end] {
            [vector] => Ok(vector.clone()),
            windows => {
                let rows: Vec<f32> = windows.iter().flat_map(DenseVector::as_slice).copied().collect();
                self.finished(aggregation.of(&rows, self.config.vector_dim()))
            }
        });
        texts.collect()
    }

    /// A text's vector from what pooling gave: its first coordinates, of length 1 if that is wanted.
    pub(crate) fn finished(&self, mut vector: Vec<f32>) -> Result<DenseVector> {
        vector.truncate(self.config.vector_dim());
        if self.config.normalize {
            normalize(&mut vector);
        }
        DenseVector::new(vector).map_err(Error::Vector)
    }
}

impl Encoder for SentenceEncoder {
    type Vector = DenseVector;

    fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        let EncoderConfig { query_prefix: prefix, max_tokens, long_inputs, .. } = &self.config;
        if *long_inputs == LongInputs::ParallelWindows {
            return Ok(self.encode_in_windows(prefix, queries)?);
        }
        Ok(self.encode(&self.reader.queries(&Start::Text(prefix), queries, *max_tokens, *long_inputs)?)?)
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        Ok(match &self.config.line_windows {
            Some(lines) => self.encode_in_line_windows(lines, passages)?,
            None => self.encode_whole(passages)?,
        })
    }
}

/// An encoder reads no more tokens than its model has positions for, and at least one of a text.
pub(crate) fn check_max_tokens(path: &Path, model: &EncoderModelConfig, max_tokens: usize) -> Result<()> {
    let limit = model.max_tokens();
    if (3..=limit).contains(&max_tokens) {
        return Ok(());
    }
    let problem = format!("the encoder is to read {max_tokens} tokens, and the model has {limit} positions");
    Err(Error::Malformed { path: path.to_owned(), problem })
}

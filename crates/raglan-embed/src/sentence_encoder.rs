//! One vector a text, by an encoder and pooling.

use std::fmt;
use std::path::Path;

use raglan_core::{DenseVector, Encoder};
use raglan_model::EncoderModel;
use raglan_onnx::{OnnxModel, OnnxOutput, OnnxText, OnnxUse};

use crate::encoder_config::Engine;
use crate::pooling::normalize;
use crate::text_reader::{Start, TextReader};
use crate::workers::Workers;
use crate::{EncoderConfig, Error, LineWindows, LongInputs, Result, WindowAggregation};

/// Turns texts into vectors by an encoder and pooling, as sentence-transformers does.
///
/// A vector has the same bits whatever else is in the batch and however many threads work; those of a model in ONNX may
/// differ in their last bits.
/// What is done with texts that are too long is [`LongInputs`]'s.
pub struct SentenceEncoder {
    pub(crate) config: EncoderConfig,
    pub(crate) model: SentenceModel,
    pub(crate) reader: TextReader,
    pub(crate) workers: Workers,
}

/// What gives the vectors of tokens, or of a text.
#[derive(Debug)]
pub(crate) enum SentenceModel {
    /// On our own kernels.
    Kernels(EncoderModel),
    /// On our own kernels for NVIDIA devices.
    #[cfg(feature = "cuda")]
    Device(Box<raglan_model::DeviceEncoder>),
    /// On onnxruntime.
    Onnx(OnnxModel),
}

impl fmt::Debug for SentenceEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_threads = self.workers.n_threads();
        f.debug_struct("SentenceEncoder").field("config", &self.config).field("threads", &n_threads).finish()
    }
}

impl SentenceEncoder {
    /// Loads `config.json`, `model.safetensors` (or its shards) and `tokenizer.json` of a folder, to work on `threads`
    /// threads. Where there is no safetensors, or `config.json` names a family that the kernels do not know, the model
    /// is `model.onnx` or `onnx/model.onnx`, as optimum and sentence-transformers write it: one that gives the vectors of
    /// tokens (`last_hidden_state`, `token_embeddings`), or else a `sentence_embedding`.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] and [`Error::Malformed`], which name the file, when one is missing, damaged or does not fit the
    /// others; [`Error::Unsupported`] for a tokenizer that does not put one token before and one after each text, and
    /// for what a model in ONNX cannot; [`Error::Onnx`] for such models.
    pub fn load(dir: &Path, config: EncoderConfig, threads: usize) -> Result<Self> {
        let engine = config.check(dir)?;
        let reader = TextReader::load(dir)?;
        let model = match engine {
            Engine::Kernels(model) => SentenceModel::Kernels(EncoderModel::load(dir, *model, config.products)?),
            Engine::Onnx(files) => {
                let model = OnnxModel::load(&files, OnnxUse::Vectors, config.onnx_runtime.as_deref(), threads)?;
                if model.gives() == OnnxOutput::Sentence && config.pooling != EncoderConfig::for_model(dir)?.pooling {
                    let what = "another pooling, of a model that gives no vectors of tokens".to_owned();
                    return Err(Error::Unsupported { path: files.model, what });
                }
                SentenceModel::Onnx(model)
            }
        };
        Ok(Self { config, model, reader, workers: Workers::new(threads)? })
    }

    /// How it turns texts into vectors.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// One vector for each text in tokens, in order.
    fn encode(&self, texts: &[Vec<u32>]) -> Result<Vec<DenseVector>> {
        let EncoderConfig { long_inputs, max_tokens, pooling, dim, .. } = self.config;
        match &self.model {
            SentenceModel::Kernels(model) => self.workers.encode(texts, |batch| {
                let hidden = long_inputs.hidden_states(model, batch, max_tokens)?;
                hidden.sequences().map(|tokens| self.finished(pooling.pool(tokens, dim))).collect()
            }),
            #[cfg(feature = "cuda")]
            SentenceModel::Device(model) => self.encode_on_device(model, texts),
            SentenceModel::Onnx(model) if model.gives() == OnnxOutput::Tokens => {
                model.encode(&onnx_texts(texts), |tokens| self.finished(pooling.pool(tokens, dim)))
            }
            SentenceModel::Onnx(model) => model.encode(&onnx_texts(texts), |vector| self.finished(vector.to_vec())),
        }
    }

    /// The vectors of each text's tokens, in order: `[n_tokens, dim]`.
    ///
    /// # Errors
    ///
    /// [`Error::NoTokenVectors`] of a model that gives none, and what the model gives.
    pub(crate) fn token_vectors(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        match &self.model {
            SentenceModel::Kernels(model) => self
                .workers
                .encode(texts, |batch| Ok(model.hidden_states(batch)?.sequences().map(<[f32]>::to_vec).collect())),
            #[cfg(feature = "cuda")]
            SentenceModel::Device(model) => crate::batches::in_batches(texts, usize::MAX, |batch| {
                Ok(model.hidden_states(batch)?.sequences().map(<[f32]>::to_vec).collect())
            }),
            SentenceModel::Onnx(model) if model.gives() == OnnxOutput::Tokens => {
                model.encode(&onnx_texts(texts), |tokens| Ok(tokens.to_vec()))
            }
            SentenceModel::Onnx(_) => Err(Error::NoTokenVectors),
        }
    }

    /// One vector for each passage, read whole.
    fn encode_whole(&self, passages: &[&str]) -> Result<Vec<DenseVector>> {
        let EncoderConfig { passage_prefix: prefix, max_tokens, long_inputs, .. } = &self.config;
        if *long_inputs == LongInputs::ParallelWindows {
            return self.encode_in_windows(prefix, passages);
        }
        self.encode(&self.reader.passages(&self.workers, &Start::Text(prefix), passages, *max_tokens, *long_inputs)?)
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
pub(crate) fn check_max_tokens(path: &Path, positions: usize, max_tokens: usize) -> Result<()> {
    if (3..=positions).contains(&max_tokens) {
        return Ok(());
    }
    let problem = format!("the encoder is to read {max_tokens} tokens, and the model has {positions} positions");
    Err(Error::Malformed { path: path.to_owned(), problem })
}

/// Texts, each one by itself.
fn onnx_texts(texts: &[Vec<u32>]) -> Vec<OnnxText<'_>> {
    texts.iter().map(|ids| OnnxText { ids, types: &[] }).collect()
}

//! One vector a text, by a BERT and pooling.

use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use raglan_core::{DenseVector, Encoder};
use raglan_model::{BertConfig, BertModel, Tokenizer};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::pooling::normalize;
use crate::{EncoderConfig, Error, Result};

/// How many tokens one forward reads at most, unless a single text has more.
const BATCH_TOKENS: usize = 1024;

/// Turns texts into vectors by a BERT and pooling, as sentence-transformers does.
///
/// A vector has the same bits whatever else is in the batch and however many threads work.
/// Queries that are too long are cut with a warning; passages that are too long are [`Error::TooLong`].
pub struct SentenceEncoder {
    config: EncoderConfig,
    model: BertModel,
    tokenizer: Tokenizer,
    /// What the tokenizer puts before and after every text.
    frame: [u32; 2],
    /// One thread each: batches run side by side, and within a batch nothing waits for a second thread.
    workers: Vec<ThreadPool>,
    /// All threads, for work that is only one batch.
    together: ThreadPool,
}

impl fmt::Debug for SentenceEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_threads = self.workers.len();
        f.debug_struct("SentenceEncoder").field("config", &self.config).field("threads", &n_threads).finish()
    }
}

impl SentenceEncoder {
    /// Loads `config.json`, `model.safetensors` and `tokenizer.json` of a folder, to work on `threads` threads.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] and [`Error::Malformed`], which name the file, when one is missing, damaged or does not fit the
    /// others; [`Error::Unsupported`] for a tokenizer that does not put one token before and one after each text.
    pub fn load(dir: &Path, config: EncoderConfig, threads: usize) -> Result<Self> {
        let config_path = dir.join("config.json");
        let bert = BertConfig::from_file(&config_path)?;
        let misfit = |problem: String| Error::Malformed { path: config_path.clone(), problem };
        if bert.hidden_size != config.dim {
            return Err(misfit(format!(
                "hidden_size is {}, and the encoder is to give {}",
                bert.hidden_size, config.dim
            )));
        }
        if config.max_tokens > bert.max_position_embeddings || config.max_tokens < 3 {
            let n = bert.max_position_embeddings;
            return Err(misfit(format!(
                "the encoder is to read {} tokens, and the model has {n} positions",
                config.max_tokens
            )));
        }
        let path = dir.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&path)?;
        let frame = tokenizer.encode("", true)?.ids;
        let Ok(frame) = <[u32; 2]>::try_from(frame) else {
            return Err(Error::Unsupported {
                path,
                what: "it does not put one token before and one after a text".into(),
            });
        };
        let model = BertModel::load(dir.join("model.safetensors"), bert, config.products)?;
        let pool = |name: &'static str, n| {
            ThreadPoolBuilder::new().num_threads(n).thread_name(move |i| format!("{name}-{i}")).build()
        };
        let workers = (0..threads.max(1)).map(|_| pool("encoder", 1)).collect::<Result<_, _>>()?;
        let together = pool("query-encoder", threads.max(1))?;
        Ok(Self { config, model, tokenizer, frame, workers, together })
    }

    /// How it turns texts into vectors.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// A text's tokens between the special ones, and how many there would be if nothing were cut off.
    fn ids(&self, prefix: &str, text: &str) -> Result<(Vec<u32>, usize)> {
        let tokens = if prefix.is_empty() {
            self.tokenizer.encode(text, false)?
        } else {
            self.tokenizer.encode(&format!("{prefix}{text}"), false)?
        };
        let n_tokens = tokens.ids.len() + self.frame.len();
        let room = self.config.max_tokens - self.frame.len();
        let mut ids = Vec::with_capacity(n_tokens.min(self.config.max_tokens));
        ids.push(self.frame[0]);
        ids.extend(tokens.ids.into_iter().take(room));
        ids.push(self.frame[1]);
        Ok((ids, n_tokens))
    }

    /// One vector for each text in tokens, in order.
    fn encode(&self, texts: &[Vec<u32>]) -> Result<Vec<DenseVector>> {
        let batches = batches(texts);
        if let [batch] = &*batches {
            // All threads work at the one batch; what it gives does not depend on how many there are.
            return self.together.install(|| self.encode_batch(texts, batch)).map(|vectors| {
                let mut done: Vec<_> = batch.iter().zip(vectors).collect();
                done.sort_unstable_by_key(|(text, _)| **text);
                done.into_iter().map(|(_, vector)| vector).collect()
            });
        }
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(texts.len()));
        let work = || -> Result<()> {
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                let vectors = self.encode_batch(texts, batch)?;
                done.lock().expect("no thread panics while it appends").extend(batch.iter().copied().zip(vectors));
            }
            Ok(())
        };
        let n_workers = self.workers.len().min(batches.len());
        std::thread::scope(|scope| {
            let run = |worker: &ThreadPool| {
                let result = worker.install(work);
                if result.is_err() {
                    next.store(batches.len(), Ordering::Relaxed); // The others stop after the batch they are at.
                }
                result
            };
            let others = self.workers[..n_workers].iter().skip(1).map(|worker| scope.spawn(move || run(worker)));
            let others: Vec<_> = others.collect();
            let mut result = self.workers[..n_workers].first().map_or(Ok(()), run);
            for other in others {
                result = result.and(other.join().expect("a worker does not panic"));
            }
            result
        })?;
        let mut done = done.into_inner().expect("no thread panics while it appends");
        done.sort_unstable_by_key(|(text, _)| *text);
        Ok(done.into_iter().map(|(_, vector)| vector).collect())
    }

    fn encode_batch(&self, texts: &[Vec<u32>], batch: &[usize]) -> Result<Vec<DenseVector>> {
        let sequences: Vec<&[u32]> = batch.iter().map(|&text| &*texts[text]).collect();
        let hidden = self.model.hidden_states(&sequences)?;
        let pooled = hidden.sequences().map(|tokens| {
            let mut vector = self.config.pooling.pool(tokens, hidden.dim());
            if self.config.normalize {
                normalize(&mut vector);
            }
            DenseVector::new(vector).map_err(Error::Vector)
        });
        pooled.collect()
    }
}

impl Encoder for SentenceEncoder {
    type Vector = DenseVector;

    fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        let mut texts = Vec::with_capacity(queries.len());
        for query in queries {
            let (ids, n_tokens) = self.ids(&self.config.query_prefix, query)?;
            if n_tokens > ids.len() {
                tracing::warn!(tokens = n_tokens, limit = ids.len(), "the query is too long; its end is not read");
            }
            texts.push(ids);
        }
        Ok(self.encode(&texts)?)
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        let mut texts = Vec::with_capacity(passages.len());
        for (passage, text) in passages.iter().enumerate() {
            let (ids, tokens) = self.ids(&self.config.passage_prefix, text)?;
            if tokens > ids.len() {
                return Err(Error::TooLong { passage, tokens, limit: self.config.max_tokens }.into());
            }
            texts.push(ids);
        }
        Ok(self.encode(&texts)?)
    }
}

/// Groups of texts, the longest first, so that no worker is left with a long one at the end; what the groups are does
/// not depend on how many workers there are.
fn batches(texts: &[Vec<u32>]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&text| std::cmp::Reverse(texts[text].len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for text in order {
        let n_tokens = texts[text].len();
        match batches.last_mut() {
            Some(batch) if n_tokens <= room => {
                batch.push(text);
                room -= n_tokens;
            }
            _ => {
                batches.push(vec![text]);
                room = BATCH_TOKENS.saturating_sub(n_tokens);
            }
        }
    }
    batches
}

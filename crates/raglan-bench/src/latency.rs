//! How long queries take on a large index of real chunks.
//!
//! The vectors come from hashed words, not from a model: indexing a hundred thousand chunks with a model takes hours,
//! and what a scan costs does not depend on what the vectors say. The time a model takes for the query is not in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use raglan::core::{DenseVector, Encoder};
use raglan::ingest::chunk::{ChunkerKind, WordCounter};
use raglan::ingest::{Isolation, Limits, WalkOptions};
use raglan::store::ModelStamp;
use raglan::{BuildSettings, DenseEncoder, Embedder, Encoders, Filter, Index, IndexSettings, Indexer, Start};
use serde_json::json;

use crate::report::{Report, folder_bytes, peak_rss_mb, percentile};

/// The dimension of MiniLM's vectors.
const DIM: usize = 384;

/// Options of the area.
#[derive(Args)]
pub struct Latency {
    /// Folder of documents
    #[arg(long)]
    folder: PathBuf,
    /// Where the index is made, or is already
    #[arg(long)]
    index: PathBuf,
    /// JSON lines with `text`
    #[arg(long)]
    queries: PathBuf,
    /// How many queries are asked
    #[arg(long, default_value_t = 500)]
    n_queries: usize,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

struct HashedWords;

impl Encoder for HashedWords {
    type Vector = DenseVector;

    fn encode_queries(&self, queries: &[&str]) -> raglan::core::Result<Vec<DenseVector>> {
        queries.iter().map(|text| DenseVector::new(vector(text))).collect()
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan::core::Result<Vec<DenseVector>> {
        self.encode_queries(passages)
    }
}

fn vector(text: &str) -> Vec<f32> {
    let mut vector = vec![1e-3_f32; DIM];
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x100_0000_01b3);
        let hash = word.bytes().fold(0xcbf2_9ce4_8422_2325, step);
        for shift in [8, 20, 32, 44] {
            vector[(hash >> shift) as usize % DIM] += if hash >> (shift + 9) & 1 == 0 { 1.0 } else { -1.0 };
        }
    }
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / norm).collect()
}

fn embedder() -> Arc<Embedder> {
    let stamp = ModelStamp {
        name: "hashed-words".into(),
        weights_sha256: String::new(),
        tokenizer_sha256: String::new(),
        pooling: "none".into(),
        normalized: true,
        query_prefix: String::new(),
        passage_prefix: String::new(),
        max_tokens: 256,
        dim: DIM,
        dtype: "f32".into(),
        parameters: Default::default(),
    };
    let load = || Ok(Arc::new(HashedWords) as DenseEncoder);
    Arc::new(Embedder::new(stamp, || Ok(Arc::new(WordCounter)), load))
}

/// Makes the index if need be, and asks.
pub fn run(options: &Latency) -> Result<()> {
    raglan::set_threads(options.threads)?;
    let report = Report::new("latency", options.threads);
    let embedder = embedder();
    let settings = IndexSettings {
        walk: WalkOptions::default(),
        limits: Limits::default(),
        isolation: Isolation::Worker { program: std::env::current_exe()?, args: vec!["read-worker".into()] },
        chunker: ChunkerKind::Structure.build(200, 0, true, embedder.counter())?.into(),
        build: BuildSettings {
            commit_every: Duration::from_secs(600),
            ..BuildSettings::new(Encoders::dense(Some(embedder.clone())), options.threads)
        },
        remembered: Default::default(),
    };
    let indexer = Indexer::new(&options.folder, &options.index, settings);
    let made = indexer.update(Start::Continue, &(), &AtomicBool::new(false))?;
    let params = json!({ "chunks": made.chunks });
    report.emit("index_s", made.timings.total_s, "s", params.clone());
    report.emit("index_bytes", folder_bytes(&options.index) as f64, "bytes", params);

    let opening = Instant::now();
    let index = Index::open(&options.index, |_| Ok(Encoders::dense(Some(embedder))))?;
    let text = std::fs::read_to_string(&options.queries).with_context(|| format!("`{}`", options.queries.display()))?;
    let queries = text.lines().take(options.n_queries).map(|line| {
        let value: serde_json::Value = serde_json::from_str(line)?;
        Ok(value["text"].as_str().context("a query has no `text`")?.to_owned())
    });
    let queries: Vec<String> = queries.collect::<Result<_>>()?;
    for name in ["bm25", "dense", "hybrid"] {
        let recipe = raglan::recipe(name)?;
        index.search(&recipe, &queries[0], &Filter::default())?;
        if name == "bm25" {
            let seconds = opening.elapsed().as_secs_f64();
            report.emit("open_s", seconds, "s", json!({ "chunks": made.chunks }));
        }
        let mut latency = Vec::new();
        for query in &queries {
            let started = Instant::now();
            index.search(&recipe, query, &Filter::default())?;
            latency.push(started.elapsed().as_secs_f64());
        }
        let params = json!({ "recipe": name, "chunks": made.chunks, "n": queries.len() });
        report.emit("query_p50", percentile(&mut latency, 50.0) * 1e3, "ms", params.clone());
        report.emit("query_p99", percentile(&mut latency, 99.0) * 1e3, "ms", params);
    }
    report.emit("peak_rss", peak_rss_mb(), "MB", json!({ "chunks": made.chunks }));
    Ok(())
}

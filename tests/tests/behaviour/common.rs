//! What the tests share: an encoder without weights, folders of files, and an index of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use raglan::core::{DenseVector, Encoder, Result};
use raglan::dense::DenseConfig;
use raglan::ingest::chunk::{ChunkerKind, WordCounter};
use raglan::ingest::{Isolation, Limits, WalkOptions};
use raglan::store::ModelStamp;
use raglan::{BuildSettings, DenseEncoder, Embedder, Encoders, Index, IndexReport, IndexSettings, Indexer, Start};

/// The dimension of [`HashingEncoder`]'s vectors.
pub const DIM: usize = 32;

/// An encoder that needs no weights: every word adds to the components that its hash names.
pub struct HashingEncoder;

impl Encoder for HashingEncoder {
    type Vector = DenseVector;

    fn encode_queries(&self, queries: &[&str]) -> Result<Vec<DenseVector>> {
        queries.iter().map(|text| DenseVector::new(vector(text))).collect()
    }

    fn encode_passages(&self, passages: &[&str]) -> Result<Vec<DenseVector>> {
        self.encode_queries(passages)
    }
}

fn vector(text: &str) -> Vec<f32> {
    let mut vector = [1e-3; DIM];
    for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let hash = word
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        vector[(hash >> 20) as usize % DIM] += 1.0;
        vector[(hash >> 40) as usize % DIM] -= 0.5;
    }
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / norm).collect()
}

/// The encoder as an index knows it.
pub fn embedder() -> Arc<Embedder> {
    let stamp = ModelStamp {
        name: "hashing".into(),
        weights_sha256: "none".into(),
        tokenizer_sha256: "none".into(),
        pooling: "none".into(),
        normalized: true,
        query_prefix: String::new(),
        passage_prefix: String::new(),
        max_tokens: 256,
        dim: DIM,
        dtype: "f32".into(),
        parameters: Default::default(),
    };
    let load = || Ok(Arc::new(HashingEncoder) as DenseEncoder);
    Arc::new(Embedder::new(stamp, || Ok(Arc::new(WordCounter)), load))
}

/// Settings for small folders: every document is committed by itself.
pub fn settings(threads: usize) -> IndexSettings {
    let embedder = embedder();
    let chunker = ChunkerKind::Structure.build(40, 0, true, embedder.counter()).expect("the parameters are sound");
    IndexSettings {
        walk: WalkOptions::default(),
        limits: Limits::default(),
        isolation: Isolation::InProcess,
        chunker: chunker.into(),
        build: BuildSettings {
            dense: DenseConfig::default(),
            pending_bytes: 1 << 20,
            commit_every: Duration::ZERO,
            ..BuildSettings::new(Encoders::dense(Some(embedder)), threads)
        },
        remembered: Default::default(),
    }
}

/// Brings the index of a folder up to date.
pub fn update(documents: &Path, index: &Path, threads: usize) -> raglan::Result<IndexReport> {
    Indexer::new(documents, index, settings(threads)).update(Start::Continue, &(), &AtomicBool::new(false))
}

/// Opens an index.
pub fn open(index: &Path) -> raglan::Result<Index> {
    Index::open(index, |_| Ok(Encoders::dense(Some(embedder()))))
}

/// Writes `n` files of words that differ from file to file.
pub fn fill(folder: &Path, n: usize) {
    let words = ["cache", "index", "query", "ranking", "passage", "token", "vector", "segment", "commit", "manifest"];
    for file in 0..n {
        let mut text = format!("# File {file}\n\n");
        for i in 0..20 + file * 7 % 60 {
            text += words[(i * (file + 3) + i / 3) % words.len()];
            text += if i % 9 == 8 { ".\n\n" } else { " " };
        }
        std::fs::write(folder.join(format!("{file:03}.md")), text).expect("the folder can be written");
    }
}

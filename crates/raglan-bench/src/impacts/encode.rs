//! Passages and queries to sparse vectors.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use raglan::core::{Encoder, SparseVector};
use raglan::embed::{SparseEncoder, SparseEncoderConfig};
use raglan::model::{Products, Tokenizer};
use serde_json::json;

use super::vectors;
use crate::report::{Report, timed};

/// Passages encoded between two lines of progress.
const BATCH: usize = 4096;

#[derive(Args)]
pub struct Encode {
    /// Folder with the model's safetensors and tokenizer
    #[arg(long)]
    model: PathBuf,
    /// JSON lines with `title` and `text`
    #[arg(long)]
    corpus: PathBuf,
    /// JSON lines with `text`
    #[arg(long)]
    queries: PathBuf,
    /// How many passages are taken, at equal distances
    #[arg(long, default_value_t = 100_000)]
    n: usize,
    /// What is read of a passage at most
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// How exactly the model multiplies: stored, f32, bf16 or int8
    #[arg(long, default_value = "stored")]
    precision: Products,
    /// Threads that encode
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Folder for the vectors
    #[arg(long)]
    out: PathBuf,
}

/// Encodes and writes.
pub fn run(options: &Encode) -> Result<()> {
    std::fs::create_dir_all(&options.out)?;
    let config = SparseEncoderConfig {
        max_tokens: options.max_tokens,
        products: options.precision,
        ..SparseEncoderConfig::for_model(&options.model)?
    };
    let encoder = SparseEncoder::load(&options.model, config, options.threads)?;
    let tokenizer = Tokenizer::from_file(options.model.join("tokenizer.json"))?;

    let queries = texts(&options.queries)?;
    let mut tokens = Vec::new();
    for query in &queries {
        let mut ids = tokenizer.encode(query, false)?.ids;
        ids.sort_unstable();
        ids.dedup();
        tokens.push(SparseVector::new(ids.into_iter().map(|id| (id, 1.0)).collect())?);
    }
    vectors::write(&options.out.join(vectors::QUERY_TOKENS), &tokens)?;
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    vectors::write(&options.out.join(vectors::QUERIES), &encoder.encode_queries(&queries)?)?;

    let passages = texts(&options.corpus)?;
    let n = options.n.min(passages.len());
    let passages: Vec<&str> = (0..n).map(|i| passages[i * passages.len() / n].as_str()).collect();
    let (encoded, seconds, _) = timed(|| -> Result<Vec<SparseVector>> {
        let mut encoded = Vec::new();
        for batch in passages.chunks(BATCH) {
            // As queries: what is too long is cut.
            encoded.extend(encoder.encode_queries(batch)?);
            eprintln!("{} of {n}", encoded.len());
        }
        Ok(encoded)
    });
    vectors::write(&options.out.join(vectors::PASSAGES), &encoded?)?;
    let report = Report::new("impacts", options.threads);
    report.emit("encode", n as f64 / seconds, "passages/s", json!({ "n": n, "max_tokens": options.max_tokens }));
    Ok(())
}

/// The titles and texts of a file of JSON lines.
fn texts(path: &Path) -> Result<Vec<String>> {
    let lines = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let text = |line: &str| -> Result<String> {
        let value: serde_json::Value = serde_json::from_str(line)?;
        let part = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Ok(format!("{} {}", part("title"), part("text")).trim().to_owned())
    };
    lines.lines().map(text).collect()
}

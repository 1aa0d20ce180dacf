//! Embedding: sentences of several sets to vectors, and one query at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use raglan::core::Encoder;
use raglan::datasets::{Run, beir};
use raglan::embed::{EncoderConfig, SentenceEncoder};
use raglan::eval::{Metric, evaluate};
use raglan::model::Products;
use serde_json::json;

use crate::report::{Report, peak_rss_mb, percentile, timed};

/// What the peers read of a text at most.
const MAX_TOKENS: usize = 256;
/// The peers' batches; ours are filled by tokens, and the number only has to be equal in the lines.
const BATCH: usize = 32;

/// Options of the area.
#[derive(Args)]
pub struct Embed {
    /// JSON: names of sets, and the texts of each
    #[arg(long)]
    inputs: PathBuf,
    /// Folder with the model's safetensors and tokenizer
    #[arg(long)]
    model: PathBuf,
    /// Threads that encode
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How exactly the model multiplies: stored, f32, bf16 or int8
    #[arg(long, default_value = "stored")]
    precision: Products,
    /// A BEIR folder: also gives the nDCG@10 of exact search in its test split
    #[arg(long)]
    beir: Option<PathBuf>,
}

/// Encodes each set twice, the second time timed, then queries one by one.
pub fn run(options: &Embed) -> Result<()> {
    let text = std::fs::read_to_string(&options.inputs).with_context(|| options.inputs.display().to_string())?;
    let sets: BTreeMap<String, Vec<String>> = serde_json::from_str(&text)?;
    let report = Report::new("embed", options.threads);

    let begin = Instant::now();
    let load = |products| -> Result<SentenceEncoder> {
        let config = EncoderConfig { products, max_tokens: MAX_TOKENS, ..EncoderConfig::for_model(&options.model)? };
        Ok(SentenceEncoder::load(&options.model, config, options.threads)?)
    };
    let encoder = load(options.precision)?;
    encoder.encode_queries(&["warm up"; 4])?;
    report.emit("load_s", begin.elapsed().as_secs_f64(), "s", json!({"own_precision": options.precision.name()}));

    let mut vectors = BTreeMap::new();
    for (name, texts) in &sets {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        encoder.encode_queries(&texts[..texts.len().min(BATCH)])?;
        let (encoded, wall_s, cpu_s) = timed(|| encoder.encode_queries(&texts));
        let n = texts.len();
        let params = json!({"set": name, "batch": BATCH, "n": n, "own_precision": options.precision.name()});
        report.emit("sentences_per_s", n as f64 / wall_s, "sentences/s", params.clone());
        report.emit("cpu_per_sentence", cpu_s / n as f64 * 1e3, "ms", params);
        vectors.insert(name, encoded?);
    }
    if let Some(queries) = sets.get("queries") {
        let mut milliseconds = Vec::new();
        for query in queries.iter().take(100) {
            let begin = Instant::now();
            encoder.encode_queries(&[query])?;
            milliseconds.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        let n = milliseconds.len();
        let params = json!({"set": "queries", "batch": 1, "n": n});
        report.emit("query_latency_p50", percentile(&mut milliseconds, 50.0), "ms", params);
    }
    report.emit("peak_rss", peak_rss_mb(), "MB", json!({}));
    if let Some(folder) = &options.beir {
        let (ndcg, n) = ndcg_at_10(&encoder, folder)?;
        let set = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        report.emit("ndcg@10", ndcg, "score", json!({"set": set, "n": n, "own_precision": options.precision.name()}));
    }
    let exact = load(Products::Candle)?;
    for (name, vectors) in &vectors {
        let texts: Vec<&str> = sets[*name].iter().map(String::as_str).collect();
        let exact = exact.encode_queries(&texts)?;
        let cosines: Vec<f64> = vectors.iter().zip(&exact).map(|(got, want)| got.cosine(want)).collect();
        let (n, least) = (cosines.len(), cosines.iter().copied().fold(1.0, f64::min));
        let params = json!({"set": name, "n": n});
        report.emit("cosine_to_fp32_mean", cosines.iter().sum::<f64>() / n as f64, "cosine", params.clone());
        report.emit("cosine_to_fp32_min", least, "cosine", params);
    }
    Ok(())
}

/// The quality of exact search over a collection, and the number of its queries.
fn ndcg_at_10(encoder: &SentenceEncoder, folder: &Path) -> Result<(f64, usize)> {
    let collection = beir::read(folder, "test")?;
    let texts: Vec<String> =
        collection.documents.iter().map(|document| format!("{} {}", document.title, document.text)).collect();
    let texts: Vec<&str> = texts.iter().map(|text| text.trim()).collect();
    // As queries: what is too long is cut.
    let vectors = encoder.encode_queries(&texts)?;
    let asked: Vec<_> = collection.queries.iter().filter(|query| collection.qrels.contains_query(&query.id)).collect();
    let queries = encoder.encode_queries(&asked.iter().map(|query| &*query.text).collect::<Vec<_>>())?;
    let mut run = Run::default();
    for (query, vector) in asked.iter().zip(&queries) {
        let documents = collection.documents.iter().zip(&vectors);
        run.set(&query.id, documents.map(|(document, other)| (&document.id, vector.cosine(other) as f32)));
    }
    let metric = Metric::Ndcg { k: Some(10) };
    Ok((evaluate(&run, &collection.qrels, metric).mean, asked.len()))
}

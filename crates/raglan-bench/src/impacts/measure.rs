//! Building the index, and searching it in each way: time, bytes and recall.
//!
//! Exact ways must agree with each other before anything is reported. Queries are asked one by one, on one thread; the
//! vectors are in memory, so the time that a model takes for the query is not in it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use raglan::core::{ChunkId, ChunkSet, Ranking, SparseVector, VectorIndex};
use raglan::sparse::{ImpactConfig, ImpactIndex, ImpactSearch, write_impact_segment};
use serde_json::{Value, json};

use super::vectors;
use crate::report::{Report, folder_bytes, peak_rss_mb, percentile, timed};

/// How many hits are asked for.
const K: usize = 10;
const QUERY_CUTS: [usize; 6] = [4, 6, 8, 12, 16, 32];
const HEAP_FACTORS: [f32; 6] = [0.6, 0.7, 0.8, 0.9, 1.0, 1.2];

#[derive(Args)]
pub struct Measure {
    /// Folder with the vectors that `encode` made
    #[arg(long)]
    vectors: PathBuf,
    /// Folders with more passages, made of other texts
    #[arg(long)]
    more: Vec<PathBuf>,
    /// How many queries are asked
    #[arg(long, default_value_t = 1000)]
    n_queries: usize,
    /// Threads that build
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Builds and asks.
pub fn run(options: &Measure) -> Result<()> {
    raglan::set_threads(options.threads)?;
    let mut passages = vectors::read(&options.vectors.join(vectors::PASSAGES))?;
    for folder in &options.more {
        passages.extend(vectors::read(&folder.join(vectors::PASSAGES))?);
    }
    let n = passages.len();
    let n_postings: usize = passages.iter().map(|vector| vector.terms().len()).sum();
    let report = Report::new("impacts", options.threads);
    let params = json!({ "chunks": n, "terms": n_postings as f64 / n as f64 });

    let ids: Vec<ChunkId> = (0..u32::try_from(n)?).map(ChunkId).collect();
    let folder = tempfile::tempdir()?;
    let config = ImpactConfig::default();
    let (written, seconds, _) = timed(|| write_impact_segment(folder.path(), &ids, &passages, &config));
    written?;
    report.emit("build", seconds, "s", params.clone());
    report.emit("bytes", folder_bytes(folder.path()) as f64, "bytes", params);
    drop(passages);

    let open = |search| -> Result<ImpactIndex> {
        let config = ImpactConfig { search, ..config.clone() };
        Ok(ImpactIndex::open(&[folder.path().to_owned()], &ChunkSet::new(), &config)?)
    };
    let index = open(ImpactSearch::Exact)?;
    ensure!(index.n_clamped() == 0, "{} weights are above the ceiling", index.n_clamped());
    let mut tokens = vectors::read(&options.vectors.join(vectors::QUERY_TOKENS))?;
    let mut queries = vectors::read(&options.vectors.join(vectors::QUERIES))?;
    tokens.truncate(options.n_queries);
    queries.truncate(options.n_queries);
    let without_model: Vec<SparseVector> =
        tokens.iter().map(|tokens| index.inference_free_query(tokens.terms())).collect();

    for (kind, queries) in [("model", &queries), ("inference_free", &without_model)] {
        let exact = ask(&open(ImpactSearch::Exact)?, queries)?;
        emit(&report, &exact, 1.0, json!({ "queries": kind, "search": "exact", "chunks": n }));
        for search in [ImpactSearch::MaxScore, ImpactSearch::BlockMax] {
            let found = ask(&open(search)?, queries)?;
            ensure!(found.rankings == exact.rankings, "{search:?} is not exact");
            emit(&report, &found, 1.0, json!({ "queries": kind, "search": search, "chunks": n }));
        }
        for query_cut in QUERY_CUTS {
            for heap_factor in HEAP_FACTORS {
                let found = ask(&open(ImpactSearch::Approximate { query_cut, heap_factor })?, queries)?;
                let recall = recall(&found.rankings, &exact.rankings);
                let params =
                    json!({ "queries": kind, "query_cut": query_cut, "heap_factor": heap_factor, "chunks": n });
                emit(&report, &found, recall, params);
            }
        }
    }
    report.emit("peak_rss", peak_rss_mb(), "MB", json!({ "chunks": n }));
    Ok(())
}

struct Asked {
    rankings: Vec<Ranking>,
    /// Of each query.
    seconds: Vec<f64>,
}

fn ask(index: &ImpactIndex, queries: &[SparseVector]) -> Result<Asked> {
    let mut asked = Asked { rankings: Vec::new(), seconds: Vec::new() };
    // Once without the clock, so that every way finds its pages in memory.
    for query in queries {
        index.search(std::slice::from_ref(query), K, &[None])?;
    }
    for query in queries {
        let started = Instant::now();
        asked.rankings.extend(index.search(std::slice::from_ref(query), K, &[None])?);
        asked.seconds.push(started.elapsed().as_secs_f64());
    }
    Ok(asked)
}

fn emit(report: &Report, asked: &Asked, recall: f64, mut params: Value) {
    let mut seconds = asked.seconds.clone();
    params["n"] = json!(seconds.len());
    params["threads"] = json!(1);
    params["recall@10"] = json!(recall);
    let total: f64 = seconds.iter().sum();
    report.emit("query_p50", percentile(&mut seconds, 50.0) * 1e6, "us", params.clone());
    report.emit("query_p99", percentile(&mut seconds, 99.0) * 1e6, "us", params.clone());
    report.emit("queries_per_s", seconds.len() as f64 / total, "queries/s", params);
}

/// The share of the exact hits that were found.
fn recall(found: &[Ranking], exact: &[Ranking]) -> f64 {
    let (mut n_found, mut n_exact) = (0, 0);
    for (found, exact) in found.iter().zip(exact) {
        let found: HashSet<ChunkId> = found.ids().into_iter().collect();
        n_exact += exact.len();
        n_found += exact.ids().iter().filter(|id| found.contains(id)).count();
    }
    n_found as f64 / n_exact.max(1) as f64
}

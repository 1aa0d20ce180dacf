//! Building the index, and searching it in each way: time, bytes and recall.
//!
//! Recall is against brute force over the vectors as they are, in `f32`, so that it counts what rounding to impacts loses
//! too. Exact ways must agree with each other before anything is reported. Queries are asked one by one, on one thread;
//! the vectors are in memory, so the time that a model takes for the query is not in it. With `--peer COMMAND` the command
//! is run after each round, and prints its lines among ours: A-B-A-B with `--rounds 2`. The peer measured against is
//! pyseismic-lsr, whose script reads the files of vectors as they are (`vectors.rs` says how).

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use raglan::core::{ChunkId, ChunkSet, Hit, Ranking, SparseVector, VectorIndex};
use raglan::sparse::{ImpactConfig, ImpactIndex, ImpactSearch, write_impact_segment};
use serde_json::{Value, json};

use super::vectors;
use crate::report::{Report, folder_bytes, peak_rss_mb, percentile, timed};

/// How many hits are asked for.
const K: usize = 10;
const QUERY_CUTS: [usize; 6] = [4, 6, 8, 10, 12, 16];
const HEAP_FACTORS: [f32; 4] = [0.9, 0.8, 0.7, 0.6];

#[derive(Args)]
pub struct Measure {
    /// Folder with the vectors that `encode` made
    folder: PathBuf,
    /// Folders with more passages, made of other texts
    #[arg(long)]
    more: Vec<PathBuf>,
    /// How many queries are asked
    #[arg(long, default_value_t = 1000)]
    n_queries: usize,
    /// Threads that build
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How often everything is measured
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// A command that is run after each round, `{folder}` being the folder: another system on the same vectors
    #[arg(long)]
    peer: Option<String>,
}

/// Builds and asks.
pub fn run(options: &Measure) -> Result<()> {
    raglan::set_threads(options.threads)?;
    let mut passages = vectors::read(&options.folder.join(vectors::PASSAGES))?;
    for folder in &options.more {
        passages.extend(vectors::read(&folder.join(vectors::PASSAGES))?);
    }
    let mut tokens = vectors::read(&options.folder.join(vectors::QUERY_TOKENS))?;
    let mut queries = vectors::read(&options.folder.join(vectors::QUERIES))?;
    tokens.truncate(options.n_queries);
    queries.truncate(options.n_queries);
    for _ in 0..options.rounds {
        round(&passages, &tokens, &queries, options.threads)?;
        if let Some(peer) = &options.peer {
            let peer = peer.replace("{folder}", &options.folder.to_string_lossy());
            let mut words = peer.split_whitespace();
            let program = words.next().context("`--peer` names no command")?;
            let status = Command::new(program).args(words).status().with_context(|| format!("`{program}`"))?;
            ensure!(status.success(), "`{peer}` failed: {status}");
        }
    }
    Ok(())
}

/// Builds the index, and asks the queries of a model and those without.
fn round(passages: &[SparseVector], tokens: &[SparseVector], queries: &[SparseVector], threads: usize) -> Result<()> {
    let n = passages.len();
    let n_postings: usize = passages.iter().map(|vector| vector.terms().len()).sum();
    let report = Report::new("impacts", threads);
    let params = json!({ "chunks": n, "terms": n_postings as f64 / n as f64 });

    let ids: Vec<ChunkId> = (0..u32::try_from(n)?).map(ChunkId).collect();
    let folder = tempfile::tempdir()?;
    let config = ImpactConfig::default();
    let (written, seconds, cpu) = timed(|| write_impact_segment(folder.path(), &ids, passages, &config));
    written?;
    report.emit("build", seconds, "s", params.clone());
    report.emit("build_cpu", cpu, "s", params.clone());
    report.emit("bytes", folder_bytes(folder.path()) as f64, "bytes", params);

    let open = |search| -> Result<ImpactIndex> {
        let config = ImpactConfig { search, ..config.clone() };
        Ok(ImpactIndex::open(&[folder.path().to_owned()], &ChunkSet::new(), &config)?)
    };
    let index = open(ImpactSearch::Exact)?;
    ensure!(index.n_clamped() == 0, "{} weights are above the ceiling", index.n_clamped());
    let without_model: Vec<SparseVector> =
        tokens.iter().map(|tokens| index.inference_free_query(tokens.terms())).collect();
    let inverted = Inverted::new(passages);
    for (kind, queries) in [("model", queries), ("inference_free", &without_model)] {
        let truth: Vec<Ranking> = queries.iter().map(|query| inverted.best(query)).collect::<Result<_>>()?;
        let exact = ask(&open(ImpactSearch::Exact)?, queries)?;
        for search in [ImpactSearch::Exact, ImpactSearch::MaxScore, ImpactSearch::BlockMax] {
            let found = ask(&open(search)?, queries)?;
            ensure!(found.rankings == exact.rankings, "{search:?} is not exact");
            let recall = recall(&found.rankings, &truth);
            emit(&report, &found, recall, json!({ "queries": kind, "search": search, "chunks": n }));
        }
        for query_cut in QUERY_CUTS {
            for heap_factor in HEAP_FACTORS {
                let found = ask(&open(ImpactSearch::Approximate { query_cut, heap_factor })?, queries)?;
                let recall = recall(&found.rankings, &truth);
                let params =
                    json!({ "queries": kind, "query_cut": query_cut, "heap_factor": heap_factor, "chunks": n });
                emit(&report, &found, recall, params);
            }
        }
    }
    report.emit("peak_rss", peak_rss_mb(), "MB", json!({ "chunks": n }));
    Ok(())
}

/// The vectors by term, for brute force.
struct Inverted {
    /// By term, the chunks that have it, with its weight there.
    postings: Vec<Vec<(u32, f32)>>,
    n: usize,
}

impl Inverted {
    fn new(passages: &[SparseVector]) -> Self {
        let mut postings = Vec::new();
        for (chunk, passage) in (0..).zip(passages) {
            for (&term, &weight) in passage.terms().iter().zip(passage.weights()) {
                if postings.len() <= term as usize {
                    postings.resize_with(term as usize + 1, Vec::new);
                }
                postings[term as usize].push((chunk, weight));
            }
        }
        Self { postings, n: passages.len() }
    }

    fn best(&self, query: &SparseVector) -> Result<Ranking> {
        let mut scores = vec![0.0; self.n];
        for (&term, weight) in query.terms().iter().zip(query.weights()) {
            for &(chunk, impact) in self.postings.get(term as usize).map_or(&[][..], Vec::as_slice) {
                scores[chunk as usize] += weight * impact;
            }
        }
        let hits = (0..).zip(scores).filter(|&(_, score)| score > 0.0);
        Ok(Ranking::best(hits.map(|(chunk, score)| Hit::new(ChunkId(chunk), score)).collect(), K)?)
    }
}

struct Asked {
    rankings: Vec<Ranking>,
    /// Of each query.
    seconds: Vec<f64>,
    /// Processor time of all queries.
    cpu: f64,
}

fn ask(index: &ImpactIndex, queries: &[SparseVector]) -> Result<Asked> {
    // Once without the clock, so that every way finds its pages in memory.
    for query in queries {
        index.search(std::slice::from_ref(query), K, &[None])?;
    }
    let mut asked = Asked { rankings: Vec::new(), seconds: Vec::new(), cpu: 0.0 };
    let (rankings, _, cpu) = timed(|| -> Result<Vec<Ranking>> {
        let mut rankings = Vec::new();
        for query in queries {
            let started = Instant::now();
            rankings.extend(index.search(std::slice::from_ref(query), K, &[None])?);
            asked.seconds.push(started.elapsed().as_secs_f64());
        }
        Ok(rankings)
    });
    (asked.rankings, asked.cpu) = (rankings?, cpu);
    Ok(asked)
}

fn emit(report: &Report, asked: &Asked, recall: f64, mut params: Value) {
    let mut seconds = asked.seconds.clone();
    params["n"] = json!(seconds.len());
    params["threads"] = json!(1);
    params["recall@10"] = json!((recall * 1e4).round() / 1e4);
    let total: f64 = seconds.iter().sum();
    report.emit("query_p50", percentile(&mut seconds, 50.0) * 1e6, "us", params.clone());
    report.emit("query_p99", percentile(&mut seconds, 99.0) * 1e6, "us", params.clone());
    report.emit("queries_per_s", seconds.len() as f64 / total, "queries/s", params.clone());
    report.emit("cpu_per_query", asked.cpu / seconds.len() as f64 * 1e6, "us", params);
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

//! How the index of n-grams and the graph of entities grow with a corpus: what they take to build, and what a query takes.
//!
//! Each kind and size is built in a process of its own, so that the most memory it held, the texts included, is its own.
//! N-grams are in one segment, entities in segments of 65,536 chunks: those of one have to fit into memory together with
//! their texts. The walk over the graph begins at the question's entities and at a hundred chunks that are spread over the
//! corpus, in place of those that vectors would find.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use raglan::core::{ChunkId, ChunkSet, Hit, Query, Retriever};
use raglan::graph::{EntityId, Extractor, GraphIndex, GraphSearch, RuleExtractor, SegmentDraft};
use raglan::model::{GgufFile, Tokenizer};
use raglan::ngram::{NgramIndex, write_segment};
use raglan::{NgramRetriever, NgramSearch};
use rayon::prelude::*;
use serde_json::json;

use crate::bm25::json_lines;
use crate::report::{Report, folder_bytes, forget_peak_rss, peak_rss_mb, percentile, timed};

/// Chunks of one segment of the graph.
const SEGMENT: usize = 1 << 16;

/// Chunks that a walk begins at, as many as the stage `graph` takes.
const FIRST_CHUNKS: usize = 100;

/// Options of the area.
#[derive(Args)]
pub struct Growth {
    /// JSON lines with `_id`, `title`, `text`
    #[arg(long)]
    corpus: PathBuf,
    /// JSON lines with `_id`, `text`
    #[arg(long)]
    queries: PathBuf,
    /// GGUF file whose tokenizer makes the n-grams
    #[arg(long)]
    tokenizer: PathBuf,
    /// What is built
    #[arg(long, value_enum, default_value = "ngrams,graph", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// How many chunks are indexed, rising
    #[arg(long, default_value = "10000,100000", value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Queries that are asked
    #[arg(long, default_value_t = 200)]
    n_queries: usize,
    /// Threads that build; queries have one
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Runs of tokens
    Ngrams,
    /// Entities by rules
    Graph,
}

/// Measures each kind and size, in a process of its own when there are several.
pub fn run(options: &Growth) -> Result<()> {
    if let ([kind], [n]) = (&options.kinds[..], &options.sizes[..]) {
        return measure(options, *kind, *n);
    }
    for kind in &options.kinds {
        let kind = kind.to_possible_value().expect("no kind is hidden");
        for n in &options.sizes {
            let status = Command::new(std::env::current_exe()?)
                .arg("growth")
                .args([OsStr::new("--corpus"), options.corpus.as_os_str()])
                .args([OsStr::new("--queries"), options.queries.as_os_str()])
                .args([OsStr::new("--tokenizer"), options.tokenizer.as_os_str()])
                .args(["--kinds", kind.get_name(), "--sizes", &n.to_string()])
                .args(["--n-queries", &options.n_queries.to_string(), "--threads", &options.threads.to_string()])
                .status()?;
            ensure!(status.success(), "{n} chunks: {status}");
        }
    }
    Ok(())
}

fn measure(options: &Growth, kind: Kind, n: usize) -> Result<()> {
    let texts: Vec<String> =
        json_lines(&options.corpus, n)?.into_iter().map(|line| line.title + " " + &line.text).collect();
    ensure!(texts.len() == n, "`{}` has only {} chunks", options.corpus.display(), texts.len());
    let queries: Vec<Query> =
        json_lines(&options.queries, options.n_queries)?.into_iter().map(|line| Query::new(line.text)).collect();
    let report = Report::new("growth", options.threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
    let folder = tempfile::tempdir()?;
    forget_peak_rss(); // Reading the file took more than the texts do.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    match kind {
        Kind::Ngrams => {
            let file = GgufFile::open(&options.tokenizer)?;
            let tokenizer = Arc::new(Tokenizer::from_gguf(&file)?);
            let encode = |text: &String| anyhow::Ok(tokenizer.encode(&tokenizer.defuse(text), false)?.ids);
            let encode_all = || texts.par_iter().map(encode).collect::<Result<Vec<Vec<u32>>>>();
            let (tokens, tokenize_s, _) = timed(|| pool.install(encode_all));
            let tokens = tokens?;
            drop(texts);
            let ids: Vec<ChunkId> = (0..n as u32).map(ChunkId).collect();
            let (written, wall, cpu) = timed(|| pool.install(|| write_segment(folder.path(), &ids, &tokens)));
            written?;
            let n_tokens: usize = tokens.iter().map(Vec::len).sum();
            drop(tokens);
            let params = json!({ "kind": "ngrams", "chunks": n, "own_tokens": n_tokens, "own_tokenize_s": tokenize_s });
            built(&report, &params, wall, cpu, folder.path());
            let index = Arc::new(NgramIndex::open(&[folder.path().to_owned()], &ChunkSet::new())?);
            let retriever = NgramRetriever::new(index, tokenizer, None, NgramSearch::default())?;
            let ask = |query: &Query| Ok(retriever.search(std::slice::from_ref(query), 10)?[0].len());
            asked(&report, &params, &alone, &queries, ask)
        }
        Kind::Graph => {
            let write = || -> Result<Vec<PathBuf>> {
                let segment = |(i, texts): (usize, &[String])| {
                    let said: Vec<_> = texts
                        .par_chunks(1024)
                        .map(|texts| RuleExtractor.extract(&texts.iter().map(String::as_str).collect::<Vec<_>>()))
                        .collect::<Result<Vec<_>, _>>()?
                        .concat();
                    let first = i * SEGMENT;
                    let ids: Vec<ChunkId> = (first..first + texts.len()).map(|id| ChunkId(id as u32)).collect();
                    let dir = folder.path().join(i.to_string());
                    std::fs::create_dir(&dir)?;
                    SegmentDraft::new(&ids, said)?.write(&dir)?;
                    Ok(dir)
                };
                texts.chunks(SEGMENT).enumerate().map(segment).collect()
            };
            let (segments, wall, cpu) = timed(|| pool.install(write));
            let segments = segments?;
            let params = json!({ "kind": "graph", "chunks": n });
            built(&report, &params, wall, cpu, folder.path());
            drop(texts);
            forget_peak_rss();
            let (index, open_s, _) = timed(|| GraphIndex::open(&segments, &ChunkSet::new()));
            let index = index?;
            report.emit("open_s", open_s, "s", params.clone());
            report.emit("open_peak_rss", peak_rss_mb(), "MB", params.clone());
            let first = (0..FIRST_CHUNKS.min(n))
                .map(|i| Hit::new(ChunkId((i * (n / FIRST_CHUNKS.min(n))) as u32), 1.0 / (i + 1) as f32));
            let first: Vec<Hit> = first.collect();
            let ask = |query: &Query| {
                let named: Vec<(EntityId, f32)> =
                    index.entities_in(&query.text).into_iter().map(|entity| (entity, 1.0)).collect();
                Ok(index.rank(&named, &first, &GraphSearch::default(), 10, None)?.len())
            };
            asked(&report, &params, &alone, &queries, ask)
        }
    }
}

fn built(report: &Report, params: &serde_json::Value, wall: f64, cpu: f64, folder: &Path) {
    report.emit("build_s", wall, "s", params.clone());
    report.emit("build_cpu_s", cpu, "s", params.clone());
    report.emit("build_peak_rss", peak_rss_mb(), "MB", params.clone());
    report.emit("index_bytes", folder_bytes(folder) as f64, "bytes", params.clone());
}

/// Asks each query twice, and times the second time, when the files are in memory.
fn asked(
    report: &Report,
    params: &serde_json::Value,
    alone: &rayon::ThreadPool,
    queries: &[Query],
    ask: impl Fn(&Query) -> Result<usize> + Sync,
) -> Result<()> {
    let mut latency = Vec::new();
    let mut n_found = 0;
    for query in queries {
        alone.install(|| ask(query)).with_context(|| query.text.clone())?;
        let started = Instant::now();
        n_found += alone.install(|| ask(query))?;
        latency.push(started.elapsed().as_secs_f64() * 1e3);
    }
    report.emit("hits_per_query", n_found as f64 / queries.len() as f64, "hits", params.clone());
    report.emit("query_p50", percentile(&mut latency, 50.0), "ms", params.clone());
    report.emit("query_p99", percentile(&mut latency, 99.0), "ms", params.clone());
    Ok(())
}

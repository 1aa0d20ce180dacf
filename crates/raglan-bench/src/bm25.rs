//! Keyword search: build an index of strings in memory on disk, then query it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use raglan::core::{ChunkId, ChunkSet, Query, Retriever};
use raglan::datasets::beir;
use raglan::eval::{Metric, evaluate};
use raglan::sparse::{AnalyzerConfig, Bm25Index, Bm25SegmentWriter};
use serde::Deserialize;
use serde_json::json;

use crate::report::{Report, folder_bytes, peak_rss_mb, percentile, timed};

/// Options of the area.
#[derive(Args)]
pub struct Bm25 {
    /// JSON lines with `_id`, `title`, `text`: the set `debdocs`
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// JSON lines with `_id`, `text`: the queries of `debdocs`
    #[arg(long)]
    queries: Option<PathBuf>,
    /// Threads that index and answer
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Queries of `debdocs` that are asked
    #[arg(long, default_value_t = 1000)]
    n_queries: usize,
    /// Sets, of debdocs, scifact and cranfield
    #[arg(long, default_value = "debdocs")]
    sets: String,
    /// BEIR folder of SciFact
    #[arg(long)]
    scifact: Option<PathBuf>,
    /// BEIR folder of Cranfield
    #[arg(long)]
    cranfield: Option<PathBuf>,
}

/// A line of a collection.
#[derive(Deserialize)]
pub struct Line {
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(default)]
    pub title: String,
    pub text: String,
}

/// Texts, queries by id, and judgements where there are any.
struct Set {
    name: String,
    ids: Vec<String>,
    texts: Vec<String>,
    queries: Vec<(String, String)>,
    qrels: Option<raglan::datasets::Qrels>,
}

/// The first `n` lines of a collection.
pub fn json_lines(path: &Path, n: usize) -> Result<Vec<Line>> {
    let file = File::open(path).with_context(|| format!("`{}`", path.display()))?;
    BufReader::new(file)
        .lines()
        .take(n)
        .enumerate()
        .map(|(i, line)| serde_json::from_str(&line?).with_context(|| format!("`{}` line {}", path.display(), i + 1)))
        .collect()
}

impl Bm25 {
    fn load(&self, name: &str) -> Result<Set> {
        let folder = match name {
            "debdocs" => {
                let (Some(corpus), Some(queries)) = (&self.corpus, &self.queries) else {
                    bail!("set debdocs needs --corpus and --queries");
                };
                let (ids, texts) =
                    json_lines(corpus, usize::MAX)?.into_iter().map(|l| (l.id, l.title + " " + &l.text)).unzip();
                let queries = json_lines(queries, self.n_queries)?.into_iter().map(|l| (l.id, l.text)).collect();
                return Ok(Set { name: name.to_owned(), ids, texts, queries, qrels: None });
            }
            "scifact" => self.scifact.as_ref(),
            "cranfield" => self.cranfield.as_ref(),
            _ => bail!("no set `{name}`; there are debdocs, scifact and cranfield"),
        };
        let collection = beir::read(folder.with_context(|| format!("set {name} needs --{name}"))?, "test")?;
        let (ids, texts) = collection.documents.into_iter().map(|d| (d.id, d.title + " " + &d.text)).unzip();
        let judged = collection.queries.into_iter().filter(|query| collection.qrels.contains_query(&query.id));
        let queries = judged.map(|query| (query.id, query.text)).collect();
        Ok(Set { name: name.to_owned(), ids, texts, queries, qrels: Some(collection.qrels) })
    }
}

/// Measures every set.
pub fn run(options: &Bm25) -> Result<()> {
    let report = Report::new("bm25", options.threads);
    for name in options.sets.split(',') {
        measure(&options.load(name)?, options.threads, &report)?;
    }
    report.emit("peak_rss", peak_rss_mb(), "MB", json!({ "sets": options.sets }));
    Ok(())
}

fn measure(set: &Set, threads: usize, report: &Report) -> Result<()> {
    let Set { name, ids, texts, queries, qrels } = set;
    let folder = tempfile::tempdir()?;
    let config = AnalyzerConfig::default();
    let (index, seconds, cpu) = timed(|| -> Result<Bm25Index> {
        let mut writer = Bm25SegmentWriter::create(folder.path(), &config, threads)?;
        for (i, text) in texts.iter().enumerate() {
            writer.add(ChunkId(u32::try_from(i)?), text)?;
        }
        writer.finish()?;
        Ok(Bm25Index::open(&[folder.path().to_owned()], &ChunkSet::new(), &config)?)
    });
    let index = index?;
    let bytes: usize = texts.iter().map(String::len).sum();
    report.emit("index_s", seconds, "s", json!({ "set": name }));
    report.emit("index_cpu_s", cpu, "s", json!({ "set": name }));
    report.emit("index_docs_per_s", texts.len() as f64 / seconds, "docs/s", json!({ "set": name, "n": texts.len() }));
    report.emit("index_mb_per_s", bytes as f64 / 1e6 / seconds, "MB/s", json!({ "set": name, "n": texts.len() }));
    report.emit("index_bytes", folder_bytes(folder.path()) as f64, "bytes", json!({ "set": name }));

    let asked: Vec<Query> = queries.iter().map(|(_, text)| Query::new(text.as_str())).collect();
    index.search(&asked[..asked.len().min(50)], 10)?; // Warms up.
    let mut latency = Vec::with_capacity(asked.len());
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    alone.install(|| -> Result<()> {
        for query in &asked {
            let started = Instant::now();
            index.search(std::slice::from_ref(query), 10)?;
            latency.push(started.elapsed().as_secs_f64());
        }
        Ok(())
    })?;
    for (metric, p) in [("query_p50", 50.0), ("query_p99", 99.0)] {
        let params = json!({ "set": name, "k": 10, "n": asked.len(), "threads": 1 });
        report.emit(metric, percentile(&mut latency, p) * 1e6, "us", params);
    }
    for threads in if threads == 1 { vec![1] } else { vec![1, threads] } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let (found, wall, cpu) = timed(|| pool.install(|| index.search(&asked, 10)));
        found?;
        let params = json!({ "set": name, "k": 10, "n": asked.len(), "threads": threads });
        report.emit("qps", asked.len() as f64 / wall, "queries/s", params.clone());
        report.emit("cpu_per_query", cpu / asked.len() as f64 * 1e6, "us", params);
    }
    if let Some(qrels) = qrels {
        let mut run = raglan::datasets::Run::default();
        for ((id, _), ranking) in queries.iter().zip(index.search(&asked, 100)?) {
            run.set(id, ranking.hits().iter().map(|hit| (&ids[hit.chunk.0 as usize], hit.score)));
        }
        for (label, metric) in [("ndcg@10", Metric::Ndcg { k: Some(10) }), ("recall@100", Metric::Recall { k: 100 })] {
            let mean = evaluate(&run, qrels, metric).mean;
            report.emit(label, mean, "score", json!({ "set": name, "n": qrels.n_queries() }));
        }
    }
    Ok(())
}

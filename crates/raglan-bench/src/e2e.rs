//! Index a folder of real documents, answer questions by retrieval, touch one file in a hundred and index again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use raglan::ingest::chunk::ChunkerKind;
use raglan::ingest::{Isolation, Limits, WalkOptions};
use raglan::model::Products;
use raglan::model::registry::Silent;
use raglan::{
    BuildSettings, Encoders, Filter, Index, IndexReport, IndexSettings, Indexer, ModelSettings, Models, Start,
};
use serde_json::json;

use crate::report::{Report, folder_bytes, peak_rss_mb, percentile, timed};

/// How many passages a question gets; what the peers return.
const TOP: usize = 5;

/// Options of the area.
#[derive(Args)]
pub struct E2e {
    /// Folder of documents; it is copied, and the copy is changed
    #[arg(long)]
    folder: PathBuf,
    /// Documents beside the small mix, as the peers count them
    #[arg(long)]
    files: usize,
    /// JSON lines with `text`; the first 20 are asked
    #[arg(long)]
    questions: PathBuf,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How exactly the encoder multiplies: stored, f32, bf16 or int8
    #[arg(long, default_value = "stored")]
    precision: Products,
    /// Index by BM25 only
    #[arg(long)]
    bm25_only: bool,
}

/// Measures the folder.
pub fn run(options: &E2e) -> Result<()> {
    raglan::set_threads(options.threads)?;
    let report = Report::new("e2e", options.threads);
    let params = || json!({ "files": options.files, "own_precision": options.precision.name() });
    let copy = tempfile::tempdir()?;
    let mut size = 0;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&options.folder).with_context(|| format!("`{}`", options.folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            size += std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let place = tempfile::tempdir()?;
    let index_folder = place.path().join("index");
    let starting = Instant::now();
    let mut models = Models::new(None, true, options.threads, Arc::new(Silent))?;
    models.set_settings(ModelSettings { products: options.precision, ..models.settings().clone() });
    let embedder = if options.bm25_only { None } else { Some(models.embedder("all-minilm-l6-v2")?) };
    if let Some(embedder) = &embedder {
        embedder.encoder()?;
    }
    report.emit("start_s", starting.elapsed().as_secs_f64(), "s", params());

    let update = || -> Result<IndexReport> {
        let counter = match &embedder {
            Some(embedder) => embedder.counter(),
            None => Arc::new(raglan::ingest::chunk::WordCounter),
        };
        let settings = IndexSettings {
            walk: WalkOptions::default(),
            limits: Limits::default(),
            isolation: Isolation::Worker { program: std::env::current_exe()?, args: vec!["read-worker".into()] },
            chunker: ChunkerKind::Structure.build(200, 0, true, counter)?.into(),
            build: BuildSettings::new(Encoders::dense(embedder.clone()), options.threads),
            remembered: Default::default(),
        };
        let indexer = Indexer::new(copy.path(), &index_folder, settings);
        Ok(indexer.update(Start::Continue, &(), &AtomicBool::new(false))?)
    };
    let (first, seconds, cpu) = timed(update);
    let first = first?;
    let n = json!({ "files": options.files, "n": first.documents, "own_precision": options.precision.name() });
    report.emit("index_s", seconds, "s", n.clone());
    report.emit("index_cpu_s", cpu, "s", n.clone());
    report.emit("index_mb_per_s", size as f64 / 1e6 / seconds, "MB/s", n);
    report.emit("own_chunks", first.chunks as f64, "chunks", params());
    let t = &first.timings;
    for (stage, seconds) in [
        ("own_walk_s", t.walk_s),
        ("own_read_s", t.read_s),
        ("own_chunk_s", t.chunk_s),
        ("own_embed_s", t.embed_s),
        ("own_bm25_s", t.bm25_s),
        ("own_dense_s", t.dense_s),
        ("own_commit_s", t.commit_s),
        ("own_merge_s", t.merge_s),
    ] {
        report.emit(stage, seconds, "s", params());
    }
    report.emit("index_bytes", folder_bytes(&index_folder) as f64, "bytes", params());

    ask(options, &index_folder, &models, &report)?;

    let ours: Vec<&String> =
        names.iter().filter(|name| name.as_bytes().iter().take(5).all(u8::is_ascii_digit)).collect();
    let step = 100.min(ours.len()).max(1);
    let touched: Vec<_> = ours.iter().step_by(step).take((options.files / 100).max(1)).collect();
    for name in &touched {
        append(&copy.path().join(name))?;
    }
    let (again, seconds, _) = timed(update);
    anyhow::ensure!(again?.changed == touched.len(), "not every touched file was indexed again");
    report.emit("reindex_1pct_s", seconds, "s", json!({ "files": options.files, "n": touched.len() }));
    let (nothing, seconds, _) = timed(update);
    anyhow::ensure!(nothing?.changed == 0, "a file was indexed again that had not changed");
    report.emit("own_reindex_nothing_s", seconds, "s", params());
    report.emit("peak_rss", peak_rss_mb(), "MB", params());
    Ok(())
}

fn ask(options: &E2e, index_folder: &Path, models: &Models, report: &Report) -> Result<()> {
    let index = Index::open(index_folder, |passport| Ok(models.encoders_of(passport, index_folder)))?;
    let recipe = raglan::recipe(if index.has_dense() { "hybrid" } else { "bm25" })?.with_k(TOP);
    let text =
        std::fs::read_to_string(&options.questions).with_context(|| format!("`{}`", options.questions.display()))?;
    let questions: Vec<String> = text
        .lines()
        .take(20)
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line)?;
            Ok(value["text"].as_str().context("a question has no `text`")?.to_owned())
        })
        .collect::<Result<_>>()?;
    let everything = Filter::default();
    index.search(&recipe, &questions[0], &everything)?;
    let mut latency = Vec::new();
    for question in questions.iter().cycle().take(questions.len() * 3) {
        let started = Instant::now();
        index.search(&recipe, question, &everything)?;
        latency.push(started.elapsed().as_secs_f64());
    }
    let n = json!({ "files": options.files, "n": latency.len() });
    report.emit("query_p50", percentile(&mut latency, 50.0) * 1e3, "ms", n.clone());
    report.emit("query_p99", percentile(&mut latency, 99.0) * 1e3, "ms", n);
    Ok(())
}

fn append(path: &Path) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
    Ok(file.write_all(b"\nA sentence was added to this file.\n")?)
}

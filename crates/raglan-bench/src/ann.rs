//! Nearest neighbours among unit vectors: build an index on disk, then search it at rising effort.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use raglan::core::{ChunkId, ChunkSet, DenseVector, Ranking, VectorIndex};
use raglan::dense::{DenseConfig, DenseIndex, SearchMode, VectorStorage, write_segment};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::json;

use crate::report::{Report, folder_bytes, peak_rss_mb, percentile, timed};

/// Hits that are asked for.
const K: usize = 10;

/// Options of the area.
#[derive(Args)]
pub struct Ann {
    /// Vectors, `float32`, of unit length, as `.npy`
    #[arg(long)]
    base: PathBuf,
    /// Queries, likewise
    #[arg(long)]
    queries: PathBuf,
    /// Threads that build and search
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Queries that are asked
    #[arg(long, default_value_t = 1000)]
    n_queries: usize,
    /// Rising list of recalls among the best ten
    #[arg(long, default_value = "0.95,0.99")]
    targets: String,
    /// Vectors that are indexed; all with 0
    #[arg(long, default_value_t = 0)]
    limit: usize,
    /// How the index is searched
    #[arg(long, value_enum, default_value_t = Method::Graph)]
    method: Method,
    /// Full vectors in half precision
    #[arg(long)]
    half: bool,
    /// Neighbours that a vector links itself to
    #[arg(long, default_value_t = 16)]
    m: usize,
    /// Candidates considered for a vector's neighbours
    #[arg(long, default_value_t = 200)]
    ef_construction: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Every vector
    Exact,
    /// The graph
    Graph,
    /// Bytes, and the best again
    Int8,
    /// Bits, and the best again
    OneBit,
}

impl Method {
    /// Rising efforts: candidates of a walk, or candidates for each hit of a scan.
    fn efforts(self) -> &'static [usize] {
        match self {
            Self::Exact => &[1],
            Self::Graph => &[10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512],
            Self::Int8 => &[1, 2, 4, 8],
            Self::OneBit => &[1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60, 80],
        }
    }
}

/// Builds, saves, and searches until the targets are reached.
pub fn run(options: &Ann) -> Result<()> {
    let (mut base, dim) = read_npy(&options.base)?;
    let (queries, query_dim) = read_npy(&options.queries)?;
    ensure!(dim == query_dim, "vectors of dimension {dim} and queries of dimension {query_dim}");
    if options.limit > 0 {
        base.truncate(options.limit * dim);
    }
    let n = base.len() / dim;
    let queries = queries
        .chunks_exact(dim)
        .take(options.n_queries)
        .map(|query| DenseVector::new(query.to_vec()))
        .collect::<raglan::core::Result<Vec<_>>>()?;
    let report = Report::new("ann", options.threads);
    let ids: Vec<ChunkId> = (0..n as u32).map(ChunkId).collect();
    let full = if options.half { VectorStorage::F16 } else { VectorStorage::F32 };
    let mut config = DenseConfig {
        storage: vec![full],
        m: options.m,
        ef_construction: options.ef_construction,
        graph_from: if options.method == Method::Graph { 1 } else { usize::MAX },
        ..DenseConfig::default()
    };
    match options.method {
        Method::Exact | Method::Graph => {}
        Method::Int8 => config.storage.push(VectorStorage::Int8),
        Method::OneBit => config.storage.push(VectorStorage::OneBit),
    }
    let folder = tempfile::tempdir()?;
    let (written, wall, cpu) = timed(|| write_segment(folder.path(), &ids, &base, dim, &config, options.threads));
    written?;
    report.emit("build_s", wall, "s", json!({ "n": n }));
    report.emit("build_cpu_s", cpu, "s", json!({ "n": n }));
    report.emit("index_bytes", folder_bytes(folder.path()) as f64, "bytes", json!({ "n": n }));
    drop(base);

    let index = DenseIndex::open(&[folder.path().to_owned()], dim, &ChunkSet::new(), &config)?;
    let mut counts = vec![1, options.threads];
    counts.dedup();
    let pools = counts
        .iter()
        .map(|&threads| Ok(ThreadPoolBuilder::new().num_threads(threads).build()?))
        .collect::<Result<Vec<ThreadPool>>>()?;
    let most = pools.last().context("there is a pool")?;
    let truth = most.install(|| search(&index.clone().with_mode(SearchMode::Exact), &queries))?;
    let index = index.with_mode(match options.method {
        Method::Exact => SearchMode::Exact,
        Method::Graph => SearchMode::Graph,
        Method::Int8 => SearchMode::Int8,
        Method::OneBit => SearchMode::OneBit,
    });
    let targets = options.targets.split(',').map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let (mut left, mut reached, mut last) = (&targets[..], 0.0, 0);
    for &effort in options.method.efforts() {
        let index = index.clone().with_ef(effort).with_rescore(effort);
        reached = recall(&most.install(|| search(&index, &queries))?, &truth);
        last = effort;
        eprintln!("effort {effort} recall {reached:.4}");
        while let [target, rest @ ..] = left
            && reached >= *target
        {
            left = rest;
            for (pool, &threads) in pools.iter().zip(&counts) {
                measure(&report, pool, threads, &index, &queries, (*target, effort, reached))?;
            }
        }
        if left.is_empty() {
            break;
        }
    }
    report.emit("recall_at_10", reached, "recall", json!({ "n": queries.len(), "own_effort": last }));
    report.emit("peak_rss", peak_rss_mb(), "MB", json!({}));
    Ok(())
}

/// Times the queries all at once, three times over, and with one thread also one by one.
fn measure(
    report: &Report,
    pool: &ThreadPool,
    threads: usize,
    index: &DenseIndex,
    queries: &[DenseVector],
    (target, effort, reached): (f64, usize, f64),
) -> Result<()> {
    const TIMES: usize = 3;
    let n = TIMES * queries.len();
    let (done, wall, cpu) = timed(|| {
        pool.install(|| (0..TIMES).try_for_each(|_| search(index, queries).map(std::hint::black_box).map(drop)))
    });
    done?;
    let params = |n: usize| json!({ "recall_at_10": target, "own_effort": effort, "own_recall": reached, "n": n, "threads": threads });
    report.emit("qps", n as f64 / wall, "queries/s", params(n));
    report.emit("cpu_per_query", cpu / n as f64 * 1e6, "us", params(n));
    if threads > 1 {
        return Ok(());
    }
    let asked = &queries[..queries.len().min(300)];
    let mut latency = Vec::new();
    for query in asked {
        let started = Instant::now();
        pool.install(|| search(index, std::slice::from_ref(query)))?;
        latency.push(started.elapsed().as_secs_f64());
    }
    report.emit("query_p50", percentile(&mut latency, 50.0) * 1e6, "us", params(asked.len()));
    Ok(())
}

/// The best ten for each query.
pub fn search(index: &DenseIndex, queries: &[DenseVector]) -> Result<Vec<Ranking>> {
    Ok(index.search(queries, K, &vec![None; queries.len()])?)
}

/// The share of the true hits that were found.
pub fn recall(found: &[Ranking], truth: &[Ranking]) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for (found, truth) in found.iter().zip(truth) {
        all += truth.len();
        hits += truth.ids().iter().filter(|id| found.ids().contains(id)).count();
    }
    hits as f64 / all.max(1) as f64
}

/// Reads a matrix of `float32` in C order; returns its numbers and the length of its rows.
pub fn read_npy(path: &Path) -> Result<(Vec<f32>, usize)> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let read = || {
        let length = u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?);
        let header = std::str::from_utf8(bytes.get(10..10 + usize::from(length))?).ok()?;
        let plain = header.contains("'<f4'") && header.contains("'fortran_order': False");
        let shape = header.split("'shape': (").nth(1)?.split(')').next()?;
        let mut shape = shape.split(',').map(|size| size.trim().parse::<usize>());
        let (rows, dim) = (shape.next()?.ok()?, shape.next()?.ok()?);
        let (numbers, rest) = bytes[10 + usize::from(length)..].as_chunks::<4>();
        (plain && rest.is_empty() && dim > 0 && numbers.len() == rows.checked_mul(dim)?).then_some((numbers, dim))
    };
    let Some((numbers, dim)) = read() else { bail!("`{}` is no matrix of `float32`", path.display()) };
    Ok((numbers.iter().map(|&number| f32::from_le_bytes(number)).collect(), dim))
}

//! How a dense index grows: what it takes to build, and what a query takes, from ten thousand vectors to a million.
//!
//! The vectors are those of a file, taken again with noise as often as it takes: that tells costs, and how much of the
//! exact scan's hits the other forms find, but nothing of quality. Each size is built in a process of its own, so that
//! the most memory it held, the vectors included, is its own. One line of a table a form: exact scan, bytes, bits, and the graph, each with the
//! configuration's defaults.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use raglan::core::{ChunkId, ChunkSet, DenseVector};
use raglan::dense::{DenseConfig, DenseIndex, SearchMode, write_segment};
use raglan::kernels::l2_normalize;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::ThreadPoolBuilder;
use serde_json::json;

use crate::ann::{read_npy, recall, search};
use crate::report::{Report, folder_bytes, forget_peak_rss, peak_rss_mb, percentile, timed};

/// Queries that are asked.
const QUERIES: usize = 200;

/// How long the noise is that is added to a vector of length 1 when it is taken again.
const NOISE: f32 = 0.3;

/// Options of the area.
#[derive(Args)]
pub struct Scale {
    /// Vectors, `float32`, of unit length, as `.npy`
    #[arg(long)]
    base: PathBuf,
    /// Queries, likewise
    #[arg(long)]
    queries: PathBuf,
    /// Threads that build and search
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How many vectors are indexed, rising
    #[arg(long, default_value = "10000,100000", value_delimiter = ',')]
    sizes: Vec<usize>,
    /// What the noise follows from
    #[arg(long, default_value_t = 17)]
    seed: u64,
}

/// Measures each size, in a process of its own when there are several.
pub fn run(options: &Scale) -> Result<()> {
    if let [n] = options.sizes[..] {
        return measure(options, n);
    }
    for n in &options.sizes {
        let status = Command::new(std::env::current_exe()?)
            .arg("scale")
            .args([OsStr::new("--base"), options.base.as_os_str()])
            .args([OsStr::new("--queries"), options.queries.as_os_str()])
            .args(["--threads", &options.threads.to_string(), "--seed", &options.seed.to_string()])
            .args(["--sizes", &n.to_string()])
            .status()?;
        ensure!(status.success(), "{n} vectors: {status}");
    }
    Ok(())
}

fn measure(options: &Scale, n: usize) -> Result<()> {
    let (base, dim) = read_npy(&options.base)?;
    let (queries, query_dim) = read_npy(&options.queries)?;
    ensure!(dim == query_dim, "vectors of dimension {dim} and queries of dimension {query_dim}");
    let queries = queries
        .chunks_exact(dim)
        .take(QUERIES)
        .map(|query| DenseVector::new(query.to_vec()))
        .collect::<raglan::core::Result<Vec<_>>>()?;
    let vectors = replicated(base, dim, n, options.seed)?;
    let ids: Vec<ChunkId> = (0..n as u32).map(ChunkId).collect();
    let config = DenseConfig::default();
    let folder = tempfile::tempdir()?;
    forget_peak_rss(); // Reading the file took more than the vectors do.
    let (written, wall, cpu) = timed(|| write_segment(folder.path(), &ids, &vectors, dim, &config, options.threads));
    written?;
    let report = Report::new("scale", options.threads);
    let of_size = || json!({ "vectors": n });
    report.emit("build_s", wall, "s", of_size());
    report.emit("build_cpu_s", cpu, "s", of_size());
    report.emit("build_peak_rss", peak_rss_mb(), "MB", of_size());
    report.emit("index_bytes", folder_bytes(folder.path()) as f64, "bytes", of_size());
    eprintln!(
        "{n} vectors: {wall:.1} s ({cpu:.1} s of processors) to build, {:.0} MB of memory, {:.0} MB of files",
        peak_rss_mb(),
        folder_bytes(folder.path()) as f64 / 1e6,
    );
    drop((vectors, ids));

    let index = DenseIndex::open(&[folder.path().to_owned()], dim, &ChunkSet::new(), &config)?;
    let pool = ThreadPoolBuilder::new().num_threads(options.threads).build()?;
    let truth = pool.install(|| search(&index.clone().with_mode(SearchMode::Exact), &queries))?;
    eprintln!("| form | recall@10 | p50 ms | p99 ms |\n|---|---:|---:|---:|");
    let modes = [SearchMode::Exact, SearchMode::Int8, SearchMode::OneBit, SearchMode::Graph];
    for (form, mode) in ["exact", "int8", "1-bit", "graph"].into_iter().zip(modes) {
        let index = index.clone().with_mode(mode);
        // Not timed: it opens the graph, and brings the files into memory.
        let reached = recall(&pool.install(|| search(&index, &queries))?, &truth);
        let mut latency = Vec::new();
        for query in &queries {
            let started = Instant::now();
            pool.install(|| search(&index, std::slice::from_ref(query)))?;
            latency.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let (p50, p99) = (percentile(&mut latency, 50.0), percentile(&mut latency, 99.0));
        let params = json!({ "vectors": n, "form": form, "n": queries.len() });
        report.emit("recall_at_10", reached, "recall", params.clone());
        report.emit("query_p50", p50, "ms", params.clone());
        report.emit("query_p99", p99, "ms", params);
        eprintln!("| {form} | {reached:.4} | {p50:.2} | {p99:.2} |");
    }
    Ok(())
}

/// The first `n` vectors; where there are fewer, they come again with noise, of unit length.
fn replicated(mut vectors: Vec<f32>, dim: usize, n: usize, seed: u64) -> Result<Vec<f32>> {
    ensure!(!vectors.is_empty(), "there is no vector to take again");
    let n_own = vectors.len() / dim;
    vectors.truncate(n * dim);
    vectors.shrink_to_fit();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Uniform numbers within ±a have a deviation of a / √3.
    let most = NOISE * (3.0 / dim as f32).sqrt();
    vectors.reserve_exact(n * dim - vectors.len());
    for row in n_own..n {
        let at = row % n_own * dim;
        let first = vectors.len();
        for d in at..at + dim {
            vectors.push(vectors[d] + rng.random_range(-most..most));
        }
        l2_normalize(&mut vectors[first..], dim)?;
    }
    Ok(vectors)
}

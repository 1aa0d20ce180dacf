//! Late interaction over a collection: exact scores of every document against the compressed index.
//!
//! Quality is measured before anything is timed: nDCG and recall of either, and how many of the exact search's ten the
//! index finds. The exact search multiplies the query with every token, in `f32`, in memory; the index reads its
//! candidates' tokens from files that the system has in memory too. Both are given one thread, and both have the queries'
//! vectors: the time the model takes is not in it. Documents are cut to what the model reads.
//!
//! With `--scale`, collections of so many short chunks are built instead: pieces of the documents, over and over, each time
//! moved a little. That shows how cost grows, not quality; recall is that of a search of everything in the same index.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use raglan::core::{ChunkId, ChunkSet, Encoder, Hit, Ranking, TokenCounter, TokenMatrix, VectorIndex};
use raglan::datasets::{Qrels, Run, beir};
use raglan::embed::{TokenEncoder, TokenEncoderConfig, token_counter};
use raglan::eval::{Metric, evaluate};
use raglan::kernels::{PackedMatrix, l2_normalize, max_sim};
use raglan::late::{LateConfig, LateIndex, LateSegmentWriter, TokenStorage, write_late_segment};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::report::{Report, folder_bytes, peak_rss_mb, percentile, timed};

/// Options of the area.
#[derive(Args)]
pub struct Late {
    /// BEIR folder of a collection
    #[arg(long)]
    path: PathBuf,
    /// Folder of a model: of late interaction if it has `artifact.metadata` or `1_Dense`, of sentences otherwise
    #[arg(long)]
    model: PathBuf,
    /// Folder where the documents' vectors are kept from one run to the next, in half precision
    #[arg(long)]
    tokens: Option<PathBuf>,
    /// How tokens are stored, of f16, four_bit and two_bit
    #[arg(long, default_value = "four_bit,two_bit")]
    storage: String,
    /// Documents whose tokens the index looks at
    #[arg(long, default_value = "64,256,1024")]
    candidates: String,
    /// How many tokens become one vector
    #[arg(long, default_value_t = 1)]
    pool_factor: usize,
    /// Documents of the collection that are taken
    #[arg(long, default_value_t = usize::MAX)]
    n_documents: usize,
    /// Numbers of short chunks to build indexes of, instead of measuring quality
    #[arg(long)]
    scale: Option<String>,
    /// Tokens of a short chunk
    #[arg(long, default_value_t = 32)]
    chunk_tokens: usize,
    /// Threads that encode and index
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// A collection as vectors.
struct Vectors {
    name: String,
    ids: Vec<String>,
    documents: Vec<TokenMatrix>,
    queries: Vec<(String, TokenMatrix)>,
    qrels: Qrels,
}

/// Measures every way of storage.
pub fn run(options: &Late) -> Result<()> {
    let report = Report::new("late", options.threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let set = pool.install(|| encode(options, &report))?;
    let queries: Vec<TokenMatrix> = set.queries.iter().map(|(_, vectors)| vectors.clone()).collect();
    if let Some(sizes) = &options.scale {
        for n_chunks in sizes.split(',') {
            scale(options, &report, &set, n_chunks.parse()?, (&pool, &alone))?;
        }
        return Ok(());
    }
    let (exact, mut exact_s) = alone.install(|| asked(&queries, |query| exact_search(query, &set.documents)))?;
    let exact_p50 = percentile(&mut exact_s, 50.0) * 1e3;
    let n_tokens: usize = set.documents.iter().map(TokenMatrix::n_tokens).sum();
    let params = json!({ "set": set.name, "system": "exact", "documents": set.ids.len(), "tokens": n_tokens });
    quality(&report, &set, (&exact, &exact), &exact, &params);
    report.emit("query_p50", exact_p50, "ms", json!({ "set": set.name, "system": "exact", "threads": 1 }));
    for storage in options.storage.split(',') {
        let storage: TokenStorage = serde_json::from_value(json!(storage))?;
        let folder = tempfile::tempdir()?;
        let config = LateConfig { storage, pool_factor: options.pool_factor, ..LateConfig::default() };
        let chunks: Vec<ChunkId> = (0..set.ids.len() as u32).map(ChunkId).collect();
        let write = || pool.install(|| write_late_segment(folder.path(), &chunks, &set.documents, &config));
        let (written, wall, cpu) = timed(write);
        written?;
        let of_storage = json!({ "set": set.name, "system": storage, "pool_factor": options.pool_factor });
        report.emit("index_s", wall, "s", of_storage.clone());
        report.emit("index_cpu_s", cpu, "s", of_storage.clone());
        report.emit(
            "bytes_per_token",
            folder_bytes(folder.path()) as f64 / n_tokens as f64,
            "bytes",
            of_storage.clone(),
        );
        for n_candidates in options.candidates.split(',') {
            let config = LateConfig { n_candidates: n_candidates.parse()?, ..config.clone() };
            let index = LateIndex::open(&[folder.path().to_owned()], &ChunkSet::new(), &config)?;
            let mut params = of_storage.clone();
            params["candidates"] = json!(config.n_candidates);
            let search =
                |query: &TokenMatrix, k| Ok(index.search(std::slice::from_ref(query), k, &[None])?.swap_remove(0));
            let (ten, _) = alone.install(|| asked(&queries, |query| search(query, 10)))?;
            let (hundred, _) = alone.install(|| asked(&queries, |query| search(query, 100)))?;
            quality(&report, &set, (&ten, &hundred), &exact, &params);
            // The exact search again in between, so that both are timed on the same machine as others use it.
            let (mut index_s, mut exact_s) = (Vec::new(), Vec::new());
            for queries in queries.chunks(20).take(10) {
                let exact = |query: &TokenMatrix| exact_search(query, &set.documents);
                index_s.extend(alone.install(|| asked(queries, |query| search(query, 10)))?.1);
                exact_s.extend(alone.install(|| asked(&queries[..2.min(queries.len())], exact))?.1);
            }
            let (index_p50, exact_p50) = (percentile(&mut index_s, 50.0), percentile(&mut exact_s, 50.0));
            params["threads"] = json!(1);
            report.emit("query_p50", index_p50 * 1e3, "ms", params.clone());
            report.emit("query_p99", percentile(&mut index_s, 99.0) * 1e3, "ms", params.clone());
            report.emit("speed_up", exact_p50 / index_p50, "times exact", params);
        }
    }
    report.emit("peak_rss", peak_rss_mb(), "MB", json!({ "set": set.name }));
    Ok(())
}

/// How far each component of a repeated token may move: vectors of 384 dimensions keep a cosine of .98.
const MOVE: f32 = 0.018;
/// Chunks that are handed to the writer together.
const HANDED: usize = 512;
/// Queries that are timed, and searched for in everything.
const SCALE_QUERIES: usize = 50;

/// Builds an index of so many chunks and searches it.
fn scale(
    options: &Late,
    report: &Report,
    set: &Vectors,
    n_chunks: usize,
    (pool, alone): (&rayon::ThreadPool, &rayon::ThreadPool),
) -> Result<()> {
    let dim = set.queries[0].1.dim();
    let pieces: Vec<&[f32]> =
        set.documents.iter().flat_map(|document| document.as_slice().chunks(options.chunk_tokens * dim)).collect();
    anyhow::ensure!(!pieces.is_empty(), "the collection has no tokens");
    let folder = tempfile::tempdir()?;
    let config = LateConfig::default();
    let build = || -> Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut writer = LateSegmentWriter::create(folder.path(), &config)?;
        for first in (0..n_chunks).step_by(HANDED) {
            let mut texts = Vec::with_capacity(HANDED);
            for i in first..n_chunks.min(first + HANDED) {
                let mut rows = pieces[i % pieces.len()].to_vec();
                if i >= pieces.len() {
                    rows.iter_mut().for_each(|x| *x += rng.random_range(-MOVE..MOVE));
                    l2_normalize(&mut rows, dim)?;
                }
                texts.push(TokenMatrix::new(dim, rows)?);
            }
            writer.add(&texts)?;
        }
        Ok(writer.finish(&(0..n_chunks as u32).map(ChunkId).collect::<Vec<_>>(), &[])?)
    };
    let (built, wall, cpu) = timed(|| pool.install(build));
    built?;
    let params = json!({ "chunks": n_chunks, "chunk_tokens": options.chunk_tokens, "threads": options.threads });
    report.emit("build_s", wall, "s", params.clone());
    report.emit("build_cpu_s", cpu, "s", params.clone());
    report.emit("peak_rss", peak_rss_mb(), "MB", params.clone());
    report.emit("bytes", folder_bytes(folder.path()) as f64, "bytes", params.clone());
    let open = |n_candidates| {
        let config = LateConfig { n_candidates, ..config.clone() };
        LateIndex::open(&[folder.path().to_owned()], &ChunkSet::new(), &config)
    };
    let search = |index: &LateIndex, query: &TokenMatrix| {
        Ok(index.search(std::slice::from_ref(query), 10, &[None])?.swap_remove(0))
    };
    let queries: Vec<TokenMatrix> = set.queries.iter().take(SCALE_QUERIES).map(|(_, query)| query.clone()).collect();
    // An eighth of the candidates is read back, so that this is everything.
    let (index, everything) = (open(config.n_candidates)?, open(8 * n_chunks)?);
    let (exact, _) = pool.install(|| asked(&queries, |query| search(&everything, query)))?;
    let (found, mut seconds) = alone.install(|| asked(&queries, |query| search(&index, query)))?;
    let found_of = |(found, exact): (&Ranking, &Ranking)| {
        let ids = found.ids();
        exact.ids().iter().filter(|id| ids.contains(id)).count()
    };
    let n_found: usize = found.iter().zip(&exact).map(found_of).sum();
    let n_exact: usize = exact.iter().map(Ranking::len).sum();
    report.emit("recall@10", n_found as f64 / n_exact as f64, "score", params.clone());
    report.emit("query_p50", percentile(&mut seconds, 50.0) * 1e3, "ms", params.clone());
    report.emit("query_p99", percentile(&mut seconds, 99.0) * 1e3, "ms", params);
    Ok(())
}

/// The vectors of the collection; those of documents from where they were kept, if they were.
fn encode(options: &Late, report: &Report) -> Result<Vectors> {
    let collection = beir::read(&options.path, "test")?;
    let name = options.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let is_late = ["artifact.metadata", "1_Dense"].iter().any(|name| options.model.join(name).exists());
    let config = match is_late {
        true => TokenEncoderConfig::for_model(&options.model)?,
        false => TokenEncoderConfig::for_sentence_model(&options.model)?,
    };
    // What a tokenizer puts before and after a text, and a marker.
    let room = config.passage_tokens - 3;
    let encoder = TokenEncoder::load(&options.model, config, options.threads)?;
    let counter = token_counter(&options.model)?;
    let taken = collection.documents.into_iter().take(options.n_documents);
    let (ids, texts): (Vec<String>, Vec<String>) = taken.map(|d| (d.id, d.title + " " + &d.text)).unzip();
    let kept = options.tokens.as_deref().filter(|folder| folder.exists());
    let documents = match kept {
        Some(folder) => read_tokens(folder)?,
        None => {
            let cut = texts.iter().map(|text| cut(text, &*counter, room)).collect::<Result<Vec<&str>>>()?;
            let (documents, seconds, _) = timed(|| encoder.encode_passages(&cut));
            report.emit("encode_docs_per_s", cut.len() as f64 / seconds, "docs/s", json!({ "set": name }));
            documents?
        }
    };
    anyhow::ensure!(documents.len() == ids.len(), "the vectors that were kept are of another collection");
    if let (None, Some(folder)) = (kept, &options.tokens) {
        std::fs::create_dir(folder)?;
        let config = LateConfig { storage: TokenStorage::F16, iterations: 0, ..LateConfig::default() };
        write_late_segment(folder, &(0..ids.len() as u32).map(ChunkId).collect::<Vec<_>>(), &documents, &config)?;
    }
    let judged = collection.queries.into_iter().filter(|query| collection.qrels.contains_query(&query.id));
    let (query_ids, texts): (Vec<String>, Vec<String>) = judged.map(|query| (query.id, query.text)).unzip();
    let vectors = encoder.encode_queries(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(Vectors { name, ids, documents, queries: query_ids.into_iter().zip(vectors).collect(), qrels: collection.qrels })
}

fn read_tokens(folder: &Path) -> Result<Vec<TokenMatrix>> {
    let index = LateIndex::open(&[folder.to_owned()], &ChunkSet::new(), &LateConfig::default())?;
    index.segment_tokens(0).map(|token| Ok(token?.1)).collect()
}

/// As much of a text as there are tokens for.
fn cut<'a>(text: &'a str, counter: &dyn TokenCounter, n_tokens: usize) -> Result<&'a str> {
    let spans = counter.token_spans(text)?;
    Ok(if spans.len() <= n_tokens { text } else { &text[..spans[n_tokens - 1].end] })
}

/// What is found for each query, and how long each took.
fn asked(
    queries: &[TokenMatrix],
    search: impl Fn(&TokenMatrix) -> Result<Ranking>,
) -> Result<(Vec<Ranking>, Vec<f64>)> {
    let (mut rankings, mut seconds) = (Vec::new(), Vec::new());
    for query in queries {
        let started = Instant::now();
        rankings.push(search(query)?);
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok((rankings, seconds))
}

/// The best hundred of all documents.
fn exact_search(query: &TokenMatrix, documents: &[TokenMatrix]) -> Result<Ranking> {
    let packed = PackedMatrix::new(query.as_slice(), query.n_tokens(), query.dim())?;
    let hits = documents.iter().enumerate().map(|(chunk, document)| {
        let mut score = [0.0];
        max_sim(&packed, document.as_slice(), &[document.n_tokens()], &mut score)?;
        Ok(Hit::new(ChunkId(chunk as u32), score[0]))
    });
    Ok(Ranking::best(hits.collect::<Result<_>>()?, 100)?)
}

/// nDCG of a search for ten, recall of one for a hundred, and how many of the exact search's ten the former found.
fn quality(
    report: &Report,
    set: &Vectors,
    (ten, hundred): (&[Ranking], &[Ranking]),
    exact: &[Ranking],
    params: &serde_json::Value,
) {
    for (rankings, label, metric) in
        [(ten, "ndcg@10", Metric::Ndcg { k: Some(10) }), (hundred, "recall@100", Metric::Recall { k: 100 })]
    {
        let mut run = Run::default();
        for ((id, _), ranking) in set.queries.iter().zip(rankings) {
            ranking.hits().iter().for_each(|hit| run.insert(id, &set.ids[hit.chunk.0 as usize], hit.score));
        }
        report.emit(label, evaluate(&run, &set.qrels, metric).mean, "score", params.clone());
    }
    let (mut hits, mut all) = (0, 0);
    for (found, exact) in ten.iter().zip(exact) {
        let (found, exact) = (found.ids(), exact.ids());
        let best = &exact[..exact.len().min(10)];
        all += best.len();
        hits += best.iter().filter(|id| found[..found.len().min(10)].contains(id)).count();
    }
    report.emit("recall@10 of exact", hits as f64 / all as f64, "score", params.clone());
}

//! `raglan eval beir`

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use raglan::datasets::beir::{self, Collection, Query};
use raglan::datasets::{Qrels, download};
use raglan::dense::DenseConfig;
use raglan::embed::LongInputs;
use raglan::eval::{CollectionStamp, Latency, Metric, ResultFile, StageResult, Stamp, evaluate};
use raglan::model::registry::Progress as _;
use raglan::pipeline::{Recipe, RescoreSpec, Rescorer, StageSpec};
use raglan::{BuildSettings, CollectionRun, Encoders, Index, IndexReport, index_collection};

use crate::args::BeirCommand;
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

/// What is always computed.
const METRICS: [&str; 5] = ["ndcg@10", "recall@100", "map@100", "mrr@10", "p@10"];

pub fn run(session: &mut Session, command: &BeirCommand) -> Result<Outcome> {
    let recipe = raglan::recipe_with(&command.recipe, &command.set)?;
    let mut metrics: Vec<Metric> = Vec::new();
    for name in METRICS.into_iter().chain(command.metrics.iter().map(String::as_str)) {
        let metric = name.parse()?;
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    }
    let path = folder(session, command)?;
    let collection = beir::read(&path, &command.split)?;
    let mut queries: Vec<&Query> =
        collection.queries.iter().filter(|query| collection.qrels.contains_query(&query.id)).collect();
    if queries.is_empty() {
        bail!("`{}`: no query of split `{}` is in queries.jsonl", path.display(), command.split);
    }
    let mut qrels = collection.qrels.clone();
    if let Some(limit) = command.limit {
        queries.truncate(limit);
        qrels = Qrels::default();
        for query in &queries {
            for (document, &grade) in collection.qrels.iter().find(|(id, _)| *id == query.id).expect("it is judged").1 {
                qrels.insert(&query.id, document, grade);
            }
        }
    }

    // Documents are read as far as published figures do, unless they are to be read whole.
    let mut models = session.models.settings().clone();
    if models.long_inputs == LongInputs::Refuse {
        models.long_inputs = LongInputs::Cut;
    }
    session.models.set_settings(models);
    let (index, report) = open(session, command, &path, &recipe, &collection)?;
    let started = Instant::now();
    let found = {
        let judged = command.judged.then_some(&qrels);
        index.run_collection(&recipe, &queries, command.depth, judged, &mut |_| !STOP.load(Ordering::Relaxed))?
    };
    let search_seconds = started.elapsed().as_secs_f64();
    if found.seconds.len() < queries.len() {
        bail!("interrupted after {} of {} queries", found.seconds.len(), queries.len());
    }

    let passport = index.snapshot().passport();
    let models = passport.embedder.iter().chain(passport.models.values());
    let mut result = ResultFile {
        recipe: Stamp { name: command.recipe.clone(), hash: format!("blake3:{}", recipe.hash()) },
        collection: stamp(&path, command, &collection, queries.len()),
        models: models
            .map(|model| Stamp { name: model.name.clone(), hash: format!("sha256:{}", model.weights_sha256) })
            .collect(),
        revision: env!("CARGO_PKG_VERSION").to_owned(),
        device: raglan::kernels::device::cpu_features().join(" "),
        threads: session.threads,
        index_seconds: report.timings.total_s,
        search_seconds,
        peak_memory: peak_memory(),
        stages: stages(&found, &qrels, command.depth),
        ..ResultFile::default()
    };
    result.score(&found.run, &qrels, &metrics);
    result.time(queries.iter().zip(&found.seconds).map(|(query, seconds)| (query.id.as_str(), seconds * 1e3)));
    if let Some(folder) = &command.out {
        std::fs::create_dir_all(folder).with_context(|| format!("`{}`", folder.display()))?;
        found.run.write_trec(&folder.join("run.trec"), &command.recipe)?;
        for stage in &found.stages {
            found_stage_file(folder, &stage.stage).and_then(|path| Ok(stage.run.write_trec(&path, &stage.stage)?))?;
        }
        result.write(&folder.join("result.json"))?;
    }
    if session.json {
        output::json(&result)?;
    } else {
        print(&result);
    }
    Ok(Outcome::Success)
}

/// The collection's folder, downloaded when it is asked for by name.
fn folder(session: &Session, command: &BeirCommand) -> Result<PathBuf> {
    let Some(name) = &command.dataset else {
        return Ok(command.path.clone().expect("the arguments have a path or a name"));
    };
    let shelf = session.models.cache().dir().join("datasets");
    if session.models.cache().is_offline() && !shelf.join(name).is_dir() {
        bail!("`{name}` is not in `{}`, and `--offline` fetches nothing; `--path DIR` takes a folder", shelf.display());
    }
    let mut known = 0;
    let found = download::beir(name, &shelf, &mut |have, total| {
        if known == 0 {
            session.bars.start(&format!("downloading {name}"), total);
        }
        session.bars.advance(have - known);
        known = have;
        !STOP.load(Ordering::Relaxed)
    });
    session.bars.clear();
    Ok(found?)
}

/// The collection's index with all that the recipe needs, and what had to be done for it.
fn open(
    session: &Session,
    command: &BeirCommand,
    path: &Path,
    recipe: &Recipe,
    collection: &Collection,
) -> Result<(Index, IndexReport)> {
    let names = encoder_names(session);
    let needed = needed_encoders(session, recipe)?;
    // An index in the cache is of one corpus and of one choice of models.
    let mut key = blake3::Hasher::new();
    key.update(corpus_hash(collection).as_bytes());
    for part in names.iter().map(String::as_str).chain(["precision", "language"].map(|key| session.settings.text(key)))
    {
        key.update(part.as_bytes()).update(b"\n");
    }
    // Only what is not the default, which was there before these settings.
    for (setting, text, _) in session.settings.iter().filter(|(setting, text, _)| *text != setting.default) {
        if ["sparse-words", "sparse-min-weight", "sparse-activation"].contains(&setting.key) {
            key.update(setting.key.as_bytes()).update(b"=").update(text.as_bytes()).update(b"\n");
        } else if ["pooling", "truncate-dim", "long-inputs", "line-windows"].contains(&setting.key) {
            key.update(format!("{} {text}\n", setting.key).as_bytes());
        }
    }
    let folder = match session.settings.path("index") {
        Some(folder) => folder,
        None => {
            let name = collection_name(path);
            session.models.cache().dir().join("collections").join(format!("{name}-{}", &key.finalize().to_hex()[..16]))
        }
    };
    if command.fresh && folder.join("manifest.json").is_file() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("`{}`", folder.display()))?;
    }
    let present = match raglan::store::Passport::read(&folder) {
        Ok(passport) => session.models.encoders_of(&passport)?,
        Err(_) => Encoders::default(),
    };
    let encoders = needed.or(present);
    let build = BuildSettings {
        prefix_headings: false,
        analyzer: session.analyzer()?,
        dense: DenseConfig { graph_from: 0, ..DenseConfig::default() },
        ..BuildSettings::new(encoders.clone(), session.threads)
    };
    let report = index_collection(&folder, &collection.documents, &build, &*session.bars, &STOP);
    session.bars.clear();
    let report =
        report.with_context(|| format!("the collection's index `{}`; `--fresh` makes it anew", folder.display()))?;
    if report.interrupted {
        bail!("interrupted while indexing; what was done is kept, and the next run goes on from here");
    }
    Ok((Index::open(&folder, |_| Ok(encoders))?.with_models(session.models.clone()), report))
}

/// The names of dense, learned sparse and late encoders: those of the settings, the usual ones where there is none.
fn encoder_names(session: &Session) -> [String; 3] {
    [("embedder", "all-minilm-l6-v2"), ("sparse", "splade-tiny"), ("late", "all-minilm-l6-v2")].map(|(key, usual)| {
        match session.settings.text(key) {
            "none" => usual.to_owned(),
            name => name.to_owned(),
        }
    })
}

/// The encoders whose vectors a recipe's stages need.
pub(super) fn needed_encoders(session: &Session, recipe: &Recipe) -> Result<Encoders> {
    let names = encoder_names(session);
    let needs = Needs::of(recipe);
    Ok(Encoders {
        dense: needs.dense.then(|| session.models.embedder(&names[0])).transpose()?,
        sparse: needs.sparse.then(|| session.models.sparse_embedder(&names[1])).transpose()?,
        late: needs.late.then(|| session.models.late_embedder(&names[2])).transpose()?,
    })
}

/// The kinds of vectors that a recipe's stages need.
#[derive(Default)]
struct Needs {
    dense: bool,
    sparse: bool,
    late: bool,
}

impl Needs {
    fn of(recipe: &Recipe) -> Self {
        let mut needs = Self::default();
        for stage in recipe.all_stages() {
            match stage.spec {
                StageSpec::Dense(_) => needs.dense = true,
                StageSpec::Sparse(_)
                | StageSpec::Rescore(RescoreSpec { by: Rescorer::Sparse | Rescorer::SparseInferenceFree, .. }) => {
                    needs.sparse = true;
                }
                StageSpec::Late(_) | StageSpec::Rescore(RescoreSpec { by: Rescorer::Late, .. }) => needs.late = true,
                _ => {}
            }
        }
        needs
    }
}

/// What came of each stage that gives a ranking.
fn stages(found: &CollectionRun, qrels: &Qrels, depth: usize) -> Vec<StageResult> {
    let mut before: Option<f64> = None;
    let mut results = Vec::new();
    for stage in &found.stages {
        let recall_after = evaluate(&stage.run, qrels, Metric::Recall { k: depth }).mean;
        results.push(StageResult {
            name: stage.stage.clone(),
            recall_before: before.filter(|_| !stage.is_first),
            recall_after,
            latency_ms: Latency::of(stage.seconds.iter().map(|seconds| seconds * 1e3)),
        });
        before = Some(before.map_or(recall_after, |best| best.max(recall_after)));
    }
    results
}

fn found_stage_file(folder: &Path, stage: &str) -> Result<PathBuf> {
    let name: String = stage.chars().map(|c| if c.is_alphanumeric() || "-_".contains(c) { c } else { '_' }).collect();
    let folder = folder.join("stages");
    std::fs::create_dir_all(&folder).with_context(|| format!("`{}`", folder.display()))?;
    Ok(folder.join(format!("{name}.trec")))
}

pub(super) fn collection_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| "collection".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn stamp(path: &Path, command: &BeirCommand, collection: &Collection, n_queries: usize) -> CollectionStamp {
    let mut queries = blake3::Hasher::new();
    for query in &collection.queries {
        queries.update(query.id.as_bytes()).update(b"\0").update(query.text.as_bytes()).update(b"\0");
    }
    let mut qrels = blake3::Hasher::new();
    for (query, grades) in collection.qrels.iter() {
        for (document, grade) in grades {
            qrels.update(format!("{query}\0{document}\0{grade}\0").as_bytes());
        }
    }
    CollectionStamp {
        name: collection_name(path),
        split: command.split.clone(),
        corpus_hash: format!("blake3:{}", corpus_hash(collection)),
        queries_hash: format!("blake3:{}", queries.finalize().to_hex()),
        qrels_hash: format!("blake3:{}", qrels.finalize().to_hex()),
        n_documents: collection.documents.len(),
        n_queries,
    }
}

fn corpus_hash(collection: &Collection) -> String {
    let mut hasher = blake3::Hasher::new();
    for document in &collection.documents {
        for text in [&document.id, &document.title, &document.text] {
            hasher.update(text.as_bytes()).update(b"\0");
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// The most memory that this process held, in bytes; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.unwrap_or(0_u64) * 1024
}

fn print(result: &ResultFile) {
    let collection = &result.collection;
    println!(
        "{} ({}): {} documents, {} queries; recipe {}",
        collection.name, collection.split, collection.n_documents, collection.n_queries, result.recipe.name
    );
    for (metric, value) in &result.metrics {
        println!("  {metric:12} {value:.4}");
    }
    let latency = &result.latency_ms;
    println!("  latency      p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms", latency.p50, latency.p95, latency.p99);
    for stage in &result.stages {
        println!(
            "  stage {:10} recall {:.4}, p50 {:.2} ms, p95 {:.2} ms",
            stage.name, stage.recall_after, stage.latency_ms.p50, stage.latency_ms.p95
        );
    }
}

//! `raglan eval beir`

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use raglan::datasets::beir::{self, Collection, Query};
use raglan::datasets::{Qrels, download};
use raglan::dense::DenseConfig;
use raglan::embed::LongInputs;
use raglan::eval::{CollectionStamp, Latency, Metric, ModelCost, ResultFile, StageResult, Stamp, evaluate};
use raglan::model::registry::Progress as _;
use raglan::pipeline::{Recipe, RescoreSpec, Rescorer, SetScoring, StageSpec, TreeSearchSpec};
use raglan::{BuildSettings, CollectionRun, Encoders, Index, IndexReport, Models, index_collection};

use crate::args::{BeirCommand, DEFAULT_DEPTH};
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

/// What is always computed.
const METRICS: [&str; 5] = ["ndcg@10", "recall@100", "map@100", "mrr@10", "p@10"];

pub fn run(session: &mut Session, command: &BeirCommand) -> Result<Outcome> {
    let recipe = raglan::recipe_with(&command.recipe, &command.set)?;
    session.models.check_recipe(&recipe)?; // Before a collection is indexed in vain.
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
    let n_unknown = collection.qrels.iter().count() - queries.len();
    if n_unknown > 0 {
        let (noun, verb) = if n_unknown == 1 { ("query", "is") } else { ("queries", "are") };
        say!("{n_unknown} judged {noun} {verb} not in queries.jsonl, and left out");
    }
    queries.truncate(command.limit.unwrap_or(usize::MAX));
    let mut qrels = Qrels::default();
    for query in &queries {
        for (document, &grade) in collection.qrels.iter().find(|(id, _)| *id == query.id).expect("it is judged").1 {
            qrels.insert(&query.id, document, grade);
        }
    }
    if collection.documents.is_empty() {
        bail!("`{}` has no documents in its corpus", path.display());
    }
    tell_unreachable(&collection, &qrels);
    if let Some(folder) = &command.out {
        std::fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
        let ids = queries.iter().map(|query| &query.id).chain(collection.documents.iter().map(|document| &document.id));
        if let Some(id) = ids.into_iter().find(|id| id.contains(char::is_whitespace)) {
            bail!("the id `{id}` holds white space, which runs in TREC's format cannot: leave out `--out`");
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
        bail!("interrupted after {} of {}", found.seconds.len(), output::count(queries.len(), "query"));
    }

    let passport = index.snapshot().passport();
    let needs = Needs::of(&recipe);
    let further = [("sparse", needs.sparse), ("late", needs.late), ("ngrams", needs.ngrams), ("graph", needs.graph)];
    let further = further.into_iter().filter(|(_, needed)| *needed);
    let dense = passport.embedder.iter().filter(|_| needs.dense);
    let models = dense.chain(further.filter_map(|(part, _)| passport.models.get(part)));
    let of_stages = session.models.of_recipe(&recipe)?;
    let mut result = ResultFile {
        recipe: Stamp { name: command.recipe.clone(), hash: format!("blake3:{}", recipe.hash()) },
        options: options(command),
        collection: stamp(&path, command, &collection, queries.len()),
        models: models
            .map(|model| Stamp { name: model.name.clone(), hash: format!("sha256:{}", model.weights_sha256) })
            .chain(of_stages.into_iter().map(|(name, hash)| Stamp { name, hash: format!("sha256:{hash}") }))
            .collect(),
        revision: env!("CARGO_PKG_VERSION").to_owned(),
        device: raglan::kernels::device::cpu_features().join(" "),
        threads: session.threads,
        index_seconds: report.timings.total_s,
        search_seconds,
        peak_memory: peak_memory(),
        model_cost: ModelCost::of(&found.costs),
        stages: stages(&found, &qrels, command.depth),
        ..ResultFile::default()
    };
    result.score(&found.run, &qrels, &metrics);
    result.time(queries.iter().zip(&found.seconds).map(|(query, seconds)| (query.id.as_str(), seconds * 1e3)));
    if let Some(folder) = &command.out {
        found.run.write_trec(&folder.join("run.trec"), &tag(&command.recipe))?;
        remove_stages(folder)?;
        for stage in &found.stages {
            let path = found_stage_file(folder, &stage.stage)?;
            stage.run.write_trec(&path, &tag(&stage.stage))?;
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

/// What was asked for besides the recipe and the collection, where it is not the usual.
fn options(command: &BeirCommand) -> BTreeMap<String, String> {
    let depth = Some(command.depth).filter(|&depth| depth != DEFAULT_DEPTH);
    let set = Some(command.set.join(", ")).filter(|set| !set.is_empty());
    let given = [
        ("limit", command.limit.map(|limit| limit.to_string())),
        ("depth", depth.map(|depth| depth.to_string())),
        ("judged", command.judged.then(String::new)),
        ("set", set),
    ];
    given.into_iter().filter_map(|(option, value)| Some((option.to_owned(), value?))).collect()
}

/// Says what judgements can never be met: documents that are not there, and those that are left out as the query itself.
fn tell_unreachable(collection: &Collection, qrels: &Qrels) {
    let ids: HashSet<&str> = collection.documents.iter().map(|document| document.id.as_str()).collect();
    let relevant = || {
        let graded = qrels.iter().flat_map(|(query, grades)| grades.iter().map(move |(id, &grade)| (query, id, grade)));
        graded.filter(|(.., grade)| *grade >= 1)
    };
    let absent = relevant().filter(|(_, id, _)| !ids.contains(id.as_str())).count();
    if absent > 0 {
        say!("{} not in the corpus, and cannot be found", output::count(absent, "relevant document"));
    }
    let own = relevant().filter(|(query, id, _)| query == id).count();
    if own > 0 {
        let own = output::count(own, "relevant document");
        say!("{own} with the id of the query itself, and left out of its list, as BEIR does");
    }
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
    for part in
        names[..3].iter().map(String::as_str).chain(["precision", "language"].map(|key| session.settings.text(key)))
    {
        key.update(part.as_bytes()).update(b"\n");
    }
    // Only what is not the default, which was there before these settings.
    for (setting, text, _) in session.settings.iter().filter(|(setting, text, _)| *text != setting.default) {
        if ["sparse-words", "sparse-min-weight", "sparse-activation"].contains(&setting.key) {
            key.update(setting.key.as_bytes()).update(b"=").update(text.as_bytes()).update(b"\n");
        } else if ["ngrams", "graph", "pooling", "truncate-dim", "long-inputs", "line-windows"].contains(&setting.key) {
            key.update(format!("{} {text}\n", setting.key).as_bytes());
        }
    }
    let shelf = super::shelf(session);
    let folder = session
        .settings
        .path("index")
        .unwrap_or_else(|| shelf.join(format!("{}-{}", collection_name(path), &key.finalize().to_hex()[..16])));
    if command.fresh && folder.exists() {
        remove(&folder, &shelf)?;
    }
    let present = match raglan::store::Passport::read(&folder) {
        Ok(passport) => session.models.encoders_of(&passport, &folder),
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

/// Removes an index of a collection, while no other process writes to it: one on our own shelf, or one whose passport says
/// that it is of a collection.
fn remove(folder: &Path, shelf: &Path) -> Result<()> {
    let is_of_collection = raglan::store::Passport::read(folder).is_ok_and(|passport| passport.root.is_none());
    if !is_of_collection && folder.parent() != Some(shelf) {
        bail!(
            "`{}` is not the index of a collection: `--fresh` removes no other; name another folder",
            folder.display()
        );
    }
    raglan::store::remove_index(folder)?;
    Ok(())
}

/// The names of what makes the parts of an index: those of the settings, the usual ones where there is none.
fn encoder_names(session: &Session) -> [String; 5] {
    let usual = [
        ("embedder", "all-minilm-l6-v2"),
        ("sparse", "splade-tiny"),
        ("late", "all-minilm-l6-v2"),
        ("ngrams", "smollm2-135m-instruct"),
        ("graph", Models::RULES),
    ];
    usual.map(|(key, usual)| match session.settings.text(key) {
        "none" => usual.to_owned(),
        name => name.to_owned(),
    })
}

/// What makes the parts of an index that a recipe's stages need.
pub(super) fn needed_encoders(session: &Session, recipe: &Recipe) -> Result<Encoders> {
    let names = encoder_names(session);
    let needs = Needs::of(recipe);
    Ok(Encoders {
        dense: needs.dense.then(|| session.models.embedder(&names[0])).transpose()?,
        sparse: needs.sparse.then(|| session.models.sparse_embedder(&names[1])).transpose()?,
        late: needs.late.then(|| session.models.late_embedder(&names[2])).transpose()?,
        ngrams: needs.ngrams.then(|| session.models.ngram_tokenizer(&names[3])).transpose()?,
        graph: needs.graph.then(|| session.models.graph_extractor(&names[4])).transpose()?,
    })
}

/// The parts of an index that a recipe's stages need.
#[derive(Default)]
struct Needs {
    dense: bool,
    sparse: bool,
    late: bool,
    ngrams: bool,
    graph: bool,
}

impl Needs {
    fn of(recipe: &Recipe) -> Self {
        let mut needs = Self::default();
        for stage in recipe.all_stages() {
            match stage.spec {
                StageSpec::Dense(_)
                | StageSpec::Examples(_)
                | StageSpec::Focus(_)
                | StageSpec::GatedDense(_)
                | StageSpec::MarginalRelevance(_)
                | StageSpec::Questions(_)
                | StageSpec::Submodular(_)
                | StageSpec::TreeSearch(TreeSearchSpec { by: SetScoring::Cosine, .. }) => needs.dense = true,
                StageSpec::Sparse(_)
                | StageSpec::Rescore(RescoreSpec { by: Rescorer::Sparse | Rescorer::SparseInferenceFree, .. }) => {
                    needs.sparse = true;
                }
                StageSpec::Late(_) | StageSpec::Rescore(RescoreSpec { by: Rescorer::Late, .. }) => needs.late = true,
                StageSpec::Ngrams(_) => needs.ngrams = true,
                // Its entities have vectors.
                StageSpec::Graph(_) => (needs.graph, needs.dense) = (true, true),
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
            model_cost: ModelCost::of(&stage.costs),
        });
        before = Some(before.map_or(recall_after, |best| best.max(recall_after)));
    }
    results
}

/// Removes the runs of the stages of an earlier recipe.
fn remove_stages(folder: &Path) -> Result<()> {
    let stages = folder.join("stages");
    let Ok(files) = std::fs::read_dir(&stages) else { return Ok(()) };
    for file in files.flatten().map(|file| file.path()).filter(|file| file.extension().is_some_and(|end| end == "trec"))
    {
        std::fs::remove_file(&file).with_context(|| format!("`{}` cannot be removed", file.display()))?;
    }
    Ok(())
}

/// A name as the last column of a run in TREC's format, which has no white space.
fn tag(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join("_")
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
        "{} ({}): {}, {}; recipe {}",
        collection.name,
        collection.split,
        output::count(collection.n_documents, "document"),
        output::count(collection.n_queries, "query"),
        result.recipe.name
    );
    for (metric, value) in &result.metrics {
        println!("  {metric:12} {value:.4}");
    }
    let latency = &result.latency_ms;
    println!("  latency      p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms", latency.p50, latency.p95, latency.p99);
    if let Some(cost) = &result.model_cost {
        println!("  models       {cost} a query");
    }
    for stage in &result.stages {
        println!(
            "  stage {:10} recall {:.4}, p50 {:.2} ms, p95 {:.2} ms",
            stage.name, stage.recall_after, stage.latency_ms.p50, stage.latency_ms.p95
        );
    }
}

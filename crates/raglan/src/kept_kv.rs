//! Keys and values of a language model that are kept beside an index.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raglan_core::{ChunkId, ChunkStore, DocId, Document, Passage};
use raglan_generate::ChatGenerator;
use raglan_generate::reuse::{KvKeeper, PassageOrder, ReuseMethod, SafetySwitch};
use raglan_kv::{BlockPrecision, CacheLimits, CacheUsage, ChunkCache, DriftRecord};
use raglan_store::Snapshot;
use serde::Serialize;

use crate::index::Index;
use crate::{Error, Result};

/// Passages whose keys and values are computed together and written before the next.
const WARM_AT_ONCE: usize = 8;
/// The folder of an index in which they are; all of it may be deleted at any time.
const FOLDER: &str = "kv";

/// The usual share of questions on which a method that changes answers is tested.
pub const KV_SHADOW: f64 = 0.05;
/// The usual bound of its mean divergence, in nats: below what blocks are off that are taken as they are (.93 on
/// MuSiQue's prompts), and above what the better methods are.
pub const KV_DRIFT: f64 = 0.5;

/// Where keys and values are kept, and how they are used.
#[derive(Clone, Debug)]
pub struct KvSettings {
    /// The index whose chunks they are of.
    pub index: PathBuf,
    /// How they are used.
    pub method: ReuseMethod,
    /// Whether the method's parameters are those that were chosen for the model by `raglan eval kv --calibrate`, where
    /// some were.
    pub calibrated: bool,
    /// The order in which prompts show passages.
    pub order: PassageOrder,
    /// How exactly they are kept.
    pub precision: BlockPrecision,
    /// How much they may take.
    pub limits: CacheLimits,
    /// The share of the questions on which a method that changes answers is tested, 0 to 1. With 0 it is used untested.
    pub shadow: f64,
    /// The mean divergence of the last tests from computing all, in nats, above which it is not used.
    pub drift: f64,
}

/// How the keys and values of chunks are kept that a language model's attention judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JudgedKv {
    /// How exactly.
    pub precision: BlockPrecision,
    /// How much they may take, together with those of answers by the same model.
    pub limits: CacheLimits,
}

impl KvSettings {
    /// The usual ones for an index.
    pub fn new(index: impl Into<PathBuf>) -> Self {
        Self {
            index: index.into(),
            method: ReuseMethod::DEFAULT,
            calibrated: false,
            order: PassageOrder::default(),
            precision: BlockPrecision::default(),
            limits: CacheLimits::default(),
            shadow: KV_SHADOW,
            drift: KV_DRIFT,
        }
    }

    /// Reads prompts with what is kept for a model: its name, and what its weights' files hash to.
    pub(crate) fn keeper(&self, model: &str, weights: &str) -> Result<KvKeeper> {
        let folder = kept_folder(&self.index, model, weights)?;
        let switch = SafetySwitch::new(DriftRecord::new(&folder), self.shadow, self.drift)?;
        let limits = limits_of(self.method, self.limits);
        // Nothing is written that would have to go at once.
        let chunks = ChunkCache::open((limits.disk_bytes > 0).then_some(folder), limits).map_err(kept)?;
        let keeper = KvKeeper::new(self.method, self.precision, Arc::new(chunks), weights);
        Ok(keeper.ordered_by(self.order).watched_by(switch))
    }
}

/// What blocks may take by a method. Where whole beginnings are what is taken over, memory has these already.
pub(crate) fn limits_of(method: ReuseMethod, limits: CacheLimits) -> CacheLimits {
    let memory_bytes = if method.is_exact() { 0 } else { limits.memory_bytes };
    CacheLimits { memory_bytes, ..limits }
}

/// What is kept for one model.
#[derive(Clone, Debug, Serialize)]
pub struct KeptKv {
    /// The model's name and the beginning of its weights' hash.
    pub model: String,
    /// Blocks of chunks.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Passages of prompts whose block was there.
    pub hits: u64,
    /// Passages that had none.
    pub misses: u64,
    /// Tokens that did not have to be computed.
    pub saved_tokens: u64,
    /// What is known of the methods that change answers.
    pub drift: Vec<KvDrift>,
}

/// How far answers by a method were from those of computing all, in its last tests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvDrift {
    /// The method.
    pub method: String,
    /// How blocks were kept.
    pub precision: String,
    /// Questions that it was asked for while it was within the bound or untested.
    pub questions: u64,
    /// Tests, ever; the rest is of the last sixteen at most.
    pub tests: u64,
    /// The mean divergence of what followed, in nats a token; none without a test.
    pub mean_kl: Option<f64>,
    /// The share of places at which the best token was the same.
    pub top1: Option<f64>,
    /// The share of tests in which all greedy tokens were.
    pub greedy_equal: Option<f64>,
}

/// What is on record in the folder of a model, one entry a method, precision and way to multiply.
fn drift(folder: &Path) -> Result<Vec<KvDrift>> {
    let all = DriftRecord::new(folder).all().map_err(kept)?;
    let told = |(key, drift): (raglan_kv::DriftKey, raglan_kv::Drift)| KvDrift {
        method: key.method,
        precision: key.precision.to_string(),
        questions: drift.n_questions,
        tests: drift.n_samples,
        mean_kl: drift.mean_kl(),
        top1: drift.top1(),
        greedy_equal: drift.greedy_equal(),
    };
    Ok(all.into_iter().map(told).collect())
}

/// What is kept beside an index, model by model.
pub(crate) fn kept_kv(index: &Path) -> Result<Vec<KeptKv>> {
    let folders = folders(index)?;
    let usage = |folder: PathBuf| {
        let model = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let drift = drift(&folder)?;
        let cache = ChunkCache::open(Some(folder), CacheLimits::default()).map_err(kept)?;
        let CacheUsage { blocks, bytes, hits, misses, saved_tokens } = cache.usage();
        Ok(KeptKv { model, blocks, bytes, hits, misses, saved_tokens, drift })
    };
    folders.into_iter().map(usage).collect()
}

/// What came of computing keys and values before questions need them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WarmReport {
    /// Passages that were wanted.
    pub wanted: usize,
    /// Those whose keys and values were computed now.
    pub computed: usize,
    /// Those that the budget left no room for.
    pub no_room: usize,
    /// Whether it was ended before all were looked at.
    pub interrupted: bool,
}

impl Index {
    /// Computes the keys and values of `limit` passages before questions need them, and writes them beside the index, as
    /// far as the budget reaches: those first that questions found most often, the others in the order of the index.
    /// `on_done` is told how many passages have been looked at, and may end it.
    ///
    /// # Errors
    ///
    /// Damaged files; keys and values that cannot be computed or written.
    pub fn warm(
        &self,
        generator: &ChatGenerator,
        limit: usize,
        on_done: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<WarmReport> {
        let store = self.snapshot();
        let Some(keeper) = generator.keeper() else { return Ok(WarmReport::default()) };
        let asked: BTreeMap<ChunkId, u64> = keeper.chunks().asked().into_iter().collect();
        let mut ids: Vec<ChunkId> = store.live_chunks()?.iter().collect();
        ids.sort_by_key(|id| std::cmp::Reverse(asked.get(id).copied().unwrap_or(0)));
        ids.truncate(limit);
        let mut documents: BTreeMap<DocId, Arc<Document>> = BTreeMap::new();
        let mut report = WarmReport { wanted: ids.len(), ..WarmReport::default() };
        let mut n_done = 0;
        for ids in ids.chunks(WARM_AT_ONCE) {
            let mut passages = Vec::with_capacity(ids.len());
            for chunk in store.chunks(ids)? {
                let document = match documents.entry(chunk.doc) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => new.insert(store.document(chunk.doc)?).clone(),
                };
                passages.push(Passage { chunk, document, score: 0.0 });
            }
            let (computed, no_room) = generator.warm(&passages)?;
            keeper.chunks().flush().map_err(kept)?;
            report.computed += computed;
            n_done += ids.len();
            if no_room > 0 {
                // Smaller ones further on might fit, but those that are asked for more come first.
                report.no_room = no_room + report.wanted - n_done;
                break;
            }
            if on_done(n_done).is_break() {
                report.interrupted = n_done < report.wanted;
                break;
            }
        }
        Ok(report)
    }
}

/// Drops what is kept of chunks that are no more. Gives the number of blocks.
pub(crate) fn drop_dead(snapshot: &Snapshot) -> Result<usize> {
    let folders = folders(snapshot.folder())?;
    if folders.is_empty() {
        return Ok(0);
    }
    let live = snapshot.live_chunks()?;
    let mut n = 0;
    for folder in folders {
        let cache = ChunkCache::open(Some(folder), CacheLimits::default()).map_err(kept)?;
        n += cache.retain(&|chunk| live.contains(chunk)).map_err(kept)?;
        cache.shorten_uses().map_err(kept)?;
    }
    Ok(n)
}

/// Drops all keys and values that are kept beside an index, and what is known of them and of the methods that use them;
/// they are made anew as answers need them, and methods tested anew. Gives the number of
/// blocks and their bytes.
///
/// # Errors
///
/// [`Error::Generate`] when they cannot be listed.
pub fn drop_kept_kv(index: &Path) -> Result<(usize, u64)> {
    let (mut n, mut bytes) = (0, 0);
    for folder in folders(index)? {
        DriftRecord::new(&folder).clear().map_err(kept)?;
        let cache = ChunkCache::open(Some(folder), CacheLimits::default()).map_err(kept)?;
        bytes += cache.usage().bytes;
        n += cache.clear().map_err(kept)?;
    }
    Ok((n, bytes))
}

fn folders(index: &Path) -> Result<Vec<PathBuf>> {
    let folder = index.join(FOLDER);
    let listed = match fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed,
    };
    check_place(index)?;
    let unreadable = |source| kept(raglan_kv::Error::Io { path: folder.clone(), source });
    let mut folders = Vec::new();
    for entry in listed.map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// Where the keys and values of a model are kept beside an index.
pub(crate) fn kept_folder(index: &Path, model: &str, weights: &str) -> Result<PathBuf> {
    check_place(index)?;
    Ok(index.join(FOLDER).join(folder_name(model, weights)))
}

/// Refuses a file where the folder of all models belongs.
fn check_place(index: &Path) -> Result<()> {
    let path = index.join(FOLDER);
    if path.is_file() {
        let problem = "this is a file where a folder of keys and values belongs";
        return Err(kept(raglan_kv::Error::Damaged { path, problem }));
    }
    Ok(())
}

/// A model's name as a folder may be called, with what tells its weights from others.
pub(crate) fn folder_name(model: &str, weights: &str) -> String {
    let last = model.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or("model");
    let name: String =
        last.chars().take(60).map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let hash = blake3::hash(weights.as_bytes()).to_hex();
    format!("{}-{}", name.trim_start_matches('.'), &hash[..12])
}

pub(crate) fn kept(error: raglan_kv::Error) -> Error {
    Error::Generate(raglan_model::Error::from(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_the_place_of_the_folder_is_named_with_what_to_do() {
        let index = tempfile::tempdir().unwrap();
        assert!(kept_kv(index.path()).unwrap().is_empty());
        let place = index.path().join(FOLDER);
        fs::write(&place, "notes").unwrap();
        let told = |error: Error| {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            causes.map(ToString::to_string).collect::<String>()
        };
        let errors = [
            kept_kv(index.path()).unwrap_err(),
            drop_kept_kv(index.path()).unwrap_err(),
            kept_folder(index.path(), "a", "1").unwrap_err(),
        ];
        for error in errors.map(told) {
            assert!(error.contains(&place.display().to_string()) && error.contains("it can be deleted"), "{error}");
        }
        assert_eq!(fs::read(&place).unwrap(), b"notes", "it may be someone's, and is left");
    }

    #[test]
    fn folders_are_named_so_that_every_system_takes_them() {
        let name = folder_name("/models/My Model: v2.gguf", "abc");
        assert!(name.starts_with("My-Model--v2.gguf-") && name.len() == "My-Model--v2.gguf-".len() + 12, "{name}");
        assert_ne!(folder_name("a", "1"), folder_name("a", "2"));
        assert!(folder_name("..", "1").starts_with('-'));
    }
}

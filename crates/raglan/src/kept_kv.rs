//! Keys and values of a language model that are kept beside an index.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raglan_core::{ChunkId, ChunkStore, DocId, Document, Passage};
use raglan_generate::ChatGenerator;
use raglan_generate::reuse::{KvKeeper, ReuseMethod};
use raglan_kv::{BlockPrecision, CacheLimits, CacheUsage, ChunkCache};
use raglan_store::Snapshot;
use serde::Serialize;

use crate::index::Index;
use crate::{Error, Result};

/// Passages whose keys and values are computed together and written before the next.
const WARM_AT_ONCE: usize = 8;
/// The folder of an index in which they are; all of it may be deleted at any time.
const FOLDER: &str = "kv";

/// Where keys and values are kept, and how they are used.
#[derive(Clone, Debug)]
pub struct KvSettings {
    /// The index whose chunks they are of.
    pub index: PathBuf,
    /// How they are used.
    pub method: ReuseMethod,
    /// How exactly they are kept.
    pub precision: BlockPrecision,
    /// How much they may take.
    pub limits: CacheLimits,
}

impl KvSettings {
    /// The usual ones for an index.
    pub fn new(index: impl Into<PathBuf>) -> Self {
        Self {
            index: index.into(),
            method: ReuseMethod::DEFAULT,
            precision: BlockPrecision::default(),
            limits: CacheLimits::default(),
        }
    }

    /// Reads prompts with what is kept for a model: its name, and what its weights' files hash to.
    pub(crate) fn keeper(&self, model: &str, weights: &str) -> Result<KvKeeper> {
        let folder = self.index.join(FOLDER).join(folder_name(model, weights));
        let chunks = ChunkCache::open(Some(folder), self.limits).map_err(kept)?;
        Ok(KvKeeper::new(self.method, self.precision, Arc::new(chunks), weights))
    }
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
}

/// What is kept beside an index, model by model.
pub(crate) fn kept_kv(index: &Path) -> Result<Vec<KeptKv>> {
    let folders = folders(index)?;
    let usage = |folder: PathBuf| {
        let model = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cache = ChunkCache::open(Some(folder), CacheLimits::default()).map_err(kept)?;
        let CacheUsage { blocks, bytes, hits, misses, saved_tokens } = cache.usage();
        Ok(KeptKv { model, blocks, bytes, hits, misses, saved_tokens })
    };
    folders.into_iter().map(usage).collect()
}

impl Index {
    /// Computes the keys and values of the first `limit` passages before questions need them, and writes them beside the
    /// index; gives how many were not there. `on_done` is told how many passages have been looked at, and may end it.
    ///
    /// # Errors
    ///
    /// Damaged files; keys and values that cannot be computed or written.
    pub fn warm(
        &self,
        generator: &ChatGenerator,
        limit: usize,
        on_done: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<usize> {
        let store = self.snapshot();
        let ids: Vec<ChunkId> = store.live_chunks()?.iter().take(limit).collect();
        let mut documents: BTreeMap<DocId, Arc<Document>> = BTreeMap::new();
        let (mut n_new, mut n_done) = (0, 0);
        for ids in ids.chunks(WARM_AT_ONCE) {
            let mut passages = Vec::with_capacity(ids.len());
            for chunk in store.chunks(ids)? {
                let document = match documents.entry(chunk.doc) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => new.insert(store.document(chunk.doc)?).clone(),
                };
                passages.push(Passage { chunk, document, score: 0.0 });
            }
            n_new += generator.warm(&passages)?;
            if let Some(keeper) = generator.keeper() {
                keeper.chunks().flush().map_err(kept)?;
            }
            n_done += ids.len();
            if on_done(n_done).is_break() {
                break;
            }
        }
        Ok(n_new)
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
    }
    Ok(n)
}

/// Drops all keys and values that are kept beside an index; they are made anew as answers need them. Gives the number of
/// blocks and their bytes.
///
/// # Errors
///
/// [`Error::Generate`] when they cannot be listed.
pub fn drop_kept_kv(index: &Path) -> Result<(usize, u64)> {
    let (mut n, mut bytes) = (0, 0);
    for folder in folders(index)? {
        let cache = ChunkCache::open(Some(folder), CacheLimits::default()).map_err(kept)?;
        bytes += cache.usage().bytes;
        n += cache.retain(&|_| false).map_err(kept)?;
    }
    Ok((n, bytes))
}

fn folders(index: &Path) -> Result<Vec<PathBuf>> {
    let folder = index.join(FOLDER);
    let listed = match fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed,
    };
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

/// A model's name as a folder may be called, with what tells its weights from others.
fn folder_name(model: &str, weights: &str) -> String {
    let last = model.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or("model");
    let name: String =
        last.chars().take(60).map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let hash = blake3::hash(weights.as_bytes()).to_hex();
    format!("{}-{}", name.trim_start_matches('.'), &hash[..12])
}

fn kept(error: raglan_kv::Error) -> Error {
    Error::Generate(raglan_model::Error::from(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_so_that_every_system_takes_them() {
        let name = folder_name("/models/My Model: v2.gguf", "abc");
        assert!(name.starts_with("My-Model--v2.gguf-") && name.len() == "My-Model--v2.gguf-".len() + 12, "{name}");
        assert_ne!(folder_name("a", "1"), folder_name("a", "2"));
        assert!(folder_name("..", "1").starts_with('-'));
    }
}

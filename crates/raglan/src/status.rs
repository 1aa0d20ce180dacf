//! What an index holds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use raglan_store::Passport;
use serde::Serialize;

use crate::Result;
use crate::index::Index;
use crate::indexer::SkippedFile;
use crate::kept_kv::{KeptKv, kept_kv};

/// What an index holds, of what it was made and what it costs.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The index folder.
    pub index: PathBuf,
    /// The folder of documents, where it is known.
    pub folder: Option<PathBuf>,
    /// How many commits there were.
    pub generation: u64,
    /// Documents.
    pub documents: usize,
    /// Documents by format.
    pub formats: BTreeMap<String, usize>,
    /// Live chunks.
    pub chunks: usize,
    /// Chunks that are deleted and not merged away yet.
    pub deleted_chunks: usize,
    /// Segments, with their number of chunks.
    pub segments: Vec<u32>,
    /// Files that were found and could not be indexed.
    pub skipped: Vec<SkippedFile>,
    /// Bytes on disk, by part of the index.
    pub bytes: BTreeMap<String, u64>,
    /// Keys and values of language models that are kept beside it.
    pub kv: Vec<KeptKv>,
    /// What the index was made with.
    pub passport: Passport,
}

impl Index {
    /// What the index holds.
    ///
    /// # Errors
    ///
    /// A damaged ledger.
    pub fn status(&self) -> Result<Status> {
        let snapshot = self.snapshot();
        let ledger = snapshot.ledger()?;
        let mut formats = BTreeMap::new();
        for document in ledger.documents() {
            *formats.entry(document.format.name().to_owned()).or_insert(0) += 1;
        }
        let skipped = ledger.skipped().map(|s| SkippedFile { path: s.path.clone(), reason: s.reason.clone() });
        Ok(Status {
            index: snapshot.folder().to_owned(),
            folder: self.root().map(PathBuf::from),
            generation: snapshot.generation(),
            documents: ledger.documents().len(),
            formats,
            chunks: snapshot.n_chunks(),
            deleted_chunks: snapshot.deleted().len(),
            segments: snapshot.segments().iter().map(|segment| segment.n_chunks).collect(),
            skipped: skipped.collect(),
            bytes: snapshot.disk_usage(),
            kv: kept_kv(snapshot.folder())?,
            passport: snapshot.passport().clone(),
        })
    }
}

//! An index that is open for questions.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use raglan_core::Retriever;
use raglan_dense::{DenseConfig, DenseIndex, SearchMode};
use raglan_pipeline::DenseRetriever;
use raglan_sparse::{Analyzer, AnalyzerConfig, Bm25Index};
use raglan_store::Snapshot;

use crate::embedder::Embedder;
use crate::location::noted_root;
use crate::{Error, Result};

/// One generation of an index, whose parts are opened when they are first needed.
pub struct Index {
    snapshot: Snapshot,
    root: Option<PathBuf>,
    embedder: Option<Arc<Embedder>>,
    analyzer_config: AnalyzerConfig,
    analyzer: Analyzer,
    bm25: OnceLock<Arc<Bm25Index>>,
    dense: OnceLock<Arc<DenseIndex>>,
}

impl Index {
    /// Opens the index in a folder. `embedder` gives the encoder whose name the index's passport has, and may be asked
    /// for nothing when the index has no vectors.
    ///
    /// # Errors
    ///
    /// [`raglan_store::Error`] when there is no index or it is damaged, or when the embedder is not the one that made
    /// the index's vectors.
    pub fn open(folder: &Path, embedder: impl FnOnce(&str) -> Result<Arc<Embedder>>) -> Result<Self> {
        let snapshot = Snapshot::open(folder)?;
        let passport = snapshot.passport();
        let embedder = match &passport.embedder {
            None => None,
            Some(stamp) => {
                let embedder = embedder(&stamp.name)?;
                let wanted = raglan_store::Passport { embedder: Some(embedder.stamp().clone()), ..passport.clone() };
                passport.check(&wanted, folder)?;
                Some(embedder)
            }
        };
        let analyzer_config: AnalyzerConfig = serde_json::from_str(&passport.analyzer).map_err(|error| {
            Error::Malformed { path: folder.to_owned(), problem: format!("analyzer in the passport: {error}") }
        })?;
        let analyzer = Analyzer::new(&analyzer_config);
        let root = passport.root.as_deref().map(|note| noted_root(folder, note));
        Ok(Self { snapshot, root, embedder, analyzer_config, analyzer, bm25: OnceLock::new(), dense: OnceLock::new() })
    }

    /// The generation that is open.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The folder of documents, if it is known.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// How text becomes terms.
    pub fn analyzer(&self) -> &Analyzer {
        &self.analyzer
    }

    /// The keyword index.
    ///
    /// # Errors
    ///
    /// A damaged file.
    pub fn bm25(&self) -> Result<&Arc<Bm25Index>> {
        if self.bm25.get().is_none() {
            let folders = self.folders("bm25")?;
            let index = Bm25Index::open(&folders, self.snapshot.deleted(), &self.analyzer_config)?;
            let _ = self.bm25.set(Arc::new(index));
        }
        Ok(self.bm25.get().expect("the index was set above"))
    }

    /// The index of vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoDense`] when the index has none, or a damaged file.
    pub fn dense(&self) -> Result<&Arc<DenseIndex>> {
        let embedder = self.embedder()?;
        if self.dense.get().is_none() {
            let folders = self.folders("dense")?;
            let config = dense_config();
            let index = DenseIndex::open(&folders, embedder.stamp().dim, self.snapshot.deleted(), &config)?;
            let _ = self.dense.set(Arc::new(index));
        }
        Ok(self.dense.get().expect("the index was set above"))
    }

    /// The encoder of the index's vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoDense`] when the index has no vectors.
    pub fn embedder(&self) -> Result<&Embedder> {
        self.embedder.as_deref().ok_or_else(|| Error::NoDense { index: self.snapshot.folder().to_owned() })
    }

    /// Whether the index has vectors.
    pub fn has_dense(&self) -> bool {
        self.embedder.is_some()
    }

    /// Retrieval by vectors, searched in this way.
    ///
    /// # Errors
    ///
    /// [`Error::NoDense`] when the index has no vectors, a damaged file, or an encoder that cannot be loaded.
    pub fn dense_retriever(&self, mode: SearchMode) -> Result<Arc<dyn Retriever>> {
        let encoder = self.embedder()?.encoder()?.clone();
        Ok(Arc::new(DenseRetriever::new(encoder, self.dense_in(mode)?)))
    }

    /// The index of vectors, searched in this way.
    ///
    /// # Errors
    ///
    /// As [`dense`](Self::dense).
    pub fn dense_in(&self, mode: SearchMode) -> Result<Arc<DenseIndex>> {
        if mode == SearchMode::default() {
            return Ok(self.dense()?.clone());
        }
        Ok(Arc::new(DenseIndex::clone(self.dense()?).with_mode(mode)))
    }

    fn folders(&self, part: &str) -> Result<Vec<PathBuf>> {
        let segments = self.snapshot.segments().iter();
        Ok(segments.map(|segment| self.snapshot.segment_dir(segment.id, part)).collect::<Result<_, _>>()?)
    }
}

/// How vectors are stored and searched unless one says otherwise: so that one index serves every way of searching.
pub fn dense_config() -> DenseConfig {
    DenseConfig::default()
}

/// Removes the files of an index that no generation in use needs.
///
/// # Errors
///
/// When another process is writing to the index, or there is none.
pub fn gc(index: &Path) -> Result<raglan_store::GcReport> {
    let passport = Snapshot::open(index)?.passport().clone();
    Ok(raglan_store::Writer::open_or_create(index, passport)?.gc()?)
}

//! The short way: a folder, its index, and questions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use raglan_core::Answer;
use raglan_ingest::chunk::ChunkerKind;
use raglan_ingest::{Isolation, Limits, WalkOptions};
use raglan_model::registry::Silent;
use raglan_pipeline::Recipe;

use crate::Result;
use crate::embedder::Encoders;
use crate::filter::Filter;
use crate::index::Index;
use crate::indexer::{BuildSettings, IndexReport, IndexSettings, Indexer, Start};
use crate::kept_kv::KvSettings;
use crate::location::index_of;
use crate::models::Models;
use crate::search::{SearchOutcome, recipe};

/// The most tokens of a chunk unless one says otherwise: chosen by `raglan eval chunking`.
const CHUNK_TOKENS: usize = 200;

/// A folder of documents with an index that is up to date, and models that are the defaults.
///
/// The index is in [`index_of`] the folder, and is the same as `raglan index` makes.
pub struct Library {
    index: Index,
    models: Models,
    folder: PathBuf,
    report: IndexReport,
}

impl Library {
    /// Brings the index of a folder up to date and opens it. The default models are fetched the first time.
    ///
    /// An index that remembers settings of the command, such as files to leave out, is opened as it is: only the
    /// command can follow them.
    ///
    /// # Errors
    ///
    /// When the models cannot be had or the index cannot be written. Files that cannot be read are in
    /// [`report`](Self::report).
    pub fn open(folder: &Path) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let models = Models::new(None, false, threads, Arc::new(Silent))?;
        let embedder = models.embedder("all-minilm-l6-v2")?;
        Self::open_with(folder, models, Encoders::dense(Some(embedder)))
    }

    /// Like [`open`](Self::open), with other models; without encoders the index has BM25 only.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(folder: &Path, models: Models, encoders: Encoders) -> Result<Self> {
        let place = index_of(folder)?;
        let follows_the_command = raglan_store::Passport::read(&place).is_ok_and(|index| !index.settings.is_empty());
        let report = if follows_the_command {
            IndexReport::default()
        } else {
            let settings = settings(encoders.clone())?;
            Indexer::new(folder, &place, settings).update(Start::Continue, &(), &AtomicBool::new(false))?
        };
        let index = Index::open(&place, |_| Ok(encoders))?.with_models(models.clone());
        Ok(Self { index, models, folder: folder.to_owned(), report })
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What bringing the index up to date did.
    pub fn report(&self) -> &IndexReport {
        &self.report
    }

    /// The best `k` passages by words and by meaning, or by words alone when the index has no vectors.
    ///
    /// # Errors
    ///
    /// Damaged files, or a malformed filter.
    pub fn search(&self, query: &str, k: usize, filter: &Filter) -> Result<SearchOutcome> {
        let recipe = recipe(if self.index.has_dense() { "hybrid" } else { "bm25" })?.with_k(k);
        self.index.search(&recipe, query, filter)
    }

    /// An answer from the index, by the default recipe and language model.
    ///
    /// # Errors
    ///
    /// Damaged files, or a language model that cannot be had.
    pub fn ask(&self, question: &str) -> Result<Answer> {
        let default = recipe(if self.index.has_dense() { "ask" } else { "ask-bm25" })?;
        self.ask_with(&default, question, &Filter::default(), &mut |_| {})
    }

    /// An answer by a recipe, from some documents; `on_text` is called with each piece as it is made.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn ask_with(
        &self,
        recipe: &Recipe,
        question: &str,
        filter: &Filter,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Answer> {
        let generator = self.models.generator(
            self.models.language_model_name(),
            recipe,
            Arc::default(),
            Some(KvSettings::new(self.index.snapshot().folder())),
        )?;
        let answer = self.index.ask(recipe, generator.clone(), question, filter, on_text)?;
        generator.loaded()?.remember()?;
        Ok(answer)
    }
}

/// The settings of `raglan index` when nothing is said otherwise, but for the isolation: a library has no program of
/// its own to start.
fn settings(encoders: Encoders) -> Result<IndexSettings> {
    let chunker = ChunkerKind::Structure.build(
        CHUNK_TOKENS,
        0,
        true,
        encoders.counter().unwrap_or_else(|| Arc::new(raglan_ingest::chunk::WordCounter)),
    )?;
    Ok(IndexSettings {
        walk: WalkOptions::default(),
        limits: Limits::default(),
        isolation: Isolation::InProcess,
        chunker: chunker.into(),
        build: BuildSettings::new(encoders, std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
        remembered: Default::default(),
    })
}

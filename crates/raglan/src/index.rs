//! An index that is open for questions.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use raglan_core::{Reranker, Retriever, TokenMatrix};
use raglan_dense::{DenseConfig, DenseIndex, SearchMode};
use raglan_graph::{GraphIndex, GraphSearch};
use raglan_late::{LateConfig, LateIndex};
use raglan_ngram::NgramIndex;
use raglan_pipeline::{Rescorer, SparseMode, SparseQueries, VectorRetriever};
use raglan_sparse::{Analyzer, AnalyzerConfig, Bm25Index, Bm25Parameters, ImpactConfig, ImpactIndex, ImpactSearch};
use raglan_store::{Passport, Snapshot};

use crate::embedder::{Embedder, Encoders, GRAPH, LATE, NGRAMS, SPARSE, SparseEmbedder};
use crate::entity_graph::{EntityGraph, GraphExtractor};
use crate::judges::Judges;
use crate::location::noted_root;
use crate::models::Models;
use crate::ngrams::{FoundQuotation, NgramRetriever, NgramSearch, NgramTokenizer, quotations};
use crate::stored_vectors::{SparseQuery, SparseVectors, TokenVectors};
use crate::{Error, Result};

/// One generation of an index, whose parts are opened when they are first needed.
pub struct Index {
    snapshot: Snapshot,
    root: Option<PathBuf>,
    encoders: Encoders,
    analyzer_config: AnalyzerConfig,
    analyzer: Analyzer,
    bm25: OpenedParts<Bm25Parameters, Bm25Index>,
    dense: OnceLock<Arc<DenseIndex>>,
    sparse: OpenedParts<SparseMode, ImpactIndex>,
    late: OnceLock<Arc<LateIndex>>,
    ngrams: OnceLock<Arc<NgramIndex>>,
    graph: OnceLock<Arc<GraphIndex>>,
    pub(crate) judges: Option<Judges>,
}

impl Index {
    /// Opens the index in a folder. `encoders` gives the encoders that the index's passport names, as
    /// [`Models::encoders_of`](crate::Models::encoders_of) does.
    ///
    /// # Errors
    ///
    /// [`raglan_store::Error`] when there is no index or it is damaged, or when the encoders are not those that made
    /// the index's vectors.
    pub fn open(folder: &Path, encoders: impl FnOnce(&Passport) -> Result<Encoders>) -> Result<Self> {
        let snapshot = Snapshot::open(folder)?;
        let passport = snapshot.passport();
        let encoders = encoders(passport)?;
        let mut wanted = passport.clone();
        encoders.stamp(&mut wanted);
        passport.check(&wanted, folder)?;
        let analyzer_config: AnalyzerConfig = serde_json::from_str(&passport.analyzer).map_err(|error| {
            Error::Malformed { path: folder.to_owned(), problem: format!("analyzer in the passport: {error}") }
        })?;
        let analyzer = Analyzer::new(&analyzer_config);
        let root = passport.root.as_deref().map(|note| noted_root(folder, note));
        Ok(Self {
            snapshot,
            root,
            encoders,
            analyzer_config,
            analyzer,
            bm25: OpenedParts::default(),
            dense: OnceLock::new(),
            sparse: OpenedParts::default(),
            late: OnceLock::new(),
            ngrams: OnceLock::new(),
            graph: OnceLock::new(),
            judges: None,
        })
    }

    /// The same index with models, which the `rerank` stages of recipes load.
    #[must_use]
    pub fn with_models(self, models: Models) -> Self {
        let folder = self.snapshot.folder().to_owned();
        Self { judges: Some(Judges::new(models, folder)), ..self }
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

    /// The keyword index, scored with these parameters.
    ///
    /// # Errors
    ///
    /// A damaged file.
    pub fn bm25(&self, parameters: Bm25Parameters) -> Result<Arc<Bm25Index>> {
        self.bm25.get_or_open(parameters, || {
            let index = Bm25Index::open(&self.folders("bm25")?, self.snapshot.deleted(), &self.analyzer_config)?;
            Ok(index.with_parameters(parameters))
        })
    }

    /// The index of vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none, or a damaged file.
    pub fn dense(&self) -> Result<&Arc<DenseIndex>> {
        let embedder = self.embedder()?;
        if self.dense.get().is_none() {
            let folders = self.folders("dense")?;
            let config = DenseConfig::default();
            let index = DenseIndex::open(&folders, embedder.stamp().dim, self.snapshot.deleted(), &config)?;
            let _ = self.dense.set(Arc::new(index));
        }
        Ok(self.dense.get().expect("the index was set above"))
    }

    /// The encoder of the index's vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has no vectors.
    pub fn embedder(&self) -> Result<&Embedder> {
        self.encoders.dense.as_deref().ok_or_else(|| self.no_vectors("vectors", "embedder"))
    }

    /// Whether the index has vectors.
    pub fn has_dense(&self) -> bool {
        self.encoders.dense.is_some()
    }

    /// Retrieval by vectors, searched in this way.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has no vectors, a damaged file, or an encoder that cannot be loaded.
    pub fn dense_retriever(&self, mode: SearchMode) -> Result<Arc<dyn Retriever>> {
        let encoder = self.embedder()?.encoder()?.clone();
        Ok(Arc::new(VectorRetriever::new(encoder, self.dense_in(mode)?)))
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

    /// The index of learned sparse vectors, searched in this way.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none, or a damaged file.
    pub fn sparse(&self, mode: SparseMode) -> Result<Arc<ImpactIndex>> {
        self.sparse_embedder()?;
        self.sparse.get_or_open(mode, || {
            let search = match mode {
                SparseMode::Exact => ImpactSearch::Exact,
                SparseMode::Approximate => ImpactSearch::Approximate { query_cut: 12, heap_factor: 0.9 },
            };
            let config = ImpactConfig { search, ..ImpactConfig::default() };
            Ok(ImpactIndex::open(&self.folders(SPARSE)?, self.snapshot.deleted(), &config)?)
        })
    }

    /// The encoder of the index's learned sparse vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none.
    pub fn sparse_embedder(&self) -> Result<&SparseEmbedder> {
        self.encoders.sparse.as_deref().ok_or_else(|| self.no_vectors("learned sparse vectors", SPARSE))
    }

    /// Retrieval and reranking by learned sparse vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none, a damaged file, or a model that cannot be loaded.
    pub fn sparse_vectors(&self, queries: SparseQueries, mode: SparseMode) -> Result<Arc<SparseVectors>> {
        let embedder = self.sparse_embedder()?;
        let query = match queries {
            SparseQueries::Encoded => SparseQuery::Encoded(embedder.embedder.encoder()?.clone()),
            SparseQueries::InferenceFree => SparseQuery::InferenceFree(embedder.bag()?.clone()),
        };
        let index = self.sparse(mode)?;
        Ok(Arc::new(SparseVectors { query, index }))
    }

    /// The index of token vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none, or a damaged file.
    pub fn late(&self) -> Result<&Arc<LateIndex>> {
        self.late_embedder()?;
        if self.late.get().is_none() {
            let index = LateIndex::open(&self.folders(LATE)?, self.snapshot.deleted(), &LateConfig::default())?;
            let _ = self.late.set(Arc::new(index));
        }
        Ok(self.late.get().expect("the index was set above"))
    }

    /// The encoder of the index's token vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none.
    pub fn late_embedder(&self) -> Result<&Embedder<TokenMatrix>> {
        self.encoders.late.as_deref().ok_or_else(|| self.no_vectors("token vectors", LATE))
    }

    /// Retrieval by late interaction.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none, a damaged file, or a model that cannot be loaded.
    pub fn late_retriever(&self) -> Result<Arc<dyn Retriever>> {
        let encoder = self.late_embedder()?.encoder()?.clone();
        Ok(Arc::new(VectorRetriever::new(encoder, self.late()?.clone())))
    }

    /// The index of n-grams.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none, or a damaged file.
    pub fn ngrams(&self) -> Result<&Arc<NgramIndex>> {
        self.ngram_tokenizer()?;
        if self.ngrams.get().is_none() {
            let index = NgramIndex::open(&self.folders(NGRAMS)?, self.snapshot.deleted())?;
            let _ = self.ngrams.set(Arc::new(index));
        }
        Ok(self.ngrams.get().expect("the index was set above"))
    }

    /// The tokenizer of the index's n-grams.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none.
    pub fn ngram_tokenizer(&self) -> Result<&NgramTokenizer> {
        self.encoders.ngrams.as_deref().ok_or_else(|| self.no_vectors("n-grams", NGRAMS))
    }

    /// Retrieval by n-grams. Where they are generated, that is by the model whose tokenizer they are of.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has no n-grams; [`Error::NoModels`] when a model is needed, for `stage`, and the
    /// index was opened without; a damaged file, or a model that cannot be loaded.
    pub fn ngram_retriever(&self, search: NgramSearch, stage: &str) -> Result<Arc<NgramRetriever>> {
        let ngrams = self.ngram_tokenizer()?;
        let tokenizer = ngrams.tokenizer()?.clone();
        let model = match search.generated.beams {
            0 => None,
            _ => {
                let judges = self.judges.as_ref().ok_or_else(|| Error::NoModels { stage: stage.to_owned() })?;
                Some(judges.language_model(&ngrams.stamp().name)?)
            }
        };
        Ok(Arc::new(NgramRetriever::new(self.ngrams()?.clone(), tokenizer, model, search)?))
    }

    /// The runs of at least `min_tokens` tokens of a text that stand in the index word for word, in the order of the text.
    ///
    /// # Errors
    ///
    /// As [`ngrams`](Self::ngrams).
    pub fn quotations(&self, text: &str, min_tokens: usize) -> Result<Vec<FoundQuotation>> {
        let tokenizer = self.ngram_tokenizer()?.tokenizer()?;
        quotations(self.ngrams()?, tokenizer, text, min_tokens)
    }

    /// The graph of entities and chunks.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has none, or a damaged file.
    pub fn graph(&self) -> Result<&Arc<GraphIndex>> {
        self.graph_extractor()?;
        if self.graph.get().is_none() {
            let index = GraphIndex::open(&self.folders(GRAPH)?, self.snapshot.deleted())?;
            let _ = self.graph.set(Arc::new(index));
        }
        Ok(self.graph.get().expect("the index was set above"))
    }

    /// What found the entities of the graph.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has no graph.
    pub fn graph_extractor(&self) -> Result<&GraphExtractor> {
        self.encoders.graph.as_deref().ok_or_else(|| self.no_vectors("graph of entities", GRAPH))
    }

    /// Retrieval by the graph, from the best `depth` chunks by vectors, or by words where the index has no vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the index has no graph; a damaged file, or an encoder that cannot be loaded.
    pub fn graph_retriever(&self, depth: usize, search: GraphSearch) -> Result<Arc<EntityGraph>> {
        let index = self.graph()?.clone();
        let encoder = self.encoders.dense.as_ref().map(|embedder| embedder.encoder().cloned()).transpose()?;
        let first: Arc<dyn Retriever> = match self.has_dense() {
            true => self.dense_retriever(SearchMode::default())?,
            false => self.bm25(Bm25Parameters::default())?,
        };
        Ok(Arc::new(EntityGraph { index, encoder, first, depth, search }))
    }

    /// What scores the chunks of a ranking anew.
    ///
    /// # Errors
    ///
    /// As [`sparse_vectors`](Self::sparse_vectors) and [`late_retriever`](Self::late_retriever).
    pub fn rescorer(&self, by: Rescorer) -> Result<Arc<dyn Reranker>> {
        Ok(match by {
            Rescorer::Sparse => self.sparse_vectors(SparseQueries::Encoded, SparseMode::Exact)?,
            Rescorer::SparseInferenceFree => self.sparse_vectors(SparseQueries::InferenceFree, SparseMode::Exact)?,
            Rescorer::Late => {
                let encoder = self.late_embedder()?.encoder()?.clone();
                Arc::new(TokenVectors { encoder, index: self.late()?.clone() })
            }
        })
    }

    fn no_vectors(&self, what: &'static str, setting: &'static str) -> Error {
        Error::NoVectors { index: self.snapshot.folder().to_owned(), what, setting }
    }

    fn folders(&self, part: &str) -> Result<Vec<PathBuf>> {
        let segments = self.snapshot.segments().iter();
        Ok(segments.map(|segment| self.snapshot.segment_dir(segment.id, part)).collect::<Result<_, _>>()?)
    }
}

/// A part of an index in each of the ways in which it was asked for.
struct OpenedParts<K, T>(Mutex<Vec<(K, Arc<T>)>>);

impl<K, T> Default for OpenedParts<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq + Copy, T> OpenedParts<K, T> {
    /// The part in this way, opened when it is first asked for.
    fn get_or_open(&self, way: K, open: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let opened = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let present =
            |parts: &[(K, Arc<T>)]| parts.iter().find(|(other, _)| *other == way).map(|(_, part)| part.clone());
        if let Some(part) = present(&opened()) {
            return Ok(part);
        }
        // The lock is not held meanwhile; another thread may be first, and its part is as good.
        let part = Arc::new(open()?);
        let mut opened = opened();
        Ok(present(&opened).unwrap_or_else(|| {
            opened.push((way, part.clone()));
            part
        }))
    }
}

/// Removes the files of an index that no generation in use needs.
///
/// # Errors
///
/// When another process is writing to the index, or there is none.
pub fn gc(index: &Path) -> Result<raglan_store::GcReport> {
    let passport = Snapshot::open(index)?.passport().clone();
    let report = raglan_store::Writer::open_or_create(index, passport)?.gc()?;
    crate::kept_kv::drop_dead(&Snapshot::open(index)?)?;
    Ok(report)
}

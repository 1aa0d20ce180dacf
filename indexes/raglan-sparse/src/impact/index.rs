//! An index over many segments.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use raglan_core::{ChunkId, ChunkSet, Ranking, SparseVector, VectorIndex};
use rayon::prelude::*;

use super::best::Best;
use super::block_max::block_max;
use super::candidates::Candidates;
use super::fixed_query::FixedQuery;
use super::forward::Weights;
use super::max_score::{Collector, max_score};
use super::part::{Part, TermRuns};
use super::term_at_a_time::term_at_a_time;
use super::writer::{QuantizedChunks, write_chunks};
use super::{ImpactConfig, ImpactSearch};
use crate::{Error, Result};

/// Scoring a chunk by the forward index costs as much as this many of its terms' share of the postings.
const FORWARD: usize = 4;

/// Filters that leave fewer than one of so many blocks are for a search that passes over blocks.
const FEW_BLOCKS: usize = 8;

/// Sparse vectors of chunks in immutable segments, searched as one.
///
/// The score of a chunk is the inner product of the query with the chunk's impacts, `Σ_t q_t · impact_t · ceiling / 255`.
/// It depends neither on the segmentation nor on deleted chunks, nor on how it was found. Chunks without a term of the
/// query, whose score is 0, are not returned.
///
/// ```
/// use raglan_core::{ChunkId, ChunkSet, SparseVector, VectorIndex};
/// use raglan_sparse::{ImpactConfig, ImpactIndex, write_impact_segment};
///
/// let folder = tempfile::tempdir()?;
/// let config = ImpactConfig::default();
/// let vectors = [SparseVector::new(vec![(3, 1.0), (7, 0.5)])?, SparseVector::new(vec![(7, 2.0)])?];
/// write_impact_segment(folder.path(), &[ChunkId(4), ChunkId(9)], &vectors, &config)?;
///
/// let index = ImpactIndex::open(&[folder.path().to_path_buf()], &ChunkSet::new(), &config)?;
/// let rankings = index.search(&[SparseVector::new(vec![(7, 1.0)])?], 10, &[None])?;
/// assert_eq!(rankings[0].ids(), [ChunkId(9), ChunkId(4)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ImpactIndex {
    parts: Vec<Part>,
    config: ImpactConfig,
    idf_ceiling: OnceLock<f64>,
}

impl ImpactIndex {
    /// Opens the segments in these folders, without the deleted chunks.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when a file cannot be used; [`Error::Ceiling`] when impacts are of another scale;
    /// [`Error::Config`] for a bad parameter.
    pub fn open(segments: &[PathBuf], deleted: &ChunkSet, config: &ImpactConfig) -> Result<Self> {
        config.check()?;
        let mut parts = Vec::new();
        for folder in segments {
            parts.extend(Part::open_all(folder, deleted, config)?);
        }
        Ok(Self { parts, config: config.clone(), idf_ceiling: OnceLock::new() })
    }

    /// The same index with another way of searching.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a bad parameter.
    pub fn with_search(self, search: ImpactSearch) -> Result<Self> {
        let config = ImpactConfig { search, ..self.config };
        config.check()?;
        Ok(Self { config, ..self })
    }

    /// How many live chunks there are.
    pub fn n_chunks(&self) -> u64 {
        self.parts.iter().map(|part| part.n_live() as u64).sum()
    }

    /// How many weights were above the ceiling when the segments were written.
    pub fn n_clamped(&self) -> u64 {
        self.parts.iter().map(Part::n_clamped).sum()
    }

    /// In how many live chunks a term is.
    pub fn document_frequency(&self, term: u32) -> u64 {
        self.parts.iter().map(|part| u64::from(part.document_frequency(term))).sum()
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(super) fn idf_ceiling(&self) -> f64 {
        *self.idf_ceiling.get_or_init(|| self.compute_idf_ceiling())
    }

    /// The exact scores of these chunks, in the same order; none where a chunk is not there, or deleted.
    ///
    /// # Errors
    ///
    /// [`Error::Vectors`] when a weight of the query is negative.
    pub fn scores(&self, query: &SparseVector, ids: &[ChunkId]) -> Result<Vec<Option<f32>>> {
        let query = FixedQuery::new(query, self.config.step())?;
        let mut scores = vec![None; ids.len()];
        for part in &self.parts {
            with_weights(part, &part.runs_of(&query), |weights| {
                for (score, &id) in scores.iter_mut().zip(ids) {
                    if let Some(doc) = part.doc_of(id) {
                        *score = Some((f64::from(part.sum(doc, weights)) * query.unit) as f32);
                    }
                }
            });
        }
        Ok(scores)
    }

    /// The vector of a chunk, as its impacts have it; none when the chunk is not there, or deleted.
    ///
    /// Written again with the same ceiling, it gives the same impacts.
    pub fn vector(&self, chunk: ChunkId) -> Option<SparseVector> {
        let (part, doc) = self.parts.iter().find_map(|part| Some((part, part.doc_of(chunk)?)))?;
        let mut chunks = QuantizedChunks::default();
        part.copy_chunk(doc, &part.terms_by_number(), &mut chunks);
        let weights = chunks.impacts.iter().map(|&impact| (f64::from(impact) * self.config.step()) as f32);
        let vector = SparseVector::new(chunks.terms.iter().copied().zip(weights).collect());
        Some(vector.expect("weights are finite, and no term is there twice"))
    }

    /// Writes one segment of all live chunks into `folder`, which exists: their impacts are copied as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Vectors`] when a chunk is in two segments; [`Error::File`] when a file cannot be written.
    pub fn write_merged(&self, folder: &Path) -> Result<()> {
        let mut live: Vec<(u32, usize, u32)> = Vec::new();
        for (i, part) in self.parts.iter().enumerate() {
            live.extend(part.chunks().filter(|&(_, doc)| part.is_live(doc)).map(|(id, doc)| (id, i, doc)));
        }
        live.sort_unstable();
        let terms: Vec<Vec<u32>> = self.parts.iter().map(Part::terms_by_number).collect();
        let mut chunks = QuantizedChunks { n_clamped: self.n_clamped(), ..QuantizedChunks::default() };
        for (_, part, doc) in live {
            self.parts[part].copy_chunk(doc, &terms[part], &mut chunks);
        }
        write_chunks(folder, &chunks, &self.config)
    }

    fn search_one(&self, query: &SparseVector, k: usize, allowed: Option<&ChunkSet>) -> Result<Vec<raglan_core::Hit>> {
        let query = FixedQuery::new(query, self.config.step())?;
        if k == 0 {
            return Ok(Vec::new());
        }
        let mut best = Best::new(k, query.unit);
        for part in &self.parts {
            let runs = part.runs_of(&query);
            if !runs.is_empty() {
                self.search_part(part, runs, allowed, &mut best);
            }
        }
        Ok(best.into_hits())
    }

    fn search_part(&self, part: &Part, mut runs: Vec<TermRuns<'_>>, allowed: Option<&ChunkSet>, best: &mut Best) {
        let n_runs: usize = runs.iter().map(|runs| runs.blocks.len()).sum();
        let mut mask = Cow::Borrowed(part.live());
        if let Some(allowed) = allowed {
            let docs = part.docs_of(allowed);
            let mean_length = part.n_postings() / part.n_docs().max(1);
            if docs.len() * mean_length < n_runs * FORWARD {
                with_weights(part, &runs, |weights| {
                    for &doc in docs.iter().filter(|&&doc| part.is_live(doc)) {
                        best.push(part.sum(doc, weights), part.id(doc));
                    }
                });
                return;
            }
            mask = Cow::Owned(part.mask_of(&docs));
        }
        match self.config.search {
            ImpactSearch::Exact => exact(part, &runs, &mask, best),
            ImpactSearch::MaxScore => max_score(&runs, &mask, &mut PartBest { part, best }),
            ImpactSearch::BlockMax => {
                with_weights(part, &runs, |weights| block_max(part, &runs, weights, &mask, best));
            }
            // With all terms, candidates have their scores.
            ImpactSearch::Approximate { query_cut, .. } if runs.len() <= query_cut => exact(part, &runs, &mask, best),
            ImpactSearch::Approximate { query_cut, heap_factor } => {
                runs.sort_by_key(|runs| std::cmp::Reverse(runs.bound()));
                let mut candidates = Candidates::new(best.k(), heap_factor);
                term_at_a_time(&runs[..query_cut], &mask, &mut candidates);
                with_weights(part, &runs, |weights| {
                    for doc in candidates.into_docs() {
                        best.push(part.sum(doc, weights), part.id(doc));
                    }
                });
            }
        }
    }
}

/// Adds the best chunks of a part in the faster way.
fn exact(part: &Part, runs: &[TermRuns<'_>], mask: &[u64], best: &mut Best) {
    let n_blocks = mask.iter().filter(|&&mask| mask != 0).count();
    let mut found = PartBest { part, best };
    if n_blocks * FEW_BLOCKS < mask.len() {
        max_score(runs, mask, &mut found);
    } else {
        term_at_a_time(runs, mask, &mut found);
    }
}

/// The best chunks so far, for the docs of one part.
struct PartBest<'a> {
    part: &'a Part,
    best: &'a mut Best,
}

impl Collector for PartBest<'_> {
    #[inline]
    fn floor(&self) -> u32 {
        self.best.floor()
    }

    #[inline]
    fn push(&mut self, sum: u32, doc: u32) {
        self.best.push(sum, self.part.id(doc));
    }
}

impl VectorIndex for ImpactIndex {
    type Vector = SparseVector;

    /// The best chunks that share a term with the query; by [`ImpactSearch::Approximate`], nearly those.
    fn search(
        &self,
        queries: &[SparseVector],
        k: usize,
        allowed: &[Option<&ChunkSet>],
    ) -> raglan_core::Result<Vec<Ranking>> {
        if allowed.len() != queries.len() {
            let problem = format!("{} filters for {} queries", allowed.len(), queries.len());
            return Err(Error::Vectors { problem }.into());
        }
        let search = |(query, allowed): (&SparseVector, &Option<&ChunkSet>)| {
            Ranking::best(self.search_one(query, k, *allowed)?, k)
        };
        if queries.len() <= 1 {
            // Waking another thread takes as long as a search does.
            return queries.iter().zip(allowed).map(search).collect();
        }
        queries.par_iter().zip(allowed).map(search).collect()
    }
}

thread_local! {
    /// All 0 between searches.
    static WEIGHTS: RefCell<Weights> = const { RefCell::new(Weights::new()) };
}

/// Calls `act` with the weights of a query's terms by their numbers.
fn with_weights(part: &Part, runs: &[TermRuns<'_>], act: impl FnOnce(&Weights)) {
    WEIGHTS.with_borrow_mut(|weights| {
        weights.reserve(part.n_terms());
        for runs in runs {
            weights.set(runs.number, runs.weight);
        }
        act(weights);
        for runs in runs {
            weights.set(runs.number, 0);
        }
    });
}

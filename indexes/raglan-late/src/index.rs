//! An index over many segments.

use std::path::PathBuf;
use std::sync::Arc;

use raglan_core::{ChunkId, ChunkSet, Hit, Ranking, TokenMatrix, VectorIndex};
use raglan_kernels::PackedMatrix;
use rayon::prelude::*;

use crate::candidates::Asked;
use crate::codebook::Codebook;
use crate::segment::{Scratch, Segment};
use crate::{Error, LateConfig, Result, TokenStorage};

/// Candidates for each hit that is wanted, at least, as PLAID has for many hits.
const CANDIDATES_PER_HIT: usize = 4;
/// Documents that are scored by their tokens' centroids, for each candidate, as in PLAID.
const SCANNED_PER_CANDIDATE: usize = 4;
/// Postings that a query vector goes through, for each candidate.
const POSTINGS_PER_CANDIDATE: u64 = 8;
/// Candidates for each document whose tokens are read back, unless more hits are wanted.
const CANDIDATES_PER_READ: usize = 8;
/// Documents that are read back for each hit that is wanted, and more than that, at least.
const READS_PER_HIT: usize = 2;
const READS: usize = 16;
/// Documents whose tokens one task reads.
const SCORE_TASK: usize = 8;

/// Token vectors of chunks in immutable segments, searched as one.
///
/// Searches and scores work on the caller's threads, and give the same bits however many there are.
pub struct LateIndex {
    segments: Vec<Segment>,
    /// Those of the segments, each once.
    codebooks: Vec<Arc<Codebook>>,
    config: LateConfig,
}

impl LateIndex {
    /// Opens the segments in these folders, without the deleted chunks. Of the configuration only
    /// [`LateConfig::n_candidates`] matters; the segments themselves say how their tokens are stored.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when a file cannot be used; [`Error::Dimension`] when segments have vectors of different
    /// dimensions; [`Error::Config`].
    pub fn open(segments: &[PathBuf], deleted: &ChunkSet, config: &LateConfig) -> Result<Self> {
        config.check()?;
        let mut segments: Vec<Segment> =
            segments.iter().map(|folder| Segment::open(folder, deleted)).collect::<Result<_>>()?;
        let mut dims = segments.iter().filter(|segment| !segment.ids().is_empty()).map(Segment::dim);
        if let Some(expected) = dims.next()
            && let Some(found) = dims.find(|&dim| dim != expected)
        {
            return Err(Error::Dimension { what: "a segment", expected, found });
        }
        let mut codebooks: Vec<Arc<Codebook>> = Vec::new();
        for segment in segments.iter_mut().filter(|segment| !segment.ids().is_empty()) {
            match codebooks.iter().find(|codebook| codebook.key == segment.codebook().key) {
                Some(codebook) => segment.share(codebook),
                None => codebooks.push(Arc::clone(segment.codebook())),
            }
        }
        Ok(Self { segments, codebooks, config: config.clone() })
    }

    /// How many chunks there are, without deleted ones.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.live_rows().count()).sum()
    }

    /// Whether there is no chunk.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many segments there are.
    pub fn n_segments(&self) -> usize {
        self.segments.len()
    }

    /// How many token vectors there are, those of deleted chunks too.
    pub fn n_tokens(&self) -> usize {
        self.segments.iter().map(Segment::n_tokens).sum()
    }

    /// The exact scores of chunks for a query, from their stored tokens, in the order of `ids`: what a reranker needs.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] when a chunk is not there or is deleted; [`Error::Dimension`] when the query's vectors are of
    /// another dimension; [`Error::File`] when tokens cannot be read.
    pub fn scores(&self, query: &TokenMatrix, ids: &[ChunkId]) -> Result<Vec<f32>> {
        let places = ids.iter().map(|&id| self.find(id).ok_or(Error::Unknown { chunk: id.0 }));
        let places: Vec<(&Segment, u32)> = places.collect::<Result<_>>()?;
        let Some(query) = self.packed(query)? else { return Ok(vec![0.0; ids.len()]) };
        score_all(&query, &places)
    }

    /// The token vectors of a chunk as they are stored; none when the chunk is not there, or deleted.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when they cannot be read.
    pub fn tokens(&self, chunk: ChunkId) -> Result<Option<TokenMatrix>> {
        self.find(chunk).map(|(segment, row)| segment.tokens(row, &mut Scratch::default())).transpose()
    }

    /// The chunks of segment `i` that are not deleted, by increasing id, with their token vectors as they are stored.
    ///
    /// # Errors
    ///
    /// Each item may be [`Error::File`].
    ///
    /// # Panics
    ///
    /// When there is no segment `i`.
    pub fn segment_tokens(&self, i: usize) -> impl Iterator<Item = Result<(ChunkId, TokenMatrix)>> + '_ {
        let segment = &self.segments[i];
        let mut scratch = Scratch::default();
        segment.live_rows().map(move |row| Ok((segment.ids()[row as usize], segment.tokens(row, &mut scratch)?)))
    }

    fn find(&self, chunk: ChunkId) -> Option<(&Segment, u32)> {
        self.segments.iter().find_map(|segment| {
            let row = segment.ids().binary_search(&chunk).ok()? as u32;
            segment.is_live(row).then_some((segment, row))
        })
    }

    /// The query's vectors, packed; none when there are none.
    fn packed(&self, query: &TokenMatrix) -> Result<Option<PackedMatrix>> {
        if let Some(segment) = self.segments.iter().find(|segment| !segment.ids().is_empty())
            && segment.dim() != query.dim()
        {
            return Err(Error::Dimension { what: "a query", expected: segment.dim(), found: query.dim() });
        }
        if query.n_tokens() == 0 {
            return Ok(None);
        }
        Ok(Some(PackedMatrix::new(query.as_slice(), query.n_tokens(), query.dim())?))
    }

    fn search_one(&self, query: &TokenMatrix, k: usize, allowed: Option<&ChunkSet>) -> raglan_core::Result<Ranking> {
        let rows = query.as_slice();
        let Some(query) = self.packed(query)? else {
            // All scores are sums of nothing.
            let rows =
                self.segments.iter().flat_map(|segment| allowed_rows(segment, allowed).map(move |row| (segment, row)));
            let hits = rows.map(|(segment, row)| Hit::new(segment.ids()[row as usize], 0.0));
            return Ranking::best(hits.collect(), k);
        };
        let places = self.places(&query, rows, k, allowed)?;
        let scores = score_all(&query, &places)?;
        let hits =
            places.iter().zip(scores).map(|((segment, row), score)| Hit::new(segment.ids()[*row as usize], score));
        Ranking::best(hits.collect(), k)
    }

    /// The documents that are to be scored by their stored tokens. `query` packs `rows`.
    fn places(
        &self,
        query: &PackedMatrix,
        rows: &[f32],
        k: usize,
        allowed: Option<&ChunkSet>,
    ) -> Result<Vec<(&Segment, u32)>> {
        let n_candidates = self.config.n_candidates.max(k.saturating_mul(CANDIDATES_PER_HIT));
        let n_read =
            (n_candidates / CANDIDATES_PER_READ).max(k.saturating_add(READS)).max(k.saturating_mul(READS_PER_HIT));
        let n_scanned = n_candidates.saturating_mul(SCANNED_PER_CANDIDATE);
        let n_allowed = |segment: &Segment| allowed_rows(segment, allowed).count();
        if self.segments.iter().map(n_allowed).sum::<usize>() <= n_read {
            let rows = |segment| allowed_rows(segment, allowed).map(move |row| (segment, row));
            return Ok(self.segments.iter().flat_map(rows).collect());
        }
        let asked =
            self.codebooks.iter().map(|codebook| Asked::new(codebook, query, rows)).collect::<Result<Vec<_>>>()?;
        let mut scanned = Vec::new();
        for segment in self.segments.iter().filter(|segment| !segment.ids().is_empty()) {
            let asked = &asked[self.codebook_of(segment)];
            let rows = if segment.ids().len() <= n_scanned || n_allowed(segment) <= n_scanned {
                allowed_rows(segment, allowed).collect()
            } else {
                let n_postings = POSTINGS_PER_CANDIDATE.saturating_mul(n_candidates as u64);
                asked.probe(segment, n_postings, n_scanned, |row| is_allowed(segment, row, allowed))
            };
            let scores = asked.centroid_scores(segment, &rows)?;
            scanned.extend(rows.into_iter().zip(scores).map(|(row, score)| Candidate { segment, row, score }));
        }
        let mut candidates = best(scanned, n_candidates);
        if candidates.iter().all(|candidate| candidate.segment.codebook().storage != TokenStorage::F16) {
            let score = |candidate: &mut Candidate<'_>| -> Result<()> {
                let asked = asked[self.codebook_of(candidate.segment)].residual();
                let (residual, products) = asked.expect("residuals are stored");
                candidate.score = candidate.segment.score_codes(residual, products, candidate.row)?;
                Ok(())
            };
            candidates.par_chunks_mut(SCORE_TASK).try_for_each(|some| some.iter_mut().try_for_each(score))?;
            candidates = best(candidates, n_read);
        }
        Ok(candidates.into_iter().map(|candidate| (candidate.segment, candidate.row)).collect())
    }

    /// Which of the codebooks a segment has.
    fn codebook_of(&self, segment: &Segment) -> usize {
        let place = self.codebooks.iter().position(|codebook| Arc::ptr_eq(codebook, segment.codebook()));
        place.expect("the codebooks of all segments that have documents are known")
    }
}

/// A document on its way to being found.
struct Candidate<'a> {
    segment: &'a Segment,
    row: u32,
    /// Higher is better.
    score: f32,
}

/// The best `n`, in no order; equal ones by lower chunk id.
fn best(mut candidates: Vec<Candidate<'_>>, n: usize) -> Vec<Candidate<'_>> {
    if n > 0 && candidates.len() > n {
        candidates.select_nth_unstable_by(n - 1, |a, b| {
            let id = |candidate: &Candidate<'_>| candidate.segment.ids()[candidate.row as usize];
            b.score.total_cmp(&a.score).then_with(|| id(a).cmp(&id(b)))
        });
    }
    candidates.truncate(n);
    candidates
}

impl VectorIndex for LateIndex {
    type Vector = TokenMatrix;

    fn search(
        &self,
        queries: &[TokenMatrix],
        k: usize,
        allowed: &[Option<&ChunkSet>],
    ) -> raglan_core::Result<Vec<Ranking>> {
        if allowed.len() != queries.len() {
            return Err(raglan_core::Error::Shape { what: "filters", expected: queries.len(), found: allowed.len() });
        }
        queries.par_iter().zip(allowed).map(|(query, allowed)| self.search_one(query, k, *allowed)).collect()
    }
}

fn is_allowed(segment: &Segment, row: u32, allowed: Option<&ChunkSet>) -> bool {
    segment.is_live(row) && allowed.is_none_or(|allowed| allowed.contains(segment.ids()[row as usize]))
}

fn allowed_rows<'a>(segment: &'a Segment, allowed: Option<&'a ChunkSet>) -> impl Iterator<Item = u32> + 'a {
    (0..segment.ids().len() as u32).filter(move |&row| is_allowed(segment, row, allowed))
}

/// The scores of rows, from their stored tokens.
fn score_all(query: &PackedMatrix, places: &[(&Segment, u32)]) -> Result<Vec<f32>> {
    let tasks = places.par_chunks(SCORE_TASK).map_init(Scratch::default, |scratch, places| {
        places.iter().map(|(segment, row)| segment.score(query, *row, scratch)).collect::<Result<Vec<f32>>>()
    });
    Ok(tasks.collect::<Result<Vec<_>>>()?.concat())
}

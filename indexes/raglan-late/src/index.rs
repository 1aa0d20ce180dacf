//! An index over many segments.

use std::cmp::Reverse;
use std::path::PathBuf;

use raglan_core::{ChunkId, ChunkSet, Hit, Ranking, TokenMatrix, VectorIndex};
use raglan_kernels::{CENTROID_LANES, Epilogue, PackedMatrix, centroid_max_sim, matrix_product};
use rayon::prelude::*;

use crate::segment::{Scratch, Segment};
use crate::{Error, LateConfig, Result};

/// Candidates for each hit that is wanted, at least, as PLAID has for many hits.
const CANDIDATES_PER_HIT: usize = 4;
/// Documents whose centroids one task looks at.
const SCAN_TASK: usize = 512;
/// Documents whose tokens one task reads.
const SCORE_TASK: usize = 8;

/// Token vectors of chunks in immutable segments, searched as one.
///
/// Searches and scores work on the caller's threads, and give the same bits however many there are.
pub struct LateIndex {
    segments: Vec<Segment>,
    config: LateConfig,
}

impl LateIndex {
    /// Opens the segments in these folders, without the deleted chunks. Of the configuration only
    /// [`LateConfig::n_candidates`] matters; the segments themselves say how their tokens are stored.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Damaged`] or [`Error::Version`] when a file cannot be used; [`Error::Dimension`] when
    /// segments have vectors of different dimensions; [`Error::Config`].
    pub fn open(segments: &[PathBuf], deleted: &ChunkSet, config: &LateConfig) -> Result<Self> {
        config.check()?;
        let segments: Vec<Segment> =
            segments.iter().map(|folder| Segment::open(folder, deleted)).collect::<Result<_>>()?;
        let mut dims = segments.iter().filter(|segment| !segment.ids().is_empty()).map(Segment::dim);
        if let Some(expected) = dims.next()
            && let Some(found) = dims.find(|&dim| dim != expected)
        {
            return Err(Error::Dimension { what: "a segment", expected, found });
        }
        Ok(Self { segments, config: config.clone() })
    }

    /// How many chunks there are, without deleted ones.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| live_rows(segment).count()).sum()
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
    /// another dimension; [`Error::Damaged`] and [`Error::Io`] when tokens cannot be read.
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
    /// [`Error::Damaged`] and [`Error::Io`] when they cannot be read.
    pub fn tokens(&self, chunk: ChunkId) -> Result<Option<TokenMatrix>> {
        self.find(chunk).map(|(segment, row)| segment.tokens(row, &mut Scratch::default())).transpose()
    }

    /// The chunks of segment `i` that are not deleted, by increasing id, with their token vectors as they are stored.
    ///
    /// This is what merging segments needs, without the model: coding vectors a second time, with other centroids, loses
    /// about as much again as the first time did.
    ///
    /// # Errors
    ///
    /// Each item may be [`Error::Damaged`] or [`Error::Io`].
    ///
    /// # Panics
    ///
    /// When there is no segment `i`.
    pub fn segment_tokens(&self, i: usize) -> impl Iterator<Item = Result<(ChunkId, TokenMatrix)>> + '_ {
        let segment = &self.segments[i];
        let mut scratch = Scratch::default();
        live_rows(segment).map(move |row| Ok((segment.ids()[row as usize], segment.tokens(row, &mut scratch)?)))
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
        let Some(query) = self.packed(query)? else {
            // All scores are sums of nothing.
            let rows =
                self.segments.iter().flat_map(|segment| allowed_rows(segment, allowed).map(move |row| (segment, row)));
            let hits = rows.map(|(segment, row)| Hit::new(segment.ids()[row as usize], 0.0));
            return Ranking::best(hits.collect(), k);
        };
        let mut places = Vec::new();
        let n_candidates = self.config.n_candidates.max(k.saturating_mul(CANDIDATES_PER_HIT));
        for segment in &self.segments {
            let rows: Vec<u32> = allowed_rows(segment, allowed).collect();
            let candidates =
                if rows.len() <= n_candidates { rows } else { best_rows(segment, &query, rows, n_candidates)? };
            places.extend(candidates.into_iter().map(|row| (segment, row)));
        }
        let scores = score_all(&query, &places)?;
        let hits =
            places.iter().zip(scores).map(|((segment, row), score)| Hit::new(segment.ids()[*row as usize], score));
        Ranking::best(hits.collect(), k)
    }
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

fn live_rows(segment: &Segment) -> impl Iterator<Item = u32> + '_ {
    (0..segment.ids().len() as u32).filter(|&row| segment.is_live(row))
}

fn allowed_rows<'a>(segment: &'a Segment, allowed: Option<&'a ChunkSet>) -> impl Iterator<Item = u32> + 'a {
    let is_allowed = move |&row: &u32| allowed.is_none_or(|allowed| allowed.contains(segment.ids()[row as usize]));
    live_rows(segment).filter(is_allowed)
}

/// The scores of rows, from their stored tokens.
fn score_all(query: &PackedMatrix, places: &[(&Segment, u32)]) -> Result<Vec<f32>> {
    let tasks = places.par_chunks(SCORE_TASK).map_init(Scratch::default, |scratch, places| {
        places.iter().map(|(segment, row)| segment.score(query, *row, scratch)).collect::<Result<Vec<f32>>>()
    });
    Ok(tasks.collect::<Result<Vec<_>>>()?.concat())
}

/// The `n` rows that their tokens' centroids rank best, in no order; equal ones by lower row.
fn best_rows(segment: &Segment, query: &PackedMatrix, rows: Vec<u32>, n: usize) -> Result<Vec<u32>> {
    let table = CentroidTable::new(segment.centroids(), query)?;
    let of_task = |rows: &[u32]| -> Result<Vec<(Reverse<u32>, u32)>> {
        let scored = rows
            .iter()
            .map(|&row| Ok((Reverse(centroid_max_sim(&table.rows, table.n_panels, segment.codes(row))?), row)));
        scored.collect()
    };
    let mut scored = rows.par_chunks(SCAN_TASK).map(of_task).collect::<Result<Vec<_>>>()?.concat();
    scored.select_nth_unstable(n - 1);
    Ok(scored[..n].iter().map(|&(_, row)| row).collect())
}

/// A query's products with centroids, in bytes.
struct CentroidTable {
    rows: Vec<[u8; CENTROID_LANES]>,
    n_panels: usize,
}

impl CentroidTable {
    /// A query vector's greatest product with a centroid is 255; all have one unit, such that 0 is, for the one with the
    /// widest range, the mean of its products. What is below is of no document that will be found.
    fn new(centroids: &[f32], query: &PackedMatrix) -> Result<Self> {
        let (dim, n_query) = (query.n_in(), query.n_out());
        let k = centroids.len() / dim;
        let mut products = vec![0.0; k * n_query];
        matrix_product(centroids, query, Epilogue::default(), &mut products)?;
        let (mut greatest, mut sums) = (vec![f32::NEG_INFINITY; n_query], vec![0.0f32; n_query]);
        for row in products.chunks_exact(n_query) {
            for ((greatest, sum), &x) in greatest.iter_mut().zip(&mut sums).zip(row) {
                *greatest = greatest.max(x);
                *sum += x;
            }
        }
        let ranges = greatest.iter().zip(&sums).map(|(greatest, sum)| greatest - sum / k as f32);
        let per_unit = 255.0 / ranges.fold(1e-6, f32::max);
        let n_panels = n_query.div_ceil(CENTROID_LANES);
        let mut rows = vec![[0; CENTROID_LANES]; k * n_panels];
        let panels = rows.chunks_exact_mut(n_panels).zip(products.chunks_exact(n_query));
        for (panels, products) in panels {
            for ((to, &x), greatest) in panels.as_flattened_mut().iter_mut().zip(products).zip(&greatest) {
                *to = (255.5 - (greatest - x) * per_unit) as u8; // Below 0 is 0.
            }
        }
        Ok(Self { rows, n_panels })
    }
}

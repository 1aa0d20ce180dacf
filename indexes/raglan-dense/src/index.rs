//! An index over many segments.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use raglan_core::{ChunkId, ChunkSet, ChunkVectors, DenseVector, Hit, Ranking, VectorIndex};
use raglan_kernels::Int8Query;
use rayon::prelude::*;

use crate::bits::Bits;
use crate::code_scan::{int8_scan, one_bit_scan, rescore};
use crate::exact_scan::{Rows, exact_scan};
use crate::graph::{Walk, WalkQuery};
use crate::segment::Segment;
use crate::{DenseConfig, Error, Result, SearchMode};

/// In [`SearchMode::Auto`], segments of fewer vectors are scanned: 75 MB of them are read in some ten milliseconds.
const AUTO_FROM: usize = 50_000;

/// So small a share of allowed rows is met too seldom on a walk.
const FEW_SHARE: f64 = 0.01;

/// Rows that are scored from the full vectors after a walk, beyond those wanted: bytes rank nearly as they do.
const RESCORED: usize = 16;

/// Vectors of chunks in immutable segments, searched as one.
#[derive(Clone)]
pub struct DenseIndex {
    dim: usize,
    segments: Arc<[Segment]>,
    config: DenseConfig,
    mode: SearchMode,
}

impl DenseIndex {
    /// Opens the segments in these folders, without the deleted chunks. The mode is [`SearchMode::Auto`].
    ///
    /// # Errors
    ///
    /// [`Error::File`] when a file cannot be used; [`Error::Dimension`] when vectors are not of dimension `dim`.
    pub fn open(segments: &[PathBuf], dim: usize, deleted: &ChunkSet, config: &DenseConfig) -> Result<Self> {
        config.check()?;
        if dim == 0 {
            return Err(Error::Config { problem: "the dimension is 0".to_owned() });
        }
        let segments = segments.iter().map(|folder| Segment::open(folder, dim, deleted)).collect::<Result<_>>()?;
        Ok(Self { dim, segments, config: config.clone(), mode: SearchMode::Auto })
    }

    /// The same index with another way of searching.
    pub fn with_mode(self, mode: SearchMode) -> Self {
        Self { mode, ..self }
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The same index with another number of candidates kept on a walk, which trades speed for recall; at least 1.
    pub fn with_ef(mut self, ef: usize) -> Self {
        self.config.ef_search = ef.max(1);
        self
    }

    /// The same index with another number of candidates of a scan of codes that are scored again for each hit; at
    /// least 1.
    pub fn with_rescore(mut self, rescore: usize) -> Self {
        self.config.rescore = rescore.max(1);
        self
    }

    /// How many vectors there are, without deleted ones.
    pub fn len(&self) -> usize {
        self.segments.iter().map(Segment::n_live).sum()
    }

    /// Whether there is no vector.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of all vectors that are not deleted.
    pub(crate) fn live_ids(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.segments.iter().flat_map(|segment| {
            let rows = segment.ids().iter().zip(0..);
            rows.filter(|&(_, row)| segment.is_live(row)).map(|(&id, _)| id)
        })
    }

    /// How many segments there are.
    pub fn n_segments(&self) -> usize {
        self.segments.len()
    }

    /// The ids of segment `i`, increasing, and its vectors, `[n, dim]`; those of deleted chunks too.
    ///
    /// # Panics
    ///
    /// When there is no segment `i`.
    pub fn segment_vectors(&self, i: usize) -> (&[ChunkId], Cow<'_, [f32]>) {
        (self.segments[i].ids(), self.segments[i].vectors().widen())
    }

    /// Whether segment `i` has a graph.
    ///
    /// # Panics
    ///
    /// When there is no segment `i`.
    pub fn has_graph(&self, i: usize) -> bool {
        self.segments[i].has_graph()
    }

    /// The vector of a chunk; none when the chunk is not there, or deleted.
    pub fn vector(&self, chunk: ChunkId) -> Option<Cow<'_, [f32]>> {
        self.segments.iter().find_map(|segment| {
            let row = segment.ids().binary_search(&chunk).ok()?;
            segment.is_live(row as u32).then(|| segment.vectors().rows(row, 1, self.dim).widen())
        })
    }

    /// The best of one segment for queries that share a filter, as score and row.
    fn search_segment(
        &self,
        segment: &Segment,
        queries: &[f32],
        k: usize,
        allowed: Option<&ChunkSet>,
    ) -> Result<Vec<Vec<(f32, u32)>>> {
        let rows = allowed_rows(segment, allowed, self.config.few);
        let n_allowed = rows.len(segment);
        let k = k.min(n_allowed);
        if k == 0 {
            return Ok(vec![Vec::new(); queries.len() / self.dim]);
        }
        let n_candidates = k.saturating_mul(self.config.rescore).min(n_allowed);
        match (self.mode, &rows) {
            (SearchMode::Exact, _) | (_, Rows::Few(_)) => {}
            (SearchMode::Int8, _) => {
                if let Some(int8) = segment.int8() {
                    return int8_scan(segment, int8, queries, k, n_candidates, &rows);
                }
            }
            (SearchMode::OneBit, _) => {
                if let Some(bits) = segment.bits() {
                    return one_bit_scan(segment, bits, queries, k, n_candidates, &rows);
                }
            }
            (SearchMode::Graph | SearchMode::Auto, _) => {
                let ef = self.config.ef_search.max(k);
                let n = segment.ids().len();
                let short = n >= AUTO_FROM && ef.saturating_mul(n) / n_allowed <= n / 20;
                if self.mode == SearchMode::Graph || short {
                    return self.walk(segment, queries, k, ef, &rows);
                }
            }
        }
        exact_scan(segment, queries, self.dim, k, &rows)
    }

    /// The best of one segment by its graph, if it has one; queries whose walk is long or finds too few are scanned for.
    fn walk(
        &self,
        segment: &Segment,
        queries: &[f32],
        k: usize,
        ef: usize,
        rows: &Rows,
    ) -> Result<Vec<Vec<(f32, u32)>>> {
        let Some((graph, codes)) = segment.graph()? else { return exact_scan(segment, queries, self.dim, k, rows) };
        let (n, n_allowed) = (segment.ids().len(), rows.len(segment));
        // Rows that are not allowed are walked past, and take places in proportion.
        let ef = (ef.saturating_mul(n) / n_allowed).min(n);
        queries
            .par_chunks_exact(self.dim)
            .map_init(
                || Walk::new(n),
                |walk, query| {
                    let prepared = WalkQuery { int8: Int8Query::new(query)?, bits: graph.encoder().query(query)? };
                    if let Some(near) = walk.search(graph.links(), codes, &prepared, ef, n_allowed)? {
                        let links = graph.links();
                        let rows_met = near.iter().flat_map(|step| links.with_copies(step.row));
                        let allowed = rows_met.filter(|&row| rows.contains(segment, row));
                        let best = rescore(segment, query, k, allowed.take(k + k.max(RESCORED)))?;
                        if best.len() == k {
                            return Ok(best);
                        }
                    }
                    Ok(exact_scan(segment, query, self.dim, k, rows)?.swap_remove(0))
                },
            )
            .collect()
    }

    fn search_all(
        &self,
        queries: &[DenseVector],
        k: usize,
        allowed: &[Option<&ChunkSet>],
    ) -> raglan_core::Result<Vec<Ranking>> {
        if allowed.len() != queries.len() {
            return Err(raglan_core::Error::Shape { what: "filters", expected: queries.len(), found: allowed.len() });
        }
        if let Some(query) = queries.iter().find(|query| query.dim() != self.dim) {
            return Err(Error::Dimension { what: "a query", expected: self.dim, found: query.dim() }.into());
        }
        let mut hits: Vec<Vec<Hit>> = vec![Vec::new(); queries.len()];
        for (filter, members) in by_filter(allowed) {
            let vectors: Vec<f32> = members.iter().flat_map(|&q| queries[q].as_slice()).copied().collect();
            for segment in self.segments.iter() {
                let best = self.search_segment(segment, &vectors, k, filter)?;
                for (&q, best) in members.iter().zip(best) {
                    hits[q].extend(best.into_iter().map(|(score, row)| Hit::new(segment.ids()[row as usize], score)));
                }
            }
        }
        hits.into_iter().map(|hits| Ranking::best(hits, k)).collect()
    }
}

impl VectorIndex for DenseIndex {
    type Vector = DenseVector;

    fn search(
        &self,
        queries: &[DenseVector],
        k: usize,
        allowed: &[Option<&ChunkSet>],
    ) -> raglan_core::Result<Vec<Ranking>> {
        self.search_all(queries, k, allowed)
    }
}

/// The queries that share a filter, so that they can be scanned together.
fn by_filter<'a>(allowed: &[Option<&'a ChunkSet>]) -> Vec<(Option<&'a ChunkSet>, Vec<usize>)> {
    let mut groups: Vec<(Option<&ChunkSet>, Vec<usize>)> = Vec::new();
    for (q, &filter) in allowed.iter().enumerate() {
        let same = |other: Option<&ChunkSet>| match (filter, other) {
            (None, None) => true,
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            _ => false,
        };
        match groups.iter_mut().find(|(other, _)| same(*other)) {
            Some((_, members)) => members.push(q),
            None => groups.push((filter, vec![q])),
        }
    }
    groups
}

fn allowed_rows(segment: &Segment, allowed: Option<&ChunkSet>, few: usize) -> Rows {
    let Some(allowed) = allowed else { return Rows::Live };
    let mut rows = segment.rows_of(allowed);
    rows.retain(|&row| segment.is_live(row));
    if rows.len() <= few || (rows.len() as f64) < FEW_SHARE * segment.ids().len() as f64 {
        return Rows::Few(rows);
    }
    let mut bits = Bits::none(segment.ids().len());
    for &row in &rows {
        bits.insert(row);
    }
    Rows::Among(bits, rows.len())
}

impl ChunkVectors for DenseIndex {
    fn vectors(&self, ids: &[ChunkId]) -> raglan_core::Result<Vec<DenseVector>> {
        let vector = |&id: &ChunkId| match self.vector(id) {
            Some(vector) => DenseVector::new(vector.into_owned()),
            None => Err(raglan_core::Error::Unknown { what: "vector of chunk", id: u64::from(id.0) }),
        };
        ids.iter().map(vector).collect()
    }
}

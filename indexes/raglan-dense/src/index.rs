//! An index over many segments.

use std::path::PathBuf;

use raglan_core::{ChunkId, ChunkSet, DenseVector, Hit, Ranking, VectorIndex};
use rayon::prelude::*;

use crate::bits::Bits;
use crate::exact_scan::{Rows, exact_scan};
use crate::segment::Segment;
use crate::{DenseConfig, Error, Result, SearchMode};

/// Below this share of allowed rows a scan of just those is faster than a walk through the graph.
const FEW: f64 = 0.1;

/// Vectors of chunks in immutable segments, searched as one.
pub struct DenseIndex {
    dim: usize,
    segments: Vec<Segment>,
    config: DenseConfig,
    mode: SearchMode,
}

impl DenseIndex {
    /// Opens the segments in these folders, without the deleted chunks. The mode is [`SearchMode::Auto`].
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Damaged`] or [`Error::Version`] when a file cannot be used; [`Error::Dimension`] when
    /// vectors are not of dimension `dim`.
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

    /// How many vectors there are, without deleted ones.
    pub fn len(&self) -> usize {
        self.segments.iter().map(Segment::n_live).sum()
    }

    /// Whether there is no vector.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
    pub fn segment_vectors(&self, i: usize) -> (&[ChunkId], &[f32]) {
        (self.segments[i].ids(), self.segments[i].vectors())
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
    pub fn vector(&self, chunk: ChunkId) -> Option<&[f32]> {
        self.segments.iter().find_map(|segment| {
            let row = segment.ids().binary_search(&chunk).ok()?;
            segment.is_live(row as u32).then(|| &segment.vectors()[row * self.dim..][..self.dim])
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
        let rows = allowed_rows(segment, allowed);
        let n_allowed = rows.len(segment);
        let k = k.min(n_allowed);
        if k == 0 {
            return Ok(vec![Vec::new(); queries.len() / self.dim]);
        }
        let ef = self.config.ef_search.max(k);
        let n = segment.ids().len();
        let walk = match self.mode {
            SearchMode::Exact => false,
            SearchMode::Graph => n_allowed as f64 >= FEW * n as f64,
            SearchMode::Auto => n_allowed as f64 >= FEW * n as f64 && ef <= n / 20,
        };
        let graph = if walk { segment.graph()? } else { None };
        let Some(graph) = graph else { return exact_scan(segment, queries, self.dim, k, &rows) };
        queries
            .par_chunks_exact(self.dim)
            .map(|query| {
                let near = graph.search(query, segment.vectors(), ef, |row| rows.contains(segment, row))?;
                if near.len() < k {
                    return Ok(exact_scan(segment, query, self.dim, k, &rows)?.swap_remove(0));
                }
                Ok(near.into_iter().take(k).map(|near| (near.score, near.row)).collect())
            })
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
            for segment in &self.segments {
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

fn allowed_rows(segment: &Segment, allowed: Option<&ChunkSet>) -> Rows {
    let Some(allowed) = allowed else { return Rows::Live };
    let mut rows = segment.rows_of(allowed);
    rows.retain(|&row| segment.is_live(row));
    if (rows.len() as f64) < FEW * segment.ids().len() as f64 {
        return Rows::Few(rows);
    }
    let mut bits = Bits::none(segment.ids().len());
    for &row in &rows {
        bits.insert(row);
    }
    Rows::Among(bits, rows.len())
}

//! A segment: a file of vectors with their ids, and perhaps a graph.
//!
//! `vectors.bin` is a header of 64 bytes (magic, version u32, dim u32, n u64), then the ids, n × u32, then the vectors,
//! n × dim × f32; each part begins at a multiple of 64 bytes, and all is little endian.

use std::path::Path;
use std::sync::OnceLock;

use raglan_core::{ChunkId, ChunkSet};

use crate::bits::Bits;
use crate::files::{ALIGNMENT, MappedFile, after, write_file};
use crate::graph::Graph;
use crate::graph_build::build_graph;
use crate::{DenseConfig, Error, Result};

const VECTORS_FILE: &str = "vectors.bin";
const GRAPH_FILE: &str = "graph.bin";
const MAGIC: &[u8; 8] = b"RAGLANVC";
const VERSION: u32 = 1;

/// Products of rows below this length are finite in `f32`.
const MAX_LENGTH: f64 = 1e18;

/// How far from 1 the squared length of a unit vector may be; `f16` embeddings come this close.
const UNIT_TOLERANCE: f64 = 1e-2;

/// Writes a segment into `folder`, which exists: vectors `[n, dim]` with their ids, which increase.
///
/// A segment of at least [`DenseConfig::graph_from`] vectors gets a graph, provided that all of them are unit vectors:
/// inner products of vectors of different lengths are not a distance that a graph can follow. The graph is built by
/// `threads` threads; with one thread, the same vectors give the same bytes.
///
/// # Errors
///
/// [`Error::Vectors`] when lengths do not fit, ids do not increase, or a component is not finite; [`Error::Io`] when a
/// file cannot be written.
pub fn write_segment(
    folder: &Path,
    ids: &[ChunkId],
    vectors: &[f32],
    dim: usize,
    config: &DenseConfig,
    threads: usize,
) -> Result<()> {
    config.check()?;
    let unit = check_vectors(ids, vectors, dim)?;
    let numbers: Vec<u32> = ids.iter().map(|id| id.0.to_le()).collect();
    let mut header = [0; ALIGNMENT];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&u32::try_from(dim).expect("checked above").to_le_bytes());
    header[16..24].copy_from_slice(&(ids.len() as u64).to_le_bytes());
    let parts = [&header, bytemuck::cast_slice(&numbers), bytemuck::cast_slice(vectors)];
    write_file(&folder.join(VECTORS_FILE), &parts)?;
    if unit && !ids.is_empty() && ids.len() >= config.graph_from {
        build_graph(vectors, dim, config, threads)?.write(&folder.join(GRAPH_FILE))?;
    }
    Ok(())
}

/// Fails unless the vectors can be indexed; says whether all are unit vectors.
fn check_vectors(ids: &[ChunkId], vectors: &[f32], dim: usize) -> Result<bool> {
    let refuse = |problem| Err(Error::Vectors { problem });
    if dim == 0 || u32::try_from(dim).is_err() {
        return refuse(format!("the dimension is {dim}"));
    }
    if ids.len().checked_mul(dim) != Some(vectors.len()) {
        return refuse(format!("{} components for {} vectors of dimension {dim}", vectors.len(), ids.len()));
    }
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        return refuse(format!("chunk {} comes before chunk {}", pair[0].0, pair[1].0));
    }
    let mut unit = true;
    for (id, row) in ids.iter().zip(vectors.chunks_exact(dim)) {
        let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        if square.is_nan() || square.sqrt() > MAX_LENGTH {
            return refuse(format!("the vector of chunk {} is not finite, or too long", id.0));
        }
        unit &= (square - 1.0).abs() <= UNIT_TOLERANCE;
    }
    Ok(unit)
}

/// A segment that is open for searching.
pub struct Segment {
    ids: Vec<ChunkId>,
    dim: usize,
    vectors: MappedFile,
    rows_offset: usize,
    /// Rows whose chunks are deleted, if any.
    deleted: Option<Bits>,
    n_live: usize,
    graph: Option<LazyGraph>,
}

struct LazyGraph {
    file: MappedFile,
    /// The graph once its file has been checked, or what is wrong with it.
    checked: OnceLock<Result<Graph, String>>,
}

impl Segment {
    /// Opens the segment in `folder`.
    pub fn open(folder: &Path, dim: usize, deleted: &ChunkSet) -> Result<Self> {
        let vectors = MappedFile::open(folder.join(VECTORS_FILE))?;
        vectors.check_format(MAGIC, VERSION)?;
        let found = vectors.numbers::<u32>(12, 1)?[0] as usize;
        if found != dim {
            return Err(Error::Dimension { what: "a segment", expected: dim, found });
        }
        let damaged = |problem| Error::damaged(vectors.path(), problem);
        let n = usize::try_from(vectors.numbers::<u64>(16, 1)?[0]).map_err(|_| damaged("too many vectors"))?;
        let rows_offset = after(ALIGNMENT, n, 4).ok_or_else(|| damaged("too many vectors"))?;
        let n_components = n.checked_mul(dim).ok_or_else(|| damaged("too many vectors"))?;
        if after(rows_offset, n_components, 4) != Some(vectors.len()) {
            return Err(damaged("its length is not what its header says"));
        }
        let ids: Vec<ChunkId> = vectors.numbers::<u32>(ALIGNMENT, n)?.iter().copied().map(ChunkId).collect();
        if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(damaged("ids do not increase"));
        }
        vectors.numbers::<f32>(rows_offset, n_components)?;
        let graph_path = folder.join(GRAPH_FILE);
        let graph = match graph_path.try_exists().map_err(Error::io(&graph_path))? {
            true => Some(LazyGraph { file: MappedFile::open(graph_path)?, checked: OnceLock::new() }),
            false => None,
        };
        let mut segment = Self { n_live: n, ids, dim, vectors, rows_offset, deleted: None, graph };
        let rows = segment.rows_of(deleted);
        if !rows.is_empty() {
            let mut bits = Bits::none(n);
            for &row in &rows {
                bits.insert(row);
            }
            segment.n_live = n - rows.len();
            segment.deleted = Some(bits);
        }
        Ok(segment)
    }

    /// The ids of the rows, increasing; deleted ones too.
    pub fn ids(&self) -> &[ChunkId] {
        &self.ids
    }

    /// All rows, `[n, dim]`.
    pub fn vectors(&self) -> &[f32] {
        self.vectors.numbers(self.rows_offset, self.ids.len() * self.dim).expect("the length is checked at opening")
    }

    /// How many rows are not deleted.
    pub fn n_live(&self) -> usize {
        self.n_live
    }

    /// Whether the row's chunk is not deleted.
    #[inline]
    pub fn is_live(&self, row: u32) -> bool {
        self.deleted.as_ref().is_none_or(|deleted| !deleted.contains(row))
    }

    /// Whether some rows are deleted.
    pub fn has_deleted(&self) -> bool {
        self.deleted.is_some()
    }

    /// The rows of those chunks of a set that are in this segment, deleted or not, increasing.
    pub fn rows_of(&self, chunks: &ChunkSet) -> Vec<u32> {
        let (Some(first), Some(last)) = (self.ids.first(), self.ids.last()) else { return Vec::new() };
        let mut rows = Vec::new();
        let mut row = 0;
        for id in chunks.bitmap().range(first.0..=last.0) {
            // Ids are mostly consecutive, so the next is near; the gap is found by doubling.
            let mut step = 1;
            while row + step < self.ids.len() && self.ids[row + step].0 < id {
                step *= 2;
            }
            let end = (row + step + 1).min(self.ids.len());
            row += self.ids[row..end].partition_point(|other| other.0 < id);
            if self.ids.get(row) == Some(&ChunkId(id)) {
                rows.push(row as u32);
            }
        }
        rows
    }

    /// Whether there is a graph.
    pub fn has_graph(&self) -> bool {
        self.graph.is_some()
    }

    /// The graph, whose file is checked when it is first asked for.
    pub fn graph(&self) -> Result<Option<&Graph>> {
        let Some(lazy) = &self.graph else { return Ok(None) };
        let checked = lazy.checked.get_or_init(|| {
            Graph::read(&lazy.file, self.ids.len()).map_err(|e| match e {
                Error::Damaged { problem, .. } => problem,
                other => other.to_string(),
            })
        });
        match checked {
            Ok(graph) => Ok(Some(graph)),
            Err(problem) => Err(Error::damaged(lazy.file.path(), problem.clone())),
        }
    }
}

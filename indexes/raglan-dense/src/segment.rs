//! A segment: a file of vectors with their ids, and perhaps codes of them and a graph.
//!
//! `vectors.bin` is a header of 64 bytes (magic, version u32, dim u32, n u64, bytes a component u32), then the ids,
//! n × u32, then the vectors, n × dim × `f32` or `f16`; each part begins at a multiple of 64 bytes, and all is little
//! endian.

use std::path::Path;
use std::sync::OnceLock;

use raglan_core::{ChunkId, ChunkSet};
use raglan_kernels::{OneBitEncoder, one_bit_words, quantize_i8, to_f16};
use raglan_segment_file::{ALIGNMENT, Error as FileError, SegmentFile, after, header, write_file};

use crate::bits::Bits;
use crate::codes::{BITS_FILE, BitsFile, INT8_FILE, Int8File, Int8Rows, write_bits, write_int8};
use crate::full_vectors::FullVectors;
use crate::graph::{Codes, GRAPH_FILE, GraphFile, write_graph};
use crate::graph_build::build_graph;
use crate::{DenseConfig, Error, Result, VectorStorage};

const VECTORS_FILE: &str = "vectors.bin";
const MAGIC: &[u8; 8] = b"RAGLANVC";
const VERSION: u32 = 2;

/// The greatest number of `f16` and below.
const GREATEST_F16: f32 = 65_504.0;

/// Products of rows below this length are finite in `f32`.
const MAX_LENGTH: f64 = 1e18;

/// How far from 1 the squared length of a unit vector may be; `f16` embeddings come this close.
const UNIT_TOLERANCE: f64 = 1e-2;

/// Writes a segment into `folder`, which exists: vectors `[n, dim]` with their ids, which increase.
///
/// Beside the full vectors come the codes that [`DenseConfig::storage`] names. A segment of at least
/// [`DenseConfig::graph_from`] vectors gets a graph, and bytes for it to be walked by, provided that all of them are
/// unit vectors: inner products of vectors of different lengths are not a distance that a graph can follow. The work is
/// done by `threads` threads; the same vectors give the same bytes with any number of them.
///
/// # Errors
///
/// [`Error::Vectors`] when lengths do not fit, ids do not increase, or a component is not finite; [`Error::File`] when a
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
    let n = ids.len();
    let numbers: Vec<u32> = ids.iter().map(|id| id.0.to_le()).collect();
    let mut header = header(MAGIC, VERSION, dim, n);
    let half = config.keeps(VectorStorage::F16).then(|| halved(vectors)).transpose()?;
    header[24..28].copy_from_slice(&if half.is_some() { 2u32 } else { 4 }.to_le_bytes());
    let full = half.as_ref().map_or(bytemuck::cast_slice(vectors), |half| bytemuck::cast_slice(half));
    write_file(&folder.join(VECTORS_FILE), &[&header, bytemuck::cast_slice(&numbers), full])?;
    drop(half);

    let graph = unit && n > 0 && n >= config.graph_from;
    let mut int8 = None;
    if graph || config.keeps(VectorStorage::Int8) {
        let (mut codes, mut scales) = (vec![0; vectors.len()], vec![0.0; n]);
        quantize_i8(vectors, dim, &mut codes, &mut scales)?;
        write_int8(folder, Int8Rows { codes: &codes, scales: &scales }, dim)?;
        int8 = Some((codes, scales));
    }
    if graph || config.keeps(VectorStorage::OneBit) {
        let centroid = mean(vectors, dim);
        let encoder = OneBitEncoder::new(&centroid, config.seed)?;
        let mut bits = vec![0; n * one_bit_words(dim)];
        encoder.encode(vectors, &mut bits)?;
        if config.keeps(VectorStorage::OneBit) {
            write_bits(folder, &bits, n, &centroid, config.seed)?;
        }
        if let Some((codes, scales)) = int8.filter(|_| graph) {
            let codes = Codes { dim, int8: Int8Rows { codes: &codes, scales: &scales }, bits: &bits };
            let graph = build_graph(vectors, codes, &encoder, config, threads)?;
            write_graph(folder, graph.links(), &bits, &centroid, config.seed)?;
        }
    }
    Ok(())
}

fn halved(vectors: &[f32]) -> Result<Vec<u16>> {
    if vectors.iter().any(|x| x.abs() > GREATEST_F16) {
        return Err(Error::Vectors { problem: "a component is too great for half precision".to_owned() });
    }
    let mut half = vec![0; vectors.len()];
    to_f16(vectors, &mut half)?;
    Ok(half)
}

/// The mean of vectors, zero of none.
fn mean(vectors: &[f32], dim: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; dim];
    for row in vectors.chunks_exact(dim) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    }
    let n = (vectors.len() / dim).max(1) as f64;
    sums.into_iter().map(|sum| (sum / n) as f32).collect()
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
    vectors: SegmentFile,
    rows_offset: usize,
    half: bool,
    /// Rows whose chunks are deleted, if any.
    deleted: Option<Bits>,
    n_live: usize,
    int8: Option<Int8File>,
    bits: Option<BitsFile>,
    graph: Option<LazyGraph>,
}

/// A graph, whose file is opened and checked when it is first asked for.
struct LazyGraph {
    folder: std::path::PathBuf,
    checked: OnceLock<Result<GraphFile, String>>,
}

impl Segment {
    /// Opens the segment in `folder`.
    pub fn open(folder: &Path, dim: usize, deleted: &ChunkSet) -> Result<Self> {
        let vectors = SegmentFile::open(folder.join(VECTORS_FILE))?;
        vectors.check_format(MAGIC, VERSION)?;
        let found = vectors.numbers::<u32>(12, 1)?[0] as usize;
        if found != dim {
            return Err(Error::Dimension { what: "a segment", expected: dim, found });
        }
        let damaged = |problem| Error::damaged(vectors.path(), problem);
        let n = usize::try_from(vectors.numbers::<u64>(16, 1)?[0]).map_err(|_| damaged("too many vectors"))?;
        let rows_offset = after(ALIGNMENT, n, 4).ok_or_else(|| damaged("too many vectors"))?;
        let n_components = n.checked_mul(dim).ok_or_else(|| damaged("too many vectors"))?;
        let n_bytes = vectors.numbers::<u32>(24, 1)?[0];
        if ![2, 4].contains(&n_bytes) {
            return Err(damaged("its components have neither two nor four bytes"));
        }
        if after(rows_offset, n_components, n_bytes as usize) != Some(vectors.bytes().len()) {
            return Err(damaged("its length is not what its header says"));
        }
        let ids: Vec<ChunkId> = vectors.numbers::<u32>(ALIGNMENT, n)?.iter().copied().map(ChunkId).collect();
        if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(damaged("ids do not increase"));
        }
        let has = |name: &str| {
            let path = folder.join(name);
            path.try_exists().map_err(Error::io(&path))
        };
        let int8 = if has(INT8_FILE)? { Some(Int8File::open(folder, n, dim)?) } else { None };
        let bits = if has(BITS_FILE)? { Some(BitsFile::open(folder, n, dim)?) } else { None };
        let graph = has(GRAPH_FILE)?.then(|| LazyGraph { folder: folder.to_owned(), checked: OnceLock::new() });
        let half = n_bytes == 2;
        let mut segment = Self { n_live: n, ids, dim, vectors, rows_offset, half, deleted: None, int8, bits, graph };
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

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All rows, `[n, dim]`.
    pub fn vectors(&self) -> FullVectors<'_> {
        let n_components = self.ids.len() * self.dim;
        let checked = "the length is checked at opening";
        if self.half {
            FullVectors::F16(self.vectors.numbers(self.rows_offset, n_components).expect(checked))
        } else {
            FullVectors::F32(self.vectors.numbers(self.rows_offset, n_components).expect(checked))
        }
    }

    /// The rows as bytes, where they are kept.
    pub fn int8(&self) -> Option<Int8Rows<'_>> {
        self.int8.as_ref().map(Int8File::rows)
    }

    /// The rows as bits, where they are kept.
    pub fn bits(&self) -> Option<&BitsFile> {
        self.bits.as_ref()
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

    /// The graph and the forms of the rows that it is walked by, checked when they are first asked for.
    pub fn graph(&self) -> Result<Option<(&GraphFile, Codes<'_>)>> {
        let Some(lazy) = &self.graph else { return Ok(None) };
        let path = lazy.folder.join(GRAPH_FILE);
        let checked = lazy.checked.get_or_init(|| {
            GraphFile::open(&lazy.folder, self.ids.len(), self.dim).map_err(|e| match e {
                Error::File(FileError::Damaged { problem, .. }) => problem,
                other => other.to_string(),
            })
        });
        let graph = checked.as_ref().map_err(|problem| Error::damaged(&path, problem.clone()))?;
        let Some(int8) = self.int8() else {
            return Err(Error::damaged(&path, format!("the `{INT8_FILE}` that it is walked by is missing")));
        };
        Ok(Some((graph, Codes { dim: self.dim, int8, bits: graph.bits() })))
    }
}

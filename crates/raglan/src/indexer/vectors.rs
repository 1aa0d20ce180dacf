//! The vectors of chunks on their way into a segment.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use raglan_core::{Chunk, ChunkId, ChunkSet, DenseVector, Encoder, SparseVector};
use raglan_dense::DenseIndex;
use raglan_graph::{Extraction, SynonymConfig};
use raglan_late::{LateSegmentWriter, merge_late_segments};
use raglan_ngram::NgramIndex;
use raglan_sparse::ImpactIndex;
use raglan_store::{SegmentDraft, SegmentEntry, SegmentId, Snapshot};

use super::{BuildSettings, IndexTimings};
use crate::embedder::{Encoders, GRAPH, LATE, NGRAMS, SPARSE};
use crate::{Error, Result};

/// How often an encoding under way is asked whether it is done, and the user whether to go on.
const POLL: Duration = Duration::from_millis(50);

/// Bytes of token vectors on the disk that wait for a commit as one byte of memory does: there is more of it.
const SPILLED_PER_PENDING: usize = 8;

/// The vectors of the first `len` chunks of a segment, of every kind that the index has; and their tokens and entities.
pub(super) struct Vectors {
    len: usize,
    /// `[len, dim]`, or empty without a dense encoder.
    dense: Vec<f32>,
    sparse: Vec<SparseVector>,
    late: TokenVectors,
    /// One list a chunk, or none without n-grams.
    tokens: Vec<Vec<u32>>,
    entities: Entities,
}

/// Where the entities of chunks are.
enum Entities {
    /// One extraction a chunk; none without a graph.
    Extracted(Vec<Extraction>),
    /// In other segments, whose deleted chunks stay behind.
    Stored(Vec<PathBuf>, ChunkSet),
}

/// Where token vectors are, which are too many for memory.
enum TokenVectors {
    /// The index has none.
    None,
    /// In the segment's folder, on the way into its index.
    Written(LateSegmentWriter),
    /// In other segments, whose deleted chunks stay behind.
    Stored(Vec<PathBuf>, ChunkSet),
}

impl Vectors {
    /// No vectors yet, of chunks that go into this segment.
    pub(super) fn new(draft: &SegmentDraft, encoders: &Encoders, settings: &BuildSettings) -> Result<Self> {
        let late = match encoders.late {
            Some(_) => TokenVectors::Written(LateSegmentWriter::create(&draft.part_dir(LATE)?, &settings.late)?),
            None => TokenVectors::None,
        };
        let entities = Entities::Extracted(Vec::new());
        Ok(Self { len: 0, dense: Vec::new(), sparse: Vec::new(), late, tokens: Vec::new(), entities })
    }

    /// How many chunks have vectors.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds the vectors of texts; gives the bytes they take, or none when the work is stopped before they are there.
    pub(super) fn encode(
        &mut self,
        encoders: &Encoders,
        texts: Vec<String>,
        stop: &AtomicBool,
    ) -> Result<Option<usize>> {
        let texts = Arc::new(texts);
        let mut bytes = 0;
        if let Some(embedder) = &encoders.dense {
            let Some(vectors) = encode(embedder.encoder()?.clone(), &texts, stop)? else { return Ok(None) };
            for vector in &vectors {
                self.dense.extend_from_slice(vector.as_slice());
                bytes += 4 * vector.dim();
            }
        }
        if let Some(sparse) = &encoders.sparse {
            let Some(vectors) = encode(sparse.embedder.encoder()?.clone(), &texts, stop)? else { return Ok(None) };
            bytes += vectors.iter().map(|vector| 8 * vector.terms().len()).sum::<usize>();
            self.sparse.extend(vectors);
        }
        if let Some(embedder) = &encoders.late {
            let Some(matrices) = encode(embedder.encoder()?.clone(), &texts, stop)? else { return Ok(None) };
            let TokenVectors::Written(writer) = &mut self.late else {
                panic!("vectors that are stored stay as they are")
            };
            writer.add(&matrices)?;
            bytes += matrices.iter().map(|matrix| 2 * matrix.as_slice().len()).sum::<usize>() / SPILLED_PER_PENDING;
        }
        if let Some(tokenizer) = &encoders.ngrams {
            let tokens = tokenizer.tokens(&texts)?;
            bytes += tokens.iter().map(|tokens| 4 * tokens.len()).sum::<usize>();
            self.tokens.extend(tokens);
        }
        if let Some(graph) = &encoders.graph {
            let extractor = graph.extractor.clone();
            let Some(said) = beside(&texts, stop, move |texts| extractor.extract(texts))? else { return Ok(None) };
            let Entities::Extracted(entities) = &mut self.entities else {
                panic!("entities that are stored stay as they are")
            };
            bytes += said.iter().flat_map(Extraction::entities).map(String::len).sum::<usize>();
            entities.extend(said);
        }
        self.len += texts.len();
        Ok(Some(bytes))
    }

    /// Takes over the vectors that another has of the same chunks, of kinds that are not here.
    pub(super) fn join(&mut self, other: Self) {
        assert_eq!(self.len, other.len, "both are of the same chunks");
        if self.dense.is_empty() {
            self.dense = other.dense;
        }
        if self.sparse.is_empty() {
            self.sparse = other.sparse;
        }
        if matches!(self.late, TokenVectors::None) {
            self.late = other.late;
        }
        if self.tokens.is_empty() {
            self.tokens = other.tokens;
        }
        if matches!(&self.entities, Entities::Extracted(entities) if entities.is_empty()) {
            self.entities = other.entities;
        }
    }

    /// Forgets the vectors of all but the first chunks.
    pub(super) fn truncate(&mut self, len: usize) -> Result<()> {
        if len < self.len {
            self.dense.truncate(self.dense.len() / self.len * len);
            self.sparse.truncate(len);
            self.tokens.truncate(len);
            if let Entities::Extracted(entities) = &mut self.entities {
                entities.truncate(len);
            }
            if let TokenVectors::Written(writer) = &mut self.late {
                writer.truncate(len)?;
            }
            self.len = len;
        }
        Ok(())
    }

    /// Reads the vectors that these encoders made of chunks, which are all that live in these segments, back from them.
    /// Token vectors stay where they are until they are written.
    pub(super) fn read(
        snapshot: &Snapshot,
        segments: &[SegmentId],
        chunks: &[Chunk],
        encoders: &Encoders,
        settings: &BuildSettings,
    ) -> Result<Self> {
        let folders = |part: &str| {
            segments.iter().map(|&segment| Ok(snapshot.segment_dir(segment, part)?)).collect::<Result<Vec<_>>>()
        };
        let mut vectors = Self {
            len: chunks.len(),
            dense: Vec::new(),
            sparse: Vec::new(),
            late: TokenVectors::None,
            tokens: Vec::new(),
            entities: Entities::Extracted(Vec::new()),
        };
        if let Some(embedder) = &encoders.dense {
            let dim = embedder.stamp().dim;
            let index = DenseIndex::open(&folders("dense")?, dim, snapshot.deleted(), &settings.dense)?;
            vectors.dense.reserve_exact(chunks.len() * dim);
            for chunk in chunks {
                let vector = index.vector(chunk.id).ok_or(Error::NoVector { chunk: chunk.id.0 })?;
                vectors.dense.extend_from_slice(&vector);
            }
        }
        if encoders.sparse.is_some() {
            let index = ImpactIndex::open(&folders(SPARSE)?, snapshot.deleted(), &settings.sparse)?;
            for chunk in chunks {
                vectors.sparse.push(index.vector(chunk.id).ok_or(Error::NoVector { chunk: chunk.id.0 })?);
            }
        }
        if encoders.late.is_some() {
            vectors.late = TokenVectors::Stored(folders(LATE)?, snapshot.deleted().clone());
        }
        if encoders.ngrams.is_some() {
            let index = NgramIndex::open(&folders(NGRAMS)?, snapshot.deleted())?;
            for chunk in chunks {
                let tokens = index.tokens(chunk.id).ok_or(Error::NoVector { chunk: chunk.id.0 })?;
                vectors.tokens.push(tokens.to_vec());
            }
        }
        if encoders.graph.is_some() {
            vectors.entities = Entities::Stored(folders(GRAPH)?, snapshot.deleted().clone());
        }
        Ok(vectors)
    }

    /// Writes the parts of a segment that hold vectors; `snapshot` is of the index that it joins, and so do others.
    pub(super) fn write(
        self,
        draft: &SegmentDraft,
        ids: &[ChunkId],
        snapshot: &Snapshot,
        joining: &[SegmentDraft],
        settings: &BuildSettings,
        timings: &mut IndexTimings,
    ) -> Result<()> {
        if let Some(embedder) = &settings.encoders.dense {
            let started = Instant::now();
            let dir = draft.part_dir("dense")?;
            raglan_dense::write_segment(
                &dir,
                ids,
                &self.dense,
                embedder.stamp().dim,
                &settings.dense,
                settings.threads,
            )?;
            timings.dense_s += started.elapsed().as_secs_f64();
        }
        let started = Instant::now();
        if settings.encoders.sparse.is_some() {
            raglan_sparse::write_impact_segment(&draft.part_dir(SPARSE)?, ids, &self.sparse, &settings.sparse)?;
            timings.sparse_s += started.elapsed().as_secs_f64();
        }
        let started = Instant::now();
        match self.late {
            TokenVectors::None => {}
            TokenVectors::Written(writer) => {
                writer.finish(ids, &present(snapshot, LATE)?)?;
            }
            TokenVectors::Stored(folders, deleted) => {
                merge_late_segments(&draft.part_dir(LATE)?, &folders, &deleted, &settings.late)?;
            }
        }
        timings.late_s += started.elapsed().as_secs_f64();
        let started = Instant::now();
        if settings.encoders.ngrams.is_some() {
            raglan_ngram::write_segment(&draft.part_dir(NGRAMS)?, ids, &self.tokens)?;
            timings.ngrams_s += started.elapsed().as_secs_f64();
        }
        let started = Instant::now();
        if settings.encoders.graph.is_some() {
            let dir = draft.part_dir(GRAPH)?;
            match self.entities {
                Entities::Extracted(said) => {
                    let mut graph = raglan_graph::SegmentDraft::new(ids, said)?;
                    if let Some(embedder) = &settings.encoders.dense {
                        let names: Vec<&str> = graph.names().iter().map(String::as_str).collect();
                        let vectors = embedder.encoder()?.encode_passages(&names)?;
                        let vectors = vectors.iter().flat_map(DenseVector::as_slice).copied().collect();
                        let mut others = present(snapshot, GRAPH)?;
                        for other in joining {
                            others.push(other.part_dir(GRAPH)?);
                        }
                        let synonyms = SynonymConfig::default();
                        graph = graph.with_vectors(embedder.stamp().dim, vectors, &others, &synonyms)?;
                    }
                    graph.write(&dir)?;
                }
                Entities::Stored(folders, deleted) => raglan_graph::merge_segments(&dir, &folders, &deleted)?,
            }
            timings.graph_s += started.elapsed().as_secs_f64();
        }
        Ok(())
    }
}

/// The folders of this part in the segments of a snapshot that have it.
fn present(snapshot: &Snapshot, part: &str) -> Result<Vec<PathBuf>> {
    let entries = snapshot.segments().iter().filter(|entry| has_part(entry, part));
    entries.map(|entry| Ok(snapshot.segment_dir(entry.id, part)?)).collect()
}

/// Whether a segment has files of this part.
fn has_part(entry: &SegmentEntry, part: &str) -> bool {
    entry.files.iter().any(|file| file.path.split('/').rev().nth(1) == Some(part))
}

/// The vectors of the texts, or none when the work is stopped before they are there.
fn encode<V: Send + 'static>(
    encoder: Arc<dyn Encoder<Vector = V>>,
    texts: &Arc<Vec<String>>,
    stop: &AtomicBool,
) -> Result<Option<Vec<V>>> {
    beside(texts, stop, move |texts| encoder.encode_passages(texts))
}

/// What comes of the texts, or none when the work is stopped before it is there.
///
/// A batch takes seconds on a slow machine and a model cannot be stopped within it: it is left to end by itself.
fn beside<T: Send + 'static>(
    texts: &Arc<Vec<String>>,
    stop: &AtomicBool,
    work: impl FnOnce(&[&str]) -> raglan_core::Result<T> + Send + 'static,
) -> Result<Option<T>> {
    let (send, received) = bounded(1);
    let texts = texts.clone();
    let working = std::thread::spawn(move || {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let _ = send.send(work(&texts)); // Fails when nobody waits for it any more.
    });
    loop {
        match received.recv_timeout(POLL) {
            Ok(done) => return Ok(Some(done?)),
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let panic = working.join().expect_err("a thread that sent nothing has panicked");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

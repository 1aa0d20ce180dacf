//! The vectors of chunks on their way into a segment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use raglan_core::{Chunk, ChunkId, Encoder, SparseVector, TokenMatrix};
use raglan_dense::DenseIndex;
use raglan_late::LateIndex;
use raglan_sparse::ImpactIndex;
use raglan_store::{SegmentDraft, SegmentId, Snapshot};

use super::{BuildSettings, IndexTimings};
use crate::embedder::{Encoders, LATE, SPARSE};
use crate::{Error, Result};

/// How often an encoding under way is asked whether it is done, and the user whether to go on.
const POLL: Duration = Duration::from_millis(50);

/// The vectors of the first `len` chunks that wait, of every kind that the index has.
#[derive(Default)]
pub(super) struct Vectors {
    len: usize,
    /// `[len, dim]`, or empty without a dense encoder.
    dense: Vec<f32>,
    sparse: Vec<SparseVector>,
    late: Vec<TokenMatrix>,
}

impl Vectors {
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
            bytes += matrices.iter().map(|matrix| 4 * matrix.as_slice().len()).sum::<usize>();
            self.late.extend(matrices);
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
        if self.late.is_empty() {
            self.late = other.late;
        }
    }

    /// Forgets the vectors of all but the first chunks.
    pub(super) fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.dense.truncate(self.dense.len() / self.len * len);
            self.sparse.truncate(len);
            self.late.truncate(len);
            self.len = len;
        }
    }

    /// Reads the vectors that these encoders made of chunks back from their segments.
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
        let mut vectors = Self { len: chunks.len(), ..Self::default() };
        if let Some(embedder) = &encoders.dense {
            let dim = embedder.stamp().dim;
            let index = DenseIndex::open(&folders("dense")?, dim, snapshot.deleted(), &settings.dense)?;
            vectors.dense.reserve_exact(chunks.len() * dim);
            for chunk in chunks {
                let vector = index.vector(chunk.id).ok_or(Error::NoVector { chunk: chunk.id.0 })?;
                vectors.dense.extend_from_slice(&vector);
            }
        }
        let no_vector = |chunk: &Chunk| Error::NoVector { chunk: chunk.id.0 };
        if encoders.sparse.is_some() {
            let index = ImpactIndex::open(&folders(SPARSE)?, snapshot.deleted(), &settings.sparse)?;
            for chunk in chunks {
                vectors.sparse.push(index.vector(chunk.id).ok_or_else(|| no_vector(chunk))?);
            }
        }
        if encoders.late.is_some() {
            let index = LateIndex::open(&folders(LATE)?, snapshot.deleted(), &settings.late)?;
            for chunk in chunks {
                vectors.late.push(index.tokens(chunk.id)?.ok_or_else(|| no_vector(chunk))?);
            }
        }
        Ok(vectors)
    }

    /// Writes the parts of a segment that hold vectors.
    pub(super) fn write(
        &self,
        draft: &mut SegmentDraft,
        ids: &[ChunkId],
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
        if settings.encoders.late.is_some() {
            raglan_late::write_late_segment(&draft.part_dir(LATE)?, ids, &self.late, &settings.late)?;
            timings.late_s += started.elapsed().as_secs_f64();
        }
        Ok(())
    }
}

/// The vectors of the texts, or none when the work is stopped before they are there.
///
/// A batch takes seconds on a slow machine and an encoder cannot be stopped within it: it is left to end by itself.
fn encode<V: Send + 'static>(
    encoder: Arc<dyn Encoder<Vector = V>>,
    texts: &Arc<Vec<String>>,
    stop: &AtomicBool,
) -> Result<Option<Vec<V>>> {
    let (send, received) = bounded(1);
    let texts = texts.clone();
    let encoding = std::thread::spawn(move || {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let _ = send.send(encoder.encode_passages(&texts)); // Fails when nobody waits for it any more.
    });
    loop {
        match received.recv_timeout(POLL) {
            Ok(vectors) => return Ok(Some(vectors?)),
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let panic = encoding.join().expect_err("a thread that sent nothing has panicked");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

//! Chunks on their way into the index.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use raglan_core::{Chunk, ChunkId, ChunkSet, ChunkSpan, DocId, Document};
use raglan_sparse::Bm25SegmentWriter;
use raglan_store::{Commit, Ledger, LedgerEntry, SegmentDraft, Snapshot, Writer};

use super::vectors::Vectors;
use super::{BuildSettings, IndexEvent, IndexProgress, IndexTimings};
use crate::{Error, Result};

/// How many chunks are embedded at a time: enough to sort by length, few enough to show progress.
pub(super) const EMBED: usize = 128;

/// A document whose chunks wait for a commit, with what it takes to leave it out again.
pub(super) struct Added {
    /// Its path in the ledger.
    pub(super) path: String,
    /// Its place among the chunks that wait.
    pub(super) chunks: Range<usize>,
    /// Bytes of its text.
    pub(super) text_bytes: u64,
    /// The ledger's entry before.
    pub(super) before: Option<LedgerEntry>,
    /// The chunks that it replaces.
    pub(super) replaced: ChunkSet,
}

/// Chunks, vectors and deletions that wait for a commit.
pub(super) struct Batch<'a> {
    settings: &'a BuildSettings,
    progress: &'a dyn IndexProgress,
    stop: &'a AtomicBool,
    next_chunk: u32,
    next_doc: u32,
    chunks: Vec<Chunk>,
    /// The vectors of the first chunks, and the segment that will hold them, which outlives the files that vectors are
    /// written to; none before any chunk has vectors.
    segment: Option<(Vectors, SegmentDraft)>,
    delete: ChunkSet,
    added: Vec<Added>,
    bytes: u64,
    since: Instant,
    embed_s: f64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        settings: &'a BuildSettings,
        writer: &Writer,
        progress: &'a dyn IndexProgress,
        stop: &'a AtomicBool,
    ) -> Self {
        Self {
            settings,
            progress,
            stop,
            next_chunk: writer.next_chunk_id().0,
            next_doc: writer.next_doc_id().0,
            chunks: Vec::new(),
            segment: None,
            delete: ChunkSet::new(),
            added: Vec::new(),
            bytes: 0,
            since: Instant::now(),
            embed_s: 0.0,
        }
    }

    /// Takes the chunks of a new document; gives it an id, and says where they stand among those that wait.
    ///
    /// Returns `None`, and takes nothing, when the work is stopped on the way.
    pub(super) fn add(
        &mut self,
        writer: &mut Writer,
        text: &str,
        spans: Vec<ChunkSpan>,
    ) -> Result<Option<(DocId, Range<usize>)>> {
        let (first, n_before) = (self.next_chunk, self.chunks.len());
        let doc = DocId(self.next_doc);
        let next_doc = self.next_doc.checked_add(1).ok_or(Error::Full { what: "documents" })?;
        for ChunkSpan { span, locator, n_tokens } in spans {
            let id = ChunkId(self.next_chunk);
            self.next_chunk = self.next_chunk.checked_add(1).ok_or(Error::Full { what: "chunks" })?;
            let text = text[span.clone()].to_owned();
            self.bytes += text.len() as u64;
            self.chunks.push(Chunk { id, doc, span, text, locator, n_tokens });
        }
        while self.chunks.len() - self.n_embedded() >= EMBED {
            if self.stop.load(Ordering::Relaxed) || !self.embed_next(writer)? {
                self.truncate(n_before)?;
                self.next_chunk = first;
                return Ok(None);
            }
        }
        self.next_doc = next_doc;
        Ok(Some((doc, n_before..self.chunks.len())))
    }

    /// Takes note of what the document that was added last replaces.
    pub(super) fn note(&mut self, added: Added) {
        self.added.push(added);
    }

    /// How many of the chunks have vectors.
    fn n_embedded(&self) -> usize {
        self.segment.as_ref().map_or(0, |(vectors, _)| vectors.len())
    }

    fn truncate(&mut self, n_chunks: usize) -> Result<()> {
        self.chunks.truncate(n_chunks);
        match &mut self.segment {
            Some((vectors, _)) => vectors.truncate(n_chunks),
            None => Ok(()),
        }
    }

    /// Takes note that chunks are to be deleted.
    pub(super) fn delete(&mut self, chunks: Option<&ChunkSet>) {
        for id in chunks.into_iter().flat_map(ChunkSet::iter) {
            self.delete.insert(id);
        }
    }

    /// Whether it is time for a commit.
    pub(super) fn is_due(&self) -> bool {
        self.bytes >= self.settings.pending_bytes
            || !self.chunks.is_empty() && self.since.elapsed() >= self.settings.commit_every
    }

    /// Embeds some of the chunks that wait; says no when the work is stopped before they are done.
    fn embed_next(&mut self, writer: &mut Writer) -> Result<bool> {
        let started = Instant::now();
        let encoders = &self.settings.encoders;
        if self.segment.is_none() {
            let draft = writer.new_segment()?;
            let vectors = Vectors::new(&draft, encoders, self.settings)?;
            self.segment = Some((vectors, draft));
        }
        let (vectors, _) = self.segment.as_mut().expect("it was made above");
        let next = self.chunks.len().min(vectors.len() + EMBED);
        let chunks = &self.chunks[vectors.len()..next];
        let texts: Vec<_> = chunks.iter().map(|chunk| chunk.embedded_text(self.settings.prefix_headings)).collect();
        let n_texts = texts.len();
        let Some(bytes) = vectors.encode(encoders, texts, self.stop)? else { return Ok(false) };
        if !encoders.is_empty() {
            self.bytes += bytes as u64;
            self.embed_s += started.elapsed().as_secs_f64();
            self.progress.event(IndexEvent::Embedded { chunks: n_texts });
        }
        Ok(true)
    }

    /// Writes a segment of everything that waits and makes it durable together with the ledger.
    ///
    /// When the work is stopped on the way, documents whose chunks are not all embedded are left out, also of the
    /// ledger, and given back.
    pub(super) fn commit(
        &mut self,
        writer: &mut Writer,
        ledger: &mut Ledger,
        timings: &mut IndexTimings,
    ) -> Result<Vec<Added>> {
        while self.n_embedded() < self.chunks.len() && self.embed_next(writer)? {}
        let n_embedded = self.n_embedded();
        let n_complete = self.added.partition_point(|added| added.chunks.end <= n_embedded);
        let left_out = self.added.split_off(n_complete);
        if let Some(first) = left_out.first() {
            self.truncate(first.chunks.start)?;
        }
        for added in &left_out {
            ledger.remove(&added.path);
            if let Some(LedgerEntry { document, n_chunks }) = &added.before {
                ledger.insert_document(Document::clone(document), *n_chunks);
            }
        }
        for added in std::mem::take(&mut self.added) {
            self.delete(Some(&added.replaced));
        }
        timings.embed_s += std::mem::take(&mut self.embed_s);
        let changed = !self.chunks.is_empty() || !self.delete.is_empty() || writer.passport_is_new();
        if changed || writer.snapshot().ledger()? != ledger {
            let mut add = Vec::new();
            if let Some((vectors, draft)) = self.segment.take().filter(|_| !self.chunks.is_empty()) {
                add.push(write_segment(writer.snapshot(), &[], draft, self.settings, &self.chunks, vectors, timings)?);
            }
            let started = Instant::now();
            let delete = std::mem::take(&mut self.delete);
            // The first commit of an index that is built anew drops all that was there.
            let drops = !delete.is_empty() || writer.passport_is_new();
            let snapshot = writer.commit(Commit { add, drop: Vec::new(), delete, ledger: ledger.clone() })?;
            timings.commit_s += started.elapsed().as_secs_f64();
            if drops && let Err(error) = crate::kept_kv::drop_dead(&snapshot) {
                tracing::warn!("keys and values of chunks that are no more were not removed: {error}");
            }
            self.progress.event(IndexEvent::Committed { generation: snapshot.generation() });
        }
        self.chunks.clear();
        self.segment = None;
        self.bytes = 0;
        self.since = Instant::now();
        Ok(left_out)
    }
}

/// Writes the chunks, their terms and their vectors as a segment that is not committed yet, of the index of a snapshot,
/// which other segments will join with it.
pub(super) fn write_segment(
    snapshot: &Snapshot,
    joining: &[SegmentDraft],
    mut draft: SegmentDraft,
    settings: &BuildSettings,
    chunks: &[Chunk],
    vectors: Vectors,
    timings: &mut IndexTimings,
) -> Result<SegmentDraft> {
    let started = Instant::now();
    draft.write_chunks(chunks)?;
    timings.commit_s += started.elapsed().as_secs_f64();
    let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
    let dir = draft.part_dir("bm25")?;
    let terms_s = std::thread::scope(|scope| {
        let terms = scope.spawn(|| write_terms(&dir, settings, chunks));
        vectors.write(&draft, &ids, snapshot, joining, settings, timings)?;
        terms.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    timings.bm25_s += terms_s;
    Ok(draft)
}

/// Writes the terms of chunks; gives the seconds that it took.
fn write_terms(dir: &Path, settings: &BuildSettings, chunks: &[Chunk]) -> Result<f64> {
    let started = Instant::now();
    let mut terms = Bm25SegmentWriter::create(dir, &settings.analyzer, settings.threads)?;
    for chunk in chunks {
        terms.add(chunk.id, &chunk.embedded_text(settings.prefix_headings))?;
    }
    terms.finish()?;
    Ok(started.elapsed().as_secs_f64())
}

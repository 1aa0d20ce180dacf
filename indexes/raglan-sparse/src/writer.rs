//! Writing a segment.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use raglan_core::ChunkId;
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{TextAnalyzer, TokenizerManager};
use tantivy::{Index, SingleSegmentIndexWriter, TantivyDocument};

use crate::analyzer::TextTokenizer;
use crate::part_directory::{Access, PartDirectory};
use crate::segment_files::{self, PART_BYTES, PartDocs};
use crate::{AnalyzerConfig, Error, Result};

/// The name of the only field.
pub const TEXT: &str = "text";

/// Text that is handed to a thread at once; some hundred chunks.
const BATCH_BYTES: usize = 1 << 20;

/// Batches that wait for a thread, so that it never waits for the next.
const QUEUE: usize = 2;

/// Writes one immutable segment of chunks.
///
/// Texts go in batches to the threads in turn, each of which builds parts of its own; so the segment's bytes depend on
/// the chunks and the number of threads, not on how the threads are scheduled, and rankings depend on neither. All
/// files are complete when [`finish`](Self::finish) returns; without it the folder holds nothing that can be opened.
pub struct Bm25SegmentWriter {
    folder: PathBuf,
    analyzer: AnalyzerConfig,
    /// One for each thread that has had something to do.
    workers: Vec<Worker>,
    n_threads: usize,
    next_worker: usize,
    batch: Batch,
    last: Option<ChunkId>,
}

#[derive(Default)]
struct Batch {
    text: String,
    /// Each chunk with the end of its text.
    chunks: Vec<(u32, usize)>,
}

struct Worker {
    batches: Option<SyncSender<Batch>>,
    thread: JoinHandle<Result<Vec<PartDocs>>>,
}

impl Bm25SegmentWriter {
    /// Begins a segment in `folder`, which exists and is empty, with up to `threads` threads.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when `folder` cannot be read.
    pub fn create(folder: &Path, analyzer: &AnalyzerConfig, threads: usize) -> Result<Self> {
        std::fs::read_dir(folder).map_err(Error::io(folder))?;
        Ok(Self {
            folder: folder.to_owned(),
            analyzer: analyzer.clone(),
            workers: Vec::new(),
            n_threads: threads.max(1),
            next_worker: 0,
            batch: Batch::default(),
            last: None,
        })
    }

    /// Adds a chunk; ids increase.
    ///
    /// # Errors
    ///
    /// [`Error::Order`] when the id is not above the last one; the error of a thread that has failed.
    pub fn add(&mut self, chunk: ChunkId, text: &str) -> Result<()> {
        if let Some(last) = self.last.filter(|&last| chunk <= last) {
            return Err(Error::Order { chunk: chunk.0, last: last.0 });
        }
        self.last = Some(chunk);
        self.batch.text.push_str(text);
        self.batch.chunks.push((chunk.0, self.batch.text.len()));
        if self.batch.text.len() >= BATCH_BYTES { self.send() } else { Ok(()) }
    }

    /// Ends the segment.
    ///
    /// # Errors
    ///
    /// [`Error::File`] or [`Error::Tantivy`] when a file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        if !self.batch.chunks.is_empty() {
            self.send()?;
        }
        let mut parts = Vec::new();
        for worker in &mut self.workers {
            worker.batches = None;
        }
        for worker in self.workers {
            parts.extend(worker.thread.join().map_err(|_| Error::Panicked)??);
        }
        parts.sort_unstable_by_key(|part| part.part);
        segment_files::write(&self.folder, &self.analyzer, &parts)
    }

    /// Hands the batch to the next thread in turn.
    fn send(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let number = self.next_worker;
        self.next_worker = (number + 1) % self.n_threads;
        if number == self.workers.len() {
            let (sender, receiver) = sync_channel(QUEUE);
            let (folder, analyzer, step) = (self.folder.clone(), self.analyzer.clone(), self.n_threads);
            let thread = thread::Builder::new()
                .name(format!("bm25-{number}"))
                .spawn(move || write_parts(&folder, &analyzer, number, step, &receiver))
                .map_err(Error::io(&self.folder))?;
            self.workers.push(Worker { batches: Some(sender), thread });
        }
        let sender = self.workers[number].batches.as_ref().expect("open until the segment is finished");
        if sender.send(batch).is_ok() {
            return Ok(());
        }
        // The thread has ended, which it does only when it fails.
        let worker = self.workers.swap_remove(number);
        match worker.thread.join() {
            Ok(Err(error)) => Err(error),
            _ => Err(Error::Panicked),
        }
    }
}

/// What a thread does: parts `first`, `first + step`, … of the batches that it gets.
fn write_parts(
    folder: &Path,
    analyzer: &AnalyzerConfig,
    first: usize,
    step: usize,
    batches: &Receiver<Batch>,
) -> Result<Vec<PartDocs>> {
    let mut parts = Vec::new();
    let mut number = first;
    let mut open: Option<PartWriter> = None;
    for batch in batches {
        let part = match &mut open {
            Some(part) => part,
            None => open.insert(PartWriter::create(folder, analyzer, number)?),
        };
        let mut start = 0;
        for &(chunk, end) in &batch.chunks {
            part.add(folder, chunk, &batch.text[start..end])?;
            start = end;
        }
        if part.writer.mem_usage() >= PART_BYTES {
            parts.extend(open.take().map(|part| part.finish(folder)).transpose()?);
            number += step;
        }
    }
    parts.extend(open.map(|part| part.finish(folder)).transpose()?);
    Ok(parts)
}

struct PartWriter {
    writer: SingleSegmentIndexWriter,
    field: Field,
    n_terms: Arc<AtomicU32>,
    docs: PartDocs,
}

impl PartWriter {
    fn create(folder: &Path, analyzer: &AnalyzerConfig, part: usize) -> Result<Self> {
        let mut schema = Schema::builder();
        let indexing = TextFieldIndexing::default().set_tokenizer(TEXT).set_index_option(IndexRecordOption::WithFreqs);
        let field = schema.add_text_field(TEXT, TextOptions::default().set_indexing_options(indexing));
        let n_terms = Arc::new(AtomicU32::new(0));
        let tokenizers = TokenizerManager::new();
        tokenizers.register(TEXT, TextAnalyzer::from(TextTokenizer::counting(analyzer, Arc::clone(&n_terms))));
        let directory = PartDirectory::open(folder, part, Access::Write).map_err(Error::tantivy(folder))?;
        let writer = Index::builder()
            .schema(schema.build())
            .tokenizers(tokenizers)
            .single_segment_index_writer(directory, PART_BYTES)
            .map_err(Error::tantivy(folder))?;
        Ok(Self { writer, field, n_terms, docs: PartDocs { part, ..PartDocs::default() } })
    }

    fn add(&mut self, folder: &Path, chunk: u32, text: &str) -> Result<()> {
        let mut document = TantivyDocument::new();
        document.add_text(self.field, text);
        self.writer.add_document(document).map_err(Error::tantivy(folder))?;
        self.docs.ids.push(chunk);
        self.docs.lengths.push(self.n_terms.load(Ordering::Relaxed));
        Ok(())
    }

    fn finish(self, folder: &Path) -> Result<PartDocs> {
        self.writer.finalize().map_err(Error::tantivy(folder))?;
        Ok(self.docs)
    }
}

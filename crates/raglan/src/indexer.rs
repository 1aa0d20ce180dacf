//! Brings an index up to date with its folder.

mod batch;
mod collection;
mod extend;
mod merge;
mod plan;
mod read;
mod redirects;
mod vectors;

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use raglan_core::{ChunkSet, Chunker, DocId, Document};
use raglan_dense::DenseConfig;
use raglan_ingest::{Isolation, Limits, ReaderPool, WalkOptions};
use raglan_late::LateConfig;
use raglan_sparse::{AnalyzerConfig, ImpactConfig};
use raglan_store::{LedgerEntry, Passport, Skipped, Snapshot, Writer};
use serde::Serialize;

use crate::embedder::Encoders;
use crate::location;
use crate::{Error, Result};
use batch::{Added, Batch};
pub use collection::{index_collection, index_pages};
use plan::Plan;
use read::{Content, Ready, read_in_order};
pub(crate) use redirects::redirects_to;

/// How a folder is indexed.
pub struct IndexSettings {
    /// Which files are looked at.
    pub walk: WalkOptions,
    /// How much of a file is read.
    pub limits: Limits,
    /// Whether files of risky formats are read in a process of their own.
    pub isolation: Isolation,
    /// Cuts documents into chunks.
    pub chunker: Arc<dyn Chunker>,
    /// What is made of the chunks.
    pub build: BuildSettings,
    /// Settings by name that the index remembers, for whoever updates it next.
    pub remembered: BTreeMap<String, String>,
}

/// What is made of chunks, wherever they come from.
pub struct BuildSettings {
    /// Whether chunks are embedded below the line of their headings.
    pub prefix_headings: bool,
    /// What makes the vectors of chunks; without any the index has BM25 only.
    pub encoders: Encoders,
    /// How text is cut into terms for BM25.
    pub analyzer: AnalyzerConfig,
    /// How vectors are stored and searched.
    pub dense: DenseConfig,
    /// How learned sparse vectors are stored and searched.
    pub sparse: ImpactConfig,
    /// How token vectors are stored and searched.
    pub late: LateConfig,
    /// Threads to work on.
    pub threads: usize,
    /// Bytes of text and vectors that may wait for a commit; token vectors wait on the disk and count an eighth.
    pub pending_bytes: u64,
    /// Uncommitted work is committed after this long.
    pub commit_every: Duration,
}

impl BuildSettings {
    /// The settings of `raglan index` when nothing else is said.
    pub fn new(encoders: Encoders, threads: usize) -> Self {
        Self {
            prefix_headings: true,
            encoders,
            analyzer: AnalyzerConfig::default(),
            dense: DenseConfig::default(),
            sparse: ImpactConfig::default(),
            late: LateConfig::default(),
            threads,
            pending_bytes: 256 << 20,
            commit_every: Duration::from_secs(60),
        }
    }

    /// What an index of chunks that were cut like this is made with.
    fn passport(&self, chunker: String) -> Passport {
        let mut passport = Passport {
            chunker,
            prefix_headings: self.prefix_headings,
            analyzer: self.analyzer.fingerprint(),
            ..Passport::default()
        };
        self.encoders.stamp(&mut passport);
        passport
    }
}

/// What happens while a folder is indexed.
#[derive(Clone, Debug)]
pub enum IndexEvent<'a> {
    /// The folder was walked.
    Walked {
        /// Files to read, and their size in bytes.
        to_read: usize,
        /// Sum of their sizes.
        bytes: u64,
        /// Files that have not changed.
        unchanged: usize,
    },
    /// A file was read and cut into chunks, or skipped.
    Read {
        /// Path relative to the folder.
        path: &'a str,
        /// Size of the file in bytes.
        bytes: u64,
        /// How many chunks it gave.
        chunks: usize,
        /// How many files are done, this one among them.
        files_done: usize,
        /// How many files there are to read.
        files: usize,
    },
    /// Chunks were embedded.
    Embedded {
        /// How many.
        chunks: usize,
    },
    /// Everything up to here is durable.
    Committed {
        /// The generation that readers now see.
        generation: u64,
    },
    /// Segments are being merged.
    Merging {
        /// How many segments become one.
        segments: usize,
    },
}

/// Is told what happens while a folder is indexed.
pub trait IndexProgress: Sync {
    /// Takes note of an event.
    fn event(&self, event: IndexEvent<'_>);
}

impl IndexProgress for () {
    fn event(&self, _: IndexEvent<'_>) {}
}

/// A file that was found and is not in the index.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SkippedFile {
    /// Path relative to the folder.
    pub path: String,
    /// Why it was skipped.
    pub reason: String,
}

/// What an update did. Every file found is in exactly one of `new`, `changed`, `moved`, `unchanged` and `skipped`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct IndexReport {
    /// Files found in the folder.
    pub found: usize,
    /// Files indexed for the first time.
    pub new: usize,
    /// Files indexed again because their content changed.
    pub changed: usize,
    /// Files that were in the index under another path.
    pub moved: usize,
    /// Files whose content is in the index already.
    pub unchanged: usize,
    /// Files that were found and are not in the index.
    pub skipped: Vec<SkippedFile>,
    /// Documents dropped because their files are gone or were skipped.
    pub deleted: usize,
    /// Whether the update was interrupted before all files were read; the next one goes on.
    pub interrupted: bool,
    /// Files that an interrupted update did not come to.
    pub not_reached: usize,
    /// Chunks written.
    pub chunks_written: usize,
    /// Chunks that got vectors of a kind that the index lacked.
    pub extended: usize,
    /// Bytes of extracted text written.
    pub text_bytes: u64,
    /// Live chunks in the index now.
    pub chunks: usize,
    /// Documents in the index now.
    pub documents: usize,
    /// Where the time went.
    pub timings: IndexTimings,
}

impl IndexReport {
    /// Counts documents out again that a stop left out of a commit.
    fn take_back(&mut self, left_out: &[Added]) {
        for added in left_out {
            let count = if added.before.is_some() { &mut self.changed } else { &mut self.new };
            *count -= 1;
            self.chunks_written -= added.chunks.len();
            self.text_bytes -= added.text_bytes;
        }
    }
}

/// Where an update's time went, in seconds. Reading and chunking run beside the rest, on several threads, and words are
/// written beside vectors.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct IndexTimings {
    /// Walking the folder and comparing it with the index.
    pub walk_s: f64,
    /// Reading files, summed over threads.
    pub read_s: f64,
    /// Cutting documents into chunks, summed over threads.
    pub chunk_s: f64,
    /// Embedding chunks.
    pub embed_s: f64,
    /// Writing BM25 segments.
    pub bm25_s: f64,
    /// Writing vectors and graphs.
    pub dense_s: f64,
    /// Writing learned sparse vectors.
    pub sparse_s: f64,
    /// Writing token vectors.
    pub late_s: f64,
    /// Writing n-grams.
    pub ngrams_s: f64,
    /// Embedding entities and writing the graph.
    pub graph_s: f64,
    /// Writing chunk tables and ledgers and making them durable.
    pub commit_s: f64,
    /// Merging segments.
    pub merge_s: f64,
    /// All of it, by the clock.
    pub total_s: f64,
}

/// What an update starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The index as it is.
    Continue,
    /// Nothing: the old index is given up once the new one is there.
    Rebuild,
}

/// Keeps the index of one folder.
pub struct Indexer {
    root: PathBuf,
    index: PathBuf,
    settings: IndexSettings,
}

impl Indexer {
    /// An indexer of the files below `root`, whose index is in the folder `index`.
    pub fn new(root: &Path, index: &Path, settings: IndexSettings) -> Self {
        Self { root: root.to_owned(), index: index.to_owned(), settings }
    }

    /// What the index's vectors, chunks and terms are made with.
    pub fn passport(&self) -> Passport {
        Passport {
            root: self.root.canonicalize().ok().map(|root| location::root_note(&self.index, &root)),
            settings: self.settings.remembered.clone(),
            ..self.settings.build.passport(self.settings.chunker.fingerprint())
        }
    }

    /// Reads what is new or changed, forgets what is gone, and commits.
    ///
    /// When `stop` becomes true the update commits what it has and returns a report that says so.
    ///
    /// # Errors
    ///
    /// [`Error::OtherFolder`] when the index is of another folder and is not to be rebuilt.
    /// Failures of single files are in the report. An error means that the index could not be written; what was
    /// committed before it stays.
    pub fn update(&self, start: Start, progress: &dyn IndexProgress, stop: &AtomicBool) -> Result<IndexReport> {
        let started = Instant::now();
        let root = self.root.canonicalize().ok().filter(|path| path.is_dir());
        let root = root.ok_or_else(|| Error::NoFolder { path: self.root.clone() })?;
        let (mut writer, extended) = match start {
            Start::Continue => {
                let passport = self.passport();
                refuse_another_folder(&self.index, &root, &passport)?;
                let Some(opened) = extend::open_or_extend(&self.index, passport, &self.settings.build, progress, stop)?
                else {
                    return Ok(IndexReport { interrupted: true, ..IndexReport::default() });
                };
                opened
            }
            Start::Rebuild => (Writer::rebuild(&self.index, self.passport())?, 0),
        };
        let mut walk_options = self.settings.walk.clone();
        walk_options.exclude_paths.push(self.index.clone());
        let walk = raglan_ingest::walk(&root, &walk_options)?;
        let mut report =
            IndexReport { found: walk.files.len() + walk.skipped.len(), extended, ..IndexReport::default() };
        let plan = Plan::new(walk, writer.snapshot().ledger()?);
        report.unchanged = plan.unchanged;
        report.skipped.clone_from(&plan.skipped);
        report.timings.walk_s = started.elapsed().as_secs_f64();
        let bytes = plan.to_read.iter().map(|file| file.size).sum();
        progress.event(IndexEvent::Walked { to_read: plan.to_read.len(), bytes, unchanged: plan.unchanged });

        if let Some(embedder) = &self.settings.build.encoders.dense
            && !plan.to_read.is_empty()
        {
            embedder.load_counter()?;
        }

        let mut ledger = writer.snapshot().ledger()?.clone();
        let mut gone = plan.gone(&ledger);
        let old_chunks = OldChunks::new(writer.snapshot());
        let mut batch = Batch::new(&self.settings.build, &writer, progress, stop);

        let pool = ReaderPool::new(self.settings.limits, self.settings.isolation.clone(), self.settings.build.threads);
        let clocks = read::Clocks::default();
        let mut reached = 0;
        read_in_order(
            &pool,
            &plan.to_read,
            &*self.settings.chunker,
            self.settings.build.threads,
            stop,
            &clocks,
            |ready| {
                let Ready { file, outcome } = ready;
                reached += 1;
                let known = ledger.by_path(&file.name).cloned();
                let (known, n_known) = known.map(|entry| (Document::clone(&entry.document), entry.n_chunks)).unzip();
                let mut n_chunks = 0;
                match outcome {
                    Ok(Content { hash, parsed, spans }) => {
                        let document = |id| Document {
                            id,
                            path: file.name.clone(),
                            hash,
                            size: file.size,
                            mtime_ns: file.mtime_ns,
                            format: parsed.format,
                            reader: parsed.reader.clone(),
                            encoding: parsed.encoding.clone(),
                            title: parsed.title.clone(),
                            metadata: parsed.metadata.clone(),
                        };
                        let same = |old: &Document| old.hash == hash && old.reader == parsed.reader;
                        // What stays has the chunks that it has: an encoder that came later may count tokens otherwise, and
                        // cut it otherwise now.
                        if let (Some(old), Some(n_chunks)) = (known.as_ref().filter(|old| same(old)), n_known) {
                            ledger.insert_document(document(old.id), n_chunks);
                            report.unchanged += 1;
                        } else if let Some(LedgerEntry { document: old, n_chunks }) =
                            gone.take_same(&ledger, hash, &parsed.reader)
                        {
                            ledger.remove(&old.path);
                            if let Some(replaced) = &known {
                                batch.delete(old_chunks.of(replaced.id)?);
                            }
                            ledger.insert_document(document(old.id), n_chunks);
                            report.moved += 1;
                        } else {
                            n_chunks = spans.len();
                            let Some((doc, chunks)) = batch.add(&mut writer, &parsed.text, spans)? else {
                                reached -= 1;
                                return Ok(());
                            };
                            let mut replaced = ChunkSet::new();
                            match &known {
                                Some(old) => {
                                    replaced = old_chunks.of(old.id)?.cloned().unwrap_or_default();
                                    report.changed += 1;
                                }
                                None => report.new += 1,
                            }
                            batch.note(Added {
                                path: file.name.clone(),
                                chunks,
                                text_bytes: parsed.text.len() as u64,
                                before: ledger.by_path(&file.name).cloned(),
                                replaced,
                            });
                            ledger.insert_document(document(doc), n_chunks as u32);
                            report.chunks_written += n_chunks;
                            report.text_bytes += parsed.text.len() as u64;
                        }
                    }
                    Err(reason) => {
                        if let Some(old) = known {
                            batch.delete(old_chunks.of(old.id)?);
                            ledger.remove(&old.path);
                            report.deleted += 1;
                        }
                        ledger.insert_skipped(Skipped {
                            path: file.name.clone(),
                            size: file.size,
                            mtime_ns: file.mtime_ns,
                            reason: reason.to_string(),
                            reader_version: plan::READERS.clone(),
                        });
                        report.skipped.push(SkippedFile { path: file.name.clone(), reason: reason.to_string() });
                    }
                }
                progress.event(IndexEvent::Read {
                    path: &file.name,
                    bytes: file.size,
                    chunks: n_chunks,
                    files_done: reached,
                    files: plan.to_read.len(),
                });
                if batch.is_due() {
                    let left_out = batch.commit(&mut writer, &mut ledger, &mut report.timings)?;
                    reached -= left_out.len();
                    report.take_back(&left_out);
                }
                Ok(())
            },
        )?;

        report.interrupted = stop.load(Ordering::Relaxed) && reached < plan.to_read.len();
        report.not_reached = plan.to_read.len() - reached;
        if !report.interrupted {
            for document in gone.rest(&ledger) {
                batch.delete(old_chunks.of(document.id)?);
                ledger.remove(&document.path);
                report.deleted += 1;
            }
            plan.forget_skipped(&mut ledger);
        }
        let left_out = batch.commit(&mut writer, &mut ledger, &mut report.timings)?;
        report.take_back(&left_out);
        report.not_reached += left_out.len();
        report.interrupted |= !left_out.is_empty();
        if !report.interrupted {
            let merging = Instant::now();
            merge::merge_segments(&mut writer, &self.settings.build, progress, stop)?;
            report.timings.merge_s = merging.elapsed().as_secs_f64();
            writer.gc()?;
        }
        let snapshot = writer.snapshot();
        report.chunks = snapshot.n_chunks();
        report.documents = snapshot.ledger()?.documents().len();
        (report.timings.read_s, report.timings.chunk_s) = clocks.seconds();
        report.timings.total_s = started.elapsed().as_secs_f64();
        report.skipped.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(report)
    }
}

/// An index is of one folder: an update from another would drop everything that it holds.
fn refuse_another_folder(index: &Path, root: &Path, wanted: &Passport) -> Result<()> {
    let known = Passport::read(index).ok().and_then(|passport| passport.root);
    match known {
        Some(known) if wanted.root.as_ref() != Some(&known) => Err(Error::OtherFolder {
            index: index.to_owned(),
            indexed: location::noted_root(index, &known),
            wanted: root.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The chunks that documents had before the update, looked up when first asked for.
struct OldChunks {
    snapshot: Snapshot,
    by_document: OnceCell<HashMap<DocId, ChunkSet>>,
}

impl OldChunks {
    fn new(snapshot: &Snapshot) -> Self {
        Self { snapshot: snapshot.clone(), by_document: OnceCell::new() }
    }

    fn of(&self, document: DocId) -> Result<Option<&ChunkSet>> {
        if self.by_document.get().is_none() {
            let mut by_document: HashMap<DocId, ChunkSet> = HashMap::new();
            for &(chunk, doc) in &self.snapshot.chunk_docs()? {
                by_document.entry(doc).or_default().insert(chunk);
            }
            let _ = self.by_document.set(by_document);
        }
        Ok(self.by_document.get().and_then(|chunks| chunks.get(&document)))
    }
}

//! Indexes documents that come one after the other and have ids, not files: those of an evaluation collection, each as one
//! chunk, and the pages of an encyclopedia.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use raglan_core::{
    Block, BlockKind, ChunkSet, ChunkSpan, Chunker, ContentHash, Document, Format, Locator, Mark, MarkKind,
    ParsedDocument,
};
use raglan_datasets::{Page, PageEntry, PagePart, beir};
use raglan_ingest::chunk::WordCounter;
use raglan_store::{Commit, Ledger, Passport, Skipped, Snapshot, Writer};

use super::batch::{Added, Batch};
use super::extend::open_or_extend;
use super::merge::merge_segments;
use super::redirects::Redirects;
use super::{BuildSettings, IndexEvent, IndexProgress, IndexReport, SkippedFile};
use crate::{Error, Result};

/// What reads such documents.
const READER: &str = "collection/1";

/// Brings an index of the documents of a collection up to date: those it lacks are added.
///
/// A document is indexed whole, as published figures are: its text is its title, a space and its text, without white
/// space around. Its path in the index is its id. Documents without text are skipped. An index of these documents that
/// lacks vectors gets them.
///
/// # Errors
///
/// [`Error::OtherCollection`] when the index holds a document that is not among these, or has another text; when the index
/// cannot be written, or was made in another way.
pub fn index_collection(
    index: &Path,
    documents: &[beir::Document],
    settings: &BuildSettings,
    progress: &dyn IndexProgress,
    stop: &AtomicBool,
) -> Result<IndexReport> {
    let passport = settings.passport("whole/1".to_owned());
    // Nothing to do needs no lock: several evaluations may read one index.
    if let Ok(snapshot) = Snapshot::open(index)
        && snapshot.passport().check(&passport, index).is_ok()
    {
        let ledger = snapshot.ledger()?;
        refuse_another_collection(index, documents, ledger)?;
        let is_known = |id: &str| ledger.by_path(id).is_some() || ledger.skipped_at(id).is_some();
        if documents.iter().all(|document| is_known(&document.id)) {
            return Ok(IndexReport {
                found: documents.len(),
                unchanged: documents.len(),
                chunks: snapshot.n_chunks(),
                documents: ledger.documents().len(),
                ..IndexReport::default()
            });
        }
    }
    let counter = settings.encoders.counter().unwrap_or_else(|| Arc::new(WordCounter));
    let cut = |document: &beir::Document| {
        let text = whole_text(document);
        let n_tokens = u32::try_from(counter.count(&text)?).map_err(|_| Error::Full { what: "tokens" })?;
        let whole = ChunkSpan { span: 0..text.len(), locator: Locator::default(), n_tokens };
        Ok(Cut {
            spans: if text.is_empty() { Vec::new() } else { vec![whole] },
            text,
            title: document.title.clone(),
            metadata: BTreeMap::new(),
        })
    };
    let stream = Stream {
        total: Some(documents.len()),
        bytes: documents.iter().map(|document| (document.title.len() + document.text.len()) as u64).sum(),
        reader: READER,
        id: |document: &&beir::Document| &document.id,
    };
    let documents = documents.iter().map(|document| Ok(Some(document)));
    add_documents(index, passport, stream, documents, |document| cut(document), settings, progress, stop)
}

fn whole_text(document: &beir::Document) -> String {
    format!("{} {}", document.title, document.text).trim().to_owned()
}

/// What a search finds is to be a document of the collection, as it stands there.
fn refuse_another_collection(index: &Path, documents: &[beir::Document], ledger: &Ledger) -> Result<()> {
    let other = |document: &str| Error::OtherCollection { index: index.to_owned(), document: document.to_owned() };
    let mut ids: HashSet<&str> = HashSet::with_capacity(documents.len());
    for document in documents {
        ids.insert(&document.id);
        let hash = || ContentHash(*blake3::hash(whole_text(document).as_bytes()).as_bytes());
        if ledger.by_path(&document.id).is_some_and(|entry| entry.document.hash != hash()) {
            return Err(other(&document.id));
        }
    }
    let mut paths = ledger.documents().map(|document| document.path.as_str());
    paths.find(|path| !ids.contains(path)).map_or(Ok(()), |path| Err(other(path)))
}

/// What reads pages.
const PAGE_READER: &str = "page/1";

/// Brings an index of the pages of an encyclopedia up to date: those it lacks are added, cut by a chunker, which sees the
/// page's title and headings above the text.
///
/// A page's path in the index is its id, and its address is in the metadata as `url`. Pages are taken as they come: one of
/// them is in memory at a time, and what waits for a commit is bounded by the settings. When the work is interrupted, the
/// next run goes on from the last commit. A page whose id is there already is not read again, also when it has changed;
/// pages without text are skipped. Redirects are noted with the pages that they lead to when all pages are there.
///
/// # Errors
///
/// When the pages cannot be read, or the index cannot be written, or was made in another way.
pub fn index_pages(
    index: &Path,
    entries: impl Iterator<Item = raglan_datasets::Result<PageEntry>>,
    chunker: &dyn Chunker,
    settings: &BuildSettings,
    progress: &dyn IndexProgress,
    stop: &AtomicBool,
) -> Result<IndexReport> {
    let cut = |page: &Page| {
        let document = parsed(page);
        let spans = chunker.chunk(&document)?;
        let metadata = page.url.iter().map(|url| ("url".to_owned(), url.clone())).collect();
        Ok(Cut { spans, text: document.text, title: page.title.clone(), metadata })
    };
    let passport = settings.passport(chunker.fingerprint());
    let stream = Stream { total: None, bytes: 0, reader: PAGE_READER, id: |page: &Page| &page.id };
    let mut redirects = Redirects::default();
    let pages = entries.map(|entry| {
        Ok(match entry? {
            PageEntry::Page(page) => Some(page),
            PageEntry::Redirect(redirect) => {
                redirects.insert(redirect);
                None
            }
        })
    });
    let report = add_documents(index, passport.clone(), stream, pages, cut, settings, progress, stop)?;
    if !report.interrupted && !redirects.is_empty() {
        note(&redirects, index, passport)?;
    }
    Ok(report)
}

/// Commits redirects that the index does not know yet.
fn note(redirects: &Redirects, index: &Path, passport: Passport) -> Result<()> {
    let before = Snapshot::open(index)?;
    let mut ledger = before.ledger()?.clone();
    redirects.note_in(&mut ledger);
    if ledger != *before.ledger()? {
        let mut writer = Writer::open_or_create(index, passport)?;
        writer.commit(Commit { add: Vec::new(), drop: Vec::new(), delete: ChunkSet::new(), ledger })?;
    }
    Ok(())
}

/// A page as chunkers take it: its parts on lines of their own, below the title as the outermost heading.
fn parsed(page: &Page) -> ParsedDocument {
    let mut document = ParsedDocument {
        format: Format::PlainText,
        reader: PAGE_READER.to_owned(),
        encoding: None,
        text: String::new(),
        title: Some(page.title.clone()).filter(|title| !title.is_empty()),
        metadata: BTreeMap::new(),
        blocks: Vec::new(),
        marks: Vec::new(),
    };
    if let Some(title) = &document.title {
        document.marks.push(Mark { at: 0, kind: MarkKind::Heading { level: 1, title: title.clone() } });
    }
    for part in &page.parts {
        if !document.text.is_empty() {
            document.text.push('\n');
        }
        let start = document.text.len();
        document.text.push_str(part.text());
        let kind = match part {
            PagePart::Heading(level, title) => {
                let level = level.saturating_add(1);
                document.marks.push(Mark { at: start, kind: MarkKind::Heading { level, title: title.clone() } });
                BlockKind::Heading(level)
            }
            PagePart::Paragraph(_) => BlockKind::Paragraph,
            PagePart::Item(_) => BlockKind::ListItem,
            PagePart::Row(_) => BlockKind::TableRow,
        };
        document.blocks.push(Block { kind, span: start..document.text.len() });
    }
    document
}

/// What is known of documents before they come.
struct Stream<'a, D> {
    /// How many there are, where that is known.
    total: Option<usize>,
    /// The bytes of their texts, where that is known, else 0.
    bytes: u64,
    /// What reads them.
    reader: &'a str,
    id: fn(&D) -> &String,
}

/// A document ready for the index.
struct Cut {
    text: String,
    spans: Vec<ChunkSpan>,
    title: String,
    metadata: BTreeMap<String, String>,
}

/// Adds the documents that an index lacks, as they come; what comes as `None` is none.
#[expect(clippy::too_many_arguments, reason = "it is what both ways of indexing share, and has no other callers")]
fn add_documents<D>(
    index: &Path,
    passport: Passport,
    stream: Stream<'_, D>,
    documents: impl Iterator<Item = Result<Option<D>>>,
    mut cut: impl FnMut(&D) -> Result<Cut>,
    settings: &BuildSettings,
    progress: &dyn IndexProgress,
    stop: &AtomicBool,
) -> Result<IndexReport> {
    let started = Instant::now();
    let mut report = IndexReport::default();
    let Some((mut writer, extended)) = open_or_extend(index, passport, settings, progress, stop)? else {
        return Ok(IndexReport { interrupted: true, not_reached: stream.total.unwrap_or(0), ..report });
    };
    report.extended = extended;
    let mut ledger = writer.snapshot().ledger()?.clone();
    let known = ledger.documents().len();
    let to_read = stream.total.map_or(1, |total| total.saturating_sub(known));
    progress.event(IndexEvent::Walked { to_read, bytes: stream.bytes, unchanged: known });
    let mut batch = Batch::new(settings, &writer, progress, stop);
    for document in documents {
        let document = document?;
        if stop.load(Ordering::Relaxed) {
            report.interrupted = true;
            break;
        }
        let Some(document) = document else { continue };
        report.found += 1;
        let id = (stream.id)(&document);
        if ledger.by_path(id).is_some() || ledger.skipped_at(id).is_some() {
            report.unchanged += 1;
            continue;
        }
        let Cut { text, spans, title, metadata } = cut(&document)?;
        if spans.is_empty() {
            let reason = "it has no text".to_owned();
            report.skipped.push(SkippedFile { path: id.clone(), reason: reason.clone() });
            ledger.insert_skipped(Skipped {
                path: id.clone(),
                size: 0,
                mtime_ns: 0,
                reason,
                reader_version: stream.reader.to_owned(),
            });
            continue;
        }
        let n_chunks = spans.len();
        let Some((doc, chunks)) = batch.add(&mut writer, &text, spans)? else {
            report.found -= 1;
            report.interrupted = true;
            break;
        };
        let size = text.len() as u64;
        batch.note(Added { path: id.clone(), chunks, text_bytes: size, before: None, replaced: Default::default() });
        ledger.insert_document(
            Document {
                id: doc,
                path: id.clone(),
                hash: ContentHash(*blake3::hash(text.as_bytes()).as_bytes()),
                size,
                mtime_ns: 0,
                format: Format::PlainText,
                reader: stream.reader.to_owned(),
                encoding: None,
                title: Some(title).filter(|title| !title.is_empty()),
                metadata,
            },
            u32::try_from(n_chunks).map_err(|_| Error::Full { what: "chunks" })?,
        );
        report.new += 1;
        report.chunks_written += n_chunks;
        report.text_bytes += size;
        let (files_done, files) = (report.found, stream.total.unwrap_or(report.found));
        progress.event(IndexEvent::Read { path: id, bytes: size, chunks: n_chunks, files_done, files });
        if batch.is_due() {
            let left_out = batch.commit(&mut writer, &mut ledger, &mut report.timings)?;
            report.take_back(&left_out);
        }
    }
    let left_out = batch.commit(&mut writer, &mut ledger, &mut report.timings)?;
    report.take_back(&left_out);
    let done = report.new + report.unchanged + report.skipped.len();
    report.not_reached = stream.total.unwrap_or(report.found).saturating_sub(done);
    report.interrupted |= report.not_reached > 0;
    if !report.interrupted {
        finish(&mut writer, settings, progress, stop, &mut report)?;
    }
    report.chunks = writer.snapshot().n_chunks();
    report.documents = writer.snapshot().ledger()?.documents().len();
    report.timings.total_s = started.elapsed().as_secs_f64();
    Ok(report)
}

fn finish(
    writer: &mut Writer,
    settings: &BuildSettings,
    progress: &dyn IndexProgress,
    stop: &AtomicBool,
    report: &mut IndexReport,
) -> Result<()> {
    let merging = Instant::now();
    merge_segments(writer, settings, progress, stop)?;
    report.timings.merge_s = merging.elapsed().as_secs_f64();
    writer.gc()?;
    Ok(())
}

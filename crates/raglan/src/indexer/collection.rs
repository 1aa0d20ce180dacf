//! Indexes the documents of an evaluation collection, each as one chunk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use raglan_core::{ChunkSpan, ContentHash, Document, Format, Locator};
use raglan_datasets::beir;
use raglan_ingest::chunk::WordCounter;
use raglan_store::{Skipped, Snapshot, Writer};

use super::batch::{Added, Batch};
use super::extend::open_or_extend;
use super::merge::merge_segments;
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
/// When the index cannot be written, or was made in another way.
pub fn index_collection(
    index: &Path,
    documents: &[beir::Document],
    settings: &BuildSettings,
    progress: &dyn IndexProgress,
    stop: &AtomicBool,
) -> Result<IndexReport> {
    let started = Instant::now();
    let mut report = IndexReport { found: documents.len(), ..IndexReport::default() };
    let passport = settings.passport("whole/1".to_owned());
    // Nothing to do needs no lock: several evaluations may read one index.
    if let Ok(snapshot) = Snapshot::open(index)
        && snapshot.passport().check(&passport, index).is_ok()
    {
        let ledger = snapshot.ledger()?;
        let is_known = |id: &str| ledger.by_path(id).is_some() || ledger.skipped_at(id).is_some();
        if documents.iter().all(|document| is_known(&document.id)) {
            report.unchanged = documents.len();
            report.chunks = snapshot.n_chunks();
            report.documents = ledger.documents().len();
            return Ok(report);
        }
    }
    let Some((mut writer, extended)) = open_or_extend(index, passport, settings, progress, stop)? else {
        return Ok(IndexReport { interrupted: true, not_reached: documents.len(), ..report });
    };
    report.extended = extended;
    let mut ledger = writer.snapshot().ledger()?.clone();
    let is_new = |document: &&beir::Document| {
        ledger.by_path(&document.id).is_none() && ledger.skipped_at(&document.id).is_none()
    };
    let to_add: Vec<&beir::Document> = documents.iter().filter(is_new).collect();
    report.unchanged = documents.len() - to_add.len();
    let bytes = to_add.iter().map(|document| (document.title.len() + document.text.len()) as u64).sum();
    progress.event(IndexEvent::Walked { to_read: to_add.len(), bytes, unchanged: report.unchanged });
    let counter = settings.encoders.counter().unwrap_or_else(|| Arc::new(WordCounter));
    let mut batch = Batch::new(settings, &writer, progress, stop);
    for (i, document) in to_add.iter().enumerate() {
        let text = format!("{} {}", document.title, document.text).trim().to_owned();
        if text.is_empty() {
            let reason = "it has no text".to_owned();
            report.skipped.push(SkippedFile { path: document.id.clone(), reason: reason.clone() });
            ledger.insert_skipped(Skipped {
                path: document.id.clone(),
                size: 0,
                mtime_ns: 0,
                reason,
                reader_version: READER.to_owned(),
            });
            continue;
        }
        let n_tokens = u32::try_from(counter.count(&text)?).map_err(|_| Error::Full { what: "tokens" })?;
        let span = ChunkSpan { span: 0..text.len(), locator: Locator::default(), n_tokens };
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let Some((doc, chunks)) = batch.add(&mut writer, &text, vec![span])? else { break };
        let size = text.len() as u64;
        batch.note(Added {
            path: document.id.clone(),
            chunks,
            text_bytes: size,
            before: None,
            replaced: Default::default(),
        });
        ledger.insert_document(
            Document {
                id: doc,
                path: document.id.clone(),
                hash: ContentHash(*blake3::hash(text.as_bytes()).as_bytes()),
                size,
                mtime_ns: 0,
                format: Format::PlainText,
                reader: READER.to_owned(),
                encoding: None,
                title: Some(document.title.clone()).filter(|title| !title.is_empty()),
                metadata: Default::default(),
            },
            1,
        );
        report.new += 1;
        report.chunks_written += 1;
        report.text_bytes += size;
        let files = to_add.len();
        progress.event(IndexEvent::Read { path: &document.id, bytes: size, chunks: 1, files_done: i + 1, files });
        if batch.is_due() {
            let left_out = batch.commit(&mut writer, &mut ledger, &mut report.timings)?;
            report.take_back(&left_out);
        }
    }
    let left_out = batch.commit(&mut writer, &mut ledger, &mut report.timings)?;
    report.take_back(&left_out);
    report.not_reached = to_add.len() - report.new - report.skipped.len();
    report.interrupted = report.not_reached > 0;
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

//! A full check of an index.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use raglan_core::DocId;
use rayon::prelude::*;
use roaring::RoaringBitmap;
use serde::Serialize;

use crate::files::FileEntry;
use crate::ledger_file;
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::segment::Segment;
use crate::snapshot::read_tombstones;
use crate::{Error, Result, SegmentEntry, text_hash};

/// What a full check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The generation that was checked; 0 when its manifest could not be read.
    pub generation: u64,
    /// How many files were read.
    pub files_checked: usize,
    /// How many bytes they should have.
    pub bytes: u64,
    /// How many chunks were read.
    pub chunks_checked: usize,
    /// Everything that is wrong, in order of path.
    pub problems: Vec<Problem>,
}

/// Something that is wrong with a file of an index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn add(&mut self, path: &Path, problem: impl Into<String>) {
        self.problems.push(Problem { path: path.to_owned(), problem: problem.into() });
    }

    fn add_error(&mut self, path: &Path, error: Error) {
        match error {
            Error::Damaged { path, problem } => self.add(&path, problem),
            other => self.add(path, other.to_string()),
        }
    }
}

/// Checks the newest generation of the index in `folder`, also when it is too damaged to be opened.
///
/// # Errors
///
/// [`Error::NotAnIndex`] when there is no index, [`Error::NewerFormat`] when it cannot be judged. Everything that is
/// wrong with an index is in the report.
pub fn verify(folder: &Path) -> Result<VerifyReport> {
    let manifest = match Manifest::read(folder) {
        Ok(manifest) => manifest,
        Err(error @ Error::Damaged { .. }) => {
            let mut report = VerifyReport { files_checked: 1, ..VerifyReport::default() };
            report.add_error(&folder.join(MANIFEST_FILE), error);
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    Ok(check(folder, &manifest))
}

/// Checks a generation from its files, whatever is open already.
pub(crate) fn check(folder: &Path, manifest: &Manifest) -> VerifyReport {
    let files: Vec<&FileEntry> = manifest.files().collect();
    let mut report = VerifyReport {
        generation: manifest.generation,
        files_checked: files.len() + 1,
        bytes: files.iter().map(|file| file.bytes).sum(),
        ..VerifyReport::default()
    };
    // A manifest that was good when it was opened may have gone bad since.
    if let Err(error) = Manifest::read(folder) {
        report.add_error(&folder.join(MANIFEST_FILE), error);
    }
    let sound: HashMap<&str, Result<()>> =
        files.par_iter().map(|file| (file.path.as_str(), file.check(folder))).collect::<Vec<_>>().into_iter().collect();
    let is_sound = |file: &FileEntry| sound[file.path.as_str()].is_ok();

    let deleted = if is_sound(&manifest.tombstones) {
        match read_tombstones(folder, manifest) {
            Ok(deleted) => Some(deleted.bitmap().clone()),
            Err(error) => {
                report.add_error(&manifest.tombstones.locate(folder), error);
                None
            }
        }
    } else {
        None
    };
    check_parts(folder, manifest, &mut report);
    let (mut ids, mut counts, mut tables_are_sound) = (RoaringBitmap::new(), HashMap::new(), true);
    for entry in &manifest.segments {
        if entry.files.iter().filter(|file| entry.part_of(file) == "chunks").all(is_sound) {
            check_segment(folder, manifest, entry, deleted.as_ref(), &mut ids, &mut counts, &mut report);
        } else {
            tables_are_sound = false;
        }
    }
    if let Some(deleted) = &deleted
        && tables_are_sound
        && let Some(id) = (deleted - &ids).min()
    {
        report.add(&manifest.tombstones.locate(folder), format!("chunk {id} is deleted but was never there"));
    }
    if is_sound(&manifest.ledger) {
        let counts = (tables_are_sound && deleted.is_some()).then_some(counts);
        check_ledger(folder, manifest, counts, &mut report);
    }
    for error in sound.into_values().filter_map(Result::err) {
        report.add_error(folder, error);
    }
    report.problems.sort_unstable();
    report.problems.dedup();
    report
}

/// Checks that every segment has the parts that any has: one without would be searched in vain.
fn check_parts(folder: &Path, manifest: &Manifest, report: &mut VerifyReport) {
    let parts_of = |entry: &SegmentEntry| -> BTreeSet<String> {
        entry.files.iter().map(|file| entry.part_of(file).to_owned()).collect()
    };
    let all: BTreeSet<String> = manifest.segments.iter().flat_map(parts_of).collect();
    for entry in &manifest.segments {
        for missing in all.difference(&parts_of(entry)) {
            report.add(&folder.join(entry.folder()), format!("it has no part `{missing}`, which other segments have"));
        }
    }
}

/// Checks a segment's chunk table, and takes its ids and, for chunks that are not deleted, counts by document.
fn check_segment(
    folder: &Path,
    manifest: &Manifest,
    entry: &SegmentEntry,
    deleted: Option<&RoaringBitmap>,
    ids: &mut RoaringBitmap,
    counts: &mut HashMap<DocId, u32>,
    report: &mut VerifyReport,
) {
    let segment = Segment::new(folder, entry);
    let path = folder.join(entry.folder()).join(crate::chunk_table::CHUNKS_FILE);
    let read = || Ok((segment.columns()?, segment.table()?.all()?, segment.table()?.text_hashes()?));
    let (columns, chunks, hashes) = match read() {
        Ok(read) => read,
        Err(error) => return report.add_error(&path, error),
    };
    report.chunks_checked += chunks.len();
    let mut n_deleted = 0;
    for (row, (chunk, hash)) in chunks.iter().zip(hashes).enumerate() {
        let id = chunk.id.0;
        if (chunk.id, chunk.doc) != (columns.ids[row], columns.docs[row]) {
            report.add(&path, format!("chunk {id} has two identities"));
        }
        if !ids.insert(id) {
            report.add(&path, format!("chunk {id} is there twice"));
        }
        if u64::from(id) >= manifest.next_chunk || u64::from(chunk.doc.0) >= manifest.next_doc {
            report.add(&path, format!("chunk {id} has an id that was never given out"));
        }
        if chunk.span.start > chunk.span.end || chunk.span.len() != chunk.text.len() {
            report.add(&path, format!("chunk {id} has a span that is not as long as its text"));
        }
        if text_hash(&chunk.text) != hash {
            report.add(&path, format!("chunk {id} has a text that is not that of its hash"));
        }
        if deleted.is_some_and(|deleted| deleted.contains(id)) {
            n_deleted += 1;
        } else {
            *counts.entry(chunk.doc).or_default() += 1;
        }
    }
    if deleted.is_some() && n_deleted != entry.n_deleted {
        let problem = format!("{n_deleted} of its chunks are deleted, the manifest says {}", entry.n_deleted);
        report.add(&path, problem);
    }
}

/// Checks that the ledger counts the chunks that are there.
fn check_ledger(folder: &Path, manifest: &Manifest, counts: Option<HashMap<DocId, u32>>, report: &mut VerifyReport) {
    let path = manifest.ledger.locate(folder);
    let read = manifest.ledger.read(folder, None).and_then(|bytes| ledger_file::decode(bytes, &path));
    let ledger = match read {
        Ok(ledger) => ledger,
        Err(error) => return report.add_error(&path, error),
    };
    let Some(mut counts) = counts else { return };
    for entry in ledger.entries() {
        let found = counts.remove(&entry.document.id).unwrap_or(0);
        if found != entry.n_chunks {
            let document = &entry.document.path;
            report.add(&path, format!("it says that `{document}` has {} chunks, there are {found}", entry.n_chunks));
        }
    }
    for (doc, n) in counts {
        report.add(&path, format!("it does not know document {}, which has {n} chunks", doc.0));
    }
}

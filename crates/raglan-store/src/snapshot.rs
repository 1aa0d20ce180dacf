//! One generation of an index, read only.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use raglan_core::{Chunk, ChunkId, ChunkSet, ChunkStore, DocId, Document};
use roaring::RoaringBitmap;

use crate::chunk_table::ChunkTable;
use crate::ledger_file;
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::segment::Segment;
use crate::verify::{self, VerifyReport};
use crate::{Error, Ledger, Passport, Result, SegmentEntry, SegmentId, TextHash};

/// One generation of an index, read only; cheap to clone.
///
/// Opening reads the manifest and the tombstones. The ledger, the chunk tables and the parts are checked against
/// their checksums when they are first touched.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<Generation>);

#[derive(Debug)]
struct Generation {
    folder: PathBuf,
    manifest: Manifest,
    deleted: ChunkSet,
    /// Held from the start, as are the files of the segments.
    ledger_file: Option<File>,
    ledger: OnceLock<Ledger>,
    segments: Vec<Arc<Segment>>,
}

impl Snapshot {
    /// Opens the newest generation of the index in `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnIndex`] when there is none, [`Error::Damaged`] when the manifest or the tombstones are not as
    /// written, [`Error::NewerFormat`] when a newer raglan wrote them.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut manifest = Manifest::read(folder)?;
        loop {
            let opened = read_tombstones(folder, &manifest)
                .map(|deleted| Self::assemble(folder, manifest.clone(), deleted, &[]));
            if opened.as_ref().is_ok_and(Self::is_held) {
                return opened;
            }
            // A writer may have moved on by two generations since the manifest was read.
            let newer = Manifest::read(folder)?;
            if newer.generation <= manifest.generation {
                return opened;
            }
            manifest = newer;
        }
    }

    /// Whether all files that are held from the start were there.
    fn is_held(&self) -> bool {
        self.0.ledger_file.is_some() && self.0.segments.iter().all(|segment| segment.is_held())
    }

    /// A generation of this manifest, with as much of it as is open already.
    pub(crate) fn assemble(folder: &Path, manifest: Manifest, deleted: ChunkSet, open: &[Arc<Segment>]) -> Self {
        let segment = |entry: &SegmentEntry| {
            let opened = open.iter().find(|segment| segment.id() == entry.id);
            opened.cloned().unwrap_or_else(|| Arc::new(Segment::new(folder, entry)))
        };
        Self(Arc::new(Generation {
            segments: manifest.segments.iter().map(segment).collect(),
            ledger_file: File::open(manifest.ledger.locate(folder)).ok(),
            ledger: OnceLock::new(),
            folder: folder.to_owned(),
            manifest,
            deleted,
        }))
    }

    /// The snapshot with a ledger that need not be read.
    pub(crate) fn with_ledger(self, ledger: Ledger) -> Self {
        self.0.ledger.get_or_init(|| ledger);
        self
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    pub(crate) fn opened(&self) -> &[Arc<Segment>] {
        &self.0.segments
    }

    /// The index's folder.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The number of the commit that made this generation, from 1.
    pub fn generation(&self) -> u64 {
        self.0.manifest.generation
    }

    /// What the index was made with.
    pub fn passport(&self) -> &Passport {
        &self.0.manifest.passport
    }

    /// The source files that the index knows.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when the ledger's file is not as written.
    pub fn ledger(&self) -> Result<&Ledger> {
        if let Some(ledger) = self.0.ledger.get() {
            return Ok(ledger);
        }
        let entry = &self.0.manifest.ledger;
        let bytes =
            entry.read(&self.0.folder, self.0.ledger_file.as_ref()).map_err(|error| self.or_superseded(error))?;
        let ledger = ledger_file::decode(bytes, &entry.locate(&self.0.folder))?;
        Ok(self.0.ledger.get_or_init(|| ledger))
    }

    /// The segments in order of id.
    pub fn segments(&self) -> &[SegmentEntry] {
        &self.0.manifest.segments
    }

    /// The chunks that are in segments but deleted.
    pub fn deleted(&self) -> &ChunkSet {
        &self.0.deleted
    }

    /// How many chunks are not deleted.
    pub fn n_chunks(&self) -> usize {
        self.segments().iter().map(|segment| segment.n_live() as usize).sum()
    }

    /// The chunks that are not deleted.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when a chunk table is not as written.
    pub fn live_chunks(&self) -> Result<ChunkSet> {
        let mut live = RoaringBitmap::new();
        for segment in &self.0.segments {
            let columns = segment.columns().map_err(|error| self.or_superseded(error))?;
            live |= columns.ids.iter().map(|id| id.0).collect::<RoaringBitmap>();
        }
        live -= self.0.deleted.bitmap();
        Ok(live.into())
    }

    /// The chunks that are not deleted with their documents, in order of chunk id.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when a chunk table is not as written.
    pub fn chunk_docs(&self) -> Result<Vec<(ChunkId, DocId)>> {
        let mut pairs = Vec::with_capacity(self.n_chunks());
        for segment in &self.0.segments {
            let columns = segment.columns().map_err(|error| self.or_superseded(error))?;
            let rows = columns.ids.iter().copied().zip(columns.docs.iter().copied());
            pairs.extend(rows.filter(|&(id, _)| !self.0.deleted.contains(id)));
        }
        pairs.sort_unstable();
        Ok(pairs)
    }

    /// The folder of a segment's part, such as `bm25`, after every file in it is found to be as the manifest says.
    ///
    /// A part is checked once in the life of a snapshot. Its files stay until the commit after next; a caller that
    /// finds one gone opens the index again.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] naming the first file that is not as written, [`Error::NoSegment`], [`Error::NoPart`], and
    /// [`Error::Superseded`] when newer generations have replaced the segment and its files are gone.
    pub fn segment_dir(&self, segment: SegmentId, part: &str) -> Result<PathBuf> {
        self.segment(segment)?.part(part).map_err(|error| self.or_superseded(error))
    }

    /// All chunks of a segment, deleted ones included, in order of id.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when the chunk table is not as written, [`Error::NoSegment`].
    pub fn segment_chunks(&self, segment: SegmentId) -> Result<Vec<Chunk>> {
        let chunks = self.segment(segment)?.table().and_then(ChunkTable::all);
        chunks.map_err(|error| self.or_superseded(error))
    }

    /// The chunks of some segments that are not deleted, in order of id: what a merged segment is made from.
    ///
    /// # Errors
    ///
    /// As [`segment_chunks`](Self::segment_chunks).
    pub fn live_chunks_of(&self, segments: &[SegmentId]) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        for &segment in segments {
            chunks.extend(self.segment_chunks(segment)?.into_iter().filter(|c| !self.0.deleted.contains(c.id)));
        }
        chunks.sort_unstable_by_key(|chunk| chunk.id);
        Ok(chunks)
    }

    /// The hashes of a segment's texts with their chunks, deleted ones included, in order of chunk id.
    ///
    /// # Errors
    ///
    /// As [`segment_chunks`](Self::segment_chunks).
    pub fn segment_text_hashes(&self, segment: SegmentId) -> Result<Vec<(ChunkId, TextHash)>> {
        let segment = self.segment(segment)?;
        let read = || {
            let ids = segment.columns()?.ids.iter().copied();
            Ok(ids.zip(segment.table()?.text_hashes()?).collect())
        };
        read().map_err(|error| self.or_superseded(error))
    }

    /// The chunks of a document that are not deleted, in order of id.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when a chunk table is not as written.
    pub fn chunks_of(&self, doc: DocId) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        for segment in &self.0.segments {
            let read = || {
                let columns = segment.columns()?;
                let rows: Vec<usize> = (0..columns.docs.len())
                    .filter(|&row| columns.docs[row] == doc && !self.0.deleted.contains(columns.ids[row]))
                    .collect();
                if rows.is_empty() { Ok(Vec::new()) } else { segment.table()?.rows(&rows) }
            };
            chunks.extend(read().map_err(|error| self.or_superseded(error))?);
        }
        chunks.sort_unstable_by_key(|chunk| chunk.id);
        Ok(chunks)
    }

    /// Checks everything: each file's checksum, and that chunks, tombstones and ledger agree with each other.
    ///
    /// What is wrong is in the report; see [`verify`](crate::verify()) for an index that does not open.
    pub fn verify(&self) -> VerifyReport {
        verify::check(&self.0.folder, &self.0.manifest)
    }

    /// Bytes on disk by part: `chunks`, `ledger`, `tombstones`, `manifest`, and each segment part by its name.
    pub fn disk_usage(&self) -> BTreeMap<String, u64> {
        let manifest = &self.0.manifest;
        let manifest_bytes = std::fs::metadata(self.0.folder.join(MANIFEST_FILE)).map_or(0, |file| file.len());
        let mut usage = BTreeMap::from([
            ("ledger".to_owned(), manifest.ledger.bytes),
            ("tombstones".to_owned(), manifest.tombstones.bytes),
            ("manifest".to_owned(), manifest_bytes),
        ]);
        for segment in &manifest.segments {
            for file in &segment.files {
                *usage.entry(segment.part_of(file).to_owned()).or_default() += file.bytes;
            }
        }
        usage
    }

    pub(crate) fn segment(&self, id: SegmentId) -> Result<&Segment> {
        let segments = &self.0.segments;
        let idx = segments.binary_search_by_key(&id, |segment| segment.id()).map_err(|_| Error::NoSegment { id })?;
        Ok(&segments[idx])
    }

    /// Damage, or the absence of a file that nobody promised to keep.
    fn or_superseded(&self, error: Error) -> Error {
        match error {
            Error::Damaged { path, problem } if !path.exists() => match Manifest::read(&self.0.folder) {
                Ok(newer) if newer.generation > self.generation() => {
                    Error::Superseded { path, generation: self.generation(), current: newer.generation }
                }
                _ => Error::Damaged { path, problem },
            },
            other => other,
        }
    }

    /// Reads chunks by id.
    fn read(&self, ids: &[ChunkId]) -> Result<Vec<Option<Chunk>>> {
        let mut found: Vec<Option<Chunk>> = vec![None; ids.len()];
        let mut wanted: Vec<usize> = (0..ids.len()).collect();
        wanted.sort_unstable_by_key(|&at| ids[at]);
        for segment in &self.0.segments {
            let columns = segment.columns()?;
            // Rows of this segment in order, each with the places of the answer that it goes to.
            let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
            for &at in &wanted {
                if let Ok(row) = columns.ids.binary_search(&ids[at]) {
                    match rows.last_mut() {
                        Some((last, places)) if *last == row => places.push(at),
                        _ => rows.push((row, vec![at])),
                    }
                }
            }
            if rows.is_empty() {
                continue;
            }
            let indices: Vec<usize> = rows.iter().map(|(row, _)| *row).collect();
            for (chunk, (_, places)) in segment.table()?.rows(&indices)?.into_iter().zip(rows) {
                for place in places {
                    found[place] = Some(chunk.clone());
                }
            }
        }
        Ok(found)
    }
}

impl ChunkStore for Snapshot {
    /// The chunks with these ids; deleted ones are no longer there.
    fn chunks(&self, ids: &[ChunkId]) -> raglan_core::Result<Vec<Chunk>> {
        let found = self.read(ids).map_err(|error| self.or_superseded(error))?;
        ids.iter()
            .zip(found)
            .map(|(&id, chunk)| {
                chunk
                    .filter(|_| !self.0.deleted.contains(id))
                    .ok_or(raglan_core::Error::Unknown { what: "chunk", id: u64::from(id.0) })
            })
            .collect()
    }

    fn chunks_of(&self, doc: DocId) -> raglan_core::Result<Vec<Chunk>> {
        Ok(Snapshot::chunks_of(self, doc)?)
    }

    fn document(&self, id: DocId) -> raglan_core::Result<Arc<Document>> {
        let entry = self.ledger()?.by_id(id);
        let unknown = raglan_core::Error::Unknown { what: "document", id: u64::from(id.0) };
        entry.map(|entry| entry.document.clone()).ok_or(unknown)
    }
}

/// The tombstones of a generation.
pub(crate) fn read_tombstones(folder: &Path, manifest: &Manifest) -> Result<ChunkSet> {
    let path = manifest.tombstones.locate(folder);
    let bytes = manifest.tombstones.read(folder, None)?;
    let bitmap = RoaringBitmap::deserialize_from(&bytes[..]).map_err(|error| Error::damaged(&path, error))?;
    let n_deleted: u64 = manifest.segments.iter().map(|segment| u64::from(segment.n_deleted)).sum();
    if bitmap.len() != n_deleted {
        return Err(Error::damaged(
            &path,
            format!("it has {} chunks, the manifest says that {n_deleted} are deleted", bitmap.len()),
        ));
    }
    Ok(bitmap.into())
}

//! The one process that changes an index.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use raglan_core::{Chunk, ChunkId, ChunkSet, DocId};
use roaring::RoaringBitmap;

use crate::chunk_table::{ChunkColumns, ChunkTableWriter};
use crate::error::AtPath;
use crate::files::{self, FileEntry, sync_file, sync_folder, write_synced};
use crate::garbage::{self, GcReport};
use crate::ledger_file;
use crate::lock::WriterLock;
use crate::manifest::{MANIFEST_FILE, Manifest, SEGMENTS_FOLDER, segment_folder};
use crate::segment::Segment;
use crate::snapshot::Snapshot;
use crate::{Error, FORMAT_VERSION, Ledger, Passport, Result, SegmentEntry, SegmentId};

/// The folders of segments that are being written, which must not be taken for leftovers.
type Drafts = Arc<Mutex<BTreeSet<SegmentId>>>;

/// Changes an index; there is one at a time, and its lock goes when it does.
pub struct Writer {
    folder: PathBuf,
    snapshot: Snapshot,
    /// Files that the manifest on disk names: those of `snapshot`, except while an index is being rebuilt.
    published: Vec<String>,
    next_segment: u64,
    /// Whether the manifest on disk has another passport than the next commit will write.
    passport_is_new: bool,
    /// Whether the next commit must replace every segment, for none has what the passport says.
    is_extending: bool,
    drafts: Drafts,
    /// Last, so that it is freed when everything else is done.
    _lock: WriterLock,
}

/// What a commit changes.
#[derive(Debug)]
pub struct Commit {
    /// New segments.
    pub add: Vec<SegmentDraft>,
    /// Segments that are replaced: the chunks they share with `add` are moved, the others are gone.
    pub drop: Vec<SegmentId>,
    /// Chunks that are no longer to be found.
    pub delete: ChunkSet,
    /// The whole ledger as it is afterwards.
    pub ledger: Ledger,
}

impl Writer {
    /// Opens the index in `folder` for writing, or makes a new one there.
    ///
    /// What a writer that died left behind is removed. The passport's reader versions, folder and settings are taken
    /// over with the next commit; everything else in it must be as the index has it, unless the index has no chunk yet:
    /// then nothing was made with its passport, and the next commit takes all of the new one.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when another writer is at work, [`Error::PassportMismatch`] when the index was made with
    /// other models or parameters, [`Error::NotEmpty`] when the folder holds something else than an index, and what
    /// [`Snapshot::open`] returns.
    pub fn open_or_create(folder: &Path, passport: Passport) -> Result<Self> {
        garbage::refuse_foreign(folder)?;
        fs::create_dir_all(folder).at("create", folder)?;
        let lock = WriterLock::take(folder)?;
        match Snapshot::open(folder) {
            Ok(snapshot) => {
                let passport = if snapshot.segments().is_empty() {
                    Passport { format_version: FORMAT_VERSION, ..passport }
                } else {
                    snapshot.passport().check(&passport, folder)?;
                    let Passport { readers, root, settings, .. } = passport;
                    Passport { readers, root, settings, ..snapshot.passport().clone() }
                };
                let published = names(snapshot.manifest());
                let next_segment = snapshot.manifest().next_segment;
                let passport_is_new = passport != *snapshot.passport();
                let writer = Self {
                    folder: folder.to_owned(),
                    snapshot: with_passport(&snapshot, passport),
                    published,
                    next_segment,
                    passport_is_new,
                    is_extending: false,
                    drafts: Drafts::default(),
                    _lock: lock,
                };
                writer.gc()?;
                Ok(writer)
            }
            Err(Error::NotAnIndex { .. }) => {
                let mut writer = Self::empty(folder, passport, lock, garbage::floor(folder)?, Vec::new());
                writer.gc()?;
                let ledger = Ledger::new();
                writer.commit(Commit { add: Vec::new(), drop: Vec::new(), delete: ChunkSet::new(), ledger })?;
                sync_folder(folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
                Ok(writer)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the index in `folder` to add what further models give: those of the passport that the index lacks.
    ///
    /// The next commit must replace every segment; until then the index is as it was. Without such models this is
    /// [`open_or_create`](Self::open_or_create).
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create); [`Error::NotAnIndex`] when there is none.
    pub fn extend(folder: &Path, passport: Passport) -> Result<Self> {
        let before = Passport::read(folder)?;
        before.extended_by(&passport).check(&passport, folder)?;
        let known = Passport { embedder: before.embedder, models: before.models, ..passport.clone() };
        let mut writer = Self::open_or_create(folder, known)?;
        let extended = writer.snapshot.passport().extended_by(&passport);
        if extended != *writer.snapshot.passport() {
            writer.snapshot = with_passport(&writer.snapshot, extended);
            writer.passport_is_new = true;
            writer.is_extending = true;
        }
        Ok(writer)
    }

    /// Opens the index in `folder` to fill it anew, with another passport if need be.
    ///
    /// The writer begins with no chunks and no files. The old index stays as it is, readable, until the first
    /// commit takes its place; a damaged one, or one of a newer format, is no obstacle.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] and [`Error::NotEmpty`], as [`open_or_create`](Self::open_or_create).
    pub fn rebuild(folder: &Path, passport: Passport) -> Result<Self> {
        garbage::refuse_foreign(folder)?;
        fs::create_dir_all(folder).at("create", folder)?;
        let lock = WriterLock::take(folder)?;
        let mut floor = garbage::floor(folder)?;
        let mut published = Vec::new();
        if let Ok(old) = Manifest::read(folder) {
            floor.generation = floor.generation.max(old.generation);
            floor.segment = floor.segment.max(old.next_segment);
            floor.chunk = old.next_chunk;
            floor.doc = old.next_doc;
            published = names(&old);
        }
        Ok(Self::empty(folder, passport, lock, floor, published))
    }

    fn empty(
        folder: &Path,
        passport: Passport,
        lock: WriterLock,
        floor: garbage::Floor,
        published: Vec<String>,
    ) -> Self {
        let nothing = |name: &str| FileEntry::of_bytes(name.to_owned(), &[]);
        let manifest = Manifest {
            generation: floor.generation,
            passport: Passport { format_version: FORMAT_VERSION, ..passport },
            next_chunk: floor.chunk,
            next_doc: floor.doc,
            next_segment: floor.segment,
            segments: Vec::new(),
            ledger: nothing("ledger"),
            tombstones: nothing("tombstones"),
            retired: Vec::new(),
        };
        Self {
            folder: folder.to_owned(),
            snapshot: Snapshot::assemble(folder, manifest, ChunkSet::new(), &[]).with_ledger(Ledger::new()),
            published,
            next_segment: floor.segment,
            passport_is_new: true,
            is_extending: false,
            drafts: Drafts::default(),
            _lock: lock,
        }
    }

    /// The generation that the next commit builds on.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether a commit without any other change is worth while, for its passport is not the one on disk.
    pub fn passport_is_new(&self) -> bool {
        self.passport_is_new
    }

    /// The lowest chunk id that was never used; a commit may use it and those above it.
    pub fn next_chunk_id(&self) -> ChunkId {
        // When ids are used up, this names a used one, and the commit is refused.
        ChunkId(u32::try_from(self.snapshot.manifest().next_chunk).unwrap_or(u32::MAX))
    }

    /// The lowest document id that was never used.
    pub fn next_doc_id(&self) -> DocId {
        DocId(u32::try_from(self.snapshot.manifest().next_doc).unwrap_or(u32::MAX))
    }

    /// Begins a segment in a folder of its own; it is gone again unless it is committed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when its folder cannot be made.
    pub fn new_segment(&mut self) -> Result<SegmentDraft> {
        let id = u32::try_from(self.next_segment).map_err(|_| Error::inconsistent("segment ids are used up"))?;
        let id = SegmentId(id);
        self.next_segment += 1;
        let path = self.folder.join(segment_folder(id));
        lock(&self.drafts).insert(id);
        let draft = SegmentDraft {
            id,
            index: self.folder.clone(),
            path,
            table: None,
            drafts: self.drafts.clone(),
            committed: false,
        };
        let segments = self.folder.join(SEGMENTS_FOLDER);
        fs::create_dir_all(&segments).at("create", &segments)?;
        fs::create_dir(&draft.path).at("create", &draft.path)?;
        Ok(draft)
    }

    /// Makes a new generation, durably: when this returns, a loss of power does not undo it.
    ///
    /// All or nothing: readers see the generation before or this one, and so does whoever opens the index after a
    /// crash. Segments that have no chunk left are dropped. The first commit after [`rebuild`](Self::rebuild)
    /// replaces the old index.
    ///
    /// # Errors
    ///
    /// [`Error::Inconsistent`] when chunk ids are used twice or again, when something is deleted or dropped that is
    /// not there, when segments are left that an extended index must replace, or when the ledger's numbers of chunks are not those of the index; [`Error::Io`]. The index is then
    /// as it was.
    pub fn commit(&mut self, commit: Commit) -> Result<Snapshot> {
        let Commit { add, drop, delete, ledger } = commit;
        let finished = add.into_iter().map(SegmentDraft::finish).collect::<Result<Vec<_>>>()?;
        let drop: HashSet<SegmentId> = drop.into_iter().collect();
        for &id in &drop {
            self.snapshot.segment(id)?;
        }
        if self.is_extending && self.snapshot.segments().iter().any(|segment| !drop.contains(&segment.id)) {
            return Err(Error::inconsistent("a segment is left without what the new models give"));
        }
        let (dropped, kept): (Vec<_>, Vec<_>) =
            self.snapshot.opened().iter().partition(|segment| drop.contains(&segment.id()));

        let ids_of = |columns: &ChunkColumns| columns.ids.iter().map(|id| id.0).collect::<RoaringBitmap>();
        let mut moved = RoaringBitmap::new();
        for segment in dropped {
            moved |= ids_of(segment.columns()?);
        }
        let mut tables: Vec<(SegmentId, &ChunkColumns)> = Vec::new();
        let mut present = RoaringBitmap::new();
        for segment in kept {
            tables.push((segment.id(), segment.columns()?));
            present |= ids_of(segment.columns()?);
        }
        let base = self.snapshot.manifest();
        let mut next_chunk = base.next_chunk;
        for (draft, columns) in &finished {
            for &ChunkId(id) in &columns.ids {
                if u64::from(id) < base.next_chunk && !moved.contains(id) {
                    return Err(Error::inconsistent(format!("chunk id {id} was used before")));
                }
                if !present.insert(id) {
                    return Err(Error::inconsistent(format!("chunk id {id} is used twice")));
                }
                next_chunk = next_chunk.max(u64::from(id) + 1);
            }
            tables.push((draft.id, columns));
        }
        if let Some(id) = (delete.bitmap() - &present - &moved).min() {
            return Err(Error::inconsistent(format!("chunk {id} is to be deleted but is not there")));
        }
        let mut deleted = (self.snapshot.deleted().bitmap() | delete.bitmap()) & &present;
        check_counts(&tables, &deleted, &ledger)?;

        // From here on only the operating system can object.
        let mut segments: Vec<SegmentEntry> = base.segments.iter().filter(|s| !drop.contains(&s.id)).cloned().collect();
        let n_deleted = |columns: &ChunkColumns| columns.ids.iter().filter(|id| deleted.contains(id.0)).count() as u32;
        for segment in &mut segments {
            segment.n_deleted = n_deleted(self.snapshot.segment(segment.id)?.columns()?);
        }
        for (draft, columns) in &finished {
            segments.push(draft.seal(columns.ids.len() as u32, n_deleted(columns))?);
        }
        segments.sort_unstable_by_key(|segment| segment.id);
        let emptied: Vec<SegmentId> = segments.iter().filter(|s| s.n_live() == 0).map(|s| s.id).collect();
        for &(id, columns) in tables.iter().filter(|(id, _)| emptied.contains(id)) {
            tracing::debug!(segment = %id, "every chunk is deleted");
            deleted -= ids_of(columns);
        }
        segments.retain(|segment| segment.n_live() > 0);

        let generation = base.generation + 1;
        let mut tombstones = Vec::with_capacity(deleted.serialized_size());
        deleted.serialize_into(&mut tombstones).expect("memory takes all that is written");
        let next_doc = ledger.documents().map(|document| u64::from(document.id.0) + 1).max().unwrap_or(0);
        let mut manifest = Manifest {
            generation,
            passport: base.passport.clone(),
            next_chunk,
            next_doc: base.next_doc.max(next_doc),
            next_segment: self.next_segment,
            segments,
            ledger: self.write(format!("ledger-{generation}.parquet"), &base.ledger, &ledger_file::encode(&ledger))?,
            tombstones: self.write(format!("tombstones-{generation}.bin"), &base.tombstones, &tombstones)?,
            retired: Vec::new(),
        };
        let named: HashSet<String> = names(&manifest).into_iter().collect();
        manifest.retired = self.published.iter().filter(|path| !named.contains(*path)).cloned().collect();
        if !finished.is_empty() {
            sync_folder(&self.folder.join(SEGMENTS_FOLDER))?;
        }
        sync_folder(&self.folder)?;
        let (published, outcome) = manifest.publish(&self.folder);
        if published {
            let mut opened = self.snapshot.opened().to_vec();
            for (mut draft, columns) in finished {
                if let Some(entry) = manifest.segments.iter().find(|segment| segment.id == draft.id) {
                    opened.push(Arc::new(Segment::with_columns(&self.folder, entry, columns)));
                    draft.committed = true;
                }
            }
            self.published = names(&manifest);
            self.passport_is_new = false;
            self.is_extending = false;
            self.snapshot = Snapshot::assemble(&self.folder, manifest, deleted.into(), &opened).with_ledger(ledger);
        }
        outcome?;
        Ok(self.snapshot.clone())
    }

    /// Removes what neither the newest generation nor the one before it names; says how much that was.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be removed.
    pub fn gc(&self) -> Result<GcReport> {
        let mut keep: HashSet<String> = self.published.iter().cloned().collect();
        if let Ok(manifest) = Manifest::read(&self.folder) {
            keep.extend(manifest.retired);
        } else if self.folder.join(MANIFEST_FILE).exists() {
            // An index that cannot be read is not cleaned up: it is evidence until its first new generation.
            return Ok(GcReport::default());
        }
        let drafts: HashSet<String> = lock(&self.drafts).iter().map(ToString::to_string).collect();
        garbage::collect(&self.folder, &keep, &drafts)
    }

    /// Writes a file of the new generation, unless the one before has the same bytes.
    fn write(&self, path: String, before: &FileEntry, bytes: &[u8]) -> Result<FileEntry> {
        let entry = FileEntry::of_bytes(path, bytes);
        let unchanged = (entry.bytes, &entry.xxh3) == (before.bytes, &before.xxh3);
        if unchanged && self.published.contains(&before.path) {
            return Ok(before.clone());
        }
        write_synced(&entry.locate(&self.folder), bytes)?;
        Ok(entry)
    }
}

/// A segment that is being written: the chunk table, and folders in which other crates write their parts.
///
/// It takes its folder with it when it is dropped without having been committed.
pub struct SegmentDraft {
    id: SegmentId,
    index: PathBuf,
    path: PathBuf,
    table: Option<ChunkTableWriter>,
    drafts: Drafts,
    committed: bool,
}

impl SegmentDraft {
    /// The id that the segment will have.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// The folder for one part, such as `bm25`, made if need be; all files in it become part of the segment.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be made; [`Error::Inconsistent`] when the name is not a plain one.
    pub fn part_dir(&self, part: &str) -> Result<PathBuf> {
        if !files::is_tidy(part) || part.contains('/') || part == "chunks" {
            return Err(Error::inconsistent(format!("`{part}` is not a name for a part")));
        }
        let path = self.path.join(part);
        fs::create_dir_all(&path).at("create", &path)?;
        Ok(path)
    }

    /// Appends chunks to the chunk table; ids ascend from call to call.
    ///
    /// # Errors
    ///
    /// [`Error::Inconsistent`] when ids do not ascend or a span is not as long as its text, after which the draft is
    /// of no use; [`Error::Io`].
    pub fn write_chunks(&mut self, chunks: &[Chunk]) -> Result<()> {
        if self.table.is_none() {
            self.table = Some(ChunkTableWriter::create(&self.path)?);
        }
        self.table.as_mut().expect("it was made above").append(chunks)
    }

    fn finish(mut self) -> Result<(Self, ChunkColumns)> {
        let columns = match self.table.take() {
            Some(table) => table.finish()?,
            None => ChunkColumns::default(),
        };
        if columns.ids.is_empty() {
            return Err(Error::inconsistent(format!("segment {} has no chunks", self.id)));
        }
        Ok((self, columns))
    }

    /// Makes all files durable and takes their checksums.
    fn seal(&self, n_chunks: u32, n_deleted: u32) -> Result<SegmentEntry> {
        let (names, folders) = files::list(&self.index, &self.path)?;
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            sync_file(&self.index.join(&name))?;
            files.push(FileEntry::of_file(&self.index, name)?);
        }
        folders.iter().try_for_each(|folder| sync_folder(folder))?;
        Ok(SegmentEntry { id: self.id, n_chunks, n_deleted, files })
    }
}

impl std::fmt::Debug for SegmentDraft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentDraft").field("id", &self.id).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for SegmentDraft {
    fn drop(&mut self) {
        lock(&self.drafts).remove(&self.id);
        if !self.committed {
            self.table = None;
            if let Err(error) = fs::remove_dir_all(&self.path) {
                // The next writer removes it.
                tracing::debug!(path = %self.path.display(), %error, "an abandoned segment stays for now");
            }
        }
    }
}

/// The ledger must count, for each document, the chunks that can be found.
fn check_counts(tables: &[(SegmentId, &ChunkColumns)], deleted: &RoaringBitmap, ledger: &Ledger) -> Result<()> {
    let mut counts: HashMap<DocId, u32> = HashMap::new();
    for (_, columns) in tables {
        for (id, &doc) in columns.ids.iter().zip(&columns.docs) {
            if !deleted.contains(id.0) {
                *counts.entry(doc).or_default() += 1;
            }
        }
    }
    for entry in ledger.entries() {
        let found = counts.remove(&entry.document.id).unwrap_or(0);
        if found != entry.n_chunks {
            return Err(Error::inconsistent(format!(
                "`{}` has {found} chunks, the ledger says {}",
                entry.document.path, entry.n_chunks
            )));
        }
    }
    match counts.keys().min() {
        Some(doc) => Err(Error::inconsistent(format!("document {} has chunks but is not in the ledger", doc.0))),
        None => Ok(()),
    }
}

/// The snapshot as if the index had this passport.
fn with_passport(snapshot: &Snapshot, passport: Passport) -> Snapshot {
    let manifest = Manifest { passport, ..snapshot.manifest().clone() };
    Snapshot::assemble(snapshot.folder(), manifest, snapshot.deleted().clone(), snapshot.opened())
}

fn names(manifest: &Manifest) -> Vec<String> {
    manifest.files().map(|file| file.path.clone()).collect()
}

fn lock(drafts: &Drafts) -> std::sync::MutexGuard<'_, BTreeSet<SegmentId>> {
    drafts.lock().unwrap_or_else(PoisonError::into_inner)
}

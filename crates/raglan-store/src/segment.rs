//! A committed segment, opened as far as it has been used.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use crate::chunk_table::{BLOCKS_FILE, CHUNKS_FILE, ChunkColumns, ChunkTable};
use crate::files::{FileEntry, unreadable};
use crate::{Error, Result, SegmentEntry, SegmentId};

#[derive(Debug)]
pub(crate) struct Segment {
    folder: PathBuf,
    id: SegmentId,
    n_chunks: u32,
    files: Vec<FileEntry>,
    /// Held from the start, so that the table can be read even after a newer generation had it removed.
    chunks_file: Option<File>,
    blocks_file: Option<File>,
    table: OnceLock<ChunkTable>,
    columns: OnceLock<ChunkColumns>,
    checked_parts: Mutex<HashSet<String>>,
}

impl Segment {
    /// The segment with this entry in the index `folder`; nothing is read yet.
    pub(crate) fn new(folder: &Path, entry: &SegmentEntry) -> Self {
        // A file that cannot be opened now is reported when it is needed.
        let open = |name| File::open(entry.own_file(name)?.locate(folder)).ok();
        Self {
            folder: folder.to_owned(),
            id: entry.id,
            n_chunks: entry.n_chunks,
            files: entry.files.clone(),
            chunks_file: open(CHUNKS_FILE),
            blocks_file: open(BLOCKS_FILE),
            table: OnceLock::new(),
            columns: OnceLock::new(),
            checked_parts: Mutex::default(),
        }
    }

    /// A segment whose columns are known, for they have just been written.
    pub(crate) fn with_columns(folder: &Path, entry: &SegmentEntry, columns: ChunkColumns) -> Self {
        Self { columns: OnceLock::from(columns), ..Self::new(folder, entry) }
    }

    /// Whether the chunk table's files were there when the segment was opened.
    pub(crate) fn is_held(&self) -> bool {
        self.chunks_file.is_some() && self.blocks_file.is_some()
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }

    fn own_file(&self, name: &str) -> Result<(&FileEntry, PathBuf)> {
        let path = format!("{}/{name}", crate::manifest::segment_folder(self.id));
        let entry = self.files.iter().find(|file| file.path == path);
        let located = self.folder.join(&path);
        match entry {
            Some(entry) => Ok((entry, located)),
            None => Err(Error::damaged(&located, "the manifest does not name it")),
        }
    }

    /// The chunk table.
    pub(crate) fn table(&self) -> Result<&ChunkTable> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let (blocks, _) = self.own_file(BLOCKS_FILE)?;
        let checksums = blocks.read(&self.folder, self.blocks_file.as_ref())?;
        let (chunks, path) = self.own_file(CHUNKS_FILE)?;
        let file = match &self.chunks_file {
            Some(file) => file.try_clone(),
            None => File::open(&path),
        };
        let file = file.map_err(|error| unreadable(&path, error))?;
        let table = ChunkTable::open(path, file, chunks.bytes, checksums, self.n_chunks)?;
        Ok(self.table.get_or_init(|| table))
    }

    /// Ids and documents of all chunks, in order of id.
    pub(crate) fn columns(&self) -> Result<&ChunkColumns> {
        if let Some(columns) = self.columns.get() {
            return Ok(columns);
        }
        let columns = self.table()?.columns()?;
        Ok(self.columns.get_or_init(|| columns))
    }

    /// The folder of a part, once all its files are found to be as they should be.
    pub(crate) fn part(&self, part: &str) -> Result<PathBuf> {
        let folder = format!("{}/{part}", crate::manifest::segment_folder(self.id));
        let located = self.folder.join(&folder);
        // The lock is not held while files are checked: a thread that waits for the checks may be given other work,
        // which may ask for a part of this segment too.
        let checked = || self.checked_parts.lock().unwrap_or_else(PoisonError::into_inner);
        if checked().contains(part) {
            return Ok(located);
        }
        let prefix = folder + "/";
        let files: Vec<&FileEntry> = self.files.iter().filter(|file| file.path.starts_with(&prefix)).collect();
        if files.is_empty() {
            return Err(Error::NoPart { segment: self.id, part: part.to_owned() });
        }
        let checks: Vec<Result<()>> = files.par_iter().map(|file| file.check(&self.folder)).collect();
        checks.into_iter().collect::<Result<()>>()?;
        checked().insert(part.to_owned());
        Ok(located)
    }
}

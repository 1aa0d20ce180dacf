//! The manifest: the one file that says what the index is.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::error::AtPath;
use crate::files::{FileEntry, hex, is_tidy, sync_folder, write_synced};
use crate::{Error, Passport, Result};

/// The version of the folder's format that this crate writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const MANIFEST_FILE: &str = "manifest.json";
pub(crate) const MANIFEST_DRAFT: &str = "manifest.json.tmp";
pub(crate) const SEGMENTS_FOLDER: &str = "segments";
const FORMAT_NAME: &str = "raglan-index";

/// Identifies a segment within an index; never used again after its segment is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(pub u32);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

/// A segment: chunks that were committed or merged together, with the parts that index them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// The segment's id.
    pub id: SegmentId,
    /// How many chunks are in its tables, deleted ones included.
    pub n_chunks: u32,
    /// How many of them are deleted.
    pub n_deleted: u32,
    /// All its files, in order of path.
    pub files: Vec<FileEntry>,
}

impl SegmentEntry {
    /// How many of its chunks are not deleted.
    pub fn n_live(&self) -> u32 {
        self.n_chunks.saturating_sub(self.n_deleted)
    }

    /// The segment's folder, relative to the index.
    pub fn folder(&self) -> String {
        segment_folder(self.id)
    }

    /// The files of one part, such as `bm25`.
    pub fn part(&self, part: &str) -> impl Iterator<Item = &FileEntry> {
        let prefix = format!("{}/{part}/", self.folder());
        self.files.iter().filter(move |file| file.path.starts_with(&prefix))
    }

    /// The name of the part that a file of the segment belongs to; `chunks` for the chunk table.
    pub fn part_of<'a>(&self, file: &'a FileEntry) -> &'a str {
        let below = file.path.strip_prefix(&self.folder()).unwrap_or(&file.path).trim_start_matches('/');
        below.split_once('/').map_or("chunks", |(part, _)| part)
    }

    /// The file called `name` directly in the segment's folder.
    pub(crate) fn own_file(&self, name: &str) -> Option<&FileEntry> {
        let path = format!("{}/{name}", self.folder());
        self.files.iter().find(|file| file.path == path)
    }
}

pub(crate) fn segment_folder(id: SegmentId) -> String {
    format!("{SEGMENTS_FOLDER}/{id}")
}

/// Everything that one generation of an index consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Counts commits, from 1.
    pub(crate) generation: u64,
    pub(crate) passport: Passport,
    /// The lowest ids that were never used; one past the largest when all are.
    pub(crate) next_chunk: u64,
    pub(crate) next_doc: u64,
    pub(crate) next_segment: u64,
    /// In order of id.
    pub(crate) segments: Vec<SegmentEntry>,
    pub(crate) ledger: FileEntry,
    pub(crate) tombstones: FileEntry,
    /// Files of the generation before that this one has no use for; kept for its readers until the next commit.
    pub(crate) retired: Vec<String>,
}

impl Manifest {
    /// Reads the manifest of the index in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::NotAnIndex { path: folder.to_owned() }
            }
            _ => crate::files::unreadable(&path, error),
        })?;
        Self::decode(&bytes, &path)
    }

    /// A first line of name, version and checksum, then JSON.
    ///
    /// The first line has this form in every version, so that a newer version is told from damage.
    fn encode(&self) -> Vec<u8> {
        let body = serde_json::to_string_pretty(self).expect("a manifest has only string keys");
        let xxh3 = checksum(FORMAT_VERSION, body.as_bytes());
        format!("{FORMAT_NAME} {FORMAT_VERSION} {xxh3}\n{body}").into_bytes()
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self> {
        let damaged = |problem: &str| Error::damaged(path, problem);
        let line_end = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("it has no first line"))?;
        let (line, body) = (&bytes[..line_end], &bytes[line_end + 1..]);
        let words: Vec<&str> = std::str::from_utf8(line).unwrap_or_default().split(' ').collect();
        let [FORMAT_NAME, version, xxh3] = words[..] else {
            return Err(damaged("its first line is not that of an index"));
        };
        let found: u32 = version.parse().map_err(|_| damaged("its version is not a number"))?;
        if version != found.to_string() || checksum(found, body) != xxh3 {
            return Err(damaged("its checksum is wrong"));
        }
        if found > FORMAT_VERSION {
            return Err(Error::NewerFormat { path: path.to_owned(), found, supported: FORMAT_VERSION });
        }
        let manifest: Self = serde_json::from_slice(body).map_err(|error| damaged(&error.to_string()))?;
        manifest.check().map_err(|problem| damaged(&problem))?;
        Ok(manifest)
    }

    /// A checksum says that the bytes are as written, this that they make sense.
    fn check(&self) -> Result<(), String> {
        let mut paths = HashSet::new();
        for file in self.files() {
            if !file.is_tidy() {
                return Err(format!("`{}` is not a path within the index", file.path));
            }
            if !paths.insert(file.path.as_str()) {
                return Err(format!("`{}` is named twice", file.path));
            }
        }
        if let Some(path) = self.retired.iter().find(|path| !is_tidy(path)) {
            return Err(format!("`{path}` is not a path within the index"));
        }
        if !self.segments.windows(2).all(|pair| pair[0].id < pair[1].id) {
            return Err("segments are out of order".to_owned());
        }
        for segment in &self.segments {
            let prefix = segment.folder() + "/";
            if let Some(file) = segment.files.iter().find(|file| !file.path.starts_with(&prefix)) {
                return Err(format!("`{}` is not in its segment's folder", file.path));
            }
            if segment.n_deleted > segment.n_chunks {
                return Err(format!("segment {} has more deleted chunks than chunks", segment.id));
            }
            if u64::from(segment.id.0) >= self.next_segment {
                return Err(format!("segment {} was never made", segment.id));
            }
        }
        Ok(())
    }

    /// Makes this the manifest: the one step of a commit that changes what readers see.
    ///
    /// Says whether the rename took place, even if what came after it failed.
    pub(crate) fn publish(&self, folder: &Path) -> (bool, Result<()>) {
        let (draft, path) = (folder.join(MANIFEST_DRAFT), folder.join(MANIFEST_FILE));
        if let Err(error) = write_synced(&draft, &self.encode()) {
            return (false, Err(error));
        }
        if let Err(error) = fs::rename(&draft, &path).at("replace", &path) {
            // Over a network a rename may be reported as failed and have been done.
            return (Self::read(folder).is_ok_and(|found| found == *self), Err(error));
        }
        (true, sync_folder(folder))
    }

    /// Every file that the manifest names.
    pub(crate) fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.segments.iter().flat_map(|segment| &segment.files).chain([&self.ledger, &self.tombstones])
    }
}

/// The checksum covers the version too: it is the seed.
fn checksum(version: u32, body: &[u8]) -> String {
    hex(xxh3_128_with_seed(body, u64::from(version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> FileEntry {
        FileEntry::of_bytes(path.into(), path.as_bytes())
    }

    fn manifest() -> Manifest {
        Manifest {
            generation: 3,
            passport: Passport::default(),
            next_chunk: 10,
            next_doc: 2,
            next_segment: 2,
            segments: vec![SegmentEntry {
                id: SegmentId(1),
                n_chunks: 10,
                n_deleted: 1,
                files: vec![file("segments/00000001/bm25/a"), file("segments/00000001/chunks.parquet")],
            }],
            ledger: file("ledger-3.parquet"),
            tombstones: file("tombstones-3.bin"),
            retired: vec![],
        }
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut Manifest)) {
        let mut changed = manifest();
        change(&mut changed);
        assert!(matches!(Manifest::decode(&changed.encode(), Path::new("m")), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_manifest_reads_back() {
        let bytes = manifest().encode();
        assert_eq!(Manifest::decode(&bytes, Path::new("m")).unwrap(), manifest());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = manifest().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Manifest::decode(&flipped, Path::new("m")), Err(Error::Damaged { .. })), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(matches!(Manifest::decode(&bytes[..len], Path::new("m")), Err(Error::Damaged { .. })), "{len}");
        }
    }

    #[test]
    fn a_newer_format_is_not_damage() {
        let body = br#"{"quite":"different"}"#;
        let bytes = [format!("raglan-index 2 {}\n", checksum(2, body)).as_bytes(), body].concat();
        assert!(matches!(
            Manifest::decode(&bytes, Path::new("m")),
            Err(Error::NewerFormat { found: 2, supported: 1, .. })
        ));
    }

    #[test]
    fn a_manifest_that_makes_no_sense_is_refused_though_its_checksum_fits() {
        check_refused(|m| m.ledger.path = "../ledger".into());
        check_refused(|m| m.segments[0].files[0].path = "/etc/passwd".into());
        check_refused(|m| m.segments[0].files[0].path = "segments/00000007/bm25/a".into());
        check_refused(|m| m.tombstones.path = m.ledger.path.clone());
        check_refused(|m| m.retired = vec!["..".into()]);
        check_refused(|m| m.segments[0].n_deleted = 11);
        check_refused(|m| m.next_segment = 1);
        check_refused(|m| m.segments.push(m.segments[0].clone()));
    }

    #[test]
    fn files_belong_to_parts() {
        let segment = &manifest().segments[0];
        assert_eq!(segment.part("bm25").count(), 1);
        assert_eq!(segment.part("bm").count(), 0);
        let parts: Vec<&str> = segment.files.iter().map(|file| segment.part_of(file)).collect();
        assert_eq!(parts, ["bm25", "chunks"]);
    }
}

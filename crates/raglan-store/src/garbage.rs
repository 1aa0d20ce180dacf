//! Which files in an index folder are the store's, and which of them nobody needs.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::AtPath;
use crate::files;
use crate::lock::{LOCK_FILE, WriterLock};
use crate::manifest::{MANIFEST_DRAFT, MANIFEST_FILE, Manifest, SEGMENTS_FOLDER};
use crate::{Error, Result};

/// Derived data beside the index, which is not the store's to touch.
const KV_FOLDER: &str = "kv";

/// What [`Writer::gc`](crate::Writer::gc) or [`remove_index`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// How many files.
    pub files_removed: usize,
    /// How many bytes they had.
    pub bytes: u64,
}

/// Numbers from which on ids were surely never used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Floor {
    pub(crate) generation: u64,
    pub(crate) segment: u64,
    pub(crate) chunk: u64,
    pub(crate) doc: u64,
}

/// The generation in the name of a ledger or of tombstones.
fn generation_of(name: &str) -> Option<u64> {
    let number = name
        .strip_prefix("ledger-")
        .and_then(|rest| rest.strip_suffix(".parquet"))
        .or_else(|| name.strip_prefix("tombstones-").and_then(|rest| rest.strip_suffix(".bin")))?;
    number.parse().ok().filter(|parsed: &u64| parsed.to_string() == number)
}

/// The number of a segment's folder.
fn segment_of(name: &OsStr) -> Option<u32> {
    let name = name.to_str()?;
    let number: u32 = name.parse().ok()?;
    (format!("{number:08}") == name).then_some(number)
}

/// Refuses a folder in which something else lives, so that cleaning up can never touch it.
pub(crate) fn refuse_foreign(folder: &Path) -> Result<()> {
    if !folder.exists() || Manifest::read(folder).is_ok() {
        return Ok(());
    }
    let mut has_ours = false;
    for entry in fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name();
        if name == MANIFEST_FILE {
            continue;
        }
        let ours = name.to_str().is_some_and(|name| {
            [LOCK_FILE, MANIFEST_DRAFT, SEGMENTS_FOLDER, KV_FOLDER].contains(&name) || generation_of(name).is_some()
        });
        if !ours {
            return Err(Error::NotEmpty { path: folder.to_owned(), found: name.to_string_lossy().into_owned() });
        }
        has_ours = true;
    }
    // A file of that name with nothing of an index beside it is somebody else's.
    if !has_ours && folder.join(MANIFEST_FILE).exists() {
        return Err(Error::NotEmpty { path: folder.to_owned(), found: MANIFEST_FILE.to_owned() });
    }
    Ok(())
}

/// Removes the index in a folder, with the folder, unless another process writes to it; says how much that was.
///
/// # Errors
///
/// [`Error::NotEmpty`] when something else lives in the folder, [`Error::Locked`], [`Error::Io`].
pub fn remove_index(folder: &Path) -> Result<GcReport> {
    refuse_foreign(folder)?;
    let _lock = WriterLock::take(folder)?;
    let (names, _) = files::list(folder, folder)?;
    let mut report = GcReport { files_removed: names.len(), bytes: 0 };
    for path in names.iter().map(|name| folder.join(name)) {
        report.bytes += fs::metadata(&path).at("look at", &path)?.len();
    }
    fs::remove_dir_all(folder).at("remove", folder)?;
    Ok(report)
}

/// What the names in a folder say about ids that were used, when there is no manifest to say it.
pub(crate) fn floor(folder: &Path) -> Result<Floor> {
    let mut floor = Floor::default();
    for entry in fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name();
        if let Some(generation) = name.to_str().and_then(generation_of) {
            floor.generation = floor.generation.max(generation);
        }
    }
    let segments = folder.join(SEGMENTS_FOLDER);
    if segments.is_dir() {
        for entry in fs::read_dir(&segments).at("list", &segments)? {
            if let Some(segment) = segment_of(&entry.at("list", &segments)?.file_name()) {
                floor.segment = floor.segment.max(u64::from(segment) + 1);
            }
        }
    }
    Ok(floor)
}

/// Removes the store's files that are not in `keep`, but for the folders of segments in `drafts`.
pub(crate) fn collect(folder: &Path, keep: &HashSet<String>, drafts: &HashSet<String>) -> Result<GcReport> {
    let mut report = GcReport::default();
    for entry in fs::read_dir(folder).at("list", folder)? {
        let entry = entry.at("list", folder)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if (generation_of(name).is_some() && !keep.contains(name)) || name == MANIFEST_DRAFT {
            remove(&entry.path(), &mut report)?;
        }
    }
    let segments = folder.join(SEGMENTS_FOLDER);
    if !segments.is_dir() {
        return Ok(report);
    }
    for entry in fs::read_dir(&segments).at("list", &segments)? {
        let entry = entry.at("list", &segments)?;
        let is_draft = entry.file_name().to_str().is_some_and(|name| drafts.contains(name));
        if segment_of(&entry.file_name()).is_none() || is_draft {
            continue;
        }
        let (names, folders) = files::list(folder, &entry.path())?;
        for name in names.iter().filter(|name| !keep.contains(*name)) {
            remove(&folder.join(name), &mut report)?;
        }
        for emptied in folders {
            if fs::read_dir(&emptied).at("list", &emptied)?.next().is_none() {
                fs::remove_dir(&emptied).at("remove", &emptied)?;
            }
        }
    }
    Ok(report)
}

fn remove(path: &Path, report: &mut GcReport) -> Result<()> {
    let bytes = fs::metadata(path).map_or(0, |file| file.len());
    fs::remove_file(path).at("remove", path)?;
    report.files_removed += 1;
    report.bytes += bytes;
    Ok(())
}

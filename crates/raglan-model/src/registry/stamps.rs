//! What was checked in full once need only be looked at afterwards.
//!
//! Beside a model's files lies a record of each file's SHA-256, length and time of change, as they were when the file
//! was last hashed. While length and time are the same, the hash is taken from there, so that a start does not read
//! a hundred megabytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::landing::{hash_file, write_atomically};
use super::{Error, PinnedFile, Progress, Result};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    sha256: String,
    bytes: u64,
    /// Time of the last change, in nanoseconds since 1970.
    modified: u64,
}

/// The record of the files that were hashed, by name.
#[derive(Debug)]
pub(super) struct Stamps {
    path: PathBuf,
    stamps: BTreeMap<String, Stamp>,
    changed: bool,
}

impl Stamps {
    /// Reads the record; one that is missing or unreadable is empty, which costs a hash and nothing else.
    pub(super) fn open(path: PathBuf) -> Self {
        let stamps = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, stamps, changed: false }
    }

    /// The SHA-256 of `file` as recorded, when the file looks as it did then.
    pub(super) fn recall(&self, name: &str, file: &Path) -> Result<Option<String>> {
        let (bytes, modified) = look(file)?;
        let stamp = self.stamps.get(name).filter(|stamp| (stamp.bytes, stamp.modified) == (bytes, modified));
        Ok(stamp.map(|stamp| stamp.sha256.clone()))
    }

    /// Length and SHA-256 of the file called `name` as recorded, however it looks now.
    pub(super) fn recorded(&self, name: &str) -> Option<PinnedFile> {
        self.stamps.get(name).map(|stamp| PinnedFile {
            name: name.to_owned(),
            bytes: stamp.bytes,
            sha256: stamp.sha256.clone(),
        })
    }

    /// Hashes `file` and records the result.
    pub(super) fn renew(&mut self, name: &str, file: &Path, progress: &dyn Progress) -> Result<String> {
        // Looked at before it is hashed: a change in between leaves a record that does not fit.
        let (bytes, modified) = look(file)?;
        let (_, sha256) = hash_file(file, &format!("checking {name}"), progress)?;
        self.stamps.insert(name.to_owned(), Stamp { sha256: sha256.clone(), bytes, modified });
        self.changed = true;
        Ok(sha256)
    }

    /// Records `file`, whose SHA-256 was seen as it was written.
    pub(super) fn record(&mut self, name: &str, file: &Path, sha256: &str) -> Result<()> {
        let (bytes, modified) = look(file)?;
        self.stamps.insert(name.to_owned(), Stamp { sha256: sha256.to_owned(), bytes, modified });
        self.changed = true;
        Ok(())
    }

    /// Writes the record if it changed. A cache that cannot be written works all the same, only slower.
    pub(super) fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let json = serde_json::to_vec_pretty(&self.stamps).expect("strings and numbers can be written as JSON");
        if let Err(error) = write_atomically(&self.path, &json) {
            tracing::debug!(%error, "the record of checked files was not written");
        }
    }
}

/// Length and time of change of a file.
fn look(file: &Path) -> Result<(u64, u64)> {
    let metadata = fs::metadata(file).map_err(|e| Error::io(file, e))?;
    let modified = metadata.modified().map_err(|e| Error::io(file, e))?;
    let nanoseconds = modified.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
    Ok((metadata.len(), nanoseconds))
}

//! Reading files within limits, several at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use raglan_core::{ContentHash, ParsedDocument};

use crate::read::{is_risky, read_guarded, read_with_time_limit};
use crate::sniff::{Sniffed, sniff};
use crate::{FoundFile, Limits, SkipReason};

/// Where risky formats are read: those that are packages, or whose parsers are complex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// On a thread of this process: panics and time are guarded against, memory and stack overflow are not.
    InProcess,
    /// In a child process that can be killed: `program` with `args` must call [`worker_main`](crate::worker_main).
    Worker {
        /// The program, usually this one.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// What became of a file that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// Hash of the file's bytes; there is one whenever the file could be read to its end.
    pub hash: Option<ContentHash>,
    /// How many bytes were read.
    pub size: u64,
    /// The document, or why there is none.
    pub outcome: Result<ParsedDocument, SkipReason>,
}

/// Reads files within [`Limits`]; it may be used from several threads at once.
pub struct ReaderPool {
    limits: Limits,
    #[cfg(unix)]
    workers: Option<crate::worker::Workers>,
}

impl ReaderPool {
    /// A pool with at most `n_workers` child processes, which start when first needed.
    pub fn new(limits: Limits, isolation: Isolation, n_workers: usize) -> Self {
        #[cfg(unix)]
        let workers = match isolation {
            Isolation::InProcess => None,
            Isolation::Worker { program, args } => Some(crate::worker::Workers::new(program, args, n_workers.max(1))),
        };
        #[cfg(not(unix))]
        let _ = (isolation, n_workers);
        Self {
            limits,
            #[cfg(unix)]
            workers,
        }
    }

    /// Reads a file, once, and makes of it a document or a reason.
    pub fn read(&self, file: &FoundFile) -> Read {
        let bytes = match read_file(&file.path, self.limits.file_bytes) {
            Ok(bytes) => bytes,
            Err(reason) => return Read { hash: None, size: file.size, outcome: Err(reason) },
        };
        let hash = Some(ContentHash(*blake3::hash(&bytes).as_bytes()));
        let size = bytes.len() as u64;
        let outcome = sniff(&file.name, bytes).and_then(|sniffed| self.parse(sniffed));
        Read { hash, size, outcome }
    }

    fn parse(&self, sniffed: Sniffed) -> Result<ParsedDocument, SkipReason> {
        if !is_risky(sniffed.format()) {
            return read_guarded(sniffed, &self.limits);
        }
        #[cfg(unix)]
        if let Some(workers) = &self.workers {
            return workers.read(sniffed, &self.limits);
        }
        read_with_time_limit(sniffed, &self.limits)
    }
}

/// The file's bytes, at most `limit` of them.
fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, SkipReason> {
    let unreadable = |error: io::Error| SkipReason::Unreadable { problem: error.to_string() };
    let file = open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SkipReason::NotAFile { what: "special file".to_owned() });
    }
    if metadata.len() > limit {
        return Err(SkipReason::too_large("file", limit));
    }
    // The file may have grown, or be one of those that have no size.
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(SkipReason::too_large("file", limit));
    }
    Ok(bytes)
}

/// Opens for reading without waiting, should the file have become a FIFO since it was found.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    options.open(path)
}

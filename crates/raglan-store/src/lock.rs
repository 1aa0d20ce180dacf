//! The writer's lock.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::AtPath;
use crate::{Error, Result};

pub(crate) const LOCK_FILE: &str = "writer.lock";

/// The process that holds an index's writer lock, as it described itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Process id; 0 when the holder could not be read.
    pub pid: u32,
    /// Name of the machine.
    pub host: String,
    /// The command line.
    pub command: String,
    /// When the lock was taken, in RFC 3339.
    pub since: String,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("another process");
        }
        write!(f, "process {} on {} since {} (`{}`)", self.pid, self.host, self.since, self.command)
    }
}

/// A held lock; letting go of it, also by dying, frees it.
///
/// The lock is the operating system's on the open file, not the file's existence: the file stays, and removing it
/// would let two writers hold locks on two files of one name.
#[derive(Debug)]
pub(crate) struct WriterLock {
    file: File,
}

impl WriterLock {
    /// Takes the lock of the index in `folder`, or says who has it.
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .at("open the lock file", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Locked { path: folder.to_owned(), holder: read_holder(file) });
            }
            Err(TryLockError::Error(source)) => {
                return Err(Error::Io { action: "lock", path, source });
            }
        }
        let mut lock = Self { file };
        lock.describe().at("write", &path)?;
        Ok(lock)
    }

    fn describe(&mut self) -> std::io::Result<()> {
        let holder = LockHolder {
            pid: std::process::id(),
            host: host(),
            command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "),
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(serde_json::to_string(&holder)?.as_bytes())
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // The description is for people; a failure to clear it harms nothing, and closing the file frees the lock.
        let _ = self.file.set_len(0);
    }
}

/// The holder's description; the default one while the holder has not written it yet.
fn read_holder(file: File) -> LockHolder {
    let mut text = String::new();
    match file.take(1 << 20).read_to_string(&mut text) {
        Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
        Err(_) => LockHolder::default(),
    }
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map_or_else(|| "this machine".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_writer_learns_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let first = WriterLock::take(folder.path()).unwrap();
        let Err(Error::Locked { holder, .. }) = WriterLock::take(folder.path()) else { panic!("locked twice") };
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.command.is_empty() && holder.since.ends_with('Z'), "{holder}");
        drop(first);
        WriterLock::take(folder.path()).unwrap();
    }

    #[test]
    fn what_a_dead_writer_left_in_the_file_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(LOCK_FILE), "not json, and longer than a description is ".repeat(99))
            .unwrap();
        let _held = WriterLock::take(folder.path()).unwrap();
        let Err(Error::Locked { holder, .. }) = WriterLock::take(folder.path()) else { panic!("locked twice") };
        assert_eq!(holder.pid, std::process::id());
    }
}

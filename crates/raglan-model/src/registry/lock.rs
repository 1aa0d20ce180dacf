//! One fetch of a model at a time, between threads and between processes.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Error, Progress, Result};

/// The right to write in a model's folder. The system takes it back when its process dies.
#[derive(Debug)]
pub(super) struct ModelLock {
    _file: File,
}

impl ModelLock {
    /// Waits for the lock of the model whose files lie in `dir`, which is made when it is missing.
    ///
    /// The lock file stays: a second process may hold it open, and to remove it would split the lock in two.
    pub(super) fn acquire(dir: &Path, name: &str, progress: &dyn Progress) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let path = dir.join(".lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| Error::io(&path, e))?;
        let mut waiting = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(Error::io(&path, source)),
            }
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            if !waiting {
                progress.start(&format!("{name}: waiting for another process that fetches it"), None);
                waiting = true;
            }
            thread::sleep(Duration::from_millis(50));
        }
        if waiting {
            progress.finish();
        }
        Ok(Self { _file: file })
    }
}

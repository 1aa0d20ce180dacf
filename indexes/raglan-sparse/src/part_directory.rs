//! Where tantivy keeps a part of a segment.
//!
//! A part is a tantivy index of exactly one tantivy segment. Its files lie beside those of the other parts under names
//! of our own, `<part>.<extension>`: they do not depend on tantivy's random segment ids, so equal chunks give equal
//! files. tantivy's list of managed files and its locks are not written at all; what a finished segment needs are the
//! files that are there, and nobody changes them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, Directory, DirectoryLock, FileHandle, Lock, MmapDirectory, TerminatingWrite, WatchCallback,
    WatchHandle, WritePtr,
};

/// What stands in the metadata for tantivy's random segment id.
const SEGMENT_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Whether a directory may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// One part of a segment's folder.
#[derive(Clone, Debug)]
pub struct PartDirectory {
    folder: PathBuf,
    part: usize,
    access: Access,
    /// Maps files for reading; is never asked to write, lock or watch.
    mapped: MmapDirectory,
}

/// The name of a part's file with this extension.
pub fn file_name(part: usize, extension: &str) -> String {
    format!("{part:03}.{extension}")
}

impl PartDirectory {
    pub fn open(folder: &Path, part: usize, access: Access) -> tantivy::Result<Self> {
        Ok(Self { folder: folder.to_owned(), part, access, mapped: MmapDirectory::open(folder)? })
    }

    fn name(&self, path: &Path) -> String {
        let name = path.to_string_lossy();
        let extension = name.split_once('.').map_or("", |(_, extension)| extension);
        file_name(self.part, if name == "meta.json" { "meta" } else { extension })
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(self.name(path))
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(io::Error::new(io::ErrorKind::PermissionDenied, "a finished segment is not changed")),
        }
    }
}

/// tantivy's list of its own files, which is not kept.
fn is_managed_list(path: &Path) -> bool {
    path.as_os_str() == ".managed.json"
}

impl Directory for PartDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.mapped.get_file_handle(Path::new(&self.name(path)))
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.check_writable().and_then(|()| fs::remove_file(self.path(path))).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                DeleteError::FileDoesNotExist(path.to_owned())
            } else {
                DeleteError::IoError { io_error: Arc::new(error), filepath: path.to_owned() }
            }
        })
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.path(path).try_exists().map_err(|error| OpenReadError::wrap_io_error(error, path.to_owned()))
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let file = self.check_writable().and_then(|()| File::create_new(self.path(path)));
        match file {
            Ok(file) => Ok(BufWriter::with_capacity(1 << 17, Box::new(PartFile(file)))),
            Err(error) => Err(OpenWriteError::IoError { io_error: Arc::new(error), filepath: path.to_owned() }),
        }
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        if is_managed_list(path) {
            return Err(OpenReadError::FileDoesNotExist(path.to_owned()));
        }
        fs::read(self.path(path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenReadError::FileDoesNotExist(path.to_owned()),
            _ => OpenReadError::wrap_io_error(error, path.to_owned()),
        })
    }

    fn atomic_write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        if is_managed_list(path) {
            return Ok(());
        }
        let mut meta: serde_json::Value = serde_json::from_slice(bytes)?;
        for segment in meta["segments"].as_array_mut().into_iter().flatten() {
            segment["segment_id"] = SEGMENT_ID.into();
        }
        let mut file = File::create(self.path(path))?;
        file.write_all(&serde_json::to_vec(&meta)?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(()) // Whoever commits the folder makes it durable, all at once.
    }

    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(()))) // One writer made the folder, and readers change nothing.
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty()) // Nothing changes.
    }
}

/// A file of a part; whoever commits the folder makes it durable.
struct PartFile(File);

impl Write for PartFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl TerminatingWrite for PartFile {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        self.0.flush()
    }
}

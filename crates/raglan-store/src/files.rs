//! Files with a known length and checksum, and writing that survives a loss of power.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::error::AtPath;
use crate::{Error, Result};

/// A file of an index as its manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the index folder, with `/` between its parts.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// XXH3-128 of its bytes, in hexadecimal.
    pub xxh3: String,
}

impl FileEntry {
    /// The entry of these bytes under this path.
    pub(crate) fn of_bytes(path: String, bytes: &[u8]) -> Self {
        Self { path, bytes: bytes.len() as u64, xxh3: hex(xxhash_rust::xxh3::xxh3_128(bytes)) }
    }

    /// The entry of a file on disk.
    pub(crate) fn of_file(folder: &Path, path: String) -> Result<Self> {
        let (bytes, xxh3) = measure(&folder.join(&path))?;
        Ok(Self { path, bytes, xxh3 })
    }

    /// Where the file is.
    pub(crate) fn locate(&self, folder: &Path) -> PathBuf {
        folder.join(&self.path)
    }

    /// Compares the file's length and checksum with what they should be.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] naming the file when it is missing or different.
    pub fn check(&self, folder: &Path) -> Result<()> {
        let path = self.locate(folder);
        self.check_length(&path, fs::metadata(&path).map_err(|error| unreadable(&path, error))?.len())?;
        let (bytes, xxh3) = measure(&path)?;
        self.check_length(&path, bytes)?;
        if xxh3 == self.xxh3 { Ok(()) } else { Err(Error::damaged(&path, "its checksum is wrong")) }
    }

    /// The file's bytes, checked.
    pub(crate) fn read(&self, folder: &Path, opened: Option<&File>) -> Result<Vec<u8>> {
        let path = self.locate(folder);
        let newly_opened;
        let file = match opened {
            Some(file) => file,
            None => {
                newly_opened = File::open(&path).map_err(|error| unreadable(&path, error))?;
                &newly_opened
            }
        };
        self.check_length(&path, file.metadata().map_err(|error| unreadable(&path, error))?.len())?;
        // The length is now known to be that of a file that exists, so it may be allocated.
        let mut bytes = vec![0; self.bytes as usize];
        read_exact_at(file, &mut bytes, 0).map_err(|error| unreadable(&path, error))?;
        if hex(xxhash_rust::xxh3::xxh3_128(&bytes)) != self.xxh3 {
            return Err(Error::damaged(&path, "its checksum is wrong"));
        }
        Ok(bytes)
    }

    pub(crate) fn check_length(&self, path: &Path, found: u64) -> Result<()> {
        if found == self.bytes {
            Ok(())
        } else {
            Err(Error::damaged(path, format!("it has {found} bytes, the manifest says {}", self.bytes)))
        }
    }

    /// Whether the path stays within the folder and has one spelling: plain names with `/` between them.
    pub(crate) fn is_tidy(&self) -> bool {
        is_tidy(&self.path)
    }
}

/// Whether a path is made of plain names with `/` between them.
pub(crate) fn is_tidy(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && path.split('/').all(|name| {
            let mut components = Path::new(name).components();
            matches!((components.next(), components.next()), (Some(Component::Normal(plain)), None) if plain == name)
        })
}

/// A file that the manifest names but that cannot be read is damage, whatever the reason.
pub(crate) fn unreadable(path: &Path, error: io::Error) -> Error {
    let problem = match error.kind() {
        io::ErrorKind::NotFound => "it is missing".to_owned(),
        io::ErrorKind::UnexpectedEof => "it is cut short".to_owned(),
        _ => format!("it cannot be read: {error}"),
    };
    Error::damaged(path, problem)
}

/// A checksum as it is written.
pub(crate) fn hex(xxh3: u128) -> String {
    format!("{xxh3:032x}")
}

/// Length and checksum of a file.
fn measure(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20]; // Large enough that system calls do not count, small enough for the cache.
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex(hasher.digest128()))),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, error)),
        }
    }
}

/// Writes a new file and waits until its bytes are on disk; its folder is still to be synced.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).at("create", path)?;
    file.write_all(bytes).at("write", path)?;
    file.sync_all().at("sync", path)
}

/// Waits until an existing file's bytes are on disk.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    // Some systems sync only files that are open for writing.
    fs::OpenOptions::new().write(true).open(path).and_then(|file| file.sync_all()).at("sync", path)
}

/// Waits until the names in a folder are on disk.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) { File::open(path).and_then(|folder| folder.sync_all()).at("sync", path) } else { Ok(()) }
}

/// All regular files below a folder, as paths relative to `root` in order, and all folders, innermost first.
///
/// # Errors
///
/// [`Error::Inconsistent`] for anything that is neither, and for names that are not Unicode.
pub(crate) fn list(root: &Path, folder: &Path) -> Result<(Vec<String>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let mut to_visit = vec![folder.to_owned()];
    while let Some(visited) = to_visit.pop() {
        for entry in fs::read_dir(&visited).at("list", &visited)? {
            let entry = entry.at("list", &visited)?;
            let path = entry.path();
            let kind = entry.file_type().at("look at", &path)?;
            if kind.is_dir() {
                to_visit.push(path);
            } else if kind.is_file() {
                files.push(relative(root, &path)?);
            } else {
                return Err(Error::inconsistent(format!("`{}` is not a regular file", path.display())));
            }
        }
        folders.push(visited);
    }
    files.sort_unstable();
    folders.reverse();
    Ok((files, folders))
}

fn relative(root: &Path, path: &Path) -> Result<String> {
    let below = path.strip_prefix(root).expect("listed below the root");
    let names: Option<Vec<&str>> = below.components().map(|name| name.as_os_str().to_str()).collect();
    match names.map(|names| names.join("/")) {
        Some(name) if is_tidy(&name) => Ok(name),
        _ => Err(Error::inconsistent(format!("`{}` has no portable name", path.display()))),
    }
}

/// Fills the buffer from an offset, without moving the place that other readers of the handle share.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills the buffer from an offset, without moving the place that other readers of the handle share.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_folder_are_not_tidy() {
        for tidy in ["a", "a/b.c", "segments/00000001/bm25/x y", "..."] {
            assert!(is_tidy(tidy), "{tidy}");
        }
        for wild in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "./a", "a\\b", "a\0"] {
            assert!(!is_tidy(wild), "{wild}");
        }
    }

    #[test]
    fn a_changed_cut_or_missing_file_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, b"some bytes").unwrap();
        let entry = FileEntry::of_file(folder.path(), "f".into()).unwrap();
        assert_eq!(entry, FileEntry::of_bytes("f".into(), b"some bytes"));
        entry.check(folder.path()).unwrap();
        assert_eq!(entry.read(folder.path(), None).unwrap(), b"some bytes");
        for (damage, problem) in [
            (Some(&b"some byteS"[..]), "checksum"),
            (Some(b"some"), "4 bytes"),
            (Some(b""), "0 bytes"),
            (None, "missing"),
        ] {
            match damage {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            for error in [entry.check(folder.path()).unwrap_err(), entry.read(folder.path(), None).unwrap_err()] {
                assert!(
                    matches!(&error, Error::Damaged { path: named, problem: said }
                    if *named == path && said.contains(problem)),
                    "{error}"
                );
            }
        }
    }
}

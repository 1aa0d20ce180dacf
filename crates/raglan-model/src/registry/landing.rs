//! Files come to rest in the cache whole and checked, or not at all.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Error, PinnedFile, Progress, Result};

// What one read takes: large enough that hashing, not the system, sets the pace.
const BLOCK_BYTES: usize = 1 << 20;

/// A folder for what is under way, in the model's folder so that a rename out of it is atomic.
///
/// It is removed when this is dropped; what a killed process left there goes when the next one opens it. Whoever
/// opens it holds the model's lock.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
}

impl Staging {
    pub(super) fn open(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join(".partial");
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|e| Error::io(&path, e))?;
        }
        fs::create_dir_all(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "left behind");
        }
    }
}

/// Writes what `reader` gives as the pinned `file` of `dir`, by way of `staging`.
///
/// # Errors
///
/// [`Error::Truncated`], [`Error::WrongHash`] when the content is not the pinned one; nothing is then kept. A failing
/// `reader` is reported by `unreadable`.
pub(super) fn land(
    mut reader: impl Read,
    file: &PinnedFile,
    source_name: &str,
    staging: &Staging,
    dir: &Path,
    progress: &dyn Progress,
    unreadable: impl FnOnce(std::io::Error) -> Error,
) -> Result<()> {
    let partial = staging.path().join(format!("{}.part", file.name));
    let mut writer = File::create(&partial).map_err(|e| Error::io(&partial, e))?;
    progress.start(&format!("unpacking {}", file.name), Some(file.bytes));
    // One byte more than is pinned is enough to see that there is too much.
    let copied = copy(&mut (&mut reader).take(file.bytes.saturating_add(1)), &mut writer, progress);
    let (found_bytes, found_hash) = copied.map_err(|failure| match failure {
        CopyFailure::Read(source) => unreadable(source),
        CopyFailure::Write(source) => Error::io(&partial, source),
        CopyFailure::Interrupted => Error::Interrupted,
    })?;
    if found_bytes < file.bytes {
        return Err(Error::Truncated {
            source_name: source_name.to_owned(),
            file: file.name.clone(),
            expected: file.bytes,
            found: found_bytes,
        });
    }
    if found_bytes > file.bytes || found_hash != file.sha256 {
        return Err(Error::WrongHash {
            source_name: source_name.to_owned(),
            file: file.name.clone(),
            expected: file.sha256.clone(),
            found: if found_bytes > file.bytes { "of a longer file".to_owned() } else { found_hash },
        });
    }
    writer.sync_all().map_err(|e| Error::io(&partial, e))?;
    drop(writer);
    settle(&partial, &dir.join(&file.name))?;
    progress.finish();
    Ok(())
}

/// Renames a finished, synced file into place, durably.
pub(super) fn settle(partial: &Path, path: &Path) -> Result<()> {
    fs::rename(partial, path).map_err(|e| Error::io(path, e))?;
    // Only after its folder is synced does the new name outlive a power cut; Windows has no such call.
    #[cfg(unix)]
    if let Some(dir) = path.parent() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io(dir, e))?;
    }
    Ok(())
}

/// Writes a small file whole or not at all.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    // The process's own number keeps apart those who write the same record without a lock.
    let partial = path.with_extension(format!("{}.part", std::process::id()));
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|e| Error::io(&partial, e)).and_then(|()| settle(&partial, path)).inspect_err(|_| {
        fs::remove_file(&partial).ok();
    })
}

/// The SHA-256 of a file, in lower-case hexadecimal, and its length.
pub(super) fn hash_file(path: &Path, what: &str, progress: &dyn Progress) -> Result<(u64, String)> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let bytes = file.metadata().map_err(|e| Error::io(path, e))?.len();
    progress.start(what, Some(bytes));
    let hashed = copy(&mut file, &mut std::io::sink(), progress).map_err(|failure| match failure {
        CopyFailure::Read(source) | CopyFailure::Write(source) => Error::io(path, source),
        CopyFailure::Interrupted => Error::Interrupted,
    })?;
    progress.finish();
    Ok(hashed)
}

#[derive(Debug)]
enum CopyFailure {
    Read(std::io::Error),
    Write(std::io::Error),
    Interrupted,
}

/// Copies to the end of `reader`; gives the length and the SHA-256 of what passed.
fn copy(
    reader: &mut impl Read,
    writer: &mut impl Write,
    progress: &dyn Progress,
) -> Result<(u64, String), CopyFailure> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut hasher = Sha256::new();
    let mut n_bytes = 0;
    loop {
        if progress.interrupted() {
            return Err(CopyFailure::Interrupted);
        }
        let n = match reader.read(&mut block) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(CopyFailure::Read(e)),
        };
        hasher.update(&block[..n]);
        writer.write_all(&block[..n]).map_err(CopyFailure::Write)?;
        n_bytes += n as u64;
        progress.advance(n as u64);
    }
    Ok((n_bytes, hex(&hasher.finalize())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::Silent;
    use super::*;

    #[test]
    fn the_hash_is_sha256() {
        let (n, hash) = copy(&mut &b"abc"[..], &mut std::io::sink(), &Silent).unwrap();
        assert_eq!(n, 3);
        // FIPS 180-2, appendix B.1.
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    /// `/dev/full` refuses every byte with the error of a full disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let Err(CopyFailure::Write(source)) = copy(&mut &b"abc"[..], &mut full, &Silent) else {
            panic!("a full disk took bytes");
        };
        assert!(matches!(Error::io(Path::new("model"), source), Error::DiskFull { .. }));
    }
}

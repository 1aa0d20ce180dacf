//! Lines that several processes add to one file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result};

/// No journal is longer; of one that is, only the beginning is read.
const MOST_BYTES: u64 = 64 << 20;

/// A file of lines, each with a checksum of its own, so that a damaged one costs only itself.
///
/// Writers take the operating system's lock on a file beside it, which is never removed; readers need none, since a
/// journal is replaced whole and a line that is half written has no sound checksum.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal at `path`, which appears with its first line.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its length in bytes; 0 when it is not there.
    pub(crate) fn n_bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// The lines that are sound, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file is there and cannot be read.
    pub(crate) fn lines(&self) -> Result<Vec<String>> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            file => {
                let read = file.and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
                read.map_err(Error::io(&self.path))?;
            }
        }
        Ok(bytes.split(|&byte| byte == b'\n').filter_map(|line| sound(line).map(str::to_owned)).collect())
    }

    /// Adds lines, none of which has a line break.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the folder or the file cannot be written.
    pub(crate) fn append(&self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let append = || {
            let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path)?;
            let len = file.seek(SeekFrom::End(0))?;
            let mut text = String::new();
            if len > 0 {
                let mut last = [0];
                file.seek(SeekFrom::Start(len - 1))?;
                file.read_exact(&mut last)?;
                if last != *b"\n" {
                    text.push('\n'); // Whoever wrote the last line did not come to its end.
                }
            }
            lines.iter().for_each(|line| text += &with_checksum(line));
            file.write_all(text.as_bytes())
        };
        append().map_err(Error::io(&self.path))
    }

    /// Puts what `fold` makes of the sound lines in their place.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read or replaced.
    pub(crate) fn rewrite(&self, fold: impl FnOnce(Vec<String>) -> Vec<String>) -> Result<()> {
        if self.n_bytes() == 0 {
            return Ok(());
        }
        let _lock = self.lock()?;
        let text: String = fold(self.lines()?).iter().map(|line| with_checksum(line)).collect();
        let draft = self.path.with_extension(format!("draft-{}", std::process::id()));
        let replaced = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &self.path));
        replaced.map_err(|e| {
            // It is of no use, and that it cannot be removed is the lesser problem.
            let _ = fs::remove_file(&draft);
            Error::io(&self.path)(e)
        })
    }

    /// Removes the file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it is there and cannot be removed.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io(&self.path)),
        }
    }

    /// The lock of writers; letting go of the file, also by dying, frees it.
    fn lock(&self) -> Result<File> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = self.path.with_extension("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        file.and_then(|file| file.lock().map(|()| file)).map_err(Error::io(&path))
    }
}

fn with_checksum(line: &str) -> String {
    format!("{line}\t{:016x}\n", xxh3_64(line.as_bytes()))
}

/// What stands in a line, if it is as it was written.
fn sound(line: &[u8]) -> Option<&str> {
    let (line, checksum) = std::str::from_utf8(line).ok()?.rsplit_once('\t')?;
    (checksum == format!("{:016x}", xxh3_64(line.as_bytes()))).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_damaged_line_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below").join("a.tsv");
        let journal = Journal::new(path.clone());
        assert!(journal.lines().unwrap().is_empty() && journal.n_bytes() == 0);
        journal.append(&[]).unwrap();
        assert!(!path.exists());
        journal.append(&lines(&["one\t1", "", "three"])).unwrap();
        assert_eq!(journal.lines().unwrap(), ["one\t1", "", "three"]);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x81; // No text any more.
            fs::write(&path, &bytes).unwrap();
            let left = journal.lines().unwrap();
            // A broken line break spoils its neighbour too.
            let lost = if whole[at] == b'\n' && at + 1 < whole.len() { 2 } else { 1 };
            assert_eq!(left.len(), 3 - lost, "byte {at}: {left:?}");
        }
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let n = journal.lines().unwrap().len();
            // What is added behind a line that was cut is a line of its own.
            journal.append(&lines(&["next"])).unwrap();
            let now = journal.lines().unwrap();
            assert_eq!((now.len(), now.last().map(String::as_str)), (n + 1, Some("next")), "{len} bytes");
        }
    }

    #[test]
    fn what_is_folded_replaces_the_lines() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("a.tsv"));
        journal.rewrite(|_| unreachable!("there is nothing to fold")).unwrap();
        journal.append(&lines(&["a", "b"])).unwrap();
        journal.rewrite(|lines| vec![lines.concat()]).unwrap();
        journal.append(&lines(&["c"])).unwrap();
        assert_eq!(journal.lines().unwrap(), ["ab", "c"]);
        journal.remove().unwrap();
        journal.remove().unwrap();
        assert_eq!(journal.n_bytes(), 0);
    }

    #[test]
    fn several_writers_lose_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tsv");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let journal = Journal::new(path.clone());
                scope.spawn(move || {
                    for i in 0..50 {
                        journal.append(&[format!("{writer}-{i}")]).unwrap();
                        if i % 10 == 0 {
                            journal.rewrite(|lines| lines).unwrap();
                        }
                    }
                });
            }
        });
        let mut all = Journal::new(path).lines().unwrap();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 200);
    }
}

//! A file, mapped.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use memmap2::Mmap;

use crate::{Error, Result};

/// A file of a segment, mapped.
#[derive(Debug)]
pub struct SegmentFile {
    path: PathBuf,
    map: Mmap,
}

impl SegmentFile {
    /// Maps a file, which nobody changes while it is open.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be opened or mapped; [`Error::Damaged`] on a processor that is not little endian.
    pub fn open(path: PathBuf) -> Result<Self> {
        if cfg!(target_endian = "big") {
            return Err(Error::damaged(&path, "its numbers are little endian, and this processor is not"));
        }
        let file = File::open(&path).map_err(Error::io(&path))?;
        #[expect(unsafe_code, reason = "a memory map")]
        // SAFETY: files of a segment are never changed once they are written.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
        Ok(Self { path, map })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The numbers of a section, which [`Sections`](crate::Sections) found to be there.
    ///
    /// # Panics
    ///
    /// When it is not, or is of other numbers.
    #[inline]
    pub fn section<T: Pod>(&self, section: &Range<usize>) -> &[T] {
        bytemuck::cast_slice(&self.map[section.clone()])
    }

    /// `count` numbers that begin at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when they are not there, or the offset is no multiple of their alignment.
    pub fn numbers<T: Pod>(&self, offset: usize, count: usize) -> Result<&[T]> {
        count
            .checked_mul(size_of::<T>())
            .and_then(|bytes| offset.checked_add(bytes))
            .and_then(|end| self.map.get(offset..end))
            .and_then(|bytes| bytemuck::try_cast_slice(bytes).ok())
            .ok_or_else(|| Error::damaged(&self.path, "it is shorter than its header says"))
    }

    /// Fails unless the file begins as [`header`](crate::header) writes it.
    ///
    /// # Errors
    ///
    /// As [`check_format`](Self::check_format); [`Error::Damaged`] when the dimension or the number is another.
    pub fn check_header(&self, magic: &[u8; 8], version: u32, dim: usize, n: usize) -> Result<()> {
        self.check_format(magic, version)?;
        if self.numbers::<u32>(12, 1)?[0] as usize != dim || self.numbers::<u64>(16, 1)?[0] != n as u64 {
            return Err(Error::damaged(&self.path, "it is not of the vectors beside it"));
        }
        Ok(())
    }

    /// Fails unless the file begins with `magic` and `version`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when the magic is another or the file is shorter; [`Error::Version`].
    pub fn check_format(&self, magic: &[u8; 8], version: u32) -> Result<()> {
        if self.map.get(..8) != Some(&magic[..]) {
            return Err(Error::damaged(&self.path, "it does not begin as such a file does"));
        }
        let found = self.numbers::<u32>(8, 1)?[0];
        if found != version {
            return Err(Error::Version { path: self.path.clone(), expected: version, found });
        }
        Ok(())
    }
}

//! Reading files of fixed-width numbers, little endian, through a memory map.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use memmap2::Mmap;

use crate::{Error, Result};

/// Sections of a file begin at multiples of this, a cache line.
pub const ALIGNMENT: usize = 64;

/// A file of a segment, mapped.
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps a file.
    pub fn open(path: PathBuf) -> Result<Self> {
        if cfg!(target_endian = "big") {
            return Err(Error::damaged(&path, "impact files are little endian, and this processor is not"));
        }
        let file = File::open(&path).map_err(Error::io(&path))?;
        #[expect(unsafe_code, reason = "a memory map")]
        // SAFETY: files of a segment are never changed once they are written.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
        Ok(Self { path, map })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The numbers of a section, which [`Sections`] found to be there.
    #[inline]
    pub fn numbers<T: Pod>(&self, section: &Range<usize>) -> &[T] {
        bytemuck::cast_slice(&self.map[section.clone()])
    }
}

/// Cuts a file into sections, one after the other.
pub struct Sections<'a> {
    file: &'a MappedFile,
    at: usize,
}

impl<'a> Sections<'a> {
    /// The sections after the first `at` bytes, a multiple of [`ALIGNMENT`].
    pub fn new(file: &'a MappedFile, at: usize) -> Self {
        Self { file, at }
    }

    /// Where the next section of `count` numbers lies.
    pub fn next<T: Pod>(&mut self, count: usize) -> Result<Range<usize>> {
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| self.at.checked_add(bytes));
        let Some(end) = end.filter(|&end| end <= self.file.map.len()) else {
            return Err(Error::damaged(&self.file.path, "it is shorter than its header says"));
        };
        let section = self.at..end;
        self.at = end.next_multiple_of(ALIGNMENT);
        Ok(section)
    }

    /// Fails unless the file ends here.
    pub fn finish(self) -> Result<()> {
        if self.at == self.file.map.len() {
            return Ok(());
        }
        Err(Error::damaged(&self.file.path, "its length is not what its header says"))
    }
}

/// Writes a new file, section after section, each aligned; whoever commits the folder makes it durable.
pub fn write_file(path: &Path, sections: &[&[u8]]) -> Result<()> {
    let write = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        for section in sections {
            out.write_all(section)?;
            out.write_all(&[0; ALIGNMENT][..section.len().next_multiple_of(ALIGNMENT) - section.len()])?;
        }
        out.flush()
    };
    write().map_err(Error::io(path))
}

//! Reading files of fixed-width numbers, little endian, through a memory map.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::{Error, Result};

/// Parts of a file begin at multiples of this, so that a row of 16 numbers never straddles cache lines.
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
            return Err(Error::damaged(&path, "vector files are little endian, and this processor is not"));
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

    /// The file's length.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// `count` numbers that begin at byte `offset`.
    pub fn numbers<T: bytemuck::Pod>(&self, offset: usize, count: usize) -> Result<&[T]> {
        count
            .checked_mul(size_of::<T>())
            .and_then(|bytes| offset.checked_add(bytes))
            .and_then(|end| self.map.get(offset..end))
            .and_then(|bytes| bytemuck::try_cast_slice(bytes).ok())
            .ok_or_else(|| Error::damaged(&self.path, "it is shorter than its header says"))
    }

    /// Fails unless the file begins as [`header`] writes it.
    pub fn check_header(&self, magic: &[u8; 8], version: u32, dim: usize, n: usize) -> Result<()> {
        self.check_format(magic, version)?;
        if self.numbers::<u32>(12, 1)?[0] as usize != dim || self.numbers::<u64>(16, 1)?[0] != n as u64 {
            return Err(Error::damaged(&self.path, "it is not of the vectors beside it"));
        }
        Ok(())
    }

    /// Fails unless the file begins with `magic` and `version`.
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

/// The offset of the part that follows `bytes` bytes from `offset`, aligned.
pub fn after(offset: usize, count: usize, width: usize) -> Option<usize> {
    offset.checked_add(count.checked_mul(width)?)?.checked_next_multiple_of(ALIGNMENT)
}

/// A header: magic, version u32, dim u32, n u64; the rest is the file's own.
pub fn header(magic: &[u8; 8], version: u32, dim: usize, n: usize) -> [u8; ALIGNMENT] {
    let mut header = [0; ALIGNMENT];
    header[..8].copy_from_slice(magic);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    header[12..16].copy_from_slice(&u32::try_from(dim).expect("dimensions are checked").to_le_bytes());
    header[16..24].copy_from_slice(&(n as u64).to_le_bytes());
    header
}

/// Writes a new file, part after part, each aligned; whoever commits the folder makes it durable.
pub fn write_file(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let write = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        for part in parts {
            out.write_all(part)?;
            out.write_all(&[0; ALIGNMENT][..part.len().next_multiple_of(ALIGNMENT) - part.len()])?;
        }
        out.flush()
    };
    write().map_err(Error::io(path))
}

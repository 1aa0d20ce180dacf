//! Writing a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::{ALIGNMENT, Error, Result};

/// A header: magic, version u32, dimension u32, number u64; the rest is the file's own.
///
/// # Panics
///
/// When the dimension does not fit 32 bits.
pub fn header(magic: &[u8; 8], version: u32, dim: usize, n: usize) -> [u8; ALIGNMENT] {
    let mut header = [0; ALIGNMENT];
    header[..8].copy_from_slice(magic);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    header[12..16].copy_from_slice(&u32::try_from(dim).expect("dimensions are checked").to_le_bytes());
    header[16..24].copy_from_slice(&(n as u64).to_le_bytes());
    header
}

/// Writes a new file, section after section, each aligned; whoever commits the folder makes it durable.
///
/// # Errors
///
/// [`Error::Io`] when it is there already, or cannot be written.
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

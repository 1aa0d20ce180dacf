//! Files of fixed-width numbers, little endian, that are written once and read through a memory map.
//!
//! A file begins with a header of 64 bytes, whose first twelve are a magic and a version; then come sections, each at a
//! multiple of [`ALIGNMENT`]. [`write_file`] writes one, [`SegmentFile`] opens it, and [`Sections`] cuts it; nothing is
//! believed of a length before it is compared with the file's. [`CheckedParts`] reads parts that have checksums, each of
//! which is compared when the part is first read. This is the only place that maps files.
//!
//! ```
//! use raglan_segment_file::{ALIGNMENT, Sections, SegmentFile, header, write_file};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("numbers.bin");
//! write_file(&path, &[&header(b"NUMBERS!", 1, 3, 2), &[7, 0, 0, 0, 9, 0, 0, 0], &[1, 2, 3]])?;
//!
//! let file = SegmentFile::open(path)?;
//! file.check_header(b"NUMBERS!", 1, 3, 2)?;
//! let mut sections = Sections::new(&file, ALIGNMENT);
//! let (wide, narrow) = (sections.next::<u32>(2)?, sections.next::<u8>(3)?);
//! sections.finish()?;
//! assert_eq!(file.section::<u32>(&wide), [7, 9]);
//! assert_eq!(file.section::<u8>(&narrow), [1, 2, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod checked_parts;
mod error;
mod sections;
mod segment_file;
#[cfg(test)]
mod tests;
mod write;

pub use bytemuck::Pod;
pub use checked_parts::CheckedParts;
pub use error::{Error, Result};
pub use sections::{Sections, after};
pub use segment_file::SegmentFile;
pub use write::{header, write_file};

/// Sections of a file begin at multiples of this: a cache line, so that a row of 16 numbers never straddles two.
pub const ALIGNMENT: usize = 64;

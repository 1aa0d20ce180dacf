//! Vectors as bytes and as bits, in files of their own beside the full ones.
//!
//! `int8.bin` is a header of 64 bytes (magic, version u32, dim u32, n u64), then n scales `f32`, then the codes,
//! n × dim. `bits.bin` is such a header with the rotation's seed u64 behind, then the centroid, dim × `f32`, then blocks
//! of 32 vectors. Each part begins at a multiple of 64 bytes.

use std::path::Path;

use raglan_kernels::{OneBitEncoder, one_bit_block_bytes, one_bit_blocks};
use raglan_segment_file::{ALIGNMENT, SegmentFile, after, header, write_file};

use crate::{Error, Result};

pub const INT8_FILE: &str = "int8.bin";
pub const BITS_FILE: &str = "bits.bin";
const INT8_MAGIC: &[u8; 8] = b"RAGLANI8";
const BITS_MAGIC: &[u8; 8] = b"RAGLANB1";
const VERSION: u32 = 1;

/// Vectors as bytes: `codes` is `[n, dim]`, `scales` is `[n]`.
#[derive(Clone, Copy)]
pub struct Int8Rows<'a> {
    pub codes: &'a [i8],
    pub scales: &'a [f32],
}

/// Writes vectors as bytes.
pub fn write_int8(folder: &Path, rows: Int8Rows<'_>, dim: usize) -> Result<()> {
    let header = header(INT8_MAGIC, VERSION, dim, rows.scales.len());
    let parts = [&header, bytemuck::cast_slice(rows.scales), bytemuck::cast_slice(rows.codes)];
    Ok(write_file(&folder.join(INT8_FILE), &parts)?)
}

/// Writes vectors as bits; `codes` are the encoder's rows.
pub fn write_bits(folder: &Path, codes: &[u64], n: usize, centroid: &[f32], seed: u64) -> Result<()> {
    let mut header = header(BITS_MAGIC, VERSION, centroid.len(), n);
    header[24..32].copy_from_slice(&seed.to_le_bytes());
    let blocks = one_bit_blocks(codes, centroid.len())?;
    Ok(write_file(&folder.join(BITS_FILE), &[&header, bytemuck::cast_slice(centroid), &blocks])?)
}

/// A file of vectors as bytes, open.
pub struct Int8File {
    file: SegmentFile,
    n: usize,
    dim: usize,
    codes_offset: usize,
}

impl Int8File {
    /// Opens the file of a segment of `n` vectors.
    pub fn open(folder: &Path, n: usize, dim: usize) -> Result<Self> {
        let file = SegmentFile::open(folder.join(INT8_FILE))?;
        file.check_header(INT8_MAGIC, VERSION, dim, n)?;
        let codes_offset = after(ALIGNMENT, n, 4);
        let end = codes_offset.and_then(|offset| after(offset, n.checked_mul(dim)?, 1));
        match codes_offset {
            Some(codes_offset) if end == Some(file.bytes().len()) => Ok(Self { file, n, dim, codes_offset }),
            _ => Err(Error::damaged(file.path(), "its length is not what its header says")),
        }
    }

    /// The vectors.
    pub fn rows(&self) -> Int8Rows<'_> {
        let checked = "the length is checked at opening";
        Int8Rows {
            codes: self.file.numbers(self.codes_offset, self.n * self.dim).expect(checked),
            scales: self.file.numbers(ALIGNMENT, self.n).expect(checked),
        }
    }
}

/// A file of vectors as bits, open.
pub struct BitsFile {
    file: SegmentFile,
    encoder: OneBitEncoder,
    blocks_offset: usize,
    n_bytes: usize,
}

impl BitsFile {
    /// Opens the file of a segment of `n` vectors.
    pub fn open(folder: &Path, n: usize, dim: usize) -> Result<Self> {
        let file = SegmentFile::open(folder.join(BITS_FILE))?;
        file.check_header(BITS_MAGIC, VERSION, dim, n)?;
        let wrong_length = || Error::damaged(file.path(), "its length is not what its header says");
        let seed = file.numbers::<u64>(24, 1)?[0];
        let blocks_offset = after(ALIGNMENT, dim, 4).ok_or_else(wrong_length)?;
        let n_blocks = n.div_ceil(raglan_kernels::ONE_BIT_BLOCK);
        let n_bytes = n_blocks.checked_mul(one_bit_block_bytes(dim)).ok_or_else(wrong_length)?;
        if after(blocks_offset, n_bytes, 1) != Some(file.bytes().len()) {
            return Err(wrong_length());
        }
        let encoder = OneBitEncoder::new(file.numbers(ALIGNMENT, dim)?, seed)
            .map_err(|e| Error::damaged(file.path(), format!("its centroid: {e}")))?;
        Ok(Self { file, encoder, blocks_offset, n_bytes })
    }

    /// What queries are prepared with.
    pub fn encoder(&self) -> &OneBitEncoder {
        &self.encoder
    }

    /// The blocks.
    pub fn blocks(&self) -> &[u8] {
        self.file.numbers(self.blocks_offset, self.n_bytes).expect("the length is checked at opening")
    }
}

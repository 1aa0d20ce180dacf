//! A file that is read in blocks, each checked against its own checksum whenever it is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::AtPath;
use crate::files::read_exact_at;
use crate::{Error, Result};

/// Bytes that one checksum covers: what a read of a small page costs at least, against 16 bytes for the checksum.
pub(crate) const BLOCK: usize = 16 << 10;
const CHECKSUM: usize = size_of::<u128>();

/// The checksums of a file's blocks, one after the other.
pub(crate) fn checksums_of(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).at("open", path)?;
    let (mut checksums, mut block) = (Vec::new(), Vec::with_capacity(BLOCK));
    loop {
        block.clear();
        file.by_ref().take(BLOCK as u64).read_to_end(&mut block).at("read", path)?;
        if block.is_empty() {
            return Ok(checksums);
        }
        checksums.extend_from_slice(&xxh3_128(&block).to_le_bytes());
    }
}

/// A file with the checksums of its blocks.
///
/// What is read is checked in the buffer it was read into, so nothing that changes the file later can change it.
#[derive(Clone, Debug)]
pub(crate) struct BlockFile(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    file: File,
    len: u64,
    checksums: Vec<u8>,
}

impl BlockFile {
    /// The file, which must be `len` bytes long, with its blocks' checksums, themselves checked already.
    pub(crate) fn new(file: File, len: u64, checksums: Vec<u8>, checksums_path: &Path) -> Result<Self> {
        if checksums.len() as u64 != len.div_ceil(BLOCK as u64) * CHECKSUM as u64 {
            return Err(Error::damaged(checksums_path, "it has checksums for another length"));
        }
        Ok(Self(Arc::new(Opened { file, len, checksums })))
    }

    /// The bytes from `start` to `start + len`.
    fn read(&self, start: u64, len: usize) -> io::Result<Bytes> {
        let opened = &*self.0;
        let end = start.checked_add(len as u64).filter(|&end| end <= opened.len);
        let end = end.ok_or_else(|| io::Error::other("a read beyond its end"))?;
        let first_block = start / BLOCK as u64;
        let from = first_block * BLOCK as u64;
        let to = end.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64).min(opened.len).max(from);
        let mut blocks = vec![0; (to - from) as usize];
        read_exact_at(&opened.file, &mut blocks, from)?;
        let checksums = opened.checksums[first_block as usize * CHECKSUM..].chunks_exact(CHECKSUM);
        for ((block, checksum), idx) in blocks.chunks(BLOCK).zip(checksums).zip(first_block..) {
            if xxh3_128(block).to_le_bytes() != checksum {
                return Err(io::Error::other(format!("the checksum of its block {idx} is wrong")));
            }
        }
        Ok(Bytes::from(blocks).slice((start - from) as usize..(end - from) as usize))
    }
}

impl Length for BlockFile {
    fn len(&self) -> u64 {
        self.0.len
    }
}

impl ChunkReader for BlockFile {
    type T = BlockReader;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BlockReader { file: self.clone(), at: start, buffered: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        Ok(self.read(start, length)?)
    }
}

/// Reads a [`BlockFile`] from some place on.
pub(crate) struct BlockReader {
    file: BlockFile,
    at: u64,
    buffered: Bytes,
}

impl Read for BlockReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffered.is_empty() {
            let to_block_end = BLOCK as u64 - self.at % BLOCK as u64;
            let len = to_block_end.min(self.file.0.len.saturating_sub(self.at));
            self.buffered = self.file.read(self.at, len as usize)?;
            self.at += len;
        }
        let n = out.len().min(self.buffered.len());
        out[..n].copy_from_slice(&self.buffered.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, len: u64, checksums: &[u8]) -> Result<BlockFile> {
        BlockFile::new(File::open(path).unwrap(), len, checksums.to_vec(), Path::new("checksums"))
    }

    #[test]
    fn any_range_reads_back_and_any_change_in_it_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let checksums = checksums_of(&path).unwrap();
            let file = open(&path, len as u64, &checksums).unwrap();
            for (start, end) in [(0, 0), (0, len), (len / 2, len), (len, len), (len.saturating_sub(3), len)] {
                assert_eq!(file.read(start as u64, end - start).unwrap(), bytes[start..end]);
            }
            let mut read = Vec::new();
            file.get_read(len as u64 / 3).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes[len / 3..]);
            assert!(file.read(0, len + 1).is_err());
            assert!(file.read(u64::MAX, 1).is_err());
            assert!(open(&path, len as u64 + BLOCK as u64, &checksums).is_err());

            if len > BLOCK {
                let mut changed = bytes.clone();
                changed[BLOCK] ^= 1;
                std::fs::write(&path, &changed).unwrap();
                assert!(file.read(BLOCK as u64, 1).is_err());
                assert_eq!(file.read(0, BLOCK).unwrap(), bytes[..BLOCK]);
                std::fs::write(&path, &bytes[..BLOCK]).unwrap();
                assert!(file.read(BLOCK as u64, 1).is_err());
            }
        }
    }
}

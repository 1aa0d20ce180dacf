//! Parts with checksums.

use std::sync::atomic::{AtomicBool, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result, SegmentFile};

/// Parts of a file, one after the other, each with a checksum (XXH3 of 64 bits) that is compared when it is first read.
#[derive(Debug)]
pub struct CheckedParts {
    file: SegmentFile,
    /// Where each part begins, and where the last ends.
    starts: Vec<usize>,
    checksums: Vec<u64>,
    /// The parts whose checksum was right.
    checked: Vec<AtomicBool>,
}

impl CheckedParts {
    /// The parts after the first `at` bytes of a file, by their lengths and checksums.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when they do not end where the file does, or there are not as many checksums.
    pub fn new(
        file: SegmentFile,
        at: usize,
        lengths: impl IntoIterator<Item = u64>,
        checksums: Vec<u64>,
    ) -> Result<Self> {
        let wrong = || Error::damaged(file.path(), "its length is not what its parts need");
        let mut starts = Vec::with_capacity(checksums.len() + 1);
        let mut end = at;
        starts.push(at);
        for length in lengths {
            end = usize::try_from(length).ok().and_then(|length| end.checked_add(length)).ok_or_else(wrong)?;
            starts.push(end);
        }
        if end != file.bytes().len() || starts.len() != checksums.len() + 1 {
            return Err(wrong());
        }
        let checked = checksums.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { file, starts, checksums, checked })
    }

    /// The file.
    pub fn file(&self) -> &SegmentFile {
        &self.file
    }

    /// Part `i`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when its checksum is wrong.
    ///
    /// # Panics
    ///
    /// When there is no part `i`.
    #[inline]
    pub fn part(&self, i: usize) -> Result<&[u8]> {
        let part = &self.file.bytes()[self.starts[i]..self.starts[i + 1]];
        if !self.checked[i].load(Ordering::Relaxed) {
            if xxh3_64(part) != self.checksums[i] {
                return Err(Error::damaged(self.file.path(), format!("the checksum of part {i} is wrong")));
            }
            self.checked[i].store(true, Ordering::Relaxed);
        }
        Ok(part)
    }
}

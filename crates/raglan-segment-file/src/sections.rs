//! Where the sections of a file lie.

use std::ops::Range;

use bytemuck::Pod;

use crate::{ALIGNMENT, Error, Result, SegmentFile};

/// Cuts a file into sections, one after the other.
#[derive(Debug)]
pub struct Sections<'a> {
    file: &'a SegmentFile,
    at: usize,
}

impl<'a> Sections<'a> {
    /// The sections after the first `at` bytes, a multiple of [`ALIGNMENT`].
    pub fn new(file: &'a SegmentFile, at: usize) -> Self {
        Self { file, at }
    }

    /// Where the next section of `count` numbers lies.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when the file ends before it does.
    pub fn next<T: Pod>(&mut self, count: usize) -> Result<Range<usize>> {
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| self.at.checked_add(bytes));
        let Some(end) = end.filter(|&end| end <= self.file.bytes().len()) else {
            return Err(Error::damaged(self.file.path(), "it is shorter than its header says"));
        };
        let section = self.at..end;
        self.at = end.next_multiple_of(ALIGNMENT);
        Ok(section)
    }

    /// Fails unless the file ends here.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when it does not.
    pub fn finish(self) -> Result<()> {
        if self.at == self.file.bytes().len() {
            return Ok(());
        }
        Err(Error::damaged(self.file.path(), "its length is not what its header says"))
    }
}

/// The offset of the section that follows `count` numbers of `width` bytes from `offset`; none when there is no such
/// number.
pub fn after(offset: usize, count: usize, width: usize) -> Option<usize> {
    offset.checked_add(count.checked_mul(width)?)?.checked_next_multiple_of(ALIGNMENT)
}

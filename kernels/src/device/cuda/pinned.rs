//! Copies that run beside the device's work, by way of memory that is read and written without the processor.

use std::ops::Range;

use rayon::prelude::*;

use super::stream::Stream;
use super::{Backend, Buffer, CudaDevice, Mark, Plain, bytes_of, bytes_of_mut, zeros};
use crate::Result;

/// What a thread copies at a time: one alone brings less into pinned memory than a bus takes out of it.
const PART: usize = 256 << 10;

/// Copies numbers to a device by way of pinned memory, so that the copy goes on while the device computes and the
/// caller prepares the next.
///
/// There are two halves: one is filled while the other is copied. On its stream an upload is in order with all else;
/// for overlap the stream is one of its own ([`CudaDevice::another_stream`]), and who reads the buffers waits for it
/// ([`CudaDevice::wait_for`]).
#[derive(Debug)]
pub struct Uploader {
    stream: CudaDevice,
    halves: [Half; 2],
    next: usize,
}

#[derive(Debug)]
struct Half {
    memory: Pinned,
    copied: Option<Mark>,
}

/// Pinned memory, which its owner frees.
#[derive(Debug)]
struct Pinned {
    memory: *mut u8,
    n_bytes: usize,
}

// SAFETY: the memory is its own.
unsafe impl Send for Pinned {}

impl Pinned {
    const NONE: Self = Self { memory: std::ptr::null_mut(), n_bytes: 0 };

    fn new(backend: &dyn Backend, n_bytes: usize) -> Result<Self> {
        Ok(Self { memory: backend.pinned(n_bytes)?, n_bytes })
    }

    /// # Safety
    ///
    /// Nothing copies from there or to there any more.
    unsafe fn bytes(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.end <= self.n_bytes, "the bytes are there");
        if range.is_empty() {
            return &mut [];
        }
        // SAFETY: there are as many bytes, by the check, and nobody else has them, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.memory.add(range.start), range.len()) }
    }

    /// # Safety
    ///
    /// As [`Pinned::bytes`]; and it is of this backend.
    unsafe fn free(&mut self, backend: &dyn Backend) {
        let Self { memory, n_bytes } = std::mem::replace(self, Self::NONE);
        if !memory.is_null() {
            // SAFETY: the memory is of `pinned`, and nothing uses it, as the caller promises.
            unsafe { backend.free_pinned(memory, n_bytes) };
        }
    }
}

impl Uploader {
    /// An uploader on this stream with two halves of `n_bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`](crate::Error::Cuda) when there is not so much memory to pin.
    pub fn new(stream: &CudaDevice, n_bytes: usize) -> Result<Self> {
        let n_bytes = n_bytes.max(1);
        let none = || Half { memory: Pinned::NONE, copied: None };
        let mut this = Self { stream: stream.clone(), halves: [none(), none()], next: 0 };
        for half in &mut this.halves {
            half.memory = Pinned::new(stream.0.backend(), n_bytes)?;
        }
        Ok(this)
    }

    /// Begins to overwrite the numbers of `to` from `at` on; `from` may be changed when this returns. Where the buffer is of
    /// another stream, the caller sees that it is not dropped before the copy is done.
    ///
    /// # Errors
    ///
    /// [`Error::Row`](crate::Error::Row) when they do not fit; [`Error::Cuda`](crate::Error::Cuda) when the driver
    /// refuses.
    pub fn upload<T: Plain>(&mut self, from: &[T], to: &mut Buffer<T>, at: usize) -> Result<()> {
        let mut address = to.at(at, from.len())?;
        let backend = self.stream.0.backend();
        for part in bytes_of(from).chunks(self.halves[0].memory.n_bytes) {
            let half = &mut self.halves[self.next];
            if let Some(copied) = half.copied.take() {
                backend.reach(&*copied.0)?;
            }
            // SAFETY: the half's last copy is done.
            let pinned = unsafe { half.memory.bytes(0..part.len()) };
            copy(part, pinned);
            // SAFETY: the half is not written again before the mark below; `at` found the numbers in the buffer.
            unsafe { self.stream.0.upload_pinned(pinned, address) }?;
            half.copied = Some(self.stream.mark()?);
            address += part.len() as u64;
            self.next ^= 1;
        }
        Ok(())
    }
}

/// Copies within memory, by several threads where that is much.
fn copy(from: &[u8], to: &mut [u8]) {
    if from.len() <= PART {
        return to.copy_from_slice(from);
    }
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from));
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // What is under way still reads the memory.
        let done = self.stream.synchronize();
        for half in self.halves.iter_mut().filter(|_| done.is_ok()) {
            // SAFETY: all copies are done.
            unsafe { half.memory.free(self.stream.0.backend()) };
        }
    }
}

/// Numbers on their way from a device, by pinned memory that serves one download after the other.
#[derive(Debug)]
pub struct Downloader<T: Plain> {
    memory: Pinned,
    under_way: Option<(CudaDevice, Mark)>,
    /// Of the last download.
    n_bytes: usize,
    /// Whose memory it is.
    stream: CudaDevice,
    numbers: std::marker::PhantomData<T>,
}

impl<T: Plain> Downloader<T> {
    /// A downloader of what is on this device.
    pub fn new(stream: &CudaDevice) -> Self {
        let (stream, numbers) = (stream.clone(), std::marker::PhantomData);
        Self { memory: Pinned::NONE, under_way: None, n_bytes: 0, stream, numbers }
    }

    /// Begins to download numbers as they are when all is done that was asked of their stream so far. What was begun before
    /// is given up.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`](crate::Error::Cuda) when there is not so much memory to pin, or the driver refuses.
    pub fn begin(&mut self, from: &Buffer<T>) -> Result<()> {
        self.wait()?;
        let n_bytes = from.n_bytes();
        if self.memory.n_bytes < n_bytes {
            // SAFETY: the last copy is done.
            unsafe { self.memory.free(self.stream.0.backend()) };
            self.memory = Pinned::new(self.stream.0.backend(), n_bytes.next_power_of_two())?;
        }
        self.n_bytes = n_bytes;
        if n_bytes > 0 {
            // SAFETY: there are as many pinned bytes, which are not touched before the mark below was reached.
            unsafe { from.device().0.download_pinned(from.address(), self.memory.memory, n_bytes) }?;
            self.under_way = Some((from.device().clone(), from.device().mark()?));
        }
        Ok(())
    }

    /// The numbers whose download was begun, once they are there.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`](crate::Error::Cuda) when something failed that was asked for before them.
    pub fn finish(&mut self) -> Result<Vec<T>> {
        self.wait()?;
        let mut numbers = zeros::<T>(std::mem::take(&mut self.n_bytes) / size_of::<T>());
        let n_bytes = size_of_val(&*numbers);
        // SAFETY: the last copy is done.
        bytes_of_mut(&mut numbers).copy_from_slice(unsafe { self.memory.bytes(0..n_bytes) });
        Ok(numbers)
    }

    fn wait(&mut self) -> Result<()> {
        self.under_way.take().map_or(Ok(()), |(stream, mark)| stream.0.backend().reach(&*mark.0))
    }
}

impl<T: Plain> Drop for Downloader<T> {
    fn drop(&mut self) {
        if self.wait().is_ok() {
            // SAFETY: the last copy is done.
            unsafe { self.memory.free(self.stream.0.backend()) };
        }
    }
}

/// Pinned memory that uploads of one stream go by, one behind the other, in segments that are used in turn.
#[derive(Debug)]
pub(super) struct UploadRing {
    memory: Pinned,
    /// Of a segment.
    n_bytes: usize,
    /// The segment that is filled, and where its next upload begins.
    segment: usize,
    next: usize,
    /// When the segments' last uploads are done; none of one that is filled, or was not yet.
    copied: [Option<Mark>; SEGMENTS],
}

const SEGMENTS: usize = 4;
/// Where uploads begin, in bytes of the ring: at lines of the processor's cache.
const LINE: usize = 64;

impl UploadRing {
    /// One of so many bytes a segment, which are pinned when the first are uploaded.
    pub const fn new(n_bytes: usize) -> Self {
        Self { memory: Pinned::NONE, n_bytes, segment: 0, next: 0, copied: [const { None }; SEGMENTS] }
    }

    /// Begins an upload; says no where there is not so much memory to pin.
    pub fn upload(&mut self, stream: &Stream, from: &[u8], address: u64) -> Result<bool> {
        if self.memory.n_bytes == 0 {
            let Ok(memory) = Pinned::new(stream.backend(), SEGMENTS * self.n_bytes) else { return Ok(false) };
            self.memory = memory;
        }
        for (i, part) in from.chunks(self.n_bytes).enumerate() {
            self.upload_part(stream, part, address + (i * self.n_bytes) as u64)?;
        }
        Ok(true)
    }

    /// Begins an upload of at most as many bytes as a segment has.
    fn upload_part(&mut self, stream: &Stream, from: &[u8], address: u64) -> Result<()> {
        if self.next + from.len() > self.n_bytes {
            self.copied[self.segment] = Some(Mark(stream.mark()?));
            let following = (self.segment + 1) % SEGMENTS;
            if let Some(mark) = &self.copied[following] {
                stream.backend().reach(&*mark.0)?;
            }
            (self.copied[following], self.segment, self.next) = (None, following, 0);
        }
        let start = self.segment * self.n_bytes + self.next;
        // SAFETY: what was copied from there is waited for before the segment is filled again, above.
        let pinned = unsafe { self.memory.bytes(start..start + from.len()) };
        copy(from, pinned);
        self.next = (self.next + from.len()).next_multiple_of(LINE);
        // SAFETY: the part is not written again before the segment's mark; the caller's buffer is as long.
        unsafe { stream.upload_pinned(pinned, address) }
    }

    /// Frees the memory.
    pub fn free(&mut self, backend: &dyn Backend) {
        if self.memory.n_bytes > 0 && backend.synchronize().is_ok() {
            // SAFETY: all copies are done.
            unsafe { self.memory.free(backend) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads_bring_what_there_was_when_they_began() {
        if let Some(device) = &CudaDevice::to_test() {
            // A stream whose work happens late.
            let device = device.another_stream().unwrap();
            let mut numbers = device.upload(&[1_u32, 2, 3]).unwrap();
            let mut turns = [Downloader::new(&device), Downloader::new(&device)];
            turns[0].begin(&numbers).unwrap();
            numbers.write(0, &[7, 8]).unwrap();
            turns[1].begin(&numbers).unwrap();
            numbers.fill(0).unwrap();
            assert_eq!(turns[0].finish().unwrap(), [1, 2, 3]);
            assert_eq!(turns[1].finish().unwrap(), [7, 8, 3]);
            assert!(turns[1].finish().unwrap().is_empty(), "each is given once");
            // Fewer, none, more, and one that is given up.
            for n in [2, 0, 500, 1] {
                let long: Vec<u32> = (0..n).collect();
                turns[0].begin(&numbers).unwrap();
                turns[0].begin(&device.upload(&long).unwrap()).unwrap();
                assert_eq!(turns[0].finish().unwrap(), long);
            }
        }
    }

    #[test]
    fn uploads_by_a_ring_do_not_overtake_one_another() {
        if let Some(device) = &CudaDevice::to_test() {
            let device = device.another_stream().unwrap();
            let mut ring = UploadRing::new(200);
            let lengths = [40, 40, 40, 0, 200, 1, 60, 700, 1, 120, 20, 199, 3, 9, 400, 5];
            let mut want = Vec::new();
            let all = device.filled::<u8>(0xff, lengths.iter().sum()).unwrap();
            for (i, length) in lengths.into_iter().enumerate() {
                let part = vec![i as u8; length];
                assert!(ring.upload(&device.0, &part, all.address() + want.len() as u64).unwrap());
                want.extend(part);
            }
            assert_eq!(all.download().unwrap(), want);
            ring.free(device.0.backend());
        }
    }
}

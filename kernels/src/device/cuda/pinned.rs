//! Uploads that run beside the device's work.

use rayon::prelude::*;

use super::{Buffer, CudaDevice, Mark, Plain, bytes_of};
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
    memory: *mut u8,
    n_bytes: usize,
    copied: Option<Mark>,
}

// SAFETY: the memory is the half's own.
unsafe impl Send for Half {}

impl Uploader {
    /// An uploader on this stream with two halves of `n_bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`](crate::Error::Cuda) when there is not so much memory to pin.
    pub fn new(stream: &CudaDevice, n_bytes: usize) -> Result<Self> {
        let n_bytes = n_bytes.max(1);
        let none = || Half { memory: std::ptr::null_mut(), n_bytes, copied: None };
        let mut this = Self { stream: stream.clone(), halves: [none(), none()], next: 0 };
        for half in &mut this.halves {
            half.memory = stream.0.backend().pinned(n_bytes)?;
        }
        Ok(this)
    }

    /// Begins to overwrite the numbers of `to` from `at` on; `from` may be changed when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Row`](crate::Error::Row) when they do not fit; [`Error::Cuda`](crate::Error::Cuda) when the driver
    /// refuses.
    pub fn upload<T: Plain>(&mut self, from: &[T], to: &mut Buffer<T>, at: usize) -> Result<()> {
        let mut address = to.at(at, from.len())?;
        let backend = self.stream.0.backend();
        for part in bytes_of(from).chunks(self.halves[0].n_bytes) {
            let half = &mut self.halves[self.next];
            if let Some(copied) = half.copied.take() {
                backend.reach(&*copied.0)?;
            }
            // SAFETY: the half has `n_bytes`, the part at most as many, and its last copy is done.
            let pinned = unsafe { std::slice::from_raw_parts_mut(half.memory, part.len()) };
            pinned.par_chunks_mut(PART).zip(part.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from));
            // SAFETY: the half is not written again before the mark below; `at` found the numbers in the buffer.
            unsafe { backend.upload_pinned(pinned, address) }?;
            half.copied = Some(self.stream.mark()?);
            address += part.len() as u64;
            self.next ^= 1;
        }
        Ok(())
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // What is under way still reads the memory.
        let done = self.stream.synchronize();
        for half in self.halves.iter().filter(|half| !half.memory.is_null() && done.is_ok()) {
            // SAFETY: the memory is of `pinned`, and all copies are done.
            unsafe { self.stream.0.backend().free_pinned(half.memory, half.n_bytes) };
        }
    }
}

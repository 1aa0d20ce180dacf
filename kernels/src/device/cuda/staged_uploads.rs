//! Uploads of one thing after the other, each beside the use of the one before.

use super::{Buffer, CudaDevice, Mark, Plain, Uploader};
use crate::Result;

/// Two buffers on a device: one is written, on a stream of its own, while the device works on the other.
#[derive(Debug)]
pub struct StagedUploads<T: Plain> {
    device: CudaDevice,
    stream: CudaDevice,
    uploader: Uploader,
    stages: [Stage<T>; 2],
    /// The one that is written next.
    next: usize,
}

#[derive(Debug)]
struct Stage<T> {
    buffer: Buffer<T>,
    /// Until when the device reads it.
    read: Option<Mark>,
}

impl<T: Plain> StagedUploads<T> {
    /// Uploads that `device` uses, by way of twice `n_bytes` of pinned memory.
    ///
    /// # Errors
    ///
    /// As [`Uploader::new`].
    pub fn new(device: &CudaDevice, n_bytes: usize) -> Result<Self> {
        let stream = device.another_stream()?;
        let stage = || Ok::<_, crate::Error>(Stage { buffer: stream.allocate(0)?, read: None });
        let (uploader, stages) = (Uploader::new(&stream, n_bytes)?, [stage()?, stage()?]);
        Ok(Self { device: device.clone(), stream, uploader, stages, next: 0 })
    }

    /// Begins to upload numbers, for [`StagedUploads::work_on`]. This waits for the device only as far as earlier copies
    /// are still under way; `numbers` may be changed when it returns.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceMemory`](crate::Error::DeviceMemory) when there is not so much memory for them;
    /// [`Error::Cuda`](crate::Error::Cuda) when the driver refuses.
    pub fn upload(&mut self, numbers: &[T]) -> Result<()> {
        let stage = &mut self.stages[self.next];
        if let Some(read) = stage.read.take() {
            self.stream.wait_until(&read)?;
        }
        if stage.buffer.len() < numbers.len() {
            stage.buffer = self.stream.allocate(numbers.len())?;
        }
        self.uploader.upload(numbers, &mut stage.buffer, 0)
    }

    /// Asks the device for work on what was uploaded last, which is where the buffer begins; the device waits for it.
    ///
    /// # Errors
    ///
    /// What `work` returns; [`Error::Cuda`](crate::Error::Cuda) when the driver refuses.
    pub fn work_on(&mut self, work: impl FnOnce(&Buffer<T>) -> Result<()>) -> Result<()> {
        let stage = &mut self.stages[self.next];
        self.next ^= 1;
        self.device.wait_for(&self.stream)?;
        let outcome = work(&stage.buffer);
        // Also of work of which a part was refused.
        stage.read = Some(self.device.mark()?);
        outcome
    }
}

impl<T: Plain> Drop for StagedUploads<T> {
    fn drop(&mut self) {
        // Buffers are freed in the order of their own stream. A failure has no remedy.
        for read in self.stages.iter_mut().filter_map(|stage| stage.read.take()) {
            let _ = self.stream.wait_until(&read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_uploaded_is_there_when_it_is_worked_on_and_stays_until_then() {
        if let Some(device) = &CudaDevice::to_test() {
            // A stream whose work happens late, so that a buffer that is overwritten too early would show.
            let device = device.another_stream().unwrap();
            // Pinned memory that holds none of them in one piece.
            let mut uploads = StagedUploads::<u32>::new(&device, 1000).unwrap();
            let lengths = [300, 7, 2000, 0, 1, 999, 2000, 64, 3000];
            let mut all = device.filled::<u32>(0xff, lengths.iter().sum()).unwrap();
            let mut want = Vec::new();
            for (i, len) in lengths.into_iter().enumerate() {
                let mut numbers: Vec<u32> = (0..len).map(|j| (i * 10_000 + j) as u32).collect();
                uploads.upload(&numbers).unwrap();
                let at = want.len();
                want.append(&mut numbers);
                uploads.work_on(|buffer| all.copy_range(at, buffer, 0..len)).unwrap();
            }
            // What is refused uses up its turn like any other.
            uploads.upload(&[1, 2, 3]).unwrap();
            assert!(uploads.work_on(|buffer| all.copy_range(0, buffer, 0..usize::MAX)).is_err());
            drop(uploads);
            assert_eq!(all.download().unwrap(), want);
        }
    }
}

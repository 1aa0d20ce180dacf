//! Uploads of one thing after the other, each beside the use of the one before.

use super::{Buffer, CudaDevice, Mark, Plain, Uploader};
use crate::Result;

/// Two buffers on a device: one is written, on a stream of its own, while the device works on the other. What is to stay
/// gets a buffer of its own.
#[derive(Debug)]
pub struct StagedUploads<T: Plain> {
    device: CudaDevice,
    stream: CudaDevice,
    uploader: Uploader,
    stages: [Uploaded<T>; 2],
    /// The one that is written next.
    next: usize,
}

/// Numbers that were uploaded beside a device's work, for as long as this is there.
#[derive(Debug)]
pub struct Uploaded<T: Plain> {
    /// The stream that writes them, and on which they are freed.
    stream: CudaDevice,
    buffer: Buffer<T>,
    /// How many of them were appended.
    n_written: usize,
    /// Until when the device reads them.
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
        let (uploader, stages) =
            (Uploader::new(&stream, n_bytes)?, [Uploaded::new(&stream, 0)?, Uploaded::new(&stream, 0)?]);
        Ok(Self { device: device.clone(), stream, uploader, stages, next: 0 })
    }

    /// Begins to upload numbers, for [`StagedUploads::work_on`]. This waits for the device only as far as earlier copies
    /// are still under way; `numbers` may be changed when it returns.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceMemory`](crate::Error::DeviceMemory) when there is not so much memory for them; [`Error::Cuda`](crate::Error::Cuda) when the driver refuses.
    pub fn upload(&mut self, numbers: &[T]) -> Result<()> {
        let stage = &mut self.stages[self.next];
        stage.spare()?;
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
        stage.read_by(&self.device, work)
    }

    /// Room for numbers that stay.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceMemory`](crate::Error::DeviceMemory) when there is not so much memory for them.
    pub fn room(&self, len: usize) -> Result<Uploaded<T>> {
        Uploaded::new(&self.stream, len)
    }

    /// As [`upload`](Self::upload), behind the numbers that are in such room already.
    ///
    /// # Errors
    ///
    /// [`Error::Row`](crate::Error::Row) when there is no room for them; else as of [`upload`](Self::upload).
    pub fn append(&mut self, room: &mut Uploaded<T>, numbers: &[T]) -> Result<()> {
        // Nobody reads what is not written yet, so there is nothing to wait for.
        self.uploader.upload(numbers, &mut room.buffer, room.n_written)?;
        room.n_written += numbers.len();
        Ok(())
    }

    /// Asks the device for work on what was appended so far; the device waits for it.
    ///
    /// # Errors
    ///
    /// As of [`work_on`](Self::work_on).
    pub fn work_on_room(&self, room: &mut Uploaded<T>, work: impl FnOnce(&Buffer<T>) -> Result<()>) -> Result<()> {
        self.device.wait_for(&self.stream)?;
        room.read_by(&self.device, work)
    }
}

impl<T: Plain> Uploaded<T> {
    fn new(stream: &CudaDevice, len: usize) -> Result<Self> {
        Ok(Self { stream: stream.clone(), buffer: stream.allocate(len)?, n_written: 0, read: None })
    }

    /// How many numbers there is room for.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there is room for none.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Lets what is written from now on wait for those who read.
    fn spare(&mut self) -> Result<()> {
        self.read.take().map_or(Ok(()), |read| self.stream.wait_until(&read))
    }

    fn read_by(&mut self, device: &CudaDevice, work: impl FnOnce(&Buffer<T>) -> Result<()>) -> Result<()> {
        let outcome = work(&self.buffer);
        // Also of work of which a part was refused.
        self.read = Some(device.mark()?);
        outcome
    }
}

impl<T: Plain> Drop for Uploaded<T> {
    fn drop(&mut self) {
        // The buffer is freed in the order of its own stream. A failure has no remedy.
        let _ = self.spare();
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
            let mut all = device.filled::<u32>(0xff, lengths.iter().sum::<usize>() + 2 * 1500).unwrap();
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
            // Numbers that stay come in parts, and are there for others later.
            let kept: Vec<u32> = (0..1500).collect();
            let mut room = uploads.room(kept.len()).unwrap();
            let mut at = want.len();
            for part in kept.chunks(600) {
                let range = at - want.len()..at - want.len() + part.len();
                uploads.append(&mut room, part).unwrap();
                uploads.work_on_room(&mut room, |buffer| all.copy_range(at, buffer, range)).unwrap();
                at += part.len();
            }
            assert!(uploads.append(&mut room, &[1]).is_err());
            uploads.work_on_room(&mut room, |buffer| all.copy_range(at, buffer, 0..kept.len())).unwrap();
            drop((room, uploads));
            want.extend(kept.repeat(2));
            assert_eq!(all.download().unwrap(), want);
        }
    }
}

//! Numbers that the processor changes a few of at a time.

use super::{Buffer, CudaDevice, Plain};
use crate::{Error, Result};

/// A buffer that is written from the processor, which knows what is in it, so that only what differs goes there.
#[derive(Debug)]
pub(crate) struct Mirrored<T> {
    numbers: Vec<T>,
    there: Buffer<T>,
}

impl<T: Plain + PartialEq> Mirrored<T> {
    /// These numbers, on a device.
    pub fn new(device: &CudaDevice, numbers: Vec<T>) -> Result<Self> {
        let there = device.upload(&numbers)?;
        Ok(Self { numbers, there })
    }

    /// The numbers on the device.
    pub fn there(&self) -> &Buffer<T> {
        &self.there
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Overwrites the numbers from `at` on; what lies between the first that differs and the last is uploaded.
    pub fn set(&mut self, at: usize, numbers: &[T]) -> Result<()> {
        let n_rows = self.numbers.len();
        let here = self.numbers.get_mut(at..at.saturating_add(numbers.len()));
        let here = here.ok_or(Error::Row { row: at.saturating_add(numbers.len()), n_rows })?;
        let differs = |(i, (old, new)): (usize, (&T, &T))| (old != new).then_some(i);
        let Some(first) = here.iter().zip(numbers).enumerate().find_map(differs) else { return Ok(()) };
        let last = here.iter().zip(numbers).enumerate().rev().find_map(differs).unwrap_or(first);
        self.there.write(at + first, &numbers[first..=last])?;
        here[first..=last].copy_from_slice(&numbers[first..=last]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_uploaded() {
        if let Some(device) = &CudaDevice::to_test() {
            let mut numbers = Mirrored::new(device, vec![1_u32, 2, 3, 4, 5, 6]).unwrap();
            // What the processor does not know of shows what is left alone.
            numbers.there.write(0, &[10, 20, 30, 40, 50, 60]).unwrap();
            numbers.set(1, &[2, 7, 4, 8, 6]).unwrap();
            assert_eq!(numbers.there().download().unwrap(), [10, 20, 7, 4, 8, 60]);
            numbers.set(2, &[7, 4]).unwrap();
            assert_eq!(numbers.there().download().unwrap(), [10, 20, 7, 4, 8, 60]);
            assert!(matches!(numbers.set(5, &[1, 2]), Err(Error::Row { row: 7, n_rows: 6 })));
            assert!(matches!(numbers.set(usize::MAX, &[1]), Err(Error::Row { .. })));
            numbers.set(6, &[]).unwrap();
        }
    }
}

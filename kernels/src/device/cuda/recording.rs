//! Work that is asked for again and again: recorded once, then replayed as one.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Allocation, CudaDevice};
use crate::Result;

/// Memory for the buffers that come and go within work, which a graph of that work goes on using.
#[derive(Clone, Debug, Default)]
pub struct Reserve(Arc<Mutex<HashMap<usize, Vec<Arc<Allocation>>>>>);

impl Reserve {
    /// Memory of just this length, if some is there: work that asks for the same lengths in the same order then finds
    /// what it found before.
    pub(super) fn take(&self, n_bytes: usize) -> Option<Arc<Allocation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&n_bytes)?.pop()
    }

    pub(super) fn give_back(&self, memory: Arc<Allocation>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(memory.n_bytes()).or_default().push(memory);
    }
}

/// Launches, copies and fillings that were recorded, to be asked for as one.
///
/// It holds all memory that they name, whoever else drops it.
pub struct Graph {
    pub(super) recorded: Box<dyn Any + Send>,
    pub(super) named: Vec<Arc<Allocation>>,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("n_buffers", &self.named.len()).finish_non_exhaustive()
    }
}

impl CudaDevice {
    /// Runs `work` as it is, and keeps the memory of the buffers that it makes and drops, for [`CudaDevice::capture`].
    ///
    /// # Errors
    ///
    /// What `work` returns.
    pub fn rehearse(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Reserve> {
        let reserve = Reserve::default();
        self.0.with_reserve(&reserve, work)?;
        Ok(reserve)
    }

    /// Records what `work` asks of the device, which does not happen, to be run as one by [`CudaDevice::replay`].
    ///
    /// The work was rehearsed before, so that its kernels are compiled and the buffers that it makes are in `reserve`. It
    /// uploads and downloads nothing, and nobody else uses the stream meanwhile.
    ///
    /// # Errors
    ///
    /// What `work` returns; [`Error::Cuda`](crate::Error::Cuda) when it asks for what is not in reserve, uploads,
    /// downloads or waits, or when the driver cannot record it.
    pub fn capture(&self, reserve: Reserve, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        let mut recorded = None;
        self.0.with_reserve(&reserve, &mut || {
            recorded = Some(self.0.record(work)?);
            Ok(())
        })?;
        Ok(recorded.expect("it was recorded"))
    }

    /// Runs what was recorded, on buffers as they are now.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`](crate::Error::Cuda) when the driver refuses.
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: the graph holds all memory that its calls name.
        unsafe { self.0.backend().replay(&*graph.recorded) }
    }
}

#[cfg(test)]
mod tests {
    use crate::cuda::{self, Bf16, CudaDevice, F16};
    use crate::{Activation, Error};

    #[test]
    fn what_was_recorded_runs_again_on_what_is_there() {
        if let Some(device) = &CudaDevice::to_test() {
            let mut rows = device.upload(&[1.0_f32, -2.0, 3.0]).unwrap();
            let bias = device.upload(&[0.5_f32, 1.0, 1.5]).unwrap();
            let mut out = device.filled::<F16>(0xff, 6).unwrap();
            let mut work = || {
                cuda::add_bias(&mut rows, &bias)?;
                // A buffer that comes and goes.
                let halves = cuda::convert::<f32, F16>(&rows)?;
                out.fill(0)?;
                out.copy_from(1, &halves)
            };
            let reserve = device.rehearse(&mut work).unwrap();
            let graph = device.capture(reserve, &mut work).unwrap();
            let halves = |numbers: [f32; 6]| numbers.map(F16::from_f32);
            use crate::cuda::Real;
            assert_eq!(rows.download().unwrap(), [1.5, -1.0, 4.5], "recording runs nothing");
            assert_eq!(out.download().unwrap(), halves([0.0, 1.5, -1.0, 4.5, 0.0, 0.0]));
            device.replay(&graph).unwrap();
            assert_eq!(rows.download().unwrap(), [2.0, 0.0, 6.0]);
            rows.write(0, &[10.0]).unwrap();
            // What others make meanwhile does not get the graph's memory.
            let mut others: Vec<_> = (0..4).map(|_| device.filled::<F16>(0x11, 3).unwrap()).collect();
            // Nor is memory that it names freed.
            drop(bias);
            device.replay(&graph).unwrap();
            assert_eq!(rows.download().unwrap(), [10.5, 1.0, 7.5]);
            assert_eq!(out.download().unwrap(), halves([0.0, 10.5, 1.0, 7.5, 0.0, 0.0]));
            assert!(others.iter_mut().all(|other| other.download().unwrap() == [F16(0x1111); 3]));
        }
    }

    #[test]
    fn what_cannot_be_recorded_is_refused_and_the_stream_goes_on() {
        if let Some(device) = &CudaDevice::to_test() {
            let mut numbers = device.upload(&[1.0_f32, 2.0]).unwrap();
            let refused = |work: &mut dyn FnMut() -> crate::Result<()>| {
                let reserve = device.rehearse(&mut || Ok(())).unwrap();
                assert!(matches!(device.capture(reserve, work), Err(Error::Cuda { .. })));
            };
            refused(&mut || device.filled::<u8>(0, 3).map(|_| ()));
            refused(&mut || numbers.write(0, &[3.0]));
            refused(&mut || numbers.download().map(|_| ()));
            refused(&mut || device.synchronize());
            let other = device.another_stream().unwrap();
            let elsewhere = other.upload(&[1.0_f32; 2]).unwrap();
            other.synchronize().unwrap();
            refused(&mut || numbers.copy_from(0, &elsewhere));
            // What is dropped while others record is freed, but later.
            let mut dropped = Some(device.filled::<Bf16>(0, 5).unwrap());
            let reserve = device.rehearse(&mut || Ok(())).unwrap();
            let graph = device.capture(reserve, &mut || {
                dropped = None;
                cuda::activate(&mut numbers, None, Activation::Relu)
            });
            numbers.write(0, &[-1.0]).unwrap();
            device.replay(&graph.unwrap()).unwrap();
            assert_eq!(numbers.download().unwrap(), [0.0, 2.0]);
        }
    }
}

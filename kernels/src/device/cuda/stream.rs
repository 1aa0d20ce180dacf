//! The memory of a stream, and what its calls name of it while they are recorded.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::pinned::UploadRing;
use super::{Argument, Backend, CudaDevice, Graph, Launch, Module, Reserve};
use crate::{Error, Result};

/// What runs kernels, with what is known of its memory.
pub(super) struct Stream {
    backend: Box<dyn Backend>,
    state: Mutex<State>,
    /// What uploads go by: a driver may read memory that is not pinned when it likes to, or wait for its other work.
    ring: Mutex<UploadRing>,
}

/// Bytes of a segment of it.
const SEGMENT: usize = 2 << 20;

#[derive(Default)]
struct State {
    /// What is alive, by its address.
    living: BTreeMap<u64, Weak<Allocation>>,
    /// Where buffers come from that are made now, if it is not the backend.
    reserve: Option<Reserve>,
    recording: Option<Recording>,
}

/// What is kept while calls are recorded.
#[derive(Default)]
struct Recording {
    /// The memory that the calls name, as often as they do.
    named: Vec<Arc<Allocation>>,
    /// What was given back meanwhile.
    freed: Vec<(u64, usize)>,
}

/// Memory that is freed when nobody holds it: no buffer, no reserve and no graph.
pub(super) struct Allocation {
    device: CudaDevice,
    address: u64,
    n_bytes: usize,
}

impl Allocation {
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }
}

impl std::fmt::Debug for Allocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {:#x}", self.n_bytes, self.address)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let Stream { backend, .. } = &*self.device.0;
        let mut state = self.device.0.state();
        state.living.remove(&self.address);
        // Under the lock, so that nobody begins to record between the two.
        match &mut state.recording {
            Some(recording) => recording.freed.push((self.address, self.n_bytes)),
            None => backend.free(self.address, self.n_bytes),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.ring.get_mut().unwrap_or_else(PoisonError::into_inner).free(&*self.backend);
    }
}

impl Stream {
    pub fn new(backend: Box<dyn Backend>) -> Self {
        Self { backend, state: Mutex::default(), ring: Mutex::new(UploadRing::new(SEGMENT)) }
    }

    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What is there. No allocation may be dropped while this is held.
    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory, and where it goes back to if that is a reserve.
    pub fn allocate(&self, device: &CudaDevice, n_bytes: usize) -> Result<(Arc<Allocation>, Option<Reserve>)> {
        let (reserve, is_recording) = {
            let state = self.state();
            (state.reserve.clone(), state.recording.is_some())
        };
        if let Some(memory) = reserve.as_ref().and_then(|reserve| reserve.take(n_bytes)) {
            return Ok((memory, reserve));
        }
        if is_recording {
            return Err(Error::Cuda { problem: format!("{n_bytes} bytes are not in reserve while work is recorded") });
        }
        let address = self.backend.allocate(n_bytes)?;
        let memory = Arc::new(Allocation { device: device.clone(), address, n_bytes });
        self.state().living.insert(address, Arc::downgrade(&memory));
        Ok((memory, reserve))
    }

    /// Keeps alive what calls name, if they are recorded.
    pub fn name(&self, addresses: impl IntoIterator<Item = u64>) -> Result<()> {
        let mut state = self.state();
        let State { living, recording: Some(recording), .. } = &mut *state else { return Ok(()) };
        for address in addresses.into_iter().filter(|&address| address != 0) {
            let found = living.range(..=address).next_back().and_then(|(_, memory)| memory.upgrade());
            match found {
                Some(memory) if address <= memory.address + memory.n_bytes as u64 => recording.named.push(memory),
                other => {
                    drop(state);
                    drop(other);
                    let problem = "recorded work names memory of another stream".to_owned();
                    return Err(Error::Cuda { problem });
                }
            }
        }
        Ok(())
    }

    /// Fails while calls are recorded, of which `what` can be none.
    fn not_recording(&self, what: &str) -> Result<()> {
        match self.state().recording {
            Some(_) => Err(Error::Cuda { problem: format!("{what} is not recorded") }),
            None => Ok(()),
        }
    }

    pub fn fill(&self, address: u64, byte: u8, n_bytes: usize) -> Result<()> {
        self.name([address])?;
        self.backend.fill(address, byte, n_bytes)
    }

    pub fn copy(&self, from: u64, to: u64, n_bytes: usize) -> Result<()> {
        self.name([from, to])?;
        self.backend.copy(from, to, n_bytes)
    }

    pub fn upload(&self, from: &[u8], address: u64) -> Result<()> {
        self.not_recording("an upload")?;
        // What a panic leaves in there is copied, and not read.
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        match ring.upload(self, from, address)? {
            true => Ok(()),
            false => self.backend.upload(from, address),
        }
    }

    /// # Safety
    ///
    /// As [`Backend::upload_pinned`].
    pub unsafe fn upload_pinned(&self, from: &[u8], address: u64) -> Result<()> {
        self.not_recording("an upload")?;
        // SAFETY: as the caller promises.
        unsafe { self.backend.upload_pinned(from, address) }
    }

    /// # Safety
    ///
    /// As [`Backend::download_pinned`].
    pub unsafe fn download_pinned(&self, address: u64, to: *mut u8, n_bytes: usize) -> Result<()> {
        self.not_recording("a download")?;
        // SAFETY: as the caller promises.
        unsafe { self.backend.download_pinned(address, to, n_bytes) }
    }

    pub fn download(&self, address: u64, to: &mut [u8]) -> Result<()> {
        self.not_recording("a download")?;
        self.backend.download(address, to)
    }

    pub fn synchronize(&self) -> Result<()> {
        self.not_recording("waiting")?;
        self.backend.synchronize()
    }

    pub fn mark(&self) -> Result<Box<dyn Any + Send>> {
        self.not_recording("a mark")?;
        self.backend.mark()
    }

    pub fn wait_for(&self, mark: &dyn Any) -> Result<()> {
        self.not_recording("waiting")?;
        self.backend.wait_for(mark)
    }

    /// # Safety
    ///
    /// As [`Backend::launch`].
    pub unsafe fn launch(
        &self,
        module: &'static Module,
        kernel: &'static str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<()> {
        self.name(arguments.iter().filter_map(|argument| match argument {
            Argument::Address(address) => Some(*address),
            _ => None,
        }))?;
        // SAFETY: as the caller promises.
        unsafe { self.backend.launch(module, kernel, launch, arguments) }
    }

    /// Runs `work`, whose buffers come from `reserve`, and go back there.
    pub fn with_reserve(&self, reserve: &Reserve, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.state().reserve = Some(reserve.clone());
        let outcome = panic::catch_unwind(AssertUnwindSafe(work));
        let reserve = self.state().reserve.take();
        drop(reserve);
        outcome.unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// Records what `work` asks for.
    pub fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        {
            let mut state = self.state();
            self.backend.begin_recording()?;
            state.recording = Some(Recording::default());
        }
        // A panic ends the recording too, and the stream goes on.
        let outcome = panic::catch_unwind(AssertUnwindSafe(work));
        let recorded = self.backend.end_recording();
        let recording = self.state().recording.take();
        let Recording { mut named, freed } = recording.expect("the recording was begun above");
        for (address, n_bytes) in freed {
            self.backend.free(address, n_bytes);
        }
        let outcome = outcome.unwrap_or_else(|cause| panic::resume_unwind(cause));
        named.sort_unstable_by_key(|memory| memory.address);
        named.dedup_by_key(|memory| memory.address);
        outcome?;
        Ok(Graph { recorded: recorded?, named })
    }
}

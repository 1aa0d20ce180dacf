//! Kernels on the processor, for tests where there is no device: the same sources and the same launches, compiled by
//! the system's C++ compiler with `emulation.h` before them.
//!
//! The first stream does at once what it is asked for; others wait until somebody waits for them, so that what reads
//! their results too early finds none.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::Library;

#[cfg(test)]
use super::CudaDevice;
use super::{Argument, Backend, DeviceLimits, Launch, Module, driver, pointers};
use crate::{Error, Result};

/// Bytes before and after a buffer that nobody may write, and that are no numbers.
const MARGIN: usize = 256;
const MARGIN_BYTE: u8 = 0xff;

/// Calls `check` with the device [to test](CudaDevice::to_test), and with the emulation of a Hopper.
#[cfg(test)]
pub fn on_each_generation(check: impl Fn(&CudaDevice)) {
    let hopper = Emulation::open((9, 0)).map(|hopper| CudaDevice::on(Box::new(hopper)));
    CudaDevice::to_test().iter().chain(&hopper).for_each(check);
}

pub(super) struct Emulation {
    limits: DeviceLimits,
    calls: Arc<Mutex<Calls>>,
}

/// What a stream was asked for and has not done.
#[derive(Default)]
struct Calls {
    /// Those of a stream that waits.
    waiting: Option<VecDeque<Call>>,
    /// How many of those were done.
    n_done: usize,
    /// Those that are recorded.
    recorded: Option<Vec<Call>>,
}

/// So many calls of a stream.
struct Mark {
    calls: Arc<Mutex<Calls>>,
    n_done: usize,
}

/// What a stream does.
#[derive(Clone)]
enum Call {
    Fill {
        address: u64,
        byte: u8,
        n_bytes: usize,
    },
    Copy {
        from: u64,
        to: u64,
        n_bytes: usize,
    },
    Upload {
        from: Vec<u8>,
        address: u64,
    },
    /// From pinned memory or to it.
    CopyPinned {
        from: u64,
        to: u64,
        n_bytes: usize,
    },
    Launch {
        module: &'static Module,
        kernel: &'static str,
        launch: Launch,
        arguments: Vec<Argument>,
    },
    Replay(Recorded),
    Free {
        address: u64,
        n_bytes: usize,
    },
}

/// What was recorded.
type Recorded = Arc<Vec<Call>>;

impl Emulation {
    /// The emulation of a device of this compute capability, if there is a compiler.
    pub fn open(capability: (u32, u32)) -> Option<Self> {
        static THERE: OnceLock<bool> = OnceLock::new();
        let there = *THERE.get_or_init(|| {
            cfg!(all(target_os = "linux", target_pointer_width = "64"))
                && Command::new("c++").arg("--version").output().is_ok_and(|output| output.status.success())
        });
        let limits = || DeviceLimits {
            name: "emulation".to_owned(),
            capability,
            n_multiprocessors: 4,
            // As the devices with the least have it.
            shared_bytes: 99 << 10,
            memory_bytes: 1 << 30,
        };
        there.then(|| Self { limits: limits(), calls: Arc::default() })
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        Calls::of(&self.calls)
    }

    /// Does what is asked for, or notes it.
    ///
    /// # Safety
    ///
    /// The memory is there that the call names, and will be until it is done.
    unsafe fn ask(&self, call: Call) {
        let mut calls = self.calls();
        let Calls { waiting, recorded, .. } = &mut *calls;
        match (recorded, waiting) {
            (Some(recorded), _) => {
                let is_recorded = matches!(call, Call::Fill { .. } | Call::Copy { .. } | Call::Launch { .. });
                assert!(is_recorded, "what is recorded makes, drops and uploads no buffer");
                recorded.push(call);
            }
            (None, Some(waiting)) => waiting.push_back(call),
            // SAFETY: as the caller promises.
            (None, None) => unsafe { call.run() },
        }
    }

    /// Does all that waits.
    fn catch_up(&self) {
        self.calls().catch_up(usize::MAX);
    }
}

impl Calls {
    fn of(calls: &Mutex<Self>) -> MutexGuard<'_, Self> {
        // A kernel that failed leaves the calls behind it undone.
        calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what waits, until so many calls are done.
    fn catch_up(&mut self, n_done: usize) {
        assert!(self.recorded.is_none(), "what is recorded waits for nothing");
        let Some(waiting) = &mut self.waiting else { return };
        while self.n_done < n_done {
            let Some(call) = waiting.pop_front() else { return };
            self.n_done += 1;
            // SAFETY: memory is freed by a call behind those that name it.
            unsafe { call.run() };
        }
    }
}

impl Mark {
    /// Lets the stream get that far.
    fn reach(mark: &dyn Any) -> Result<()> {
        let mark = mark.downcast_ref::<Self>();
        let Self { calls, n_done } =
            mark.ok_or_else(|| Error::Cuda { problem: "the mark is of another device".to_owned() })?;
        Calls::of(calls).catch_up(*n_done);
        Ok(())
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.catch_up();
        }
    }
}

impl Call {
    /// # Safety
    ///
    /// The memory is there that the call names.
    unsafe fn run(&self) {
        match self {
            // SAFETY: the buffer has as many bytes.
            Self::Fill { address, byte, n_bytes } => unsafe {
                std::ptr::write_bytes(*address as *mut u8, *byte, *n_bytes);
            },
            // SAFETY: both buffers have as many bytes.
            Self::Copy { from, to, n_bytes } => unsafe {
                std::ptr::copy(*from as *const u8, *to as *mut u8, *n_bytes);
            },
            // SAFETY: the buffer has as many bytes, and is no part of `from`.
            Self::Upload { from, address } => unsafe {
                std::ptr::copy_nonoverlapping(from.as_ptr(), *address as *mut u8, from.len());
            },
            // SAFETY: both have as many bytes, and nobody touches the pinned ones until this is done.
            Self::CopyPinned { from, to, n_bytes } => unsafe {
                std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *n_bytes);
            },
            Self::Launch { module, kernel, launch, arguments } => {
                let mut libraries = libraries().lock().unwrap_or_else(PoisonError::into_inner);
                let library = libraries.entry(module.name).or_insert_with(|| compile(module));
                // SAFETY: the name is of a function of this type, which `compile` wrote.
                let run = unsafe { library.get::<Run>(format!("run_{kernel}")) }.expect("the module has the kernel");
                let mut values = arguments.clone();
                let mut arguments = pointers(&mut values);
                // SAFETY: arguments and grid are as whoever launched it promised.
                unsafe { run(launch.grid.as_ptr(), launch.block, launch.shared_bytes, arguments.as_mut_ptr()) };
            }
            // SAFETY: as the caller promises.
            Self::Replay(recorded) => recorded.iter().for_each(|call| unsafe { call.run() }),
            // SAFETY: as the caller promises, and nothing names it any more.
            Self::Free { address, n_bytes } => unsafe { give_back(*address, *n_bytes) },
        }
    }
}

/// # Safety
///
/// The memory is of [`Emulation::allocate`], and nothing uses it any more.
unsafe fn give_back(address: u64, n_bytes: usize) {
    let number = (address as usize - 8) as *const u64;
    // SAFETY: `allocate` wrote the distance to the memory's beginning there.
    let before = u64::from_le(unsafe { number.read_unaligned() }) as usize;
    let start = (address as usize - before) as *mut u8;
    let length = n_bytes + 3 * MARGIN;
    // SAFETY: `allocate` leaked a slice of this length that begins there.
    let memory = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, length)) };
    let untouched = memory[..before - 8].iter().chain(&memory[before + n_bytes..]).all(|&byte| byte == MARGIN_BYTE);
    assert!(untouched || std::thread::panicking(), "a kernel wrote outside of its buffers");
}

type Run = unsafe extern "C" fn(*const u32, u32, usize, *mut *mut c_void);

/// The libraries of the modules. Their states are global, so that one launch runs at a time.
fn libraries() -> &'static Mutex<HashMap<&'static str, Library>> {
    static LIBRARIES: OnceLock<Mutex<HashMap<&'static str, Library>>> = OnceLock::new();
    LIBRARIES.get_or_init(Mutex::default)
}

fn compile(module: &Module) -> Library {
    let folder = std::env::temp_dir().join(format!("raglan-emulation-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
    let source = folder.join(format!("{}.cpp", module.name));
    let library = folder.join(format!("{}.so", module.name));
    let mut text = format!("{}\n{}\n", include_str!("emulation.h"), module.source);
    for kernel in module.kernels {
        let name = kernel.name;
        text += &format!(
            "extern \"C\" void run_{name}(const unsigned *grid, unsigned block, size_t shared, void **arguments) {{ \
             emulation::launch({name}, grid, block, shared, arguments); }}\n"
        );
    }
    std::fs::write(&source, text).expect("the temporary folder can be written");
    let output = Command::new("c++")
        .args(["-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"])
        .args(["-ffp-contract=off", "-o"])
        .args([&library, &source])
        .output()
        .expect("the compiler was there");
    assert!(output.status.success(), "{}: {}", module.name, String::from_utf8_lossy(&output.stderr));
    // SAFETY: the library was compiled just now from this crate's sources; its initialisers only build empty tables.
    let loaded = unsafe { Library::new(&library) }.expect("the library was written");
    std::fs::remove_dir_all(&folder).expect("the folder is this process's own");
    loaded
}

impl Backend for Emulation {
    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    fn free_bytes(&self) -> Result<usize> {
        Ok(self.limits.memory_bytes)
    }

    fn allocate(&self, n_bytes: usize) -> Result<u64> {
        assert!(self.calls().recorded.is_none(), "what is recorded makes no buffer");
        if n_bytes > self.limits.memory_bytes {
            return Err(Error::DeviceMemory { needed: n_bytes, free: self.limits.memory_bytes });
        }
        let memory = Box::leak(vec![MARGIN_BYTE; n_bytes + 2 * MARGIN + MARGIN].into_boxed_slice());
        let start = memory.as_ptr() as usize;
        let address = (start + MARGIN).next_multiple_of(MARGIN);
        // Where the memory began is kept before the margin's last bytes.
        let before = address - start;
        memory[before - 8..before].copy_from_slice(&(before as u64).to_le_bytes());
        Ok(address as u64)
    }

    fn free(&self, address: u64, n_bytes: usize) {
        // SAFETY: nobody names it any more but calls before this one.
        unsafe { self.ask(Call::Free { address, n_bytes }) };
    }

    fn fill(&self, address: u64, byte: u8, n_bytes: usize) -> Result<()> {
        // SAFETY: the buffer has as many bytes.
        unsafe { self.ask(Call::Fill { address, byte, n_bytes }) };
        Ok(())
    }

    fn upload(&self, from: &[u8], address: u64) -> Result<()> {
        // SAFETY: the buffer has as many bytes.
        unsafe { self.ask(Call::Upload { from: from.to_vec(), address }) };
        Ok(())
    }

    fn download(&self, address: u64, to: &mut [u8]) -> Result<()> {
        self.catch_up();
        // SAFETY: the buffer has as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, n_bytes: usize) -> Result<()> {
        // SAFETY: both buffers have as many bytes.
        unsafe { self.ask(Call::Copy { from, to, n_bytes }) };
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        self.catch_up();
        Ok(())
    }

    unsafe fn launch(
        &self,
        module: &'static Module,
        kernel: &'static str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<()> {
        // SAFETY: arguments and grid are as the caller promises.
        unsafe { self.ask(Call::Launch { module, kernel, launch, arguments: arguments.to_vec() }) };
        Ok(())
    }

    fn begin_recording(&self) -> Result<()> {
        self.calls().recorded = Some(Vec::new());
        Ok(())
    }

    fn end_recording(&self) -> Result<Box<dyn Any + Send>> {
        let recorded: Recorded = self.calls().recorded.take().expect("the recording was begun").into();
        Ok(Box::new(recorded))
    }

    unsafe fn replay(&self, recorded: &dyn Any) -> Result<()> {
        let recorded = recorded.downcast_ref::<Recorded>();
        let recorded = recorded.ok_or_else(|| Error::Cuda { problem: "the graph is of another device".to_owned() })?;
        // SAFETY: as the caller promises.
        unsafe { self.ask(Call::Replay(Arc::clone(recorded))) };
        Ok(())
    }

    fn mark(&self) -> Result<Box<dyn Any + Send>> {
        let calls = self.calls();
        let n_done = calls.n_done + calls.waiting.as_ref().map_or(0, VecDeque::len);
        Ok(Box::new(Mark { calls: Arc::clone(&self.calls), n_done }))
    }

    fn wait_for(&self, mark: &dyn Any) -> Result<()> {
        Mark::reach(mark)
    }

    fn reach(&self, mark: &dyn Any) -> Result<()> {
        Mark::reach(mark)
    }

    fn pinned(&self, n_bytes: usize) -> Result<*mut u8> {
        Ok(Box::leak(vec![0; n_bytes].into_boxed_slice()).as_mut_ptr())
    }

    unsafe fn free_pinned(&self, memory: *mut u8, n_bytes: usize) {
        // SAFETY: `pinned` leaked a slice of this length that begins there.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(memory, n_bytes)) });
    }

    unsafe fn upload_pinned(&self, from: &[u8], address: u64) -> Result<()> {
        let (from, n_bytes) = (from.as_ptr() as u64, from.len());
        // SAFETY: as the caller promises.
        unsafe { self.ask(Call::CopyPinned { from, to: address, n_bytes }) };
        Ok(())
    }

    unsafe fn download_pinned(&self, address: u64, to: *mut u8, n_bytes: usize) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.ask(Call::CopyPinned { from: address, to: to as u64, n_bytes }) };
        Ok(())
    }

    fn another_stream(&self) -> Result<Box<dyn Backend>> {
        let calls = Calls { waiting: Some(VecDeque::new()), ..Calls::default() };
        Ok(Box::new(Self { limits: self.limits.clone(), calls: Arc::new(Mutex::new(calls)) }))
    }

    fn driver(&self) -> Option<&driver::Driver> {
        None
    }
}

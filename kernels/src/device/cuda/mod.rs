//! NVIDIA devices: memory, streams, and kernels that are compiled where they run.
//!
//! Nothing of a toolkit is needed to build; a driver is needed to open a device, and NVIDIA's run-time compiler
//! (`libnvrtc`, of the toolkit or of the Python package `nvidia-cuda-nvrtc-cu12`) for the first launch of each kernel.
//! Compiled kernels are kept in a folder, by source, architecture and driver, and need no compiler afterwards.
//!
//! [`CudaDevice`] is a stream on a device: what is asked of it happens in order, after the call returned. A
//! [`Buffer`] is memory on the device. The operations stand beside their forms for processors and are collected in
//! [`crate::cuda`].

mod compile;
mod driver;
#[cfg(any(test, feature = "emulation"))]
pub(crate) mod emulation;
mod kv_pages;
mod library;
mod mirrored;
mod pages;
mod pinned;
mod probe;
mod recording;
pub(crate) mod row_norm;
mod sequences;
mod staged_uploads;
mod stream;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use compile::{Architecture, KernelUse, compile_kernels};
pub use kv_pages::KvPages;
pub(crate) use library::Product;
pub(crate) use mirrored::Mirrored;
pub use pages::{PAGE_TOKENS, PagePool};
pub use pinned::{Downloader, Uploader};
pub use probe::cuda_devices;
pub use recording::{Graph, Reserve};
pub use sequences::PackedSequences;
pub(crate) use sequences::TILE_ROWS;
pub use staged_uploads::{StagedUploads, Uploaded};
use stream::{Allocation, Stream};

use crate::{Error, Result};

/// CUDA source of one operation.
pub(crate) struct Module {
    /// The operation.
    pub name: &'static str,
    /// The source, with what all kernels stand on before it.
    pub source: &'static str,
    /// The kernels that it defines.
    pub kernels: &'static [Kernel],
}

/// A kernel's name and what it may use.
pub(crate) struct Kernel {
    pub name: &'static str,
    /// The most registers a thread may take, so that as many blocks as planned fit beside one another.
    pub most_registers: u32,
}

/// How many threads a kernel runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Blocks in each dimension.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory that a block asks for besides what its kernel declares.
    pub shared_bytes: usize,
}

/// What a kernel is given.
#[derive(Clone, Copy)]
pub(crate) enum Argument {
    Address(u64),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// The sizes of heads that there are kernels of attention for.
pub const HEAD_DIMS: [usize; 4] = [32, 64, 128, 256];

/// Where each argument is, as drivers take them.
fn pointers(arguments: &mut [Argument]) -> Vec<*mut c_void> {
    let pointer = |argument: &mut Argument| match argument {
        Argument::Address(number) | Argument::U64(number) => std::ptr::from_mut(number).cast(),
        Argument::U32(number) => std::ptr::from_mut(number).cast(),
        Argument::F32(number) => std::ptr::from_mut(number).cast(),
    };
    arguments.iter_mut().map(pointer).collect()
}

/// What limits the shape of launches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// The device's name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Multiprocessors: how many blocks run at least at the same time.
    pub n_multiprocessors: u32,
    /// Shared memory that one block can have, in bytes.
    pub shared_bytes: usize,
    /// Bytes of the device's memory.
    pub memory_bytes: usize,
}

impl DeviceLimits {
    /// Whether it runs code that only Hopper has.
    pub(crate) fn is_hopper(&self) -> bool {
        self.capability == (9, 0)
    }
}

/// What runs kernels: a driver, or their emulation in tests.
///
/// Everything happens in the order of the calls. Addresses are of `allocate` of the same backend, or inside of such
/// memory.
trait Backend: Send + Sync {
    fn limits(&self) -> &DeviceLimits;
    /// Bytes of memory that nobody has taken.
    fn free_bytes(&self) -> Result<usize>;
    /// Memory with anything in it, aligned to 256 bytes.
    fn allocate(&self, n_bytes: usize) -> Result<u64>;
    fn free(&self, address: u64, n_bytes: usize);
    fn fill(&self, address: u64, byte: u8, n_bytes: usize) -> Result<()>;
    /// The source may be changed as soon as this returns.
    fn upload(&self, from: &[u8], address: u64) -> Result<()>;
    /// Waits for all before it.
    fn download(&self, address: u64, to: &mut [u8]) -> Result<()>;
    fn copy(&self, from: u64, to: u64, n_bytes: usize) -> Result<()>;
    fn synchronize(&self) -> Result<()>;
    /// # Safety
    ///
    /// The arguments are those of the kernel in number and kind, and with this grid it touches no memory but that of
    /// living buffers.
    unsafe fn launch(
        &self,
        module: &'static Module,
        kernel: &'static str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<()>;
    /// What is asked for after this does not happen, but is taken down; nothing is allocated, freed, uploaded, downloaded
    /// or waited for meanwhile.
    fn begin_recording(&self) -> Result<()>;
    fn end_recording(&self) -> Result<Box<dyn Any + Send>>;
    /// # Safety
    ///
    /// The memory is there that the recorded calls name.
    unsafe fn replay(&self, recorded: &dyn Any) -> Result<()>;
    /// The point behind all that was asked so far.
    fn mark(&self) -> Result<Box<dyn Any + Send>>;
    /// Lets what is asked later happen when a point of some stream of the device was reached.
    fn wait_for(&self, mark: &dyn Any) -> Result<()>;
    /// Returns when a point of this stream was reached.
    fn reach(&self, mark: &dyn Any) -> Result<()>;
    /// Memory of the processor's that is read without its help. It is freed by `free_pinned` alone.
    fn pinned(&self, n_bytes: usize) -> Result<*mut u8>;
    /// # Safety
    ///
    /// The memory is of `pinned`, as long, and nothing uses it any more.
    unsafe fn free_pinned(&self, memory: *mut u8, n_bytes: usize);
    /// Begins to copy from pinned memory.
    ///
    /// # Safety
    ///
    /// `from` is pinned memory that is not changed until a point behind this call was reached; at `address` are as many
    /// bytes.
    unsafe fn upload_pinned(&self, from: &[u8], address: u64) -> Result<()>;
    /// Begins to copy to pinned memory.
    ///
    /// # Safety
    ///
    /// At `to` is pinned memory of as many bytes, which nobody touches until a point behind this call was reached; at
    /// `address` are as many.
    unsafe fn download_pinned(&self, address: u64, to: *mut u8, n_bytes: usize) -> Result<()>;
    /// Another order of calls on the same device.
    fn another_stream(&self) -> Result<Box<dyn Backend>>;
    fn driver(&self) -> Option<&driver::Driver>;
}

/// A stream of work on an NVIDIA device.
///
/// Clones are the same stream.
#[derive(Clone)]
pub struct CudaDevice(Arc<Stream>);

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CudaDevice").field(self.limits()).finish()
    }
}

impl CudaDevice {
    /// Opens the device of this number. Compiled kernels are kept in `kernels`, or nowhere.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] when there is no driver, no such device or one before compute capability 8.0;
    /// [`Error::Cuda`] when the driver does not answer.
    pub fn open(ordinal: u32, kernels: Option<&Path>) -> Result<Self> {
        Ok(Self::on(Box::new(driver::Driver::open(ordinal, kernels)?)))
    }

    /// What runs the kernels on the processor, slowly, for tests where there is no device: the same sources, compiled by
    /// the system's C++ compiler. None where there is no such compiler.
    ///
    /// What is asked of [another stream](Self::another_stream) of it happens as late as it may.
    #[cfg(any(test, feature = "emulation"))]
    pub fn emulated() -> Option<Self> {
        emulation::Emulation::open((8, 0)).map(|emulation| Self::on(Box::new(emulation)))
    }

    fn on(backend: Box<dyn Backend>) -> Self {
        Self(Arc::new(Stream::new(backend)))
    }

    /// The device that timings run on, the machine's first, and whether it is none: where `RAGLAN_CUDA_EMULATED` asks for
    /// it, in a build with the emulation, that shows whether a program works, not how fast anything is. Compiled kernels
    /// are kept in the folder that `RAGLAN_CUDA_KERNELS` names.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn to_time() -> Result<(Self, bool)> {
        #[cfg(any(test, feature = "emulation"))]
        if std::env::var_os("RAGLAN_CUDA_EMULATED").is_some()
            && let Some(emulated) = Self::emulated()
        {
            return Ok((emulated, true));
        }
        let kernels = std::env::var_os("RAGLAN_CUDA_KERNELS");
        Ok((Self::open(0, kernels.as_deref().map(Path::new))?, false))
    }

    /// The device that tests run on, on a stream of its own: the machine's first if `RAGLAN_CUDA` asks for it, whose
    /// compiled kernels are kept in the folder that `RAGLAN_CUDA_KERNELS` names, else what is [emulated](Self::emulated).
    /// What is skipped is said. Tests that compare rows among others with rows alone, to the bit, want
    /// `RAGLAN_CUDA_LIBRARY=none`.
    ///
    /// # Panics
    ///
    /// When the device that was asked for cannot be opened.
    #[cfg(any(test, feature = "emulation"))]
    pub fn to_test() -> Option<Self> {
        static DEVICE: std::sync::OnceLock<CudaDevice> = std::sync::OnceLock::new();
        if std::env::var_os("RAGLAN_CUDA").is_some() {
            let folder = std::env::var_os("RAGLAN_CUDA_KERNELS").map(std::path::PathBuf::from);
            let open = || Self::open(0, folder.as_deref()).unwrap_or_else(|error| panic!("{error}"));
            return Some(DEVICE.get_or_init(open).another_stream().unwrap_or_else(|error| panic!("{error}")));
        }
        eprintln!("skipped on a device: RAGLAN_CUDA is not set");
        let emulated = Self::emulated();
        if emulated.is_none() {
            eprintln!("skipped: the kernels are not emulated, for there is no C++ compiler");
        }
        emulated
    }

    /// Another stream on the same device. Work on the two is in no order but that of [`CudaDevice::wait_for`].
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] when the driver has no stream to give.
    pub fn another_stream(&self) -> Result<Self> {
        Ok(Self::on(self.0.backend().another_stream()?))
    }

    /// Lets what comes after on this stream begin when all that was asked of `other` is done.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] when the driver refuses, as it does when the two are not of one device.
    pub fn wait_for(&self, other: &Self) -> Result<()> {
        self.wait_until(&other.mark()?)
    }

    /// The point behind all that was asked of this stream so far.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] when the driver has no events to give.
    pub fn mark(&self) -> Result<Mark> {
        Ok(Mark(self.0.mark()?))
    }

    /// Lets what comes after on this stream begin when that point, of whichever stream of the device, was reached.
    ///
    /// # Errors
    ///
    /// As [`CudaDevice::wait_for`].
    pub fn wait_until(&self, mark: &Mark) -> Result<()> {
        self.0.wait_for(&*mark.0)
    }

    /// What the device is and has.
    pub fn limits(&self) -> &DeviceLimits {
        self.0.backend().limits()
    }

    /// Bytes of the device's memory that no process has taken.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] when the driver does not say.
    pub fn free_bytes(&self) -> Result<usize> {
        self.0.backend().free_bytes()
    }

    /// Returns when all that was asked is done.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] when something of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.0.synchronize()
    }

    /// How long `work` takes on the device, in milliseconds, by the device's clock.
    ///
    /// # Errors
    ///
    /// What `work` returns; [`Error::Cuda`] when the clock fails.
    pub fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f32> {
        match self.driver() {
            Some(driver) => driver.time(work),
            None => {
                let start = std::time::Instant::now();
                work()?;
                Ok(start.elapsed().as_secs_f32() * 1e3)
            }
        }
    }

    /// A buffer of `len` numbers whose bytes are all `byte`: 0 for zeros, 0xff for floats that are not numbers.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceMemory`] when there is not so much memory.
    pub fn filled<T: Plain>(&self, byte: u8, len: usize) -> Result<Buffer<T>> {
        let buffer = self.allocate(len)?;
        self.0.fill(buffer.address(), byte, buffer.n_bytes())?;
        Ok(buffer)
    }

    /// A buffer with these numbers.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceMemory`] when there is not so much memory.
    pub fn upload<T: Plain>(&self, from: &[T]) -> Result<Buffer<T>> {
        let buffer = self.allocate(from.len())?;
        self.0.upload(bytes_of(from), buffer.address())?;
        Ok(buffer)
    }

    /// A buffer with anything in it, for a kernel that writes all of it.
    pub(crate) fn allocate<T: Plain>(&self, len: usize) -> Result<Buffer<T>> {
        let n_bytes = len.checked_mul(size_of::<T>()).ok_or(Error::DeviceMemory { needed: usize::MAX, free: 0 })?;
        let (memory, reserve) = self.0.allocate(self, n_bytes.max(1))?;
        Ok(Buffer { memory, reserve, len, numbers: PhantomData })
    }

    /// Launches a kernel; nothing when the grid is empty.
    ///
    /// # Safety
    ///
    /// The arguments are those of the kernel in number and kind, and with this grid it touches no memory but that of
    /// the buffers whose addresses they are.
    pub(crate) unsafe fn launch(
        &self,
        module: &'static Module,
        kernel: &'static str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let problem = match launch {
            Launch { grid: [_, y, z], .. } if y > 65_535 || z > 65_535 => Some("the grid is too large".to_owned()),
            Launch { shared_bytes, .. } if shared_bytes > self.limits().shared_bytes => Some(format!(
                "{shared_bytes} bytes of shared memory, of which there are {}",
                self.limits().shared_bytes
            )),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(Error::Launch { kernel, problem });
        }
        // SAFETY: as the caller promises.
        unsafe { self.0.launch(module, kernel, launch, arguments) }
    }

    /// Whether products are computed by NVIDIA's library, `libcublasLt`, where it serves their shapes.
    pub fn has_library(&self) -> bool {
        self.driver().is_some_and(|driver| driver.library().is_some())
    }

    /// Begins a product by NVIDIA's library; false when it is not there or does not serve the shape.
    ///
    /// # Safety
    ///
    /// The addresses are of living buffers of this device that are as long as the product's shape says.
    pub(crate) unsafe fn product_by_library(&self, product: &Product) -> bool {
        self.0.name([product.rows, product.weights, product.out].into_iter().chain(product.bias)).is_ok()
            // SAFETY: as the caller promises.
            && self.driver().is_some_and(|driver| unsafe { driver.product(product) })
    }

    fn driver(&self) -> Option<&driver::Driver> {
        self.0.backend().driver()
    }
}

/// A point in a stream's work.
pub struct Mark(Box<dyn Any + Send>);

impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mark").finish_non_exhaustive()
    }
}

/// Numbers that any bytes stand for, and that have no bytes of no meaning.
///
/// # Safety
///
/// Every pattern of bits is a value, and there is no padding.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

macro_rules! plain {
    ($($name:ty),*) => { $(
        // SAFETY: any bits are a number of this kind, or a newtype of such a number.
        unsafe impl Plain for $name {}
    )* };
}
plain!(u8, i8, u16, u32, i32, u64, f32, Bf16, F16);

/// The bits of a bf16: the upper half of an `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

/// The bits of an IEEE half-precision number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

impl F16 {
    /// The numbers that these are the bits of.
    pub fn of_bits(bits: &[u16]) -> &[Self] {
        // SAFETY: a number is its bits and nothing else.
        unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
    }
}

/// Numbers that kernels take for real ones: [`f32`], [`Bf16`] and [`F16`].
pub trait Real: Plain {
    /// What names of kernels end with.
    #[doc(hidden)]
    const SUFFIX: &'static str;
    /// The nearest number, ties to even.
    fn from_f32(x: f32) -> Self;
    /// The number.
    fn to_f32(self) -> f32;
}

/// Numbers that the matrix units multiply: [`Bf16`] and [`F16`].
pub trait Narrow: Real {}

impl Narrow for Bf16 {}

impl Narrow for F16 {}

impl Real for f32 {
    const SUFFIX: &'static str = "f32";
    fn from_f32(x: f32) -> Self {
        x
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Real for Bf16 {
    const SUFFIX: &'static str = "bf16";
    fn from_f32(x: f32) -> Self {
        Self(crate::bf16_product::round(x))
    }
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

impl Real for F16 {
    const SUFFIX: &'static str = "f16";
    fn from_f32(x: f32) -> Self {
        Self(crate::half_product::f32_to_f16(x))
    }
    fn to_f32(self) -> f32 {
        crate::half_product::f16_to_f32(self.0)
    }
}

/// Numbers in a device's memory.
#[derive(Debug)]
pub struct Buffer<T> {
    memory: Arc<Allocation>,
    /// Where the memory goes back to, if it is not freed.
    reserve: Option<Reserve>,
    len: usize,
    numbers: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device and stream that it was made on.
    pub fn device(&self) -> &CudaDevice {
        self.memory.device()
    }

    /// The numbers, once all is done that was asked of the buffer's stream.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] when something of it failed.
    pub fn download(&self) -> Result<Vec<T>> {
        self.download_range(0..self.len)
    }

    /// Some of the numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] when they are not there; else as [`Buffer::download`].
    pub fn download_range(&self, range: Range<usize>) -> Result<Vec<T>> {
        let address = self.at(range.start, range.len())?;
        let mut numbers = zeros(range.len());
        self.device().0.download(address, bytes_of_mut(&mut numbers))?;
        Ok(numbers)
    }

    /// Overwrites the numbers from `at` on.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] when they do not fit.
    pub fn write(&mut self, at: usize, from: &[T]) -> Result<()> {
        let address = self.at(at, from.len())?;
        self.device().0.upload(bytes_of(from), address)
    }

    /// Copies the numbers of `from` over those from `at` on.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] when they do not fit.
    pub fn copy_from(&mut self, at: usize, from: &Self) -> Result<()> {
        let address = self.at(at, from.len)?;
        self.device().0.copy(from.address(), address, from.n_bytes())
    }

    /// Copies some numbers of `from` over those from `at` on.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] when they are not there or do not fit.
    pub fn copy_range(&mut self, at: usize, from: &Self, range: Range<usize>) -> Result<()> {
        let (to, from) = (self.at(at, range.len())?, from.at(range.start, range.len())?);
        self.device().0.copy(from, to, range.len() * size_of::<T>())
    }

    /// Sets every byte.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] when the device does not answer.
    pub fn fill(&mut self, byte: u8) -> Result<()> {
        self.device().0.fill(self.address(), byte, self.n_bytes())
    }

    fn at(&self, at: usize, n: usize) -> Result<u64> {
        match at.checked_add(n) {
            Some(end) if end <= self.len => Ok(self.address() + (at * size_of::<T>()) as u64),
            _ => Err(Error::Row { row: at.saturating_add(n), n_rows: self.len }),
        }
    }

    pub(crate) fn argument(&self) -> Argument {
        Argument::Address(self.address())
    }

    /// The address of the number at `at`, which is in the buffer or its end.
    pub(crate) fn argument_at(&self, at: usize) -> Argument {
        Argument::Address(self.address_at(at))
    }

    /// As [`Buffer::argument_at`], the number itself.
    pub(crate) fn address_at(&self, at: usize) -> u64 {
        assert!(at <= self.len, "the place is in the buffer");
        self.address() + (at * size_of::<T>()) as u64
    }

    fn address(&self) -> u64 {
        self.memory.address()
    }

    fn n_bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some(reserve) = &self.reserve {
            reserve.give_back(Arc::clone(&self.memory));
        }
    }
}

/// The address of a buffer that may be absent.
pub(crate) fn optional<T: Plain>(buffer: Option<&Buffer<T>>) -> Argument {
    buffer.map_or(Argument::Address(0), Buffer::argument)
}

/// [`Error::Shape`] when a length is not the expected one.
pub(crate) fn check_len(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::Shape { what, expected, found }) }
}

/// A number of rows, tokens or blocks as kernels take it.
pub(crate) fn count(what: &'static str, n: usize) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) if n <= i32::MAX as u32 => Ok(n),
        _ => Err(Error::Shape { what, expected: i32::MAX as usize, found: n }),
    }
}

fn bytes_of<T: Plain>(numbers: &[T]) -> &[u8] {
    // SAFETY: there is no padding, by the contract of `Plain`; a byte needs no alignment.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

fn zeros<T: Plain>(len: usize) -> Vec<T> {
    let mut numbers = Vec::with_capacity(len);
    // SAFETY: any bytes are numbers of this kind, so zeros are; the capacity is reserved.
    unsafe {
        std::ptr::write_bytes(Vec::as_mut_ptr(&mut numbers), 0, len);
        numbers.set_len(len);
    }
    numbers
}

fn bytes_of_mut<T: Plain>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`, and any bytes are numbers.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

/// Every module of this crate, for the check that all of them compile.
pub(crate) const MODULES: &[&Module] = &[
    &crate::mean_pool::cuda::MODULE,
    &crate::rms_norm::cuda::MODULE,
    &crate::layer_norm::cuda::MODULE,
    &crate::activation::cuda::MODULE,
    &crate::rotary::cuda::MODULE,
    &crate::attention::cuda::MODULE,
    &crate::matrix_product::cuda::MODULE,
    &crate::quantized_score::cuda::MODULE,
    &crate::splade_pool::cuda::MODULE,
    &crate::embedding::cuda::MODULE,
    &crate::conversion::cuda::MODULE,
    &crate::block_product::cuda::MODULE,
];

/// Those that only Hopper runs.
pub(crate) const HOPPER_MODULES: &[&Module] = &[&crate::attention::cuda::HOPPER];

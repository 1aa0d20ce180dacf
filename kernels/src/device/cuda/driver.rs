//! Devices by NVIDIA's driver.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::{DriverError, result, sys};

use super::library::{Library, Product};
use super::{Architecture, Argument, Backend, DeviceLimits, Launch, Module, compile, pointers};
use crate::{Error, Result};

/// The environment variable that leaves all products to our own kernel, whose rows do not depend on how many there are.
const BY_LIBRARY: &str = "RAGLAN_CUDA_LIBRARY";

/// A kernel asks the driver for more shared memory than this.
const SHARED_WITHOUT_ASKING: usize = 48 << 10;

fn cuda(error: DriverError) -> Error {
    Error::Cuda { problem: error.to_string() }
}

/// A device that is open, whichever the stream.
struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    limits: DeviceLimits,
    architecture: String,
    driver_version: i32,
    folder: Option<PathBuf>,
    /// Where its memory comes from.
    pool: sys::CUmemoryPool,
    /// Whether products go to NVIDIA's library where that is there.
    by_library: bool,
    loaded: Mutex<Loaded>,
}

/// Compiled code that the device has.
#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
}

// SAFETY: the driver's handles may be used from any thread; the maps of them are behind a lock.
unsafe impl Send for Context {}
// SAFETY: as before.
unsafe impl Sync for Context {}

impl Context {
    fn current(&self) -> Result<()> {
        // SAFETY: the context is alive as long as this is.
        unsafe { result::ctx::set_current(self.context) }.map_err(cuda)
    }

    /// The kernel, which is compiled and loaded when it is asked for the first time.
    fn function(&self, module: &'static Module, kernel: &'static str) -> Result<sys::CUfunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = loaded.functions.get(kernel) {
            return Ok(function);
        }
        let handle = match loaded.modules.get(module.name) {
            Some(&handle) => handle,
            None => {
                let cubin = compile::cubin(module, &self.architecture, self.driver_version, self.folder.as_deref())?;
                // SAFETY: the code is whole: it comes from the compiler, or its checksum was right.
                let handle = unsafe { result::module::load_data(cubin.as_ptr().cast()) }.map_err(cuda)?;
                loaded.modules.insert(module.name, handle);
                handle
            }
        };
        let name = CString::new(kernel).expect("names have no zero bytes");
        // SAFETY: the module is loaded until the context ends.
        let function = unsafe { result::module::get_function(handle, name) }.map_err(cuda)?;
        let limit = self.limits.shared_bytes;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        if limit > SHARED_WITHOUT_ASKING {
            // A kernel that declares shared memory of its own may have less, which its launches do not exceed.
            // SAFETY: the function exists.
            let shared = unsafe {
                result::function::get_function_attribute(
                    function,
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
                )
            }
            .map_err(cuda)?;
            // SAFETY: as before.
            unsafe { result::function::set_function_attribute(function, attribute, limit as i32 - shared) }
                .map_err(cuda)?;
        }
        loaded.functions.insert(kernel, function);
        Ok(function)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.context.is_null() {
            return;
        }
        // SAFETY: the handles were given by the driver, and nothing is left that uses them. A failure has no remedy.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            for &module in loaded.modules.values() {
                let _ = result::module::unload(module);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// A stream on a device.
pub struct Driver {
    context: Arc<Context>,
    stream: sys::CUstream,
    /// The library for products and the address of its workspace, once a product was asked for.
    library: OnceLock<Option<(Library, u64)>>,
}

// SAFETY: a stream may be used from any thread.
unsafe impl Send for Driver {}
// SAFETY: as before; calls on one stream from several threads are put in some order by the driver.
unsafe impl Sync for Driver {}

impl Driver {
    pub fn open(ordinal: u32, kernels: Option<&Path>) -> Result<Self> {
        let none = |problem: &str| Error::NoDevice { problem: problem.to_owned() };
        let by_library = match std::env::var(BY_LIBRARY).as_deref() {
            Ok("none") => false,
            Err(std::env::VarError::NotPresent) | Ok("") => true,
            _ => return Err(none(&format!("{BY_LIBRARY} can be `none`, and is something else"))),
        };
        // cudarc panics when it does not find the library, so it is looked for first.
        // SAFETY: loading the driver's library runs only its own initialisation.
        if !unsafe { sys::is_culib_present() } {
            return Err(none("the driver's library, libcuda, is not found"));
        }
        // It panics too when the library lacks a function, as one of an old driver may.
        match panic::catch_unwind(|| Self::open_by_driver(ordinal, kernels, by_library)) {
            Ok(opened) => opened,
            Err(_) => Err(none("the driver is too old: its library lacks a function that is needed")),
        }
    }

    fn open_by_driver(ordinal: u32, kernels: Option<&Path>, by_library: bool) -> Result<Self> {
        use sys::CUdevice_attribute as Attribute;
        match result::init() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
                return Err(Error::NoDevice { problem: "the driver finds no device".to_owned() });
            }
            other => other.map_err(cuda)?,
        }
        let n_devices = result::device::get_count().map_err(cuda)?;
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        if number >= n_devices {
            return Err(Error::NoDevice { problem: format!("there is no device {ordinal}, but {n_devices} in all") });
        }
        let device = result::device::get(number).map_err(cuda)?;
        let name = result::device::get_name(device).map_err(cuda)?;
        // SAFETY: the device comes from the driver.
        let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) }.map_err(cuda);
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
        );
        let Some(architecture) = Architecture::of_capability(capability) else {
            let (major, minor) = capability;
            let problem = format!("{name} has compute capability {major}.{minor}, and 8.0 is needed");
            return Err(Error::NoDevice { problem });
        };
        let limits = DeviceLimits {
            name,
            capability,
            n_multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
            // SAFETY: the device comes from the driver.
            memory_bytes: unsafe { result::device::total_mem(device) }.map_err(cuda)?,
        };
        if attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? == 0 {
            let problem = format!("{} has no memory pools, as some devices that are shared have none", limits.name);
            return Err(Error::NoDevice { problem });
        }
        let mut driver_version = 0;
        // SAFETY: the number lives through the call.
        unsafe { sys::cuDriverGetVersion(&raw mut driver_version) }.result().map_err(cuda)?;
        // SAFETY: the device comes from the driver.
        let pool = unsafe { result::device::get_default_mem_pool(device) }.map_err(cuda)?;
        // SAFETY: the device comes from the driver; it is released when the context is dropped.
        let handle = unsafe { result::primary_ctx::retain(device) }.map_err(cuda)?;
        let context = Arc::new(Context {
            device,
            context: handle,
            limits,
            architecture,
            driver_version,
            folder: kernels.map(Path::to_owned),
            pool,
            by_library,
            loaded: Mutex::default(),
        });
        context.current()?;
        let mut all = u64::MAX; // What is freed stays with the process, to be had again at once.
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is the device's; the number lives through the call.
        unsafe { sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut all).cast()) }.result().map_err(cuda)?;
        Self::on(context)
    }

    fn on(context: Arc<Context>) -> Result<Self> {
        context.current()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(cuda)?;
        Ok(Self { context, stream, library: OnceLock::new() })
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Begins a product by the library; false when it is not there or does not serve the shape.
    ///
    /// # Safety
    ///
    /// As [`Library::product`].
    pub unsafe fn product(&self, product: &Product) -> bool {
        // SAFETY: as the caller promises.
        self.library().is_some_and(|library| unsafe { library.product(self, product) }.is_ok())
    }

    /// The library for products on this stream, if it is there.
    pub fn library(&self) -> Option<&Library> {
        self.context.current().ok()?;
        let library = self.library.get_or_init(|| {
            if !self.context.by_library {
                return None;
            }
            let workspace = self.allocate(Library::WORKSPACE).ok()?;
            let library = Library::load(workspace);
            if library.is_none() {
                self.free(workspace, Library::WORKSPACE);
            }
            Some((library?, workspace))
        });
        library.as_ref().map(|(library, _)| library)
    }

    pub fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f32> {
        self.context.current()?;
        let (start, end) = (Event::new(&self.context, TIMED)?, Event::new(&self.context, TIMED)?);
        start.record(self)?;
        work()?;
        end.record(self)?;
        end.wait()?;
        // SAFETY: both events were recorded on this stream and have happened.
        unsafe { result::event::elapsed(start.event, end.event) }.map_err(cuda)
    }
}

const TIMED: sys::CUevent_flags = sys::CUevent_flags::CU_EVENT_DEFAULT;

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(Some((library, workspace))) = self.library.take() {
            let _ = self.context.current();
            drop(library);
            self.free(workspace, Library::WORKSPACE);
        }
        // SAFETY: the stream is this one's own; the driver ends it when its work is done. A failure has no remedy.
        let _ = self.context.current().map(|()| unsafe { result::stream::destroy(self.stream) });
    }
}

impl Backend for Driver {
    fn limits(&self) -> &DeviceLimits {
        &self.context.limits
    }

    fn free_bytes(&self) -> Result<usize> {
        self.context.current()?;
        let (free, _) = result::mem_get_info().map_err(cuda)?;
        // What was freed, and stays with the process, is free for it.
        let of_pool = |attribute| -> Result<u64> {
            let mut n_bytes = 0_u64;
            // SAFETY: the pool is the device's; the number lives through the call.
            unsafe { sys::cuMemPoolGetAttribute(self.context.pool, attribute, (&raw mut n_bytes).cast()) }
                .result()
                .map_err(cuda)?;
            Ok(n_bytes)
        };
        let reserved = of_pool(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let used = of_pool(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        Ok(free + reserved.saturating_sub(used) as usize)
    }

    fn allocate(&self, n_bytes: usize) -> Result<u64> {
        self.context.current()?;
        // SAFETY: the stream is alive; what the memory holds is nobody's matter until it is written.
        match unsafe { result::malloc_async(self.stream, n_bytes) } {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let free = result::mem_get_info().map_or(0, |(free, _)| free);
                Err(Error::DeviceMemory { needed: n_bytes, free })
            }
            other => other.map_err(cuda),
        }
    }

    fn free(&self, address: u64, _n_bytes: usize) {
        // SAFETY: the memory is of `allocate`, and what was asked of this stream before comes first. A failure has no
        // remedy.
        let _ = self.context.current().map(|()| unsafe { result::free_async(address, self.stream) });
    }

    fn fill(&self, address: u64, byte: u8, n_bytes: usize) -> Result<()> {
        if n_bytes == 0 {
            return Ok(());
        }
        self.context.current()?;
        // SAFETY: the buffer has as many bytes.
        unsafe { result::memset_d8_async(address, byte, n_bytes, self.stream) }.map_err(cuda)
    }

    fn upload(&self, from: &[u8], address: u64) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        self.context.current()?;
        // SAFETY: the buffer has as many bytes, and `from` is borrowed until the copy is done, below.
        let begun = unsafe { result::memcpy_htod_async(address, from, self.stream) }.map_err(cuda);
        self.synchronize()?;
        begun
    }

    fn download(&self, address: u64, to: &mut [u8]) -> Result<()> {
        if !to.is_empty() {
            self.context.current()?;
            // SAFETY: the buffer has as many bytes, and `to` is borrowed until the copy is done, below.
            let begun = unsafe { result::memcpy_dtoh_async(to, address, self.stream) }.map_err(cuda);
            self.synchronize()?;
            begun?;
        }
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, n_bytes: usize) -> Result<()> {
        if n_bytes == 0 {
            return Ok(());
        }
        self.context.current()?;
        // SAFETY: both buffers have as many bytes.
        unsafe { result::memcpy_dtod_async(to, from, n_bytes, self.stream) }.map_err(cuda)
    }

    fn synchronize(&self) -> Result<()> {
        self.context.current()?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream) }.map_err(cuda)
    }

    unsafe fn launch(
        &self,
        module: &'static Module,
        kernel: &'static str,
        launch: Launch,
        arguments: &[Argument],
    ) -> Result<()> {
        self.context.current()?;
        let function = self.context.function(module, kernel)?;
        let [x, y, z] = launch.grid;
        let mut values = arguments.to_vec();
        let mut arguments = pointers(&mut values);
        // SAFETY: the function is loaded; arguments and grid are as the caller promises.
        unsafe {
            let block = (launch.block, 1, 1);
            result::launch_kernel(function, (x, y, z), block, launch.shared_bytes as u32, self.stream, &mut arguments)
        }
        .map_err(|error| Error::Launch { kernel, problem: error.to_string() })
    }

    fn begin_recording(&self) -> Result<()> {
        self.context.current()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(cuda)
    }

    fn end_recording(&self) -> Result<Box<dyn Any + Send>> {
        // SAFETY: the stream is alive; the recording was begun.
        let graph = unsafe { result::stream::end_capture(self.stream) }.map_err(cuda)?;
        // SAFETY: the graph was recorded just now, and is destroyed once.
        unsafe {
            let ready = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).map_err(cuda);
            result::graph::destroy(graph).map_err(cuda)?;
            Ok(Box::new(Recorded { context: Arc::clone(&self.context), stream: self.stream, graph: ready? }))
        }
    }

    unsafe fn replay(&self, recorded: &dyn Any) -> Result<()> {
        // On another stream, what is freed on this one might be in use.
        let recorded = recorded.downcast_ref::<Recorded>().filter(|of| of.stream == self.stream);
        let recorded = recorded.ok_or_else(|| Error::Cuda { problem: "the graph is of another stream".to_owned() })?;
        self.context.current()?;
        // SAFETY: graph and stream are alive and of one device; the memory is there, as the caller promises.
        unsafe { result::graph::launch(recorded.graph, self.stream) }.map_err(cuda)
    }

    fn mark(&self) -> Result<Box<dyn Any + Send>> {
        self.context.current()?;
        let event = Event::new(&self.context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        event.record(self)?;
        Ok(Box::new(event))
    }

    fn wait_for(&self, mark: &dyn Any) -> Result<()> {
        self.context.current()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: stream and event are alive; the driver keeps what it needs of the event.
        unsafe { result::stream::wait_event(self.stream, Event::of(mark)?.event, flags) }.map_err(cuda)
    }

    fn reach(&self, mark: &dyn Any) -> Result<()> {
        self.context.current()?;
        Event::of(mark)?.wait()
    }

    fn pinned(&self, n_bytes: usize) -> Result<*mut u8> {
        self.context.current()?;
        // SAFETY: the memory is freed by `free_pinned` alone.
        unsafe { result::malloc_host(n_bytes, 0) }.map(<*mut c_void>::cast).map_err(cuda)
    }

    unsafe fn free_pinned(&self, memory: *mut u8, _n_bytes: usize) {
        // SAFETY: as the caller promises; a failure has no remedy.
        let _ = self.context.current().map(|()| unsafe { result::free_host(memory.cast()) });
    }

    unsafe fn upload_pinned(&self, from: &[u8], address: u64) -> Result<()> {
        self.context.current()?;
        // SAFETY: as the caller promises.
        unsafe { result::memcpy_htod_async(address, from, self.stream) }.map_err(cuda)
    }

    unsafe fn download_pinned(&self, address: u64, to: *mut u8, n_bytes: usize) -> Result<()> {
        self.context.current()?;
        // SAFETY: as the caller promises.
        let to = unsafe { std::slice::from_raw_parts_mut(to, n_bytes) };
        // SAFETY: as the caller promises.
        unsafe { result::memcpy_dtoh_async(to, address, self.stream) }.map_err(cuda)
    }

    fn another_stream(&self) -> Result<Box<dyn Backend>> {
        Ok(Box::new(Self::on(Arc::clone(&self.context))?))
    }

    fn driver(&self) -> Option<&Driver> {
        Some(self)
    }
}

/// A point in a stream's work.
struct Event {
    event: sys::CUevent,
    /// It is nothing without its context, which may have nobody else.
    context: Arc<Context>,
}

// SAFETY: an event may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// One of the context, which is current.
    fn new(context: &Arc<Context>, flags: sys::CUevent_flags) -> Result<Self> {
        let event = result::event::create(flags).map_err(cuda)?;
        Ok(Self { event, context: Arc::clone(context) })
    }

    fn of(mark: &dyn Any) -> Result<&Self> {
        mark.downcast_ref().ok_or_else(|| Error::Cuda { problem: "the mark is of another device".to_owned() })
    }

    fn record(&self, driver: &Driver) -> Result<()> {
        // SAFETY: event and stream are alive.
        unsafe { result::event::record(self.event, driver.stream) }.map_err(cuda)
    }

    /// Returns when it has happened.
    fn wait(&self) -> Result<()> {
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.event) }.map_err(cuda)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this one's own. A failure has no remedy.
        let _ = self.context.current().map(|()| unsafe { result::event::destroy(self.event) });
    }
}

/// Launches that the driver asks for as one.
struct Recorded {
    context: Arc<Context>,
    /// The one that it was recorded on, which its memory keeps alive.
    stream: sys::CUstream,
    graph: sys::CUgraphExec,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Recorded {}

impl Drop for Recorded {
    fn drop(&mut self) {
        // SAFETY: the graph is this one's own. A failure has no remedy.
        let _ = self.context.current().map(|()| unsafe { result::graph::exec_destroy(self.graph) });
    }
}

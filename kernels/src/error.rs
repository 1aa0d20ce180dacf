//! What a kernel refuses.

/// The result of a kernel.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An argument that a kernel cannot work with, or a device that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice is not as long as the others require.
    #[error("{what}: expected length {expected}, found {found}")]
    Shape {
        /// The slice.
        what: &'static str,
        /// The length it should have.
        expected: usize,
        /// The length it has.
        found: usize,
    },
    /// Vectors without components.
    #[error("the dimension is zero")]
    ZeroDimension,
    /// A number that must be positive and finite.
    #[error("{what} must be positive and finite")]
    NotPositive {
        /// The number, or the difference.
        what: &'static str,
    },
    /// A row that is not there.
    #[error("row {row} of {n_rows}")]
    Row {
        /// The row that was asked for.
        row: usize,
        /// How many there are.
        n_rows: usize,
    },
    /// A score that has no place in an order.
    #[error("the score at index {index} is not a number")]
    NotANumber {
        /// Where it is.
        index: usize,
    },
    /// A device that the machine has not, or that is too old.
    #[error("no CUDA device: {problem}")]
    NoDevice {
        /// What is missing.
        problem: String,
    },
    /// A device's memory is full.
    #[error("the CUDA device has {free} bytes of memory free, and {needed} are needed")]
    DeviceMemory {
        /// How many bytes were asked for.
        needed: usize,
        /// How many were free.
        free: usize,
    },
    /// The pages of an arena are taken.
    #[error("{free} pages are free, and {needed} are needed")]
    Pages {
        /// How many pages were asked for.
        needed: usize,
        /// How many were free.
        free: usize,
    },
    /// A size that a device's kernels were not written for.
    #[error("kernels of CUDA devices do not serve this {what}: {found}")]
    Unsupported {
        /// What it is the size of.
        what: &'static str,
        /// The size.
        found: usize,
    },
    /// The run-time compiler of CUDA is not there.
    #[error(
        "libnvrtc is not found, which compiles kernels for the device: install the CUDA toolkit, or the Python package \
         nvidia-cuda-nvrtc-cu12 and put its folder `lib` into LD_LIBRARY_PATH"
    )]
    NoCompiler,
    /// Kernels that do not compile.
    #[error("the kernels of `{module}` do not compile: {log}")]
    Compile {
        /// The operation.
        module: &'static str,
        /// What the compiler said.
        log: String,
    },
    /// A kernel that could not be launched.
    #[error("the kernel `{kernel}` was not launched: {problem}")]
    Launch {
        /// The kernel.
        kernel: &'static str,
        /// What the driver said.
        problem: String,
    },
    /// The graphics driver answered with an error.
    #[error("the CUDA driver: {problem}")]
    Cuda {
        /// What it said.
        problem: String,
    },
}

//! Products of matrices by NVIDIA's library, cuBLASLt, where it is there.

use std::collections::HashMap;
use std::panic;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::{result, sys};

use super::driver::Driver;

/// What the library may use beside its operands; its documentation asks for as much on Hopper.
const WORKSPACE: usize = 32 << 20;
/// Shapes whose best algorithm is remembered.
const SHAPES: usize = 4096;
/// What the addresses of operands are multiples of.
const ALIGNMENT: u32 = 16;

/// `out = a · wᵀ`, with what may come before it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// Address of the rows, `[m, k]`.
    pub rows: u64,
    /// Address of the weights, `[n, k]`.
    pub weights: u64,
    /// Address of what is added to each row, `[n]`, of the result's type.
    pub bias: Option<u64>,
    /// Address of the result, `[m, n]`.
    pub out: u64,
    /// Rows, outputs and inputs.
    pub shape: [usize; 3],
    /// Whether rows and weights are of f16, and else of bf16.
    pub f16: bool,
    /// Whether the result is of `f32`, and else as they are.
    pub wide: bool,
    /// Whether the result is added to what is there.
    pub add: bool,
}

/// The library on one stream.
pub(crate) struct Library {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    /// None of shapes that it does not serve. The lock is held while a product is begun, too: what one leaves in the workspace
    /// between two of its launches is not for another.
    algorithms: Mutex<HashMap<Key, Option<sys::cublasLtMatmulAlgo_t>>>,
}

/// What an algorithm depends on: the shape, both types, whether the result is added, whether there is a bias.
type Key = ([usize; 3], [bool; 4]);

/// What the library says of shapes that it has nothing for.
const NOT_SERVED: result::CublasError = result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);

// SAFETY: the library's handle may be used from any thread; the map is behind a lock.
unsafe impl Send for Library {}
// SAFETY: as before.
unsafe impl Sync for Library {}

impl Library {
    /// The library, if it is found and works; `workspace` is the address of as many bytes as [`Library::WORKSPACE`].
    pub fn load(workspace: u64) -> Option<Self> {
        // SAFETY: loading the library runs only its own initialisation.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        // cudarc panics when a library lacks a function.
        let handle = panic::catch_unwind(result::create_handle).ok()?.ok()?;
        Some(Self { handle, workspace, algorithms: Mutex::default() })
    }

    pub const WORKSPACE: usize = WORKSPACE;

    /// Begins the product; `Err` when the library does not serve it, which then was not begun.
    ///
    /// # Safety
    ///
    /// The addresses are of living buffers of the driver's device that are as long as the shape says.
    pub unsafe fn product(&self, driver: &Driver, product: &Product) -> Result<(), result::CublasError> {
        let [m, n, k] = product.shape;
        let addresses = [product.rows, product.weights, product.out, product.bias.unwrap_or(0)];
        if addresses.iter().any(|address| !address.is_multiple_of(u64::from(ALIGNMENT))) {
            return Err(NOT_SERVED);
        }
        let narrow = if product.f16 { sys::cudaDataType_t::CUDA_R_16F } else { sys::cudaDataType_t::CUDA_R_16BF };
        let of_out = if product.wide { sys::cudaDataType_t::CUDA_R_32F } else { narrow };
        // The library counts by columns: a row-major [m, k] is its [k, m]. So it is asked for outᵀ = w · aᵀ.
        let weights = Layout::new(narrow, k, n)?;
        let rows = Layout::new(narrow, k, m)?;
        let out = Layout::new(of_out, n, m)?;
        let operation = Operation::new()?;
        operation.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, &1_i32)?;
        if let Some(bias) = product.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            operation.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            operation.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
            let of_bias = of_out as u32;
            operation.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &of_bias)?;
        }
        let key = (product.shape, [product.f16, product.wide, product.add, product.bias.is_some()]);
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        let algorithm = match algorithms.get(&key) {
            Some(&known) => known,
            None => {
                let preference = Preference::new()?;
                // SAFETY: all descriptions are alive.
                let found = unsafe {
                    result::get_matmul_algo_heuristic(
                        self.handle,
                        operation.0,
                        weights.0,
                        rows.0,
                        out.0,
                        out.0,
                        preference.0,
                    )
                };
                let found = match found {
                    Err(NOT_SERVED) => None,
                    found => Some(found?.algo),
                };
                if algorithms.len() >= SHAPES {
                    algorithms.clear();
                }
                algorithms.insert(key, found);
                found
            }
        };
        let algorithm = algorithm.ok_or(NOT_SERVED)?;
        let (one, beta) = (1_f32, if product.add { 1_f32 } else { 0.0 });
        // SAFETY: the descriptions are alive; the buffers are as long as they say, as the caller promises; the workspace
        // is of this stream alone.
        unsafe {
            result::matmul(
                self.handle,
                operation.0,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                product.weights as *const _,
                weights.0,
                product.rows as *const _,
                rows.0,
                product.out as *const _,
                out.0,
                product.out as *mut _,
                out.0,
                &raw const algorithm,
                self.workspace as *mut _,
                WORKSPACE,
                driver.stream().cast(),
            )
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is this one's own. A failure has no remedy.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(of: sys::cudaDataType_t, rows: usize, columns: usize) -> Result<Self, result::CublasError> {
        result::create_matrix_layout(of, rows as u64, columns as u64, rows as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: the description is this one's own. A failure has no remedy.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn new() -> Result<Self, result::CublasError> {
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        result::create_matmul_desc(sums, sys::cudaDataType_t::CUDA_R_32F).map(Self)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), result::CublasError> {
        // SAFETY: the description is alive; the value is of the attribute's type, as the callers above have it.
        unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: the description is this one's own. A failure has no remedy.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, result::CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;

        let this = Self(result::create_matmul_pref()?);
        this.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        for operand in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            this.set(operand, &ALIGNMENT)?;
        }
        Ok(this)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<(), result::CublasError> {
        // SAFETY: the description is alive; the value is of the attribute's type, as the callers above have it.
        unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: the description is this one's own. A failure has no remedy.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

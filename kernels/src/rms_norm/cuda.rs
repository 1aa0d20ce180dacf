//! On a device: one warp a row, with the addition that comes before it in a transformer.

use crate::Result;
use crate::device::cuda::row_norm::{row_norm, row_norm_kernels};
use crate::device::cuda::{Buffer, Module, Real};

pub(crate) static MODULE: Module = Module {
    name: "rms_norm",
    source: concat!(
        include_str!("../device/cuda/common.cuh"),
        include_str!("../device/cuda/row_norm.cuh"),
        include_str!("kernel.cu")
    ),
    kernels: row_norm_kernels!("rms_norm_f32", "rms_norm_f16"),
};

/// [`rms_norm`](crate::rms_norm) of `rows`, `[n, dim]`, into `out`.
///
/// # Errors
///
/// As [`rms_norm`](crate::rms_norm); [`Error::Unsupported`](crate::Error::Unsupported) for `bf16`.
pub fn rms_norm<T: Real>(rows: &Buffer<T>, scale: &Buffer<f32>, epsilon: f32, out: &mut Buffer<T>) -> Result<()> {
    row_norm(&MODULE, rows, None, scale, None, epsilon, None, out)
}

/// [`rms_norm_in_place`](crate::rms_norm_in_place) of `rows`, `[n, dim]`.
///
/// # Errors
///
/// As [`rms_norm`].
pub fn rms_norm_in_place<T: Real>(rows: &mut Buffer<T>, scale: &Buffer<f32>, epsilon: f32) -> Result<()> {
    row_norm(&MODULE, rows, None, scale, None, epsilon, None, rows)
}

/// Adds `addend` to `rows`, both `[n, dim]`, and writes what [`rms_norm`](crate::rms_norm) makes of the sum to `out`.
///
/// The sum is normalised before it is rounded to the type of the rows.
///
/// # Errors
///
/// As [`rms_norm`].
pub fn add_rms_norm<T: Real>(
    rows: &mut Buffer<T>,
    addend: &Buffer<T>,
    scale: &Buffer<f32>,
    epsilon: f32,
    out: &mut Buffer<T>,
) -> Result<()> {
    row_norm(&MODULE, rows, Some(addend), scale, None, epsilon, Some(rows), out)
}

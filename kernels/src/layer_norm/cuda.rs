//! On a device: one warp a row, with the addition that comes before it in a transformer.

use crate::Result;
use crate::device::cuda::row_norm::{row_norm, row_norm_kernels};
use crate::device::cuda::{Buffer, Module, Real};

pub(crate) static MODULE: Module = Module {
    name: "layer_norm",
    source: concat!(
        include_str!("../device/cuda/common.cuh"),
        include_str!("../device/cuda/row_norm.cuh"),
        include_str!("kernel.cu")
    ),
    kernels: row_norm_kernels!("layer_norm_f32", "layer_norm_f16", "layer_norm_f32_f16"),
};

/// [`layer_norm`](crate::layer_norm) of `rows`, `[n, dim]`, in place.
///
/// # Errors
///
/// As [`layer_norm`](crate::layer_norm); [`Error::Unsupported`](crate::Error::Unsupported) for `bf16`.
pub fn layer_norm<T: Real>(rows: &mut Buffer<T>, scale: &Buffer<f32>, shift: &Buffer<f32>, epsilon: f32) -> Result<()> {
    row_norm(&MODULE, rows, None, scale, Some(shift), epsilon, None, rows)
}

/// The same into `out`, for norms that stand before a map; also of `f32` to `f16`.
///
/// # Errors
///
/// As [`layer_norm`].
pub fn layer_norm_into<T: Real, U: Real>(
    rows: &Buffer<T>,
    scale: &Buffer<f32>,
    shift: &Buffer<f32>,
    epsilon: f32,
    out: &mut Buffer<U>,
) -> Result<()> {
    row_norm(&MODULE, rows, None, scale, Some(shift), epsilon, None, out)
}

/// [`add_layer_norm`](crate::add_layer_norm): `rows = layer_norm(rows + residual)`.
///
/// # Errors
///
/// As [`layer_norm`].
pub fn add_layer_norm<T: Real>(
    rows: &mut Buffer<T>,
    residual: &Buffer<T>,
    scale: &Buffer<f32>,
    shift: &Buffer<f32>,
    epsilon: f32,
) -> Result<()> {
    row_norm(&MODULE, rows, Some(residual), scale, Some(shift), epsilon, None, rows)
}

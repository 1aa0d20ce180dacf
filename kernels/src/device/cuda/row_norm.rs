//! The launch that both normalisations of rows share.

use super::{Argument, Buffer, Kernel, Launch, Module, Real, check_len, count};
use crate::{Error, Result};

/// The kernels of these names: of rows in `f32`, in `f16`, and of those in `f32` whose result is `f16`.
macro_rules! row_norm_kernels {
    ($($name:literal),*) => {
        &[$(
            $crate::device::cuda::Kernel { name: concat!($name, "_0"), most_registers: 64 },
            $crate::device::cuda::Kernel { name: concat!($name, "_8"), most_registers: 80 },
            $crate::device::cuda::Kernel { name: concat!($name, "_16"), most_registers: 128 },
        )*]
    };
}
pub(crate) use row_norm_kernels;

/// Rows of one block: a warp each.
const ROWS: usize = 8;

/// The kernel of those of `row_norm_kernels` that serves these types and this dimension: rows stay in registers, 128
/// columns a step, where they are whole steps of four columns and not too long.
fn kernel_of<T: Real, U: Real>(kernels: &'static [Kernel], dim: usize) -> Result<&'static str> {
    let by_length = match dim.div_ceil(128) {
        _ if !dim.is_multiple_of(4) => 0,
        0..=8 => 1,
        9..=16 => 2,
        _ => 0,
    };
    let by_type = match (T::SUFFIX, U::SUFFIX) {
        ("f32", "f32") => Some(0),
        ("f16", "f16") => Some(3),
        ("f32", "f16") => Some(6),
        _ => None,
    };
    let kernel = by_type.and_then(|by_type| kernels.get(by_type + by_length));
    let what = "pair of types of rows and what they are normalised to, the second of bits";
    kernel.map(|kernel| kernel.name).ok_or(Error::Unsupported { what, found: 8 * size_of::<U>() })
}

/// `out = norm(rows + residual)`, and the sum to `sums` where it is wanted.
#[expect(clippy::too_many_arguments, reason = "those of the kernel")]
pub(crate) fn row_norm<T: Real, U: Real>(
    module: &'static Module,
    rows: &Buffer<T>,
    residual: Option<&Buffer<T>>,
    scale: &Buffer<f32>,
    shift: Option<&Buffer<f32>>,
    epsilon: f32,
    sums: Option<&Buffer<T>>,
    out: &Buffer<U>,
) -> Result<()> {
    let dim = scale.len();
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    let kernel = kernel_of::<T, U>(module.kernels, dim)?;
    check_len("rows", rows.len(), rows.len().next_multiple_of(dim))?;
    check_len("out", out.len(), rows.len())?;
    for (what, buffer) in [("residual", residual), ("sums", sums)] {
        check_len(what, buffer.map_or(rows.len(), Buffer::len), rows.len())?;
    }
    check_len("shift", shift.map_or(dim, Buffer::len), dim)?;
    let n = rows.len() / dim;
    let launch = Launch { grid: [count("rows", n.div_ceil(ROWS))?, 1, 1], block: 32 * ROWS as u32, shared_bytes: 0 };
    let arguments = [
        rows.argument(),
        super::optional(residual),
        scale.argument(),
        super::optional(shift),
        Argument::F32(epsilon),
        Argument::U32(count("rows", n)?),
        Argument::U32(count("dim", dim)?),
        super::optional(sums),
        out.argument(),
    ];
    // SAFETY: the arguments are the kernel's, each buffer has `n` rows or one of `dim` numbers, and a layer's norm has a
    // shift by its signature.
    unsafe { rows.device().launch(module, kernel, launch, &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::F16;

    #[test]
    fn rows_in_registers_are_of_whole_steps_and_not_too_long() {
        let kernels: &'static [Kernel] = row_norm_kernels!("k_f32", "k_f16");
        for (dim, name) in [(1, "k_f32_0"), (4, "k_f32_8"), (1024, "k_f32_8"), (1028, "k_f32_16"), (2048, "k_f32_16")] {
            assert_eq!(kernel_of::<f32, f32>(kernels, dim), Ok(name), "{dim}");
        }
        assert_eq!(kernel_of::<f32, f32>(kernels, 2052), Ok("k_f32_0"));
        assert_eq!(kernel_of::<F16, F16>(kernels, 1023), Ok("k_f16_0"));
        assert!(kernel_of::<f32, F16>(kernels, 8).is_err() && kernel_of::<F16, f32>(kernels, 8).is_err());
    }
}

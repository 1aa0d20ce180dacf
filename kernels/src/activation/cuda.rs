//! On a device: one thread a number.

use crate::device::cuda::{Argument, Buffer, Kernel, Launch, Module, Real, check_len, count, optional};
use crate::{Activation, Error, Result};

pub(crate) static MODULE: Module = Module {
    name: "activation",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[
        Kernel { name: "activate_f32", most_registers: 40 },
        Kernel { name: "gated_f32", most_registers: 40 },
        Kernel { name: "activate_bf16", most_registers: 40 },
        Kernel { name: "gated_bf16", most_registers: 40 },
    ],
};

fn number(activation: Activation) -> Argument {
    Argument::U32(match activation {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
        Activation::Silu => 3,
    })
}

fn launch_of(n: usize) -> Result<Launch> {
    Ok(Launch { grid: [count("values", n.div_ceil(256))?, 1, 1], block: 256, shared_bytes: 0 })
}

/// `values[r, o] = activation(values[r, o] + bias[o])` in place, `[n, width]` with `width` that of `bias`.
///
/// # Errors
///
/// [`Error::Shape`] when `bias` does not divide the values; [`Error::Unsupported`] for `f16`.
pub fn activate<T: Real>(values: &mut Buffer<T>, bias: Option<&Buffer<f32>>, activation: Activation) -> Result<()> {
    let kernel = match T::SUFFIX {
        "f32" => "activate_f32",
        "bf16" => "activate_bf16",
        _ => return Err(Error::Unsupported { what: "width of numbers to activate, f16 of bits", found: 16 }),
    };
    let width = bias.map_or(1, Buffer::len);
    if width == 0 {
        return Err(Error::ZeroDimension);
    }
    check_len("values", values.len(), values.len().next_multiple_of(width))?;
    let arguments = [
        values.argument(),
        optional(bias),
        number(activation),
        Argument::U64(values.len() as u64),
        Argument::U32(count("width", width)?),
    ];
    // SAFETY: the arguments are the kernel's; threads past the last value do nothing, and a bias has `width` numbers.
    unsafe { values.device().launch(&MODULE, kernel, launch_of(values.len())?, &arguments) }
}

/// [`gated`](crate::gated): `out[i, d] = activation(gate_up[i, d]) · gate_up[i, dim + d]`.
///
/// # Errors
///
/// As [`gated`](crate::gated); [`Error::Unsupported`] for `f16`.
pub fn gated<T: Real>(gate_up: &Buffer<T>, dim: usize, activation: Activation, out: &mut Buffer<T>) -> Result<()> {
    let kernel = match T::SUFFIX {
        "f32" => "gated_f32",
        "bf16" => "gated_bf16",
        _ => return Err(Error::Unsupported { what: "width of numbers to activate, f16 of bits", found: 16 }),
    };
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    check_len("gate_up", gate_up.len(), gate_up.len().next_multiple_of(2 * dim))?;
    check_len("out", out.len(), gate_up.len() / 2)?;
    let arguments = [
        gate_up.argument(),
        number(activation),
        Argument::U64(out.len() as u64),
        Argument::U32(count("dim", dim)?),
        out.argument(),
    ];
    // SAFETY: the arguments are the kernel's; threads past the last output do nothing, and each reads a row of
    // `gate_up`, which is twice as long as one of `out`.
    unsafe { gate_up.device().launch(&MODULE, kernel, launch_of(out.len())?, &arguments) }
}

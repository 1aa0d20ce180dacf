//! On a device: one thread a number.

use crate::device::cuda::{Argument, Buffer, Kernel, Launch, Module, Real, check_len, count, optional};
use crate::{Activation, Error, Result};

pub(crate) static MODULE: Module = Module {
    name: "activation",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[
        Kernel { name: "activate_f32", most_registers: 40 },
        Kernel { name: "gated_f32", most_registers: 40 },
        Kernel { name: "activate_f16", most_registers: 40 },
        Kernel { name: "gated_f16", most_registers: 40 },
    ],
};

/// The kernel's number of what changes nothing.
const IDENTITY: Argument = Argument::U32(4);

/// The kernels' number of an activation.
pub(crate) fn number(activation: Activation) -> Argument {
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
    finish(values, bias, number(activation))
}

/// `values[r, o] += bias[o]`, `[n, width]` with `width` that of `bias`.
///
/// # Errors
///
/// As [`activate`].
pub fn add_bias<T: Real>(values: &mut Buffer<T>, bias: &Buffer<f32>) -> Result<()> {
    finish(values, Some(bias), IDENTITY)
}

fn finish<T: Real>(values: &mut Buffer<T>, bias: Option<&Buffer<f32>>, activation: Argument) -> Result<()> {
    let kernel = match T::SUFFIX {
        "f32" => "activate_f32",
        "f16" => "activate_f16",
        _ => return Err(Error::Unsupported { what: "width of numbers to activate, bf16 of bits", found: 16 }),
    };
    let width = bias.map_or(1, Buffer::len);
    if width == 0 {
        return Err(Error::ZeroDimension);
    }
    check_len("values", values.len(), values.len().next_multiple_of(width))?;
    let arguments = [
        values.argument(),
        optional(bias),
        activation,
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
    if dim == 0 {
        return Err(Error::ZeroDimension);
    }
    check_len("gate_up", gate_up.len(), gate_up.len().next_multiple_of(2 * dim))?;
    check_len("out", out.len(), gate_up.len() / 2)?;
    if out.is_empty() {
        return Ok(());
    }
    gate(gate_up.argument(), gate_up.argument_at(dim), (dim, 2 * dim), activation, out)
}

/// The same where gates and what they multiply are in buffers of their own: `out[i] = activation(gate[i]) · up[i]`.
///
/// # Errors
///
/// [`Error::Shape`] when the lengths differ; [`Error::Unsupported`] for `f16`.
pub fn gated_apart<T: Real>(
    gates: &Buffer<T>,
    up: &Buffer<T>,
    activation: Activation,
    out: &mut Buffer<T>,
) -> Result<()> {
    check_len("gates", gates.len(), out.len())?;
    check_len("up", up.len(), out.len())?;
    let dim = count("values", out.len())? as usize;
    gate(gates.argument(), up.argument(), (dim.max(1), dim), activation, out)
}

/// Launches the kernel over rows of `dim` numbers, from one to the next of which there are `stride`.
fn gate<T: Real>(
    gates: Argument,
    up: Argument,
    (dim, stride): (usize, usize),
    activation: Activation,
    out: &mut Buffer<T>,
) -> Result<()> {
    let kernel = match T::SUFFIX {
        "f32" => "gated_f32",
        "f16" => "gated_f16",
        _ => return Err(Error::Unsupported { what: "width of numbers to activate, bf16 of bits", found: 16 }),
    };
    let arguments = [
        gates,
        up,
        number(activation),
        Argument::U64(out.len() as u64),
        Argument::U32(count("dim", dim)?),
        Argument::U32(count("stride", stride)?),
        out.argument(),
    ];
    // SAFETY: the arguments are the kernel's; threads past the last output do nothing, and each reads a number of a row
    // of either, of which the callers have as many as of `out`.
    unsafe { out.device().launch(&MODULE, kernel, launch_of(out.len())?, &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::CudaDevice;

    #[test]
    fn gates_in_buffers_of_their_own_are_those_of_rows_side_by_side() {
        if let Some(device) = &CudaDevice::to_test() {
            let (gates, up) = ([-1.5_f32, 0.0, 2.0, 0.5, 3.0, -0.25], [2.0_f32, 3.0, -1.0, 4.0, 0.5, 8.0]);
            let rows: Vec<f32> = (0..2).flat_map(|r| [&gates[3 * r..][..3], &up[3 * r..][..3]].concat()).collect();
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let mut together = device.filled::<f32>(0xff, 6).unwrap();
                gated(&device.upload(&rows).unwrap(), 3, activation, &mut together).unwrap();
                let mut apart = device.filled::<f32>(0xff, 6).unwrap();
                gated_apart(&device.upload(&gates).unwrap(), &device.upload(&up).unwrap(), activation, &mut apart)
                    .unwrap();
                let mut want = [f32::NAN; 6];
                crate::gated(&rows, 3, activation, &mut want).unwrap();
                let (together, apart) = (together.download().unwrap(), apart.download().unwrap());
                assert_eq!(together, apart);
                assert!(apart.iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-5), "{apart:?}");
            }
            let mut none = device.filled::<f32>(0, 0).unwrap();
            gated_apart(&device.upload(&[]).unwrap(), &device.upload(&[]).unwrap(), Activation::Silu, &mut none)
                .unwrap();
            let (one, two) = (device.upload(&[1.0_f32]).unwrap(), device.upload(&[1.0_f32; 2]).unwrap());
            let mut out = device.filled::<f32>(0, 1).unwrap();
            assert!(gated_apart(&one, &two, Activation::Silu, &mut out).is_err());
        }
    }

    #[test]
    fn a_bias_is_added_to_each_row() {
        if let Some(device) = &CudaDevice::to_test() {
            let mut rows = device.upload(&[1.0_f32, 2.0, 3.0, 4.0]).unwrap();
            add_bias(&mut rows, &device.upload(&[0.5, -2.0]).unwrap()).unwrap();
            assert_eq!(rows.download().unwrap(), [1.5, 0.0, 3.5, 2.0]);
            assert!(add_bias(&mut rows, &device.upload(&[0.0; 3]).unwrap()).is_err());
        }
    }
}

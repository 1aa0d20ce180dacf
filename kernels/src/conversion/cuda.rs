//! On a device: one thread a number.

use crate::device::cuda::{Argument, Bf16, Buffer, Kernel, Launch, Module, Real, count};
use crate::{Error, Result};

pub(crate) static MODULE: Module = Module {
    name: "conversion",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[
        Kernel { name: "convert_f32_f16", most_registers: 24 },
        Kernel { name: "convert_f32_bf16", most_registers: 24 },
        Kernel { name: "convert_f16_f32", most_registers: 24 },
        Kernel { name: "split", most_registers: 24 },
    ],
};

fn launch_of(n: usize) -> Result<Launch> {
    Ok(Launch { grid: [count("numbers", n.div_ceil(256))?, 1, 1], block: 256, shared_bytes: 0 })
}

/// The nearest numbers of another width; those that are too large for `f16` become its largest.
///
/// # Errors
///
/// [`Error::Unsupported`] but from `f32` to half the width, and from `f16` to `f32`; [`Error::DeviceMemory`] when there is
/// not so much memory.
pub fn convert<A: Real, B: Real>(from: &Buffer<A>) -> Result<Buffer<B>> {
    let kernel = match (A::SUFFIX, B::SUFFIX) {
        ("f32", "f16") => "convert_f32_f16",
        ("f32", "bf16") => "convert_f32_bf16",
        ("f16", "f32") => "convert_f16_f32",
        _ => {
            return Err(Error::Unsupported {
                what: "pair of widths, the wanted one of bits",
                found: 8 * size_of::<B>(),
            });
        }
    };
    let to = from.device().allocate(from.len())?;
    let arguments = [from.argument(), Argument::U64(from.len() as u64), to.argument()];
    // SAFETY: the arguments are the kernel's; threads past the last number do nothing.
    unsafe { from.device().launch(&MODULE, kernel, launch_of(from.len())?, &arguments) }?;
    Ok(to)
}

/// Each number as the sum of three of bf16, which have all its bits but in the very small.
///
/// # Errors
///
/// [`Error::DeviceMemory`] when there is not so much memory.
pub fn split(from: &Buffer<f32>) -> Result<[Buffer<Bf16>; 3]> {
    let device = from.device();
    let part = || device.allocate::<Bf16>(from.len());
    let parts = [part()?, part()?, part()?];
    let [first, second, third] = &parts;
    let arguments =
        [from.argument(), Argument::U64(from.len() as u64), first.argument(), second.argument(), third.argument()];
    // SAFETY: the arguments are the kernel's; threads past the last number do nothing.
    unsafe { device.launch(&MODULE, "split", launch_of(from.len())?, &arguments) }?;
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::{CudaDevice, F16};

    const NUMBERS: [f32; 8] = [0.0, -0.0, 1.0, std::f32::consts::PI, -1e-3, 65504.0, 12_345.678, 2e-5];

    #[test]
    fn numbers_are_rounded_as_the_processor_rounds_them() {
        if let Some(device) = &CudaDevice::to_test() {
            let from = device.upload(&NUMBERS).unwrap();
            let halves: Buffer<F16> = convert(&from).unwrap();
            assert_eq!(halves.download().unwrap(), NUMBERS.map(F16::from_f32));
            let large = device.upload(&[7e4, -1e30, f32::INFINITY, f32::NAN]).unwrap();
            let ends = convert::<f32, F16>(&large).unwrap().download().unwrap();
            assert_eq!(ends[..3], [65504.0, -65504.0, 65504.0].map(F16::from_f32));
            assert!(ends[3].to_f32().is_nan());
            let narrow: Buffer<Bf16> = convert(&from).unwrap();
            assert_eq!(narrow.download().unwrap(), NUMBERS.map(Bf16::from_f32));
            let back: Buffer<f32> = convert(&halves).unwrap();
            assert_eq!(back.download().unwrap(), NUMBERS.map(|x| F16::from_f32(x).to_f32()));
            assert!(convert::<f32, F16>(&device.upload(&[]).unwrap()).unwrap().is_empty());
            assert!(matches!(convert::<Bf16, f32>(&narrow), Err(Error::Unsupported { .. })));
        }
    }

    #[test]
    fn three_narrow_numbers_are_a_wide_one() {
        if let Some(device) = &CudaDevice::to_test() {
            let parts = split(&device.upload(&NUMBERS).unwrap()).unwrap().map(|part| part.download().unwrap());
            for (i, x) in NUMBERS.into_iter().enumerate() {
                assert_eq!(parts[2][i].to_f32() + parts[1][i].to_f32() + parts[0][i].to_f32(), x);
            }
            assert!(split(&device.upload(&[]).unwrap()).unwrap()[0].is_empty());
        }
    }
}

//! On a device: weights in bf16 or f16, by NVIDIA's library where it is there, else by a kernel of our own.

use std::ops::Range;

use crate::activation::cuda::number;
use crate::device::cuda::{
    Argument, Buffer, CudaDevice, F16, Kernel, Launch, Module, Narrow, Product, Real, check_len, count,
};
use crate::{Error, Output, Result};

pub(crate) static MODULE: Module = Module {
    name: "matrix_product",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[
        Kernel { name: "product_bf16_f32", most_registers: 128 },
        Kernel { name: "product_f16", most_registers: 128 },
        Kernel { name: "product_f16_f32", most_registers: 128 },
    ],
};

/// Rows and outputs of one block.
const TILE: usize = 128;
/// Numbers that are copied at a time.
const CHUNK: usize = 8;

/// Weights of a linear layer on a device, in numbers that the matrix units multiply.
#[derive(Debug)]
pub struct DeviceMatrix<N: Narrow = F16> {
    weights: Buffer<N>,
    bias: Option<Bias<N>>,
    n_in: usize,
    n_out: usize,
}

/// A bias as our kernel adds it and as the library adds it to results in `f32`, and as it adds it to others.
#[derive(Debug)]
struct Bias<N> {
    wide: Buffer<f32>,
    narrow: Buffer<N>,
}

impl<N: Narrow> DeviceMatrix<N> {
    /// Rounds and uploads weights, `[n_out, n_in]`, and a bias, `[n_out]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit; [`Error::Unsupported`] when `n_in` is no multiple of 8;
    /// [`Error::ZeroDimension`] when it is 0.
    pub fn new(device: &CudaDevice, weights: &[f32], n_in: usize, n_out: usize, bias: Option<&[f32]>) -> Result<Self> {
        let rounded: Vec<N> = weights.iter().map(|&x| N::from_f32(x)).collect();
        let bias = bias.map(|bias| -> Result<Bias<N>> {
            check_len("bias", bias.len(), n_out)?;
            let rounded: Vec<N> = bias.iter().map(|&x| N::from_f32(x)).collect();
            Ok(Bias { wide: device.upload(bias)?, narrow: device.upload(&rounded)? })
        });
        let mut this = Self::from_buffer(device.upload(&rounded)?, n_in, n_out)?;
        this.bias = bias.transpose()?;
        Ok(this)
    }

    /// Takes weights that are on the device already, `[n_out, n_in]`.
    ///
    /// # Errors
    ///
    /// As [`DeviceMatrix::new`].
    pub fn from_buffer(weights: Buffer<N>, n_in: usize, n_out: usize) -> Result<Self> {
        if n_in == 0 {
            return Err(Error::ZeroDimension);
        }
        if !n_in.is_multiple_of(CHUNK) {
            return Err(Error::Unsupported { what: "number of inputs of a product", found: n_in });
        }
        check_len("weights", weights.len(), n_in * n_out)?;
        Ok(Self { weights, bias: None, n_in, n_out })
    }

    /// The weights, `[n_out, n_in]`.
    pub fn weights(&self) -> &Buffer<N> {
        &self.weights
    }

    /// The length of an input row.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// The number of outputs.
    pub fn n_out(&self) -> usize {
        self.n_out
    }
}

/// Multiplies rows, `[n, n_in]`, with weights and does with the sums what `output` says, as
/// [`bf16_product`](crate::bf16_product) does; `out` is `[n, n_out]`, or `[n, n_out / 2]` where it is gated.
///
/// Sums are `f32`. With [`Output::Gated`] they are rounded to the type of `out` before they meet.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::Unsupported`] when `out` is of bf16, or of another narrow
/// type than the weights.
pub fn matrix_product<N: Narrow, T: Real>(
    rows: &Buffer<N>,
    weights: &DeviceMatrix<N>,
    output: Output,
    out: &mut Buffer<T>,
) -> Result<()> {
    product_of_outputs(rows, weights, 0..weights.n_out, output, out)
}

/// [`matrix_product`] for some of the outputs only, of which `out` has as many columns.
pub(crate) fn product_of_outputs<N: Narrow, T: Real>(
    rows: &Buffer<N>,
    weights: &DeviceMatrix<N>,
    outputs: Range<usize>,
    output: Output,
    out: &mut Buffer<T>,
) -> Result<()> {
    let (n_in, n_out) = (weights.n_in, outputs.len());
    if outputs.end > weights.n_out {
        return Err(Error::Row { row: outputs.end, n_rows: weights.n_out });
    }
    check_len("rows", rows.len(), rows.len().next_multiple_of(n_in))?;
    let n = rows.len() / n_in;
    if let Output::Gated(activation) = output {
        check_len("gated outputs", n_out, n_out.next_multiple_of(2))?;
        check_len("out", out.len(), n * n_out / 2)?;
        let mut both = rows.device().allocate::<T>(n * n_out)?;
        product_of_outputs(rows, weights, outputs, Output::Replace, &mut both)?;
        return crate::activation::cuda::gated(&both, n_out / 2, activation, out);
    }
    check_len("out", out.len(), n * n_out)?;
    let kernel = match (N::SUFFIX, T::SUFFIX) {
        ("bf16", "f32") => "product_bf16_f32",
        ("f16", "f16") => "product_f16",
        ("f16", "f32") => "product_f16_f32",
        _ => {
            let what = "kind of narrow numbers that a product gives, of bits";
            return Err(Error::Unsupported { what, found: 8 * size_of::<T>() });
        }
    };
    if n == 0 || n_out == 0 {
        return Ok(());
    }
    // Our kernel adds the bias and activates itself; the library leaves an activation to a launch of its own, which adds
    // the bias unrounded and takes that of all outputs.
    let activates = matches!(output, Output::Activate(_));
    let wide = T::SUFFIX == "f32";
    let bias = weights.bias.as_ref().filter(|_| !activates).map(|bias| match wide {
        true => bias.wide.address_at(outputs.start),
        false => bias.narrow.address_at(outputs.start),
    });
    let product = Product {
        rows: rows.address_at(0),
        weights: weights.weights.address_at(outputs.start * n_in),
        bias,
        out: out.address_at(0),
        shape: [n, n_out, n_in],
        f16: N::SUFFIX == "f16",
        wide,
        add: output == Output::Add,
    };
    let all = n_out == weights.n_out;
    // SAFETY: the lengths of rows, weights, bias and result are those of the shape.
    if (all || !activates) && unsafe { rows.device().product_by_library(&product) } {
        return match output {
            Output::Activate(activation) => {
                let bias = weights.bias.as_ref().map(|bias| &bias.wide);
                crate::activation::cuda::activate(out, bias, activation)
            }
            _ => Ok(()),
        };
    }
    own_product(kernel, rows, weights, outputs, output, out)
}

fn own_product<N: Narrow, T: Real>(
    kernel: &'static str,
    rows: &Buffer<N>,
    weights: &DeviceMatrix<N>,
    outputs: Range<usize>,
    output: Output,
    out: &mut Buffer<T>,
) -> Result<()> {
    let n = rows.len() / weights.n_in;
    let (mode, kind) = match output {
        Output::Add => (1, Argument::U32(0)),
        Output::Activate(activation) => (2, number(activation)),
        Output::Replace | Output::Gated(_) => (0, Argument::U32(0)),
    };
    let launch = Launch {
        grid: [outputs.len().div_ceil(TILE) as u32, count("rows", n.div_ceil(TILE))?, 1],
        block: 256,
        shared_bytes: 3 * 2 * TILE * 32 * size_of::<N>(), // Three steps of 32 inputs, of rows and of weights.
    };
    let arguments = [
        rows.argument(),
        weights.weights.argument_at(outputs.start * weights.n_in),
        weights.bias.as_ref().map_or(Argument::Address(0), |bias| bias.wide.argument_at(outputs.start)),
        Argument::U32(mode),
        kind,
        Argument::U32(count("rows", n)?),
        Argument::U32(count("outputs", outputs.len())?),
        Argument::U32(count("inputs", weights.n_in)?),
        out.argument(),
    ];
    // SAFETY: the arguments are the kernel's, and the buffers have the lengths that they say.
    unsafe { rows.device().launch(&MODULE, kernel, launch, &arguments) }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::Activation;
    use crate::device::cuda::Bf16;

    const OUTPUTS: [Output; 6] = [
        Output::Replace,
        Output::Add,
        Output::Activate(Activation::Gelu),
        Output::Activate(Activation::GeluTanh),
        Output::Activate(Activation::Relu),
        Output::Activate(Activation::Silu),
    ];

    fn check<N: Narrow, T: Real>(
        device: &CudaDevice,
        [n, n_in, n_out]: [usize; 3],
        output: Output,
        biased: bool,
        roughness: f32,
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64((n + n_in + n_out) as u64);
        let mut random =
            |n: usize| -> Vec<f32> { (0..n).map(|_| N::from_f32(rng.random_range(-1.0..1.0)).to_f32()).collect() };
        let (rows, weights, bias, before) = (random(n * n_in), random(n_out * n_in), random(n_out), random(n * n_out));
        let bias = biased.then_some(&bias[..]);
        let gated = matches!(output, Output::Gated(_));
        let mut sums = vec![0.0_f32; n * n_out];
        for r in 0..n {
            for o in 0..n_out {
                let products = rows[r * n_in..][..n_in].iter().zip(&weights[o * n_in..][..n_in]);
                let sum: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                sums[r * n_out + o] = (sum + bias.map_or(0.0, |bias| f64::from(bias[o]))) as f32;
            }
        }
        let want = match output {
            Output::Replace => sums,
            Output::Add => sums.iter().zip(&before).map(|(x, y)| x + y).collect(),
            Output::Activate(activation) => {
                crate::activate(&mut sums, activation);
                sums
            }
            Output::Gated(activation) => {
                let mut out = vec![0.0; n * n_out / 2];
                crate::gated(&sums, n_out / 2, activation, &mut out).unwrap();
                out
            }
        };
        let matrix = DeviceMatrix::new(device, &weights, n_in, n_out, bias).unwrap();
        let rows: Vec<N> = rows.into_iter().map(N::from_f32).collect();
        let before: Vec<T> = before[..want.len()].iter().map(|&x| T::from_f32(x)).collect();
        let mut out = match output {
            Output::Add => device.upload(&before).unwrap(),
            _ => device.filled::<T>(0xff, if gated { n * n_out / 2 } else { n * n_out }).unwrap(),
        };
        matrix_product(&device.upload(&rows).unwrap(), &matrix, output, &mut out).unwrap();
        for (i, (got, want)) in out.download().unwrap().iter().zip(&want).enumerate() {
            let got = got.to_f32();
            let tolerance = roughness * (1.0 + want.abs()) * if gated { 3.0 } else { 1.0 };
            assert!((got - want).abs() <= tolerance, "{n}x{n_in}x{n_out}, {output:?}, {i}: {got} is not {want}");
        }
    }

    #[test]
    fn a_device_multiplies_as_the_plain_sum_does() {
        if let Some(device) = &CudaDevice::to_test() {
            for (i, &output) in OUTPUTS.iter().enumerate() {
                check::<Bf16, f32>(device, [5, 40, 7 + i], output, i % 2 == 0, 1e-4);
                check::<F16, f32>(device, [2, 24, 9 + i], output, i % 2 == 1, 1e-4);
                check::<F16, F16>(device, [4, 16, 6 + i], output, i % 2 == 0, 1e-3);
            }
            check::<F16, F16>(device, [130, 96, 133], Output::Replace, true, 1e-3);
            check::<Bf16, f32>(device, [130, 40, 133], Output::Replace, true, 1e-4);
            check::<Bf16, f32>(device, [1, 8, 1], Output::Replace, false, 1e-4);
            check::<Bf16, f32>(device, [0, 8, 1], Output::Replace, false, 1e-4);
            let gated = Output::Gated(Activation::Silu);
            check::<F16, F16>(device, [9, 32, 22], gated, false, 1e-3);
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        if let Some(device) = &CudaDevice::to_test() {
            assert!(matches!(
                DeviceMatrix::<Bf16>::new(device, &[0.0; 6], 6, 1, None),
                Err(Error::Unsupported { found: 6, .. })
            ));
            assert!(matches!(DeviceMatrix::<Bf16>::new(device, &[], 0, 1, None), Err(Error::ZeroDimension)));
            assert!(DeviceMatrix::<Bf16>::new(device, &[0.0; 8], 8, 2, None).is_err());
            assert!(DeviceMatrix::<F16>::new(device, &[0.0; 8], 8, 1, Some(&[0.0; 2])).is_err());
            let matrix = DeviceMatrix::<F16>::new(device, &[0.0; 8], 8, 1, None).unwrap();
            let rows = device.filled(0, 9).unwrap();
            let mut out = device.filled::<f32>(0, 1).unwrap();
            assert!(matches!(matrix_product(&rows, &matrix, Output::Replace, &mut out), Err(Error::Shape { .. })));
            let (rows, mut out) = (device.filled::<F16>(0, 8).unwrap(), device.filled::<Bf16>(0, 1).unwrap());
            let refused = matrix_product(&rows, &matrix, Output::Replace, &mut out);
            assert!(matches!(refused, Err(Error::Unsupported { found: 16, .. })));
        }
    }

    #[test]
    fn what_is_no_number_stays_by_every_activation() {
        if let Some(device) = &CudaDevice::to_test() {
            let rows: Vec<F16> = (0..16).map(|i| F16::from_f32(if i == 3 { f32::NAN } else { 0.5 })).collect();
            let rows = device.upload(&rows).unwrap();
            let matrix = DeviceMatrix::<F16>::new(device, &[1.0; 8], 8, 1, None).unwrap();
            for output in OUTPUTS {
                let mut out = device.filled::<f32>(0, 2).unwrap();
                matrix_product(&rows, &matrix, output, &mut out).unwrap();
                let out = out.download().unwrap();
                assert!(out[0].is_nan() && out[1].is_finite(), "{output:?}: {out:?}");
            }
            for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
                let mut values = device.upload(&[f32::NAN, -1.0]).unwrap();
                crate::cuda::activate(&mut values, None, activation).unwrap();
                let values = values.download().unwrap();
                assert!(values[0].is_nan() && values[1].is_finite(), "{activation:?}: {values:?}");
            }
        }
    }
}

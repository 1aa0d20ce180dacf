//! On a device in single precision: numbers are sums of bf16 ones, whose products the matrix units multiply exactly.

use crate::device::cuda::{Bf16, Buffer, CudaDevice, Real, check_len};
use crate::matrix_product::cuda::{DeviceMatrix, matrix_product};
use crate::{Output, Result};

/// Of how many bf16 numbers a wide one is the sum: 3 · 8 bits of 24.
const PARTS: usize = 3;

/// Weights of a linear layer on a device in single precision, as sums of bf16 matrices.
///
/// Weights that bf16 holds are one matrix, half floats two, others three.
#[derive(Debug)]
pub struct SplitMatrix {
    parts: Vec<DeviceMatrix<Bf16>>,
}

impl SplitMatrix {
    /// Uploads weights, `[n_out, n_in]`.
    ///
    /// # Errors
    ///
    /// As [`DeviceMatrix::new`].
    pub fn new(device: &CudaDevice, weights: &[f32], n_in: usize, n_out: usize) -> Result<Self> {
        check_len("weights", weights.len(), n_in.saturating_mul(n_out))?;
        let mut rest = weights.to_vec();
        let mut parts = Vec::with_capacity(PARTS);
        while parts.is_empty() || parts.len() < PARTS && rest.iter().any(|&x| x != 0.0) {
            let part: Vec<Bf16> = rest.iter().map(|&x| Bf16::from_f32(x)).collect();
            rest.iter_mut().zip(&part).for_each(|(rest, part)| *rest -= part.to_f32());
            parts.push(DeviceMatrix::from_buffer(device.upload(&part)?, n_in, n_out)?);
        }
        Ok(Self { parts })
    }

    /// The length of an input row.
    pub fn n_in(&self) -> usize {
        self.parts[0].n_in()
    }

    /// The number of outputs.
    pub fn n_out(&self) -> usize {
        self.parts[0].n_out()
    }
}

/// [`matrix_product`](crate::matrix_product) of rows, `[n, n_in]`, of which [`split`](crate::cuda::split) made these parts,
/// into `out`, `[n, n_out]`, as in single precision.
///
/// Products of parts that are too small to count are left out, which leaves six of nine, or three where the weights are one
/// matrix. The smallest are added up first.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) when a length does not fit.
pub fn split_product(rows: &[Buffer<Bf16>; PARTS], weights: &SplitMatrix, out: &mut Buffer<f32>) -> Result<()> {
    let mut output = Output::Replace;
    for order in (0..PARTS).rev() {
        for (weight, part) in weights.parts.iter().enumerate().take(order + 1) {
            matrix_product(&rows[order - weight], part, output, out)?;
            output = Output::Add;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::Error;
    use crate::conversion::cuda::split;
    use crate::device::cuda::F16;

    fn check(device: &CudaDevice, n: usize, n_in: usize, n_out: usize, round: fn(f32) -> f32, n_parts: usize) {
        let mut rng = ChaCha8Rng::seed_from_u64((n + n_in + n_out) as u64);
        let rows: Vec<f32> = (0..n * n_in).map(|_| rng.random_range(-1.0..1.0)).collect();
        let weights: Vec<f32> = (0..n_in * n_out).map(|_| round(rng.random_range(-1.0..1.0))).collect();
        let matrix = SplitMatrix::new(device, &weights, n_in, n_out).unwrap();
        assert_eq!((matrix.parts.len(), matrix.n_in(), matrix.n_out()), (n_parts, n_in, n_out));
        let mut out = device.filled::<f32>(0xff, n * n_out).unwrap();
        split_product(&split(&device.upload(&rows).unwrap()).unwrap(), &matrix, &mut out).unwrap();
        let out = out.download().unwrap();
        for r in 0..n {
            for o in 0..n_out {
                let products = rows[r * n_in..][..n_in].iter().zip(&weights[o * n_in..][..n_in]);
                let want: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let got = f64::from(out[r * n_out + o]);
                // bf16 alone is off by 1e-2 here.
                assert!((got - want).abs() <= 3e-7 * n_in as f64, "row {r}, output {o}: {got} is not {want}");
            }
        }
    }

    #[test]
    fn products_are_those_of_single_precision() {
        if let Some(device) = &CudaDevice::to_test() {
            check(device, 3, 40, 130, |x| x, 3);
            check(device, 2, 64, 5, |x| F16::from_f32(x).to_f32(), 2);
            check(device, 130, 16, 3, |x| Bf16::from_f32(x).to_f32(), 1);
            check(device, 0, 8, 3, |x| x, 3);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_no_numbers_stay_so() {
        if let Some(device) = &CudaDevice::to_test() {
            assert!(matches!(SplitMatrix::new(device, &[0.0; 9], 8, 1), Err(Error::Shape { .. })));
            assert!(matches!(SplitMatrix::new(device, &[0.0; 12], 12, 1), Err(Error::Unsupported { .. })));
            let mut weights = [1.0; 8];
            weights[3] = f32::NAN;
            let matrix = SplitMatrix::new(device, &weights, 8, 1).unwrap();
            let mut out = device.filled::<f32>(0, 1).unwrap();
            split_product(&split(&device.upload(&[1.0; 8]).unwrap()).unwrap(), &matrix, &mut out).unwrap();
            assert!(out.download().unwrap()[0].is_nan());
        }
    }
}

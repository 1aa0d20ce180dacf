//! On a device: the vocabulary passes by in tiles, so that the logits of all terms never stand in memory.

use crate::device::cuda::{Argument, Buffer, F16, Kernel, Launch, Module, PackedSequences, check_len, count};
use crate::matrix_product::cuda::{DeviceMatrix, product_of_outputs};
use crate::{Error, Output, Result};

pub(crate) static MODULE: Module = Module {
    name: "splade_pool",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[
        Kernel { name: "log_relu_max_f32", most_registers: 32 },
        Kernel { name: "count_positive", most_registers: 32 },
        Kernel { name: "take_positive", most_registers: 40 },
    ],
};

/// Logits that stand in memory at a time, 64 MiB of `f32`.
const LOGITS: usize = 16 << 20;

/// How many terms a tile has: as many as fit, in whole blocks of the product.
fn tile_terms(n_tokens: usize, n_terms: usize) -> usize {
    (LOGITS / n_tokens.max(1) / 128 * 128).clamp(128, n_terms.max(128))
}

/// The weights of a SPLADE model: `out[s, v] = max_t ln(1 + max(0, rows[t] · head[v] + bias[v]))` over the tokens `t` of
/// sequence `s`.
///
/// `rows` is `[n_tokens, n_in]`, what the model's transformation before the head gives; the result is
/// `[n_sequences, n_out]`.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit.
pub fn splade_head(rows: &Buffer<F16>, head: &DeviceMatrix, sequences: &PackedSequences) -> Result<Buffer<f32>> {
    let (n_tokens, n_terms) = (sequences.n_tokens(), head.n_out());
    check_len("rows", rows.len(), n_tokens * head.n_in())?;
    let device = rows.device();
    let out = device.filled::<f32>(0, sequences.n_sequences() * n_terms)?;
    if n_tokens == 0 || n_terms == 0 {
        return Ok(out);
    }
    let tile = tile_terms(n_tokens, n_terms);
    for first in (0..n_terms).step_by(tile) {
        let width = tile.min(n_terms - first);
        let mut logits = device.allocate::<f32>(n_tokens * width)?;
        product_of_outputs(rows, head, first..first + width, Output::Replace, &mut logits)?;
        let launch = Launch {
            grid: [width.div_ceil(128) as u32, count("sequences", sequences.n_sequences())?, 1],
            block: 128,
            shared_bytes: 0,
        };
        let arguments = [
            logits.argument(),
            sequences.ends().argument(),
            Argument::U32(width as u32),
            Argument::U32(first as u32),
            Argument::U32(count("terms", n_terms)?),
            out.argument(),
        ];
        // SAFETY: the arguments are the kernel's; the sequences' tokens are the rows of `logits`, and the tile's terms
        // are in `out`.
        unsafe { device.launch(&MODULE, "log_relu_max_f32", launch, &arguments) }?;
    }
    Ok(out)
}

/// The terms of each row of `weights`, `[n, n_terms]`, that weigh more than nothing, in ascending order, with their weights.
/// Nothing else leaves the device.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`]
/// when there are no terms.
pub fn positive_terms(weights: &Buffer<f32>, n_terms: usize) -> Result<Vec<Vec<(u32, f32)>>> {
    if n_terms == 0 {
        return Err(Error::ZeroDimension);
    }
    check_len("weights", weights.len(), weights.len().next_multiple_of(n_terms))?;
    let (device, n) = (weights.device(), weights.len() / n_terms);
    let launch = Launch { grid: [count("rows", n)?, 1, 1], block: 256, shared_bytes: 0 };
    let width = Argument::U32(count("terms", n_terms)?);
    let counts = device.allocate::<u32>(n)?;
    // SAFETY: the arguments are the kernel's: rows of this width, a block each, and a number for each.
    unsafe { device.launch(&MODULE, "count_positive", launch, &[weights.argument(), width, counts.argument()]) }?;
    let counts = counts.download()?;
    let mut n_taken = 0;
    let starts = counts.iter().map(|&n| {
        n_taken += n as usize;
        Ok(count("terms that weigh", n_taken)? - n)
    });
    let starts = device.upload(&starts.collect::<Result<Vec<u32>>>()?)?;
    let (terms, taken) = (device.allocate::<u32>(n_taken)?, device.allocate::<f32>(n_taken)?);
    let arguments = [weights.argument(), width, starts.argument(), terms.argument(), taken.argument()];
    // SAFETY: the arguments are the kernel's, and there is room for as many as were counted.
    unsafe { device.launch(&MODULE, "take_positive", launch, &arguments) }?;
    let mut pairs = terms.download()?.into_iter().zip(taken.download()?);
    Ok(counts.iter().map(|&n| pairs.by_ref().take(n as usize).collect()).collect())
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::device::cuda::{CudaDevice, Real};

    #[test]
    fn a_device_weighs_terms_as_the_processor_does() {
        if let Some(device) = &CudaDevice::to_test() {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let (n_in, n_terms, ends) = (16, 200, [3, 3, 10]);
            let mut random = |n: usize| -> Vec<f32> {
                (0..n).map(|_| F16::from_f32(rng.random_range(-1.0..1.0)).to_f32()).collect()
            };
            let (rows, weights, bias) = (random(10 * n_in), random(n_terms * n_in), random(n_terms));
            let narrow: Vec<F16> = rows.iter().map(|&x| F16::from_f32(x)).collect();
            let head = DeviceMatrix::new(device, &weights, n_in, n_terms, Some(&bias)).unwrap();
            let sequences = PackedSequences::new(device, &ends).unwrap();
            let got = splade_head(&device.upload(&narrow).unwrap(), &head, &sequences).unwrap().download().unwrap();
            let mut start = 0;
            for (s, end) in ends.into_iter().enumerate() {
                let logits: Vec<f32> = (start..end)
                    .flat_map(|t| (0..n_terms).map(move |v| (t, v)))
                    .map(|(t, v)| {
                        let products = rows[t * n_in..][..n_in].iter().zip(&weights[v * n_in..][..n_in]);
                        products.map(|(x, w)| x * w).sum::<f32>() + bias[v]
                    })
                    .collect();
                let mut want = vec![0.0; n_terms];
                crate::log_relu_max(&logits, n_terms, &mut want).unwrap();
                for (got, want) in got[s * n_terms..(s + 1) * n_terms].iter().zip(want) {
                    assert!((got - want).abs() <= 1e-5, "sequence {s}: {got} is not {want}");
                }
                start = end;
            }
        }
    }

    #[test]
    fn terms_that_weigh_are_taken_in_order() {
        if let Some(device) = &CudaDevice::to_test() {
            for n_terms in [1, 31, 256, 700] {
                let n = 3 * n_terms;
                // The first row has none, the last all; what is no number weighs nothing.
                let weight = |i: usize| match i / n_terms {
                    0 => [0.0, -1.0, f32::NAN][i % 3],
                    1 => (i % 5) as f32 - 2.0,
                    _ => 1.0 + i as f32,
                };
                let weights: Vec<f32> = (0..n).map(weight).collect();
                let want = weights.chunks(n_terms).map(|row| {
                    let pairs = (0..).zip(row.iter().copied());
                    pairs.filter(|(_, weight)| *weight > 0.0).collect::<Vec<(u32, f32)>>()
                });
                let want: Vec<_> = want.collect();
                assert_eq!(positive_terms(&device.upload(&weights).unwrap(), n_terms).unwrap(), want);
            }
            assert!(positive_terms(&device.upload(&[]).unwrap(), 7).unwrap().is_empty());
            let one = device.upload(&[1.0]).unwrap();
            assert!(matches!(positive_terms(&one, 0), Err(Error::ZeroDimension)));
            assert!(matches!(positive_terms(&one, 2), Err(Error::Shape { .. })));
        }
    }

    #[test]
    fn tiles_are_whole_blocks_within_the_memory() {
        assert_eq!(tile_terms(0, 30_522), 30_522);
        assert_eq!(tile_terms(32_768, 30_522), 512);
        assert_eq!(tile_terms(usize::MAX, 30_522), 128);
        assert_eq!(tile_terms(1, 5), 128);
    }
}

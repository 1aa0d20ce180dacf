//! The device's form against the processor's reference.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cpu;
use super::cuda::{Length, Pooled, RowNorm, norm_pool};
use crate::Error;
use crate::device::cuda::{Bf16, CudaDevice, F16, PackedSequences, Real};

fn normalised(rows: &[f32], dim: usize, norm: usize, scale: &[f32], shift: &[f32]) -> Vec<f32> {
    rows.chunks(dim)
        .flat_map(|row| match norm {
            0 => row.iter().map(|&x| f64::from(x)).collect(),
            1 => crate::layer_norm::reference(row, scale, shift, 1e-5),
            _ => crate::rms_norm::reference(row, scale, 1e-5),
        })
        .map(|x| x as f32)
        .collect()
}

fn pool(rows: &[f32], ends: &[usize], dim: usize, pooled: Pooled) -> Vec<f64> {
    if pooled == Pooled::Mean {
        return cpu::mean_pool(rows, ends, dim);
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts
        .zip(ends)
        .flat_map(|(start, &end)| match (start < end, pooled) {
            (false, _) => vec![0.0; dim],
            (true, Pooled::Last) => rows[(end - 1) * dim..][..dim].iter().map(|&x| f64::from(x)).collect(),
            (true, _) => rows[start * dim..][..dim].iter().map(|&x| f64::from(x)).collect(),
        })
        .collect()
}

fn check<T: Real>(device: &CudaDevice, dim: usize, ends: &[usize], seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = ends.last().copied().unwrap_or(0);
    let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-2.0..2.0)).collect() };
    let (rows, scale, shift) = (random(n * dim), random(dim), random(dim));
    let rows: Vec<T> = rows.into_iter().map(T::from_f32).collect();
    let rounded: Vec<f32> = rows.iter().map(|x| x.to_f32()).collect();
    let (device_scale, device_shift) = (device.upload(&scale).unwrap(), device.upload(&shift).unwrap());
    let norms = [
        RowNorm::None,
        RowNorm::Layer { scale: &device_scale, shift: &device_shift, epsilon: 1e-5 },
        RowNorm::Rms { scale: &device_scale, epsilon: 1e-5 },
    ];
    let sequences = PackedSequences::new(device, ends).unwrap();
    let rows = device.upload(&rows).unwrap();
    for (i, norm) in norms.into_iter().enumerate() {
        let normed = normalised(&rounded, dim, i, &scale, &shift);
        for (pooled, length) in [
            (Pooled::Mean, Length::Kept),
            (Pooled::Mean, Length::Unit),
            (Pooled::First, Length::Kept),
            (Pooled::First, Length::Unit),
            (Pooled::Last, Length::Kept),
        ] {
            let mut want = pool(&normed, ends, dim, pooled);
            for vector in want.chunks_mut(dim).filter(|_| length == Length::Unit) {
                let square: f64 = vector.iter().map(|x| x * x).sum();
                vector.iter_mut().filter(|_| square > 0.0).for_each(|x| *x /= square.sqrt());
            }
            let got = norm_pool(&rows, &sequences, dim, norm, pooled, length).unwrap().download().unwrap();
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                let is_near = (f64::from(*got) - want).abs() <= 1e-5;
                assert!(is_near, "dim {dim}, norm {i}, {pooled:?}, {length:?}: {got} is not {want}");
            }
        }
    }
}

#[test]
fn a_device_pools_as_the_reference_does() {
    if let Some(device) = &CudaDevice::to_test() {
        let ends: [&[usize]; 4] = [&[], &[1], &[9, 9, 10], &[3, 40]];
        for (i, dim) in [4, 32, 384, 516, 768, 1024, 1028, 2048].into_iter().enumerate() {
            check::<f32>(device, dim, ends[i % 4], i as u64);
            check::<F16>(device, dim, ends[(i + 1) % 4], 100 + i as u64);
        }
    }
}

#[test]
fn what_no_kernel_serves_is_refused() {
    if let Some(device) = &CudaDevice::to_test() {
        let sequences = PackedSequences::new(device, &[1]).unwrap();
        for dim in [6, 2052] {
            let rows = device.filled::<f32>(0, dim).unwrap();
            let refused = norm_pool(&rows, &sequences, dim, RowNorm::None, Pooled::Mean, Length::Kept);
            assert!(matches!(refused, Err(Error::Unsupported { found, .. }) if found == dim));
        }
        let rows = device.filled::<Bf16>(0, 4).unwrap();
        let refused = norm_pool(&rows, &sequences, 4, RowNorm::None, Pooled::Mean, Length::Kept);
        assert!(matches!(refused, Err(Error::Unsupported { .. })));
        let short = device.filled::<f32>(0, 3).unwrap();
        let refused = norm_pool(&short, &sequences, 4, RowNorm::None, Pooled::Mean, Length::Kept);
        assert!(matches!(refused, Err(Error::Shape { what: "rows", .. })));
        assert!(PackedSequences::new(device, &[2, 1]).is_err());
    }
}

//! The row-wise steps on a device, and the device's own promises.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{Activation, RotaryEmbedding, RotaryPairs, RotaryScaling, cuda};

fn random<T: Real>(rng: &mut ChaCha8Rng, n: usize) -> Vec<T> {
    (0..n).map(|_| T::from_f32(rng.random_range(-2.0..2.0))).collect()
}

fn widened<T: Real>(numbers: &[T]) -> Vec<f32> {
    numbers.iter().map(|x| x.to_f32()).collect()
}

/// A step of this type's smallest digit at about `x`.
fn tolerance<T: Real>(x: f64) -> f64 {
    let digits = match T::SUFFIX {
        "f32" => 17,
        "f16" => 10,
        _ => 7,
    };
    (x.abs() + 0.25) / f64::from(1 << digits)
}

#[track_caller]
fn check<T: Real>(got: &[T], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let (got, want) = (f64::from(got.to_f32()), f64::from(*want));
        assert!((got - want).abs() <= tolerance::<T>(want), "{what}, {i}: {got} is not {want}");
    }
}

fn check_norms<T: Real>(device: &CudaDevice, n: usize, dim: usize, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let rows = random::<T>(&mut rng, n * dim);
    let more = random::<T>(&mut rng, n * dim);
    let scale: Vec<f32> = random(&mut rng, dim);
    let shift: Vec<f32> = random(&mut rng, dim);
    let (d_more, d_scale, d_shift) =
        (device.upload(&more).unwrap(), device.upload(&scale).unwrap(), device.upload(&shift).unwrap());
    let what = format!("{} rows of {dim}, {}", n, T::SUFFIX);
    let sum: Vec<f32> = widened(&rows).iter().zip(&more).map(|(x, y)| x + y.to_f32()).collect();

    let mut got = device.upload(&rows).unwrap();
    cuda::layer_norm(&mut got, &d_scale, &d_shift, 1e-5).unwrap();
    let mut want = widened(&rows);
    crate::layer_norm(&mut want, &scale, &shift, 1e-5).unwrap();
    check(&got.download().unwrap(), &want, &what);
    let bits = |numbers: &[T]| widened(numbers).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let (before, mut apart) = (device.upload(&rows).unwrap(), device.filled::<T>(0xff, n * dim).unwrap());
    cuda::layer_norm_into(&before, &d_scale, &d_shift, 1e-5, &mut apart).unwrap();
    assert_eq!(bits(&apart.download().unwrap()), bits(&got.download().unwrap()), "{what}, apart");
    assert_eq!(bits(&before.download().unwrap()), bits(&rows), "{what}, apart");
    if T::SUFFIX == "f32" {
        let mut narrow = device.filled::<F16>(0xff, n * dim).unwrap();
        cuda::layer_norm_into(&before, &d_scale, &d_shift, 1e-5, &mut narrow).unwrap();
        check(&narrow.download().unwrap(), &want, &format!("{what}, to halves"));
    }

    let mut got = device.upload(&rows).unwrap();
    cuda::add_layer_norm(&mut got, &d_more, &d_scale, &d_shift, 1e-5).unwrap();
    let mut want = sum.clone();
    crate::layer_norm(&mut want, &scale, &shift, 1e-5).unwrap();
    check(&got.download().unwrap(), &want, &what);

    let mut sums = device.upload(&rows).unwrap();
    let mut got = device.filled::<T>(0xff, n * dim).unwrap();
    let mut want = vec![0.0; n * dim];
    cuda::rms_norm(&sums, &d_scale, 1e-5, &mut got).unwrap();
    crate::rms_norm(&widened(&rows), &scale, 1e-5, &mut want).unwrap();
    check(&got.download().unwrap(), &want, &what);
    let mut in_place = device.upload(&rows).unwrap();
    cuda::rms_norm_in_place(&mut in_place, &d_scale, 1e-5).unwrap();
    assert_eq!(bits(&in_place.download().unwrap()), bits(&got.download().unwrap()), "{what}, in place");
    cuda::add_rms_norm(&mut sums, &d_more, &d_scale, 1e-5, &mut got).unwrap();
    crate::rms_norm(&sum, &scale, 1e-5, &mut want).unwrap();
    check(&got.download().unwrap(), &want, &what);
    check(&sums.download().unwrap(), &sum, &what);
}

#[test]
fn a_device_normalises_as_the_processor_does() {
    if let Some(device) = &CudaDevice::to_test() {
        for (i, dim) in [1, 7, 32, 384, 1028, 2052].into_iter().enumerate() {
            let n = [9, 1, 17, 3, 2, 1][i];
            check_norms::<f32>(device, n, dim, i as u64);
            check_norms::<F16>(device, n, dim, 100 + i as u64);
        }
        check_norms::<f32>(device, 0, 8, 0);
    }
}

fn check_activations<T: Real>(device: &CudaDevice, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
        let (n, dim) = (5, 2 * 67);
        let rows = random::<T>(&mut rng, n * dim);
        let bias: Vec<f32> = random(&mut rng, dim);
        let mut want: Vec<f32> =
            widened(&rows).chunks(dim).flat_map(|r| r.iter().zip(&bias).map(|(x, b)| x + b)).collect();
        crate::activate(&mut want, activation);
        let mut got = device.upload(&rows).unwrap();
        cuda::activate(&mut got, Some(&device.upload(&bias).unwrap()), activation).unwrap();
        check(&got.download().unwrap(), &want, &format!("{activation:?}"));

        let mut want = widened(&rows);
        crate::activate(&mut want, activation);
        let mut got = device.upload(&rows).unwrap();
        cuda::activate(&mut got, None, activation).unwrap();
        check(&got.download().unwrap(), &want, &format!("{activation:?} without a bias"));

        let mut want = vec![0.0; n * dim / 2];
        crate::gated(&widened(&rows), dim / 2, activation, &mut want).unwrap();
        let mut got = device.filled::<T>(0xff, n * dim / 2).unwrap();
        cuda::gated(&device.upload(&rows).unwrap(), dim / 2, activation, &mut got).unwrap();
        check(&got.download().unwrap(), &want, &format!("{activation:?}, gated"));
    }
}

#[test]
fn a_device_activates_as_the_processor_does() {
    if let Some(device) = &CudaDevice::to_test() {
        check_activations::<f32>(device, 1);
        check_activations::<F16>(device, 2);
    }
}

fn check_rotation<T: Real>(device: &CudaDevice, pairs: RotaryPairs, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (dim, n_heads, stride, first) = (32, 3, 32 * 5 + 8, 32);
    let embedding = RotaryEmbedding::new(dim, 1e4, pairs, &RotaryScaling::None).unwrap();
    let turns = cuda::RotaryTurns::to_positions(device, &embedding, 100).unwrap();
    let positions = [0, 7, 99, 3];
    let rows = random::<T>(&mut rng, positions.len() * stride);
    let mut want = widened(&rows);
    embedding.rotate(&mut want[first..], stride, n_heads, &positions).unwrap();
    let mut got = device.upload(&rows).unwrap();
    let turn_of = device.upload(&positions).unwrap();
    cuda::rotate(&mut got, stride, first, n_heads, &turn_of, &turns).unwrap();
    check(&got.download().unwrap(), &want, &format!("{pairs:?}"));
    let turns = cuda::RotaryTurns::at(device, &embedding, &positions).unwrap();
    let mut got = device.upload(&rows).unwrap();
    cuda::rotate(&mut got, stride, first, n_heads, &device.upload(&[0, 1, 2, 3]).unwrap(), &turns).unwrap();
    check(&got.download().unwrap(), &want, &format!("{pairs:?}, by turns of the positions alone"));
    let turn_of = device.upload(&[100_u32]).unwrap();
    let mut row = device.upload(&rows[..stride]).unwrap();
    cuda::rotate(&mut row, stride, first, n_heads, &turn_of, &turns).unwrap();
    assert!(row.download().unwrap()[first..first + dim].iter().all(|x| x.to_f32().is_nan()), "no such turn");
}

#[test]
fn a_device_rotates_as_the_processor_does() {
    if let Some(device) = &CudaDevice::to_test() {
        for pairs in [RotaryPairs::Neighbours, RotaryPairs::Halves] {
            check_rotation::<f32>(device, pairs, 1);
            check_rotation::<Bf16>(device, pairs, 2);
            check_rotation::<F16>(device, pairs, 3);
        }
    }
}

/// Cached chunks go into scattered slots: the first moves on by 40, the second back by 3, the last stays.
fn check_placing<T: Real>(device: &CudaDevice, pairs: RotaryPairs, dim: usize, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (n_layers, n_kv_heads, n, n_pages) = (3, 2, 70, 3);
    let width = n_kv_heads * dim;
    let (token_stride, layer_stride) = (2 * width, n * 2 * width);
    let both = random::<T>(&mut rng, n_layers * layer_stride);
    let embedding = RotaryEmbedding::new(dim, 1e4, pairs, &RotaryScaling::None).unwrap();
    let deltas = [40, -3];
    let turns = cuda::RotaryTurns::by(device, &embedding, &deltas).unwrap();
    let turn_of: Vec<Option<u32>> = (0..n).map(|t| [Some(0), Some(1), None][t / 30]).collect();
    let slots: Vec<u32> = (0..n as u32).map(|t| (t * 11 + 5) % (n_pages as u32 * 64)).collect();
    let placement = cuda::Placement::new(device, &slots, &turn_of, n_pages).unwrap();
    let mut pages = KvPages::new(device, n_layers, n_pages, n_kv_heads, dim).unwrap();
    let kv = device.upload(&both).unwrap();
    let source =
        cuda::KvSource { keys: &kv, values: &kv, key_start: 0, value_start: width, token_stride, layer_stride };
    cuda::place(&source, &placement, &turns, &mut pages, 0..n_layers).unwrap();
    let (keys, values) = (pages.keys.download().unwrap(), pages.values.download().unwrap());
    for layer in 0..n_layers {
        for t in 0..n {
            let from = layer * layer_stride + t * token_stride;
            let mut want = widened(&both[from..from + width]);
            if let Some(turn) = turn_of[t] {
                embedding.shift(&mut want, n_kv_heads, deltas[turn as usize]).unwrap();
            }
            for head in 0..n_kv_heads {
                let (page, row) = (slots[t] as usize / 64, slots[t] as usize % 64);
                let at = (((layer * n_pages + page) * n_kv_heads + head) * 64 + row) * dim;
                let what = format!("{pairs:?}, layer {layer}, token {t}, head {head}");
                check(&keys[at..at + dim], &want[head * dim..(head + 1) * dim], &what);
                let value = &both[from + width + head * dim..][..dim];
                check(&values[at..at + dim], &widened(value), &what);
                if turn_of[t].is_none() && T::SUFFIX == "f16" {
                    let bits = |numbers: &[F16]| numbers.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
                    assert_eq!(bits(&keys[at..at + dim]), want[head * dim..(head + 1) * dim], "every bit");
                }
            }
        }
    }
    let filled = slots.len() * n_layers * width;
    assert_eq!(keys.iter().filter(|x| x.0 != 0).count(), filled, "nothing else is written");
}

#[test]
fn cached_keys_are_placed_and_turned_as_the_processor_turns_them() {
    if let Some(device) = &CudaDevice::to_test() {
        for pairs in [RotaryPairs::Neighbours, RotaryPairs::Halves] {
            check_placing::<F16>(device, pairs, 64, 1);
            check_placing::<Bf16>(device, pairs, 32, 2);
            check_placing::<f32>(device, pairs, 128, 3);
        }
    }
}

#[test]
fn placing_refuses_slots_and_layers_that_are_not_there() {
    if let Some(device) = &CudaDevice::to_test() {
        assert!(matches!(cuda::Placement::new(device, &[64], &[None], 1), Err(Error::Row { row: 64, .. })));
        assert!(cuda::Placement::new(device, &[0], &[], 1).is_err());
        let embedding = RotaryEmbedding::new(32, 1e4, RotaryPairs::Halves, &RotaryScaling::None).unwrap();
        let turns = cuda::RotaryTurns::by(device, &embedding, &[]).unwrap();
        let placement = cuda::Placement::new(device, &[0], &[None], 1).unwrap();
        let mut pages = KvPages::new(device, 1, 1, 1, 32).unwrap();
        let kv = device.filled::<F16>(0, 64).unwrap();
        let source = |start| cuda::KvSource {
            keys: &kv,
            values: &kv,
            key_start: 0,
            value_start: start,
            token_stride: 64,
            layer_stride: 64,
        };
        assert!(cuda::place(&source(32), &placement, &turns, &mut pages, 0..1).is_ok());
        assert!(matches!(cuda::place(&source(32), &placement, &turns, &mut pages, 0..2), Err(Error::Row { .. })));
        assert!(cuda::place(&source(40), &placement, &turns, &mut pages, 0..1).is_err(), "past the end");
        assert!(cuda::place(&source(31), &placement, &turns, &mut pages, 0..1).is_err(), "not aligned");
        assert!(matches!(KvPages::new(device, 1, 1, 1, 48), Err(Error::Unsupported { found: 48, .. })));
    }
}

#[test]
fn numbers_go_there_and_back() {
    if let Some(device) = &CudaDevice::to_test() {
        let mut buffer = device.upload(&[1.0_f32, 2.0, 3.0]).unwrap();
        buffer.write(1, &[5.0]).unwrap();
        assert_eq!(buffer.download().unwrap(), [1.0, 5.0, 3.0]);
        assert!(matches!(buffer.write(3, &[5.0]), Err(Error::Row { row: 4, n_rows: 3 })));
        let mut other = device.filled::<f32>(0xff, 5).unwrap();
        assert!(other.download().unwrap().iter().all(|x| x.is_nan()));
        other.copy_from(2, &buffer).unwrap();
        assert_eq!(other.download().unwrap()[2..], [1.0, 5.0, 3.0]);
        other.fill(0).unwrap();
        assert_eq!(other.download().unwrap(), [0.0; 5]);
        let empty = device.upload::<u8>(&[]).unwrap();
        assert!(empty.is_empty() && empty.download().unwrap().is_empty());
        let stream = device.another_stream().unwrap();
        let mut uploader = Uploader::new(&stream, 1000).unwrap();
        let numbers: Vec<u32> = (0..5000).collect();
        let mut long = stream.filled::<u32>(0, 5001).unwrap();
        uploader.upload(&numbers, &mut long, 1).unwrap();
        assert!(uploader.upload(&numbers, &mut long, 2).is_err());
        device.wait_for(&stream).unwrap();
        assert_eq!(long.download().unwrap()[1..], numbers);
        // By the stream's ring, several times around.
        let large: Vec<u32> = (0..100_000).collect();
        let uploaded: Vec<Buffer<u32>> = (0..30).map(|i| stream.upload(&large[i..]).unwrap()).collect();
        for (i, uploaded) in uploaded.iter().enumerate() {
            assert_eq!(uploaded.download().unwrap(), large[i..]);
        }
        assert!(matches!(
            device.upload::<u8>(&[]).and_then(|_| device.filled::<u64>(0, usize::MAX)),
            Err(Error::DeviceMemory { .. })
        ));
    }
}

#[test]
fn a_device_that_is_not_there_is_a_typed_error() {
    match CudaDevice::open(1000, None) {
        Err(Error::NoDevice { problem }) => println!("{problem}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn slots_are_copied_one_after_the_other_in_all_layers() {
    if let Some(device) = &CudaDevice::to_test() {
        let (n_layers, n_pages, n_kv_heads, dim) = (2, 3, 2, 32);
        let mut pages = KvPages::new(device, n_layers, n_pages, n_kv_heads, dim).unwrap();
        let numbers: Vec<F16> = (0..pages.keys.len()).map(|i| F16(i as u16)).collect();
        pages.keys.write(0, &numbers).unwrap();
        pages.values.write(0, &numbers.iter().map(|x| F16(!x.0)).collect::<Vec<_>>()).unwrap();
        let mut want = numbers;
        // The second pair reads what the first wrote.
        let pairs = [(130, 5), (5, 64), (7, 7), (191, 0)];
        for (from, to) in pairs {
            for block in want.chunks_exact_mut(n_pages * n_kv_heads * PAGE_TOKENS * dim) {
                for head in 0..n_kv_heads {
                    let at = |slot: usize| ((slot / 64 * n_kv_heads + head) * PAGE_TOKENS + slot % 64) * dim;
                    block.copy_within(at(from)..at(from) + dim, at(to));
                }
            }
        }
        cuda::copy_slots(&mut pages, &pairs.map(|(from, to)| (from as u32, to as u32))).unwrap();
        assert_eq!(pages.keys.download().unwrap(), want);
        assert!(pages.values.download().unwrap().iter().zip(&want).all(|(value, key)| value.0 == !key.0));
        let len = n_kv_heads * PAGE_TOKENS * dim;
        let [keys, values] = pages.download(1, 2).unwrap();
        assert_eq!(keys, want[5 * len..]);
        assert!(values.iter().zip(&keys).all(|(value, key)| value.0 == !key.0));
        assert!(pages.download(2, 0).is_err() && pages.download(0, 3).is_err());
        cuda::copy_slots(&mut pages, &[]).unwrap();
        assert!(matches!(cuda::copy_slots(&mut pages, &[(192, 0)]), Err(Error::Row { row: 192, n_rows: 192 })));
    }
}

#[test]
fn ranges_are_copied_between_buffers() {
    if let Some(device) = &CudaDevice::to_test() {
        let from = device.upload(&[1_u32, 2, 3, 4]).unwrap();
        let mut to = device.filled::<u32>(0, 3).unwrap();
        to.copy_range(1, &from, 2..4).unwrap();
        assert_eq!(to.download().unwrap(), [0, 3, 4]);
        assert!(to.copy_range(2, &from, 0..2).is_err() && to.copy_range(0, &from, 3..5).is_err());
        assert!(device.free_bytes().unwrap() > 0);
    }
}

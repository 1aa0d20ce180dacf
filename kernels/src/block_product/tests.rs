//! One body for every form and every format.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::activations::Activations;
use super::format::f16_to_f32;
use super::{BlockFormat, BlockMatrix, Store, block_product, block_product_add, cpu, dequantize_blocks, product};
use crate::Error;
use crate::device::CpuForm;

const QUANTISED: [BlockFormat; 8] = [
    BlockFormat::Q4_0,
    BlockFormat::Q4_1,
    BlockFormat::Q5_0,
    BlockFormat::Q5_1,
    BlockFormat::Q8_0,
    BlockFormat::Q4K,
    BlockFormat::Q5K,
    BlockFormat::Q6K,
];

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Blocks of any bits, with scales between 2^-7 and 2^-5.
fn blocks(rng: &mut ChaCha8Rng, format: BlockFormat, n: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..format.n_bytes(n).unwrap()).map(|_| rng.random()).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let mut half = |at: usize, sign: u16| {
            let half = sign | rng.random_range(0x2000..0x2800u16);
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        };
        match format {
            BlockFormat::Q6K => half(208, 0),
            BlockFormat::Q4_1 | BlockFormat::Q5_1 => (half(0, 0), half(2, 0x8000)).0,
            BlockFormat::Q4K | BlockFormat::Q5K => (half(0, 0), half(2, 0)).0,
            _ => half(0, 0),
        }
    }
    bytes
}

fn run(form: CpuForm, input: &[f32], weights: &BlockMatrix) -> Vec<f32> {
    let mut out = vec![f32::NAN; input.len() / weights.n_in() * weights.n_out()];
    product(form, input, weights, &mut out, Store::Overwrite).unwrap();
    out
}

/// Every form equals the reference, tightly with rounded activations and within 1.5 % without.
#[track_caller]
fn check(format: BlockFormat, n_rows: usize, n_out: usize, n_in: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64((n_rows * 1000 + n_out) as u64);
    let bytes = blocks(&mut rng, format, n_out * n_in);
    let mut weights = vec![0.0; n_out * n_in];
    dequantize_blocks(format, &bytes, &mut weights).unwrap();
    let matrix = BlockMatrix::new(format, &bytes, n_out, n_in).unwrap();
    let input = random(&mut rng, n_rows * n_in);
    let rounded = cpu::product(&cpu::round_activations(&input), &weights, n_in);
    let exact = cpu::product(&input, &weights, n_in);
    let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    for form in CpuForm::available() {
        let got = run(form, &input, &matrix);
        for r in 0..n_rows {
            let row = r * n_out..(r + 1) * n_out;
            for i in row.clone() {
                let sizes = norm(&input[r * n_in..][..n_in]) * norm(&weights[i % n_out * n_in..][..n_in]);
                let tolerance = 1e-6 * sizes + 1e-6;
                let got = f64::from(got[i]);
                assert!((got - rounded[i]).abs() <= tolerance, "{format:?} {form:?}: {got}, not {}", rounded[i]);
            }
            let (mut wrong, mut right) = (0.0, 0.0);
            for i in row {
                wrong += (f64::from(got[i]) - exact[i]).powi(2);
                right += exact[i].powi(2);
            }
            assert!(wrong.sqrt() <= 0.015 * right.sqrt(), "{format:?} {form:?}: {wrong} of {right}");
        }
    }
}

#[test]
fn every_form_equals_the_reference_in_every_format() {
    for format in QUANTISED {
        for (n_rows, n_out, n_in) in [(1, 40, 256), (7, 19, 512), (2, 64, 768)] {
            check(format, n_rows, n_out, n_in);
        }
    }
    for n_in in [96, 576, 1536] {
        check(BlockFormat::Q4_1, 3, 48, n_in);
        check(BlockFormat::Q8_0, 5, 33, n_in);
    }
}

#[test]
fn the_largest_integers_fit() {
    for (format, n) in [(BlockFormat::Q4_1, 15.0), (BlockFormat::Q8_0, -128.0), (BlockFormat::Q5_1, 31.0)] {
        let mut block = vec![0xff; format.block_bytes()];
        if format == BlockFormat::Q8_0 {
            block.fill(0x80);
        } else {
            block[2..4].fill(0); // the minimum
        }
        block[..2].copy_from_slice(&0x3c00u16.to_le_bytes()); // 1
        let matrix = BlockMatrix::new(format, &block, 1, 32).unwrap();
        for form in CpuForm::available() {
            for x in [1.0, -1.0] {
                let got = run(form, &[x; 32], &matrix)[0];
                assert!((got - 32.0 * n * x).abs() <= 0.01, "{format:?} {form:?}: {got}");
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch_or_the_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (n_rows, n_out, n_in) = (135, 56, 768);
    let input = random(&mut rng, n_rows * n_in);
    for format in QUANTISED {
        let matrix = BlockMatrix::new(format, &blocks(&mut rng, format, n_out * n_in), n_out, n_in).unwrap();
        for form in CpuForm::available() {
            let together = run(form, &input, &matrix);
            for r in [0, 1, 66, 127, 128, 131, 132, 133, 134] {
                let alone = run(form, &input[r * n_in..][..n_in], &matrix);
                assert_eq!(alone, together[r * n_out..][..n_out], "{format:?} {form:?}, row {r}");
            }
            for n_threads in [1, 2, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
                assert_eq!(pool.install(|| run(form, &input, &matrix)), together, "{format:?} {form:?}");
            }
        }
    }
}

#[test]
fn the_residual_is_added() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let matrix = BlockMatrix::new(BlockFormat::Q4_1, &blocks(&mut rng, BlockFormat::Q4_1, 20 * 64), 20, 64).unwrap();
    let input = random(&mut rng, 3 * 64);
    let (mut plain, mut added) = (vec![f32::NAN; 60], vec![1.5; 60]);
    block_product(&input, &matrix, &mut plain).unwrap();
    block_product_add(&input, &matrix, &mut added).unwrap();
    assert_eq!(added, plain.iter().map(|x| 1.5 + x).collect::<Vec<_>>());
}

#[test]
fn zeros_give_zero_and_what_is_not_a_number_shows_in_its_row() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for format in QUANTISED {
        let matrix = BlockMatrix::new(format, &blocks(&mut rng, format, 17 * 256), 17, 256).unwrap();
        for form in CpuForm::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut input = vec![0.0; 3 * 256];
                input[256 + 70] = bad;
                input[512] = 1e-41;
                let out = run(form, &input, &matrix);
                assert!(out[..17].iter().chain(&out[34..]).all(|&x| x == 0.0));
                assert!(out[17..34].iter().all(|x| x.is_nan()), "{format:?} {form:?} {bad}");
            }
        }
    }
}

#[track_caller]
fn check_block(format: BlockFormat, block: &[u8], expected: &[(usize, f32)]) {
    let mut out = vec![f32::NAN; format.block_len()];
    dequantize_blocks(format, block, &mut out).unwrap();
    for &(i, x) in expected {
        assert_eq!(out[i], x, "{format:?} at {i}");
    }
}

#[test]
fn blocks_are_read_as_the_format_says() {
    use BlockFormat::*;
    let two = [0x00, 0x40]; // 2 as a half
    let minus_one = [0x00, 0xbc];
    check_block(F32, &1.5f32.to_le_bytes(), &[(0, 1.5)]);
    check_block(F16, &minus_one, &[(0, -1.0)]);
    check_block(Bf16, &[0xc0, 0x3f], &[(0, 1.5)]);
    let mut nibbles = [0u8; 16];
    nibbles[3] = 0xa1;
    check_block(Q4_0, &[&two[..], &nibbles].concat(), &[(3, 2.0 * (1.0 - 8.0)), (19, 2.0 * (10.0 - 8.0)), (0, -16.0)]);
    check_block(Q4_1, &[&two[..], &minus_one, &nibbles].concat(), &[(3, 1.0), (19, 19.0), (31, -1.0)]);
    let high = (1u32 << 3 | 1 << 20).to_le_bytes();
    let five = [(3, 17.0), (19, 10.0), (20, 16.0), (0, 0.0)];
    check_block(Q5_0, &[&two[..], &high, &nibbles].concat(), &five.map(|(i, q)| (i, 2.0 * (q - 16.0))));
    check_block(Q5_1, &[&two[..], &minus_one, &high, &nibbles].concat(), &five.map(|(i, q)| (i, 2.0 * q - 1.0)));
    let mut bytes = [0u8; 32];
    (bytes[0], bytes[31]) = (0x80, 5);
    check_block(Q8_0, &[&two[..], &bytes].concat(), &[(0, -256.0), (31, 10.0)]);
    // Sub-block 1: sc 33, m 2; sub-block 6: sc 5 + 16 · 3, m 7 + 16 · 1.
    let mut scales = [0u8; 12];
    (scales[1], scales[5]) = (33, 2);
    (scales[10], scales[2], scales[6]) = (0x75, 3 << 6, 1 << 6);
    let mut quants = [0u8; 128];
    quants[4] = 0x90; // sub-block 1, at 4
    quants[3 * 32 + 9] = 0x0c; // sub-block 6, at 9
    let values = |q1: f32, q6: f32| [(36, 2.0 * 33.0 * q1 + 2.0), (192 + 9, 2.0 * 53.0 * q6 + 23.0)];
    check_block(Q4K, &[&two[..], &minus_one, &scales, &quants].concat(), &values(9.0, 12.0));
    let mut high = [0u8; 32];
    (high[4], high[9]) = (1 << 1, 1 << 6);
    check_block(Q5K, &[&two[..], &minus_one, &scales, &high, &quants].concat(), &values(25.0, 28.0));
    // Second half of 128, its third 32 (high nibbles of the first 32 bytes, bits 4 and 5), at 20: scale 8 + 4 + 1.
    let (mut low, mut high, mut scales) = ([0u8; 128], [0u8; 64], [0u8; 16]);
    (low[64 + 20], high[32 + 20], scales[13]) = (0x70, 2 << 4, 0xfd);
    let q6 = [(128 + 64 + 20, 2.0 * -3.0 * (7.0 + 32.0 - 32.0)), (128 + 64 + 21, 2.0 * -3.0 * -32.0)];
    check_block(Q6K, &[&low[..], &high, &scales, &two].concat(), &q6);
}

#[test]
fn halves_are_exact() {
    for (half, value) in [(0, 0.0), (1, 2f32.powi(-24)), (0x03ff, 1023.0 * 2f32.powi(-24)), (0x0400, 2f32.powi(-14))] {
        assert_eq!(f16_to_f32(half), value);
        assert_eq!(f16_to_f32(half | 0x8000).to_bits(), (-value).to_bits());
    }
    assert_eq!([0x7bff, 0x7c00, 0x3555].map(f16_to_f32), [65504.0, f32::INFINITY, 1365.0 / 4096.0]);
    assert!(f16_to_f32(0x7c01).is_nan());
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    use BlockFormat::*;
    assert_eq!(Q8_0.n_bytes(usize::MAX / 32 * 32), None);
    assert_eq!((F32.n_bytes(usize::MAX), Q4_1.n_bytes(33), Q6K.n_bytes(512)), (None, None, Some(420)));
    assert_eq!(BlockFormat::from_ggml_type(12), Some(Q4K));
    assert_eq!(BlockFormat::from_ggml_type(4), None);
    assert!(dequantize_blocks(Q4_0, &[0; 18], &mut [0.0; 31]).is_err());
    assert!(dequantize_blocks(Q4_0, &[0; 17], &mut [0.0; 32]).is_err());
    assert!(dequantize_blocks(Q4_0, &[], &mut []).is_ok());
    assert!(BlockMatrix::new(F16, &[0; 64], 1, 32).is_err());
    assert!(BlockMatrix::new(Q4_1, &[0; 60], 2, 48).is_err());
    assert!(BlockMatrix::new(Q4_1, &[0; 60], 2, 32).is_err());
    assert!(BlockMatrix::new(Q4_1, &[0; 60], usize::MAX, 32).is_err());
    assert_eq!(BlockMatrix::new(Q4_1, &[], 2, 0).err(), Some(Error::ZeroDimension));
    let none = BlockMatrix::new(Q8_0, &[], 0, 64).unwrap();
    assert_eq!(block_product(&[0.0; 128], &none, &mut []), Ok(()));
    let matrix = BlockMatrix::new(Q4_1, &[0; 60], 3, 32).unwrap();
    assert_eq!((matrix.n_out(), matrix.n_in(), matrix.n_bytes()), (3, 32, 320));
    assert_eq!(block_product(&[], &matrix, &mut []), Ok(()));
    assert!(matches!(block_product(&[0.0; 33], &matrix, &mut [0.0; 3]), Err(Error::Shape { what: "input", .. })));
    assert!(matches!(block_product(&[0.0; 32], &matrix, &mut [0.0; 4]), Err(Error::Shape { what: "out", .. })));
}

#[test]
fn every_form_rounds_activations_to_the_same_bits() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut input: Vec<f32> = (0..8 * 64).map(|_| rng.random_range(-3.0..3.0)).collect();
    input[64..128].fill(0.0);
    input[128..160].iter_mut().for_each(|x| *x *= 1e-38);
    input[160..192].iter_mut().for_each(|x| *x *= 1e37);
    input[192..224].fill(0.5); // 63.5 steps of 1/127, and no more
    input[192] = -0.5;
    input[224] = f32::MAX;
    let plain = Activations::new(CpuForm::Portable, &input, 64, false);
    for form in CpuForm::available() {
        let rounded = Activations::new(form, &input, 64, false);
        for row in 0..8 {
            let (got, want) = (rounded.row(row), plain.row(row));
            assert_eq!(got.quants, want.quants, "{form:?}");
            assert_eq!(got.scales, want.scales, "{form:?}");
            assert_eq!((got.sums, got.half_sums), (want.sums, want.half_sums), "{form:?}");
        }
    }
}

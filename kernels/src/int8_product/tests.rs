//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Int8Matrix, cpu, int8_product, product};
use crate::device::CpuForm;
use crate::matrix_product::Output;
use crate::{Error, PackedMatrix, matrix_product};

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Inputs and weights of one shape, with outliers.
fn operands(seed: u64, n_rows: usize, n_in: usize, n_out: usize) -> (Vec<f32>, Vec<f32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut input, mut weights) = (random(&mut rng, n_rows * n_in), random(&mut rng, n_out * n_in));
    for i in (0..input.len()).step_by(97) {
        input[i] = 5.0;
    }
    for i in (0..weights.len()).step_by(101) {
        weights[i] = -3.0;
    }
    (input, weights)
}

#[test]
fn every_form_equals_the_reference_with_the_same_rounding() {
    for (n_rows, n_in, n_out) in
        [(1, 1, 1), (1, 64, 16), (2, 100, 17), (3, 384, 40), (4, 65, 5), (7, 200, 33), (0, 3, 4)]
    {
        let (input, weights) = operands(1, n_rows, n_in, n_out);
        let packed = Int8Matrix::new(&weights, n_out, n_in).unwrap();
        for form in CpuForm::available() {
            let n_steps = if form >= CpuForm::Avx512Vnni { 255.0 } else { 127.0 };
            let expected = cpu::product(&input, &weights, n_out, n_in, n_steps);
            let mut out = vec![f32::NAN; n_rows * n_out];
            product(form, n_rows, &input, &packed, None, Output::Replace, &mut out);
            for (got, expected) in out.iter().zip(&expected) {
                assert!((f64::from(*got) - expected).abs() <= 1e-5 * n_in as f64, "{form:?} {n_rows}x{n_in}x{n_out}");
            }
        }
    }
}

#[test]
fn a_product_is_near_that_of_unrounded_numbers() {
    let (n_rows, n_in, n_out) = (8, 384, 64);
    let (input, weights) = operands(2, n_rows, n_in, n_out);
    let (mut exact, mut rounded) = (vec![0.0; n_rows * n_out], vec![0.0; n_rows * n_out]);
    let bias = vec![0.5; n_out];
    let packed = PackedMatrix::new(&weights, n_out, n_in).unwrap();
    matrix_product(&input, &packed, Some(&bias), Output::Replace, &mut exact).unwrap();
    let packed = Int8Matrix::new(&weights, n_out, n_in).unwrap();
    int8_product(&input, &packed, Some(&bias), Output::Replace, &mut rounded).unwrap();
    for (exact, rounded) in exact.chunks_exact(n_out).zip(rounded.chunks_exact(n_out)) {
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
        let error = squares(&mut exact.iter().zip(rounded).map(|(a, b)| a - b));
        assert!((error / squares(&mut exact.iter().copied())).sqrt() <= 0.025);
    }
}

#[test]
fn a_row_gives_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads() {
    let (n_rows, n_in, n_out) = (131, 577, 300);
    let (input, weights) = operands(3, n_rows, n_in, n_out);
    let packed = Int8Matrix::new(&weights, n_out, n_in).unwrap();
    for form in CpuForm::available() {
        let run = |input: &[f32], threads: usize| {
            let mut out = vec![0.0; input.len() / n_in * n_out];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| product(form, input.len() / n_in, input, &packed, None, Output::Replace, &mut out));
            out
        };
        let together = run(&input, 1);
        assert!(run(&input, 2) == together && run(&input, 4) == together, "{form:?}");
        for row in [0, 1, 127, 128, 130] {
            assert!(run(&input[row * n_in..][..n_in], 1) == together[row * n_out..][..n_out], "{form:?}");
        }
    }
}

#[test]
fn what_cannot_be_rounded_is_refused_and_zeros_stay() {
    assert_eq!(Int8Matrix::new(&[0.0, f32::NAN], 1, 2).err(), Some(Error::NotANumber { index: 1 }));
    assert!(matches!(Int8Matrix::new(&[0.0], 1, 2), Err(Error::Shape { .. })));
    let packed = Int8Matrix::new(&[0.0; 6], 2, 3).unwrap();
    let mut out = [1.0; 2];
    int8_product(&[0.0; 3], &packed, None, Output::Replace, &mut out).unwrap();
    assert_eq!(out, [0.0; 2]);
    int8_product(&[7.0; 3], &packed, Some(&[1.0, 2.0]), Output::Add, &mut out).unwrap();
    assert_eq!(out, [1.0, 2.0]);
}

#[cfg(target_arch = "x86_64")]
mod on_tiles {
    use super::super::{BLOCK, GROUP, Operands, TALL, amx, avx512_vnni, portable};
    use super::*;
    use crate::tiles::SoftwareTiles;

    /// The sums as the VNNI form makes them: exact in a block, then two fused operations.
    fn vnni_sums(n_rows: usize, operands: &Operands<'_>) -> Vec<f32> {
        let mut sums = vec![0.0f32; n_rows * GROUP];
        for (i, sum) in sums.iter_mut().enumerate() {
            let (r, o) = (i / GROUP, i % GROUP);
            for b in 0..operands.n_blocks {
                let code = |i: usize| i32::from(operands.rows[(r * operands.n_blocks + b) * BLOCK + i]);
                let weight =
                    |i: usize| i32::from(operands.weights[b * BLOCK * GROUP + (i / 4 * GROUP + o) * 4 + i % 4]);
                let product: i32 = (0..BLOCK).map(|i| code(i) * weight(i)).sum();
                let (step, least) = operands.steps[r * operands.n_blocks + b];
                *sum = least.mul_add(operands.weight_sums[b * GROUP + o], *sum);
                *sum = (product as f32).mul_add(step * operands.scales[b * GROUP + o], *sum);
            }
        }
        sums
    }

    #[test]
    fn tiles_of_any_height_equal_the_sums_of_vnni_to_the_bit() {
        for (n_rows, n_in) in [(1, 3), (8, 32), (15, 100), (16, 64), (17, 33), (32, 96), (41, 200), (48, 384)] {
            let (input, weights) = operands(4, n_rows, n_in, GROUP);
            let packed = Int8Matrix::new(&weights, GROUP, n_in).unwrap();
            let n_blocks = n_in.div_ceil(BLOCK);
            let (mut codes, mut steps) = (vec![0; n_rows * n_blocks * BLOCK], Vec::new());
            for (row, codes) in input.chunks(n_in).zip(codes.chunks_mut(n_blocks * BLOCK)) {
                let blocks = row.chunks(BLOCK).zip(codes.chunks_mut(BLOCK));
                steps.extend(blocks.map(|(block, codes)| portable::round(block, codes, 255.0)));
            }
            let operands = Operands {
                n_blocks,
                rows: &codes,
                steps: &steps,
                weights: &packed.codes,
                scales: &packed.scales,
                weight_sums: &packed.sums,
            };
            let mut sums = vec![f32::NAN; n_rows * GROUP];
            // SAFETY: tiles in software are there on any processor, and the operands are as long as they say.
            unsafe { amx::on_tiles::<SoftwareTiles>(n_rows, &operands, &mut sums) };
            assert!(sums == vnni_sums(n_rows, &operands), "{n_rows}x{n_in}");
            if std::arch::is_x86_feature_detected!("avx512vnni") {
                let mut place = [f32::NAN; TALL * GROUP];
                let height = n_rows.min(TALL);
                // SAFETY: the processor has the instructions; the operands have at least as many rows.
                unsafe { avx512_vnni::tile(height, &operands, &mut place) };
                assert!(place[..height * GROUP] == sums[..height * GROUP], "{n_rows}x{n_in}");
            }
        }
    }
}

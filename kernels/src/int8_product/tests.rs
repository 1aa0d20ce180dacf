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

//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{PackedMatrix, cpu, matrix_product, product};
use crate::device::CpuForm;
use crate::epilogue::{Epilogue, Output};
use crate::{Activation, Error, activation};

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (n_rows, n_in, n_out) in
        [(1, 1, 1), (1, 7, 100), (2, 48, 65), (3, 384, 16), (5, 9, 33), (13, 400, 47), (121, 20, 258), (0, 3, 4)]
    {
        let (input, weights) = (random(&mut rng, n_rows * n_in), random(&mut rng, n_out * n_in));
        let (bias, before) = (random(&mut rng, n_out), random(&mut rng, n_rows * n_out));
        let expected = cpu::product(&input, &weights, n_out, n_in);
        let packed = PackedMatrix::new(&weights, n_out, n_in).unwrap();
        for form in CpuForm::available() {
            for (output, with_bias) in
                [(Output::Replace, false), (Output::Add, false), (Output::Replace, true), (Output::Add, true)]
            {
                let mut out = before.clone();
                let epilogue = Epilogue { bias: with_bias.then_some(&bias), output };
                product(form, &input, &packed, epilogue, &mut out);
                for (i, (got, expected)) in out.iter().zip(&expected).enumerate() {
                    let mut expected = *expected;
                    expected += if with_bias { f64::from(bias[i % n_out]) } else { 0.0 };
                    expected += if output == Output::Add { f64::from(before[i]) } else { 0.0 };
                    let tolerance = 1e-6 * (n_in as f64 + 2.0);
                    assert!((f64::from(*got) - expected).abs() <= tolerance, "{form:?} {n_rows}x{n_in}x{n_out}");
                }
            }
        }
    }
}

#[test]
fn a_fused_activation_has_the_bits_of_one_that_follows() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    // One block of inputs and several; a last panel that is full and one that is not.
    for (n_rows, n_in, n_out) in [(1, 64, 32), (7, 384, 40), (70, 900, 17)] {
        let (input, weights) = (random(&mut rng, n_rows * n_in), random(&mut rng, n_out * n_in));
        let bias = random(&mut rng, n_out);
        let packed = PackedMatrix::new(&weights, n_out, n_in).unwrap();
        for form in CpuForm::available() {
            let run = |output| {
                let mut out = vec![f32::NAN; n_rows * n_out];
                product(form, &input, &packed, Epilogue { bias: Some(&bias), output }, &mut out);
                out
            };
            for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
                let mut apart = run(Output::Replace);
                activation::activate_by(form, &mut apart, activation);
                assert!(run(Output::Activate(activation)) == apart, "{form:?} {activation:?} {n_rows}x{n_in}x{n_out}");
            }
        }
    }
}

#[test]
fn a_fused_gate_has_the_bits_of_one_that_follows() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (n_rows, n_in, dim) in [(1, 64, 16), (2, 48, 80), (7, 384, 48), (70, 900, 112)] {
        let (input, weights) = (random(&mut rng, n_rows * n_in), random(&mut rng, 2 * dim * n_in));
        let bias = random(&mut rng, 2 * dim);
        let packed = PackedMatrix::new(&weights, 2 * dim, n_in).unwrap();
        for form in CpuForm::available() {
            let run = |output, width: usize| {
                let mut out = vec![f32::NAN; n_rows * width];
                product(form, &input, &packed, Epilogue { bias: Some(&bias), output }, &mut out);
                out
            };
            for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
                let mut apart = vec![f32::NAN; n_rows * dim];
                activation::gate_by(form, &run(Output::Replace, 2 * dim), dim, activation, &mut apart);
                assert!(run(Output::Gated(activation), dim) == apart, "{form:?} {activation:?} {n_rows}x{n_in}x{dim}");
            }
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (n_rows, n_in, n_out) = (131, 577, 300);
    let (input, weights) = (random(&mut rng, n_rows * n_in), random(&mut rng, n_out * n_in));
    let packed = PackedMatrix::new(&weights, n_out, n_in).unwrap();
    for form in CpuForm::available() {
        let run = |input: &[f32], threads: usize| {
            let mut out = vec![0.0; input.len() / n_in * n_out];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| product(form, input, &packed, Epilogue::default(), &mut out));
            out
        };
        let together = run(&input, 1);
        assert!(run(&input, 2) == together && run(&input, 4) == together, "{form:?}");
        for row in [0, 1, 5, 119, 120, 130] {
            let alone = run(&input[row * n_in..][..n_in], 1);
            assert!(alone == together[row * n_out..][..n_out], "{form:?}");
        }
        assert!(run(&input[..2 * n_in], 1) == together[..2 * n_out], "{form:?}");
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    assert_eq!(PackedMatrix::new(&[], 0, 1).err(), Some(Error::ZeroDimension));
    assert!(matches!(PackedMatrix::new(&[1.0; 5], 2, 3), Err(Error::Shape { what: "weights", .. })));
    let packed = PackedMatrix::new(&[1.0; 6], 2, 3).unwrap();
    let run = |n_in, bias: Option<&[f32]>, n_out| {
        let epilogue = Epilogue { bias, ..Epilogue::default() };
        matrix_product(&vec![0.0; n_in], &packed, epilogue, &mut vec![0.0; n_out])
    };
    assert_eq!(run(6, None, 4), Ok(()));
    assert!(matches!(run(5, None, 4), Err(Error::Shape { what: "input", .. })));
    assert!(matches!(run(6, Some(&[0.0]), 4), Err(Error::Shape { what: "bias", .. })));
    assert!(matches!(run(6, None, 5), Err(Error::Shape { what: "out", .. })));
    let gated = Epilogue { bias: None, output: Output::Gated(Activation::Silu) };
    let refused = matrix_product(&[0.0; 3], &packed, gated, &mut [0.0]);
    assert!(matches!(refused, Err(Error::Shape { what: "gated outputs", expected: 32, found: 2 })));
}

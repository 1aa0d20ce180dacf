//! One body for every form; that of AMX runs in software where the processor has none.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Bf16Matrix, Sink, bf16_product, cpu, product, round};
use crate::device::CpuForm;
use crate::epilogue::{Epilogue, Output};
use crate::parallel::Tiles;
use crate::{Activation, Error, PackedMatrix, activate, gated, matrix_product};

/// A form as it is, or its loops over tiles in software.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Here(CpuForm),
    #[cfg(target_arch = "x86_64")]
    SoftwareTiles,
}

impl Form {
    fn all() -> Vec<Self> {
        let mut forms: Vec<Self> = CpuForm::available().into_iter().map(Self::Here).collect();
        #[cfg(target_arch = "x86_64")]
        forms.push(Self::SoftwareTiles);
        forms
    }

    fn rounds_input(self) -> bool {
        match self {
            Self::Here(form) => matches!(form, CpuForm::Amx | CpuForm::Avx512Bf16),
            #[cfg(target_arch = "x86_64")]
            Self::SoftwareTiles => true,
        }
    }

    fn product(self, input: &[f32], weights: &Bf16Matrix, bias: Option<&[f32]>, output: Output, out: &mut [f32]) {
        match self {
            Self::Here(form) => product(form, input, weights, bias, output, out),
            #[cfg(target_arch = "x86_64")]
            Self::SoftwareTiles => {
                let sink = Sink { n_out: weights.n_out, bias, output, tiles: Tiles::new(out) };
                // SAFETY: tiles in software are there on any processor.
                unsafe { super::amx::product::<crate::tiles::SoftwareTiles>(input, weights, &sink) };
            }
        }
    }
}

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (n_rows, n_in, n_out) in [
        (1, 1, 1),
        (1, 7, 100),
        (2, 48, 65),
        (3, 384, 16),
        (5, 9, 33),
        (13, 515, 47),
        (17, 64, 32),
        (31, 33, 20),
        (48, 31, 48),
        (131, 20, 258),
        (0, 3, 4),
    ] {
        let (input, weights) = (random(&mut rng, n_rows * n_in), random(&mut rng, n_out * n_in));
        let (bias, before) = (random(&mut rng, n_out), random(&mut rng, n_rows * n_out));
        let packed = Bf16Matrix::new(&weights, n_out, n_in).unwrap();
        for form in Form::all() {
            let expected = cpu::product(&input, &weights, n_out, n_in, form.rounds_input());
            for (output, with_bias) in
                [(Output::Replace, false), (Output::Add, false), (Output::Replace, true), (Output::Add, true)]
            {
                let mut out = before.clone();
                form.product(&input, &packed, with_bias.then_some(&bias), output, &mut out);
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
fn a_row_gives_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (n_rows, n_in, n_out) = (131, 577, 300);
    let (input, weights) = (random(&mut rng, n_rows * n_in), random(&mut rng, n_out * n_in));
    let packed = Bf16Matrix::new(&weights, n_out, n_in).unwrap();
    for form in Form::all() {
        let run = |input: &[f32], threads: usize| {
            let mut out = vec![0.0; input.len() / n_in * n_out];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| form.product(input, &packed, None, Output::Replace, &mut out));
            out
        };
        let together = run(&input, 1);
        assert!(run(&input, 2) == together && run(&input, 4) == together, "{form:?}");
        for row in [0, 1, 5, 31, 32, 119, 120, 127, 128, 130] {
            let alone = run(&input[row * n_in..][..n_in], 1);
            assert!(alone == together[row * n_out..][..n_out], "{form:?}");
        }
        for n_rows in [2, 16, 17] {
            assert!(run(&input[..n_rows * n_in], 1) == together[..n_rows * n_out], "{form:?}");
        }
    }
}

#[test]
fn forms_that_keep_the_input_equal_the_product_with_the_weights_in_f32() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (n_rows, n_in, n_out) = (7, 300, 40);
    let bits: Vec<u16> = random(&mut rng, n_out * n_in).into_iter().map(round).collect();
    let wide: Vec<f32> = bits.iter().map(|bits| f32::from_bits(u32::from(*bits) << 16)).collect();
    let input = random(&mut rng, n_rows * n_in);
    let mut expected = vec![0.0; n_rows * n_out];
    let packed = PackedMatrix::new(&wide, n_out, n_in).unwrap();
    matrix_product(&input, &packed, Epilogue::default(), &mut expected).unwrap();
    for weights in [Bf16Matrix::from_bits(&bits, n_out, n_in), Bf16Matrix::new(&wide, n_out, n_in)] {
        let weights = weights.unwrap();
        assert!(2 * weights.n_bytes() <= packed.n_bytes() * 320 / 300 + 1);
        let form = CpuForm::best().min(CpuForm::Avx512Vnni);
        let mut out = vec![0.0; n_rows * n_out];
        product(form, &input, &weights, None, Output::Replace, &mut out);
        assert!(out.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5));
    }
}

#[test]
fn numbers_go_to_the_nearest_bf16_ties_to_even() {
    let bits = |x: f32| (x.to_bits() >> 16) as u16;
    assert_eq!(round(0.0), 0);
    assert_eq!(round(-0.0), 0x8000);
    assert_eq!(round(1.0 + 1.0 / 256.0), bits(1.0)); // between 1 and 1 + 1/128: to the even one
    assert_eq!(round(1.0 + 3.0 / 256.0), bits(1.0 + 2.0 / 128.0));
    assert_eq!(round(1.0 + 1.001 / 256.0), bits(1.0 + 1.0 / 128.0));
    assert_eq!(round(f32::MAX), bits(f32::INFINITY));
    assert_eq!(round(f32::NEG_INFINITY), bits(f32::NEG_INFINITY));
    assert_eq!(round(f32::from_bits(1)), 0);
    for nan in [0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0xffff_ffff] {
        assert!(f32::from_bits(u32::from(round(f32::from_bits(nan))) << 16).is_nan());
    }
    for x in random(&mut ChaCha8Rng::seed_from_u64(4), 1000) {
        assert_eq!(f64::from(f32::from_bits(u32::from(round(x)) << 16)), cpu::nearest(x));
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    assert_eq!(Bf16Matrix::new(&[], 0, 1).err(), Some(Error::ZeroDimension));
    assert!(matches!(Bf16Matrix::from_bits(&[1; 5], 2, 3), Err(Error::Shape { what: "weights", .. })));
    let packed = Bf16Matrix::new(&[1.0; 6], 2, 3).unwrap();
    let run = |n_in, bias: Option<&[f32]>, n_out| {
        bf16_product(&vec![0.0; n_in], &packed, Epilogue { bias, output: Output::Replace }, &mut vec![0.0; n_out])
    };
    assert_eq!(run(6, None, 4), Ok(()));
    assert!(matches!(run(5, None, 4), Err(Error::Shape { what: "input", .. })));
    assert!(matches!(run(6, Some(&[0.0]), 4), Err(Error::Shape { what: "bias", .. })));
    assert!(matches!(run(6, None, 5), Err(Error::Shape { what: "out", .. })));
}

#[test]
fn sums_are_activated_and_gated_as_the_separate_steps_do() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (n_rows, n_in, n_out) = (5, 40, 64);
    let (input, weights) = (random(&mut rng, n_rows * n_in), random(&mut rng, n_out * n_in));
    let bias = random(&mut rng, n_out);
    let packed = Bf16Matrix::new(&weights, n_out, n_in).unwrap();
    let run = |output, width| {
        let mut out = vec![0.0; n_rows * width];
        bf16_product(&input, &packed, Epilogue { bias: Some(&bias), output }, &mut out).unwrap();
        out
    };
    let sums = run(Output::Replace, n_out);
    let mut activated = sums.clone();
    activate(&mut activated, Activation::Gelu);
    assert!(run(Output::Activate(Activation::Gelu), n_out) == activated);
    let mut passed = vec![0.0; n_rows * n_out / 2];
    gated(&sums, n_out / 2, Activation::Silu, &mut passed).unwrap();
    assert!(run(Output::Gated(Activation::Silu), n_out / 2) == passed);
}

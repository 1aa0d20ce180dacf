//! One body for every form.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Int8Matrix, Int8Rows, cpu, int8_product, int8_product_rounded, product, rounded_product};
use crate::device::CpuForm;
use crate::epilogue::{Epilogue, Output};
use crate::{Activation, Error, PackedMatrix, activation, matrix_product};

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

fn rounded(form: CpuForm, rows: &[f32], n_in: usize) -> Int8Rows {
    let mut rounded = Int8Rows::default();
    rounded.round_by(form, rows, n_in);
    rounded
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
            product(form, &rounded(form, &input, n_in), &packed, Epilogue::default(), &mut out);
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
    let (mut exact, mut near) = (vec![0.0; n_rows * n_out], vec![0.0; n_rows * n_out]);
    let bias = vec![0.5; n_out];
    let packed = PackedMatrix::new(&weights, n_out, n_in).unwrap();
    let epilogue = Epilogue { bias: Some(&bias), output: Output::Replace };
    matrix_product(&input, &packed, epilogue, &mut exact).unwrap();
    let packed = Int8Matrix::new(&weights, n_out, n_in).unwrap();
    int8_product(&rounded(CpuForm::best(), &input, n_in), &packed, epilogue, &mut near).unwrap();
    for (exact, near) in exact.chunks_exact(n_out).zip(near.chunks_exact(n_out)) {
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
        let error = squares(&mut exact.iter().zip(near).map(|(a, b)| a - b));
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
            pool.install(|| product(form, &rounded(form, input, n_in), &packed, Epilogue::default(), &mut out));
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
fn a_rounded_result_has_the_bytes_of_a_result_that_is_rounded() {
    let mut out = Int8Rows::default();
    for (n_rows, n_in, n_out) in [(1, 64, 32), (7, 384, 100), (131, 65, 17), (5, 40, 49), (0, 40, 49)] {
        let (input, weights) = operands(4, n_rows, n_in, n_out);
        let bias: Vec<f32> = (0..n_out).map(|o| o as f32 / n_out as f32 - 0.5).collect();
        let packed = Int8Matrix::new(&weights, n_out, n_in).unwrap();
        for form in CpuForm::available() {
            let input = rounded(form, &input, n_in);
            for activation in [Activation::Gelu, Activation::Silu] {
                let mut apart = vec![f32::NAN; n_rows * n_out];
                let replace = Epilogue { bias: Some(&bias), output: Output::Replace };
                product(form, &input, &packed, replace, &mut apart);
                activation::activate_by(form, &mut apart, activation);
                let activate = Epilogue { bias: Some(&bias), output: Output::Activate(activation) };
                let mut fused = vec![f32::NAN; n_rows * n_out];
                product(form, &input, &packed, activate, &mut fused);
                assert!(fused == apart, "{form:?} {n_rows}x{n_in}x{n_out}");
                rounded_product(form, &input, &packed, activate, &mut out);
                assert!(out == rounded(form, &apart, n_out), "{form:?} {n_rows}x{n_in}x{n_out}");
            }
        }
    }
}

#[test]
fn a_fused_gate_has_the_bits_of_one_that_follows() {
    for (n_rows, n_in, dim) in [(1, 64, 16), (7, 384, 80), (131, 65, 32)] {
        let (input, weights) = operands(5, n_rows, n_in, 2 * dim);
        let bias: Vec<f32> = (0..2 * dim).map(|o| o as f32 / dim as f32 - 1.0).collect();
        let packed = Int8Matrix::new(&weights, 2 * dim, n_in).unwrap();
        for form in CpuForm::available() {
            let input = rounded(form, &input, n_in);
            let run = |output, width: usize| {
                let mut out = vec![f32::NAN; n_rows * width];
                product(form, &input, &packed, Epilogue { bias: Some(&bias), output }, &mut out);
                out
            };
            let mut apart = vec![f32::NAN; n_rows * dim];
            activation::gate_by(form, &run(Output::Replace, 2 * dim), dim, Activation::Silu, &mut apart);
            assert!(run(Output::Gated(Activation::Silu), dim) == apart, "{form:?} {n_rows}x{n_in}x{dim}");
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let packed = Int8Matrix::new(&[1.0; 6], 2, 3).unwrap();
    let mut rows = Int8Rows::default();
    assert_eq!(rows.round(&[], 0), Err(Error::ZeroDimension));
    assert!(matches!(rows.round(&[1.0; 5], 3), Err(Error::Shape { what: "rows", .. })));
    rows.round(&[1.0; 8], 4).unwrap();
    let mut out = Int8Rows::default();
    let refused = int8_product_rounded(&rows, &packed, None, None, &mut out);
    assert!(matches!(refused, Err(Error::Shape { what: "input", .. })));
    rows.round(&[1.0; 6], 3).unwrap();
    assert_eq!(int8_product_rounded(&rows, &packed, None, None, &mut out), Ok(()));
    assert_eq!(out.n_rows(), 2);
    let refused = int8_product(&rows, &packed, Epilogue::default(), &mut [0.0; 3]);
    assert!(matches!(refused, Err(Error::Shape { what: "out", .. })));
}

#[test]
fn what_cannot_be_rounded_is_refused_and_zeros_stay() {
    assert_eq!(Int8Matrix::new(&[0.0, f32::NAN], 1, 2).err(), Some(Error::NotANumber { index: 1 }));
    assert!(matches!(Int8Matrix::new(&[0.0], 1, 2), Err(Error::Shape { .. })));
    let packed = Int8Matrix::new(&[0.0; 6], 2, 3).unwrap();
    let mut out = [1.0; 2];
    let mut rows = Int8Rows::default();
    rows.round(&[0.0; 3], 3).unwrap();
    int8_product(&rows, &packed, Epilogue::default(), &mut out).unwrap();
    assert_eq!(out, [0.0; 2]);
    rows.round(&[7.0; 3], 3).unwrap();
    int8_product(&rows, &packed, Epilogue { bias: Some(&[1.0, 2.0]), output: Output::Add }, &mut out).unwrap();
    assert_eq!(out, [1.0, 2.0]);
}

#[cfg(target_arch = "x86_64")]
mod on_tiles {
    use super::super::{BLOCK, GROUP, Operands, TALL, amx, avx512_vnni, portable};
    use super::*;
    use crate::tiles::SoftwareTiles;

    /// The sums as the VNNI form makes them: exact in a block, then two fused operations. What no group has is left alone.
    fn vnni_sums(n_rows: usize, operands: &Operands<'_>) -> Vec<f32> {
        let mut sums = vec![UNWRITTEN; n_rows * BLOCK];
        for (i, sum) in sums.iter_mut().enumerate() {
            let (r, o) = (i / BLOCK, i % BLOCK);
            let Some(operands) = operands.groups().nth(o / GROUP) else { continue };
            let o = o % GROUP;
            *sum = 0.0;
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

    const UNWRITTEN: f32 = 1234.5;

    #[test]
    fn tiles_of_any_height_and_width_equal_the_sums_of_vnni_to_the_bit() {
        let heights =
            [(1, 3), (2, 32), (3, 64), (4, 65), (5, 128), (6, 70), (15, 100), (16, 64), (17, 33), (41, 200), (48, 384)];
        for ((n_rows, n_in), n_groups) in
            heights.into_iter().flat_map(|height| (1..=4).map(move |groups| (height, groups)))
        {
            let (input, weights) = operands(4, n_rows, n_in, n_groups * GROUP);
            let packed = Int8Matrix::new(&weights, n_groups * GROUP, n_in).unwrap();
            let n_blocks = n_in.div_ceil(BLOCK);
            let (mut codes, mut steps) = (vec![0; n_rows * n_blocks * BLOCK], Vec::new());
            for (row, codes) in input.chunks(n_in).zip(codes.chunks_mut(n_blocks * BLOCK)) {
                let blocks = row.chunks(BLOCK).zip(codes.chunks_mut(BLOCK));
                steps.extend(blocks.map(|(block, codes)| portable::round(block, codes, 255.0)));
            }
            let operands = Operands {
                n_blocks,
                n_groups,
                rows: &codes,
                steps: &steps,
                weights: &packed.codes,
                scales: &packed.scales,
                weight_sums: &packed.sums,
            };
            let mut sums = vec![UNWRITTEN; n_rows * BLOCK];
            // SAFETY: tiles in software are there on any processor, and the operands are as long as they say.
            unsafe { amx::on_tiles::<SoftwareTiles>(n_rows, &operands, &mut sums) };
            let expected = vnni_sums(n_rows, &operands);
            assert!(sums == expected, "{n_rows}x{n_in}, {n_groups} groups");
            if std::arch::is_x86_feature_detected!("avx512vnni") {
                let height = n_rows.min(TALL);
                let mut sums = vec![UNWRITTEN; height * BLOCK];
                // SAFETY: the processor has the instructions; the operands have at least as many rows.
                unsafe { avx512_vnni::tile(height, &operands, &mut sums) };
                assert!(sums == expected[..height * BLOCK], "{n_rows}x{n_in}, {n_groups} groups");
            }
        }
    }
}

//! Products with weights.

use std::hint::black_box;

use raglan_kernels::{
    Bf16Matrix, BlockFormat, BlockMatrix, Epilogue, Int8Matrix, Int8Rows, PackedMatrix, bf16_product, block_product,
    dequantize_blocks, int8_product, matrix_product,
};

use crate::{Bench, Work, hash, numbers, plain, sample};

/// Rows, inputs and outputs of the layers of small encoders and decoders; a row alone is bound by memory.
const SHAPES: [(usize, usize, usize); 6] =
    [(512, 384, 1152), (512, 384, 1536), (512, 1536, 384), (512, 576, 1536), (16, 384, 1536), (1, 576, 49152)];
/// A prefill and a step; blocks of 256 need a row that is a multiple of them.
const BLOCK_SHAPES: [(usize, usize, usize); 2] = [(512, 1536, 576), (1, 1536, 24576)];

const BLOCK_FORMATS: [(&str, BlockFormat); 6] = [
    ("block_product Q4_0", BlockFormat::Q4_0),
    ("block_product Q4_1", BlockFormat::Q4_1),
    ("block_product Q8_0", BlockFormat::Q8_0),
    ("block_product Q4_K", BlockFormat::Q4K),
    ("block_product Q5_K", BlockFormat::Q5K),
    ("block_product Q6_K", BlockFormat::Q6K),
];

/// What rounding weights and inputs to bytes may change, relative to the greatest output.
const ROUNDED: f64 = 0.02;

pub fn all(bench: &Bench) {
    for shape in SHAPES {
        f32_weights(bench, shape);
    }
    for shape in SHAPES {
        bf16_weights(bench, shape);
    }
    for shape in SHAPES {
        int8_weights(bench, shape);
    }
    for (operation, format) in BLOCK_FORMATS {
        for shape in BLOCK_SHAPES {
            block_weights(bench, operation, format, shape);
        }
    }
}

fn f32_weights(bench: &Bench, (n_rows, n_in, n_out): (usize, usize, usize)) {
    let Some(case) = bench.case("matrix_product f32", format!("{n_rows}×{n_in}×{n_out}")) else { return };
    let (input, weights) = (numbers(n_rows * n_in), numbers(n_out * n_in));
    let packed = PackedMatrix::new(&weights, n_out, n_in).expect("the lengths fit");
    let mut out = vec![0.0; n_rows * n_out];
    matrix_product(&input, &packed, Epilogue::default(), &mut out).expect("the lengths fit");
    let pairs = pairs(&input, n_in, n_out, &out, |o| weights[o * n_in..][..n_in].to_vec());
    let work = match n_rows {
        1 => Work::Bytes(packed.n_bytes() as f64),
        _ => Work::Flops((2 * n_rows * n_in * n_out) as f64),
    };
    case.run(work, 1e-6, pairs, || {
        matrix_product(&input, &packed, Epilogue::default(), black_box(&mut out)).expect("the lengths fit");
    });
}

fn bf16_weights(bench: &Bench, (n_rows, n_in, n_out): (usize, usize, usize)) {
    let Some(case) = bench.case("bf16_product", format!("{n_rows}×{n_in}×{n_out}")) else { return };
    let (input, weights) = (numbers(n_rows * n_in), numbers(n_out * n_in));
    let packed = Bf16Matrix::new(&weights, n_out, n_in).expect("the lengths fit");
    let mut out = vec![0.0; n_rows * n_out];
    bf16_product(&input, &packed, Epilogue::default(), &mut out).expect("the lengths fit");
    let pairs = pairs(&input, n_in, n_out, &out, |o| weights[o * n_in..][..n_in].to_vec());
    let work = match n_rows {
        1 => Work::Bytes(packed.n_bytes() as f64),
        _ => Work::Bf16Flops((2 * n_rows * n_in * n_out) as f64),
    };
    case.run(work, ROUNDED, pairs, || {
        bf16_product(&input, &packed, Epilogue::default(), black_box(&mut out)).expect("the lengths fit");
    });
}

fn int8_weights(bench: &Bench, (n_rows, n_in, n_out): (usize, usize, usize)) {
    let Some(case) = bench.case("int8_product", format!("{n_rows}×{n_in}×{n_out}")) else { return };
    let (input, weights) = (numbers(n_rows * n_in), numbers(n_out * n_in));
    let packed = Int8Matrix::new(&weights, n_out, n_in).expect("the weights are finite");
    let mut out = vec![0.0; n_rows * n_out];
    let mut rows = Int8Rows::default();
    rows.round(&input, n_in).expect("the lengths fit");
    int8_product(&rows, &packed, Epilogue::default(), &mut out).expect("the lengths fit");
    let pairs = pairs(&input, n_in, n_out, &out, |o| weights[o * n_in..][..n_in].to_vec());
    case.run(of_bytes(n_rows, n_in, n_out, packed.n_bytes()), ROUNDED, pairs, || {
        rows.round(&input, n_in).expect("the lengths fit");
        int8_product(&rows, &packed, Epilogue::default(), black_box(&mut out)).expect("the lengths fit");
    });
}

fn block_weights(bench: &Bench, operation: &str, format: BlockFormat, (n_rows, n_in, n_out): (usize, usize, usize)) {
    let Some(case) = bench.case(operation, format!("{n_rows}×{n_in}×{n_out}")) else { return };
    let input = numbers(n_rows * n_in);
    let bytes = blocks(format, n_out * n_in);
    let matrix = BlockMatrix::new(format, &bytes, n_out, n_in).expect("rows are whole blocks");
    let mut out = vec![0.0; n_rows * n_out];
    block_product(&input, &matrix, &mut out).expect("the lengths fit");
    let row_bytes = format.n_bytes(n_in).expect("rows are whole blocks");
    let pairs = pairs(&input, n_in, n_out, &out, |o| {
        let mut row = vec![0.0; n_in];
        dequantize_blocks(format, &bytes[o * row_bytes..][..row_bytes], &mut row).expect("rows are whole blocks");
        row
    });
    case.run(of_bytes(n_rows, n_in, n_out, matrix.n_bytes()), ROUNDED, pairs, || {
        block_product(&input, &matrix, black_box(&mut out)).expect("the lengths fit");
    });
}

fn of_bytes(n_rows: usize, n_in: usize, n_out: usize, n_bytes: usize) -> Work {
    if n_rows == 1 { Work::Bytes(n_bytes as f64) } else { Work::ByteOps((2 * n_rows * n_in * n_out) as f64) }
}

/// What is in `out` and what a plain loop gives, for a sample of rows and outputs; `weights(o)` is a row of them.
fn pairs(
    input: &[f32],
    n_in: usize,
    n_out: usize,
    out: &[f32],
    weights: impl Fn(usize) -> Vec<f32>,
) -> Vec<(f32, f64)> {
    let rows = sample(input.len() / n_in, 9);
    let of_output = |o: usize| {
        let weights = weights(o);
        rows.clone().map(move |r| (out[r * n_out + o], plain::dot(&input[r * n_in..][..n_in], &weights)))
    };
    sample(n_out, 200).flat_map(of_output).collect()
}

/// Blocks of any bits, with scales between 2⁻⁷ and 2⁻⁵.
fn blocks(format: BlockFormat, n: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..format.n_bytes(n).expect("whole blocks")).map(|i| hash(i) as u8).collect();
    for (i, block) in bytes.chunks_exact_mut(format.block_bytes()).enumerate() {
        let mut half = |at: usize, sign: u16| {
            let bits = sign | (0x2000 + hash(i + at) as u16 % 0x800);
            block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
        };
        match format {
            BlockFormat::Q6K => half(208, 0),
            BlockFormat::Q4_1 => {
                half(0, 0);
                half(2, 0x8000);
            }
            BlockFormat::Q4K | BlockFormat::Q5K => {
                half(0, 0);
                half(2, 0);
            }
            _ => half(0, 0),
        }
    }
    bytes
}

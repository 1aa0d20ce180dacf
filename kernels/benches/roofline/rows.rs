//! What a transformer does to each row between its products. Bytes are those that are read and written once.

use std::hint::black_box;

use raglan_kernels::{
    Activation, RotaryEmbedding, RotaryPairs, RotaryScaling, activate, add_layer_norm, gated, l2_normalize, layer_norm,
    mean_pool, rms_norm,
};

use crate::{Bench, Work, numbers, plain};

const FLOAT: usize = size_of::<f32>();

pub fn all(bench: &Bench) {
    norms(bench);
    gelu(bench);
    silu_gate(bench);
    for pairs in [RotaryPairs::Neighbours, RotaryPairs::Halves] {
        rotary(bench, pairs);
    }
    pool(bench);
}

fn norms(bench: &Bench) {
    let (n_rows, dim, epsilon) = (512, 384, 1e-12);
    let (input, scale, shift) = (numbers(n_rows * dim), numbers(dim), numbers(2 * dim).split_off(dim));
    let normal = |rows: &[f32]| -> Vec<f64> {
        let of_row = |row: &[f32]| {
            let (mean, variance) = plain::moments(row);
            let numbers = row.iter().zip(&scale).zip(&shift);
            let normal = |((x, scale), shift): ((&f32, &f32), &f32)| {
                (f64::from(*x) - mean) / (variance + f64::from(epsilon)).sqrt() * f64::from(*scale) + f64::from(*shift)
            };
            numbers.map(normal).collect::<Vec<f64>>()
        };
        rows.chunks_exact(dim).flat_map(of_row).collect()
    };
    if let Some(case) = bench.case("layer_norm", "512×384") {
        let mut rows = input.clone();
        layer_norm(&mut rows, &scale, &shift, epsilon).expect("the lengths fit");
        let pairs: Vec<_> = rows.iter().copied().zip(normal(&input)).collect();
        case.run(Work::Bytes((2 * n_rows * dim * FLOAT) as f64), 1e-5, pairs, || {
            layer_norm(black_box(&mut rows), &scale, &shift, epsilon).expect("the lengths fit");
        });
    }
    if let Some(case) = bench.case("add_layer_norm", "512×384") {
        let (mut rows, residual) = (input.clone(), numbers(2 * n_rows * dim).split_off(n_rows * dim));
        add_layer_norm(&mut rows, &residual, &scale, &shift, epsilon).expect("the lengths fit");
        let sums: Vec<f32> = input.iter().zip(&residual).map(|(x, y)| x + y).collect();
        let pairs: Vec<_> = rows.iter().copied().zip(normal(&sums)).collect();
        case.run(Work::Bytes((3 * n_rows * dim * FLOAT) as f64), 1e-5, pairs, || {
            add_layer_norm(black_box(&mut rows), &residual, &scale, &shift, epsilon).expect("the lengths fit");
        });
    }
    if let Some(case) = bench.case("rms_norm", "512×576") {
        let dim = 576;
        let (input, scale) = (numbers(n_rows * dim), numbers(dim));
        let mut out = vec![0.0; input.len()];
        rms_norm(&input, &scale, 1e-5, &mut out).expect("the lengths fit");
        let pairs: Vec<_> = (0..out.len())
            .map(|i| {
                let row = &input[i / dim * dim..][..dim];
                let square = plain::dot(row, row) / dim as f64 + f64::from(1e-5f32);
                (out[i], f64::from(input[i]) / square.sqrt() * f64::from(scale[i % dim]))
            })
            .collect();
        case.run(Work::Bytes((2 * input.len() * FLOAT) as f64), 1e-5, pairs, || {
            rms_norm(&input, &scale, 1e-5, black_box(&mut out)).expect("the lengths fit");
        });
    }
}

fn gelu(bench: &Bench) {
    let Some(case) = bench.case("activate GELU", "512×1536, with the copy") else { return };
    let input: Vec<f32> = numbers(512 * 1536).iter().map(|x| 4.0 * x).collect();
    let mut values = input.clone();
    activate(&mut values, Activation::Gelu);
    let pairs: Vec<_> = values.iter().copied().zip(input.iter().map(|x| plain::gelu(*x))).collect();
    case.run(Work::Bytes((2 * input.len() * FLOAT) as f64), 1e-6, pairs, || {
        // Turn after turn the numbers would become subnormal.
        values.copy_from_slice(&input);
        activate(black_box(&mut values), Activation::Gelu);
    });
}

fn silu_gate(bench: &Bench) {
    let Some(case) = bench.case("gated SiLU", "512×1536") else { return };
    let dim = 1536;
    let gate_up: Vec<f32> = numbers(512 * 2 * dim).iter().map(|x| 4.0 * x).collect();
    let mut out = vec![0.0; 512 * dim];
    gated(&gate_up, dim, Activation::Silu, &mut out).expect("the lengths fit");
    let want = gate_up.chunks_exact(2 * dim).flat_map(|row| {
        let (gate, up) = row.split_at(dim);
        gate.iter().zip(up).map(|(gate, up)| plain::silu(*gate) * f64::from(*up))
    });
    let pairs: Vec<_> = out.iter().copied().zip(want).collect();
    case.run(Work::Bytes((3 * out.len() * FLOAT) as f64), 1e-6, pairs, || {
        gated(&gate_up, dim, Activation::Silu, black_box(&mut out)).expect("the lengths fit");
    });
}

fn rotary(bench: &Bench, pairs: RotaryPairs) {
    let operation = match pairs {
        RotaryPairs::Neighbours => "rotary neighbours",
        RotaryPairs::Halves => "rotary halves",
    };
    let Some(case) = bench.case(operation, "512 tokens, 12 heads of 64") else { return };
    let (n_tokens, n_heads, dim) = (512, 12, 64);
    let embedding = RotaryEmbedding::new(dim, 10_000.0, pairs, &RotaryScaling::None).expect("the dimension is even");
    let positions: Vec<u32> = (0..n_tokens as u32).collect();
    let input = numbers(n_tokens * n_heads * dim);
    let mut rows = input.clone();
    embedding.rotate(&mut rows, n_heads * dim, n_heads, &positions).expect("the lengths fit");
    let of_component = |i: usize| {
        let (position, d) = ((i / (n_heads * dim)) as f64, i % dim);
        let (pair, second, other) = match pairs {
            RotaryPairs::Neighbours => (d / 2, d % 2 == 1, i ^ 1),
            RotaryPairs::Halves => (d % (dim / 2), d >= dim / 2, i ^ (dim / 2)),
        };
        let (sin, cos) = (position * embedding.frequencies()[pair]).sin_cos();
        let sin = if second { sin } else { -sin };
        (rows[i], f64::from(input[i]) * cos + f64::from(input[other]) * sin)
    };
    let checked: Vec<_> = (0..rows.len()).map(of_component).collect();
    case.run(Work::Bytes((2 * rows.len() * FLOAT) as f64), 1e-6, checked, || {
        embedding.rotate(black_box(&mut rows), n_heads * dim, n_heads, &positions).expect("the lengths fit");
    });
}

fn pool(bench: &Bench) {
    let Some(case) = bench.case("mean_pool, l2_normalize", "16 sequences of 256×384") else { return };
    let (n_sequences, n_tokens, dim) = (16, 256, 384);
    let rows = numbers(n_sequences * n_tokens * dim);
    let ends: Vec<usize> = (1..=n_sequences).map(|sequence| sequence * n_tokens).collect();
    let mut out = vec![0.0; n_sequences * dim];
    let run = |out: &mut [f32]| {
        mean_pool(&rows, &ends, dim, out).expect("the lengths fit");
        l2_normalize(out, dim).expect("the lengths fit");
    };
    run(&mut out);
    let mut want = vec![0.0; out.len()];
    for (sequence, want) in rows.chunks_exact(n_tokens * dim).zip(want.chunks_exact_mut(dim)) {
        for row in sequence.chunks_exact(dim) {
            want.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let length = want.iter().map(|x| x * x).sum::<f64>().sqrt();
        want.iter_mut().for_each(|x| *x /= length);
    }
    let pairs: Vec<_> = out.iter().copied().zip(want).collect();
    case.run(Work::Bytes((rows.len() * FLOAT) as f64), 1e-5, pairs, || run(black_box(&mut out)));
}

//! Attention.

use std::hint::black_box;

use raglan_kernels::{
    AttentionMask, AttentionShape, KvRun, KvSlice, QueryRows, attention_mass, bidirectional_attention,
    bidirectional_attention_bf16, causal_attention, merge_attention,
};

use crate::{Bench, Case, Work, hash, numbers, plain, sample};

/// Heads of the default decoder.
const DECODER: AttentionShape = AttentionShape { n_heads: 9, n_kv_heads: 3, head_dim: 64, scale: 0.125 };
/// What halves in sums of a few thousand may be off.
const TOLERANCE: f64 = 2e-5;
/// What rounding to bf16 may change.
const ROUNDED: f64 = 5e-3;

pub fn all(bench: &Bench) {
    for head_dim in [32, 64] {
        for n_tokens in [256, 512] {
            bidirectional(bench, ("bidirectional_attention", bidirectional_attention, TOLERANCE), head_dim, n_tokens);
            let bf16 = ("bidirectional_attention_bf16", bidirectional_attention_bf16 as _, ROUNDED);
            bidirectional(bench, bf16, head_dim, n_tokens);
        }
    }
    for n_tokens in [512, 2048] {
        let shape = format!("{n_tokens} tokens, 9/3 heads of 64");
        if let Some(case) = bench.case("causal_attention prefill", shape) {
            causal(&case, (0..n_tokens as u32).collect(), n_tokens);
        }
    }
    if let Some(case) = bench.case("causal_attention row subset", "307 of 2048 tokens, 9/3 heads of 64") {
        let chosen = (0..2048).filter(|&token| hash(token as usize) % 2048 < 307).collect();
        causal(&case, chosen, 2048);
    }
    decode(bench);
    mass(bench);
    merge(bench);
}

/// An attention by its name, and what it may be off.
type Bidirectional =
    (&'static str, fn(&AttentionShape, &[f32], &[usize], Option<usize>, &mut [f32]) -> raglan_kernels::Result<()>, f64);

fn bidirectional(bench: &Bench, (name, attend, tolerance): Bidirectional, head_dim: usize, n_tokens: usize) {
    let shape = format!("{n_tokens} tokens, 12 heads of {head_dim}");
    let Some(case) = bench.case(name, shape) else { return };
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (shape, width) = (AttentionShape { n_heads: 12, n_kv_heads: 12, head_dim, scale }, 12 * head_dim);
    let qkv = numbers(n_tokens * 3 * width);
    let mut out = vec![0.0; n_tokens * width];
    attend(&shape, &qkv, &[n_tokens], None, &mut out).expect("the lengths fit");
    let column = |start: usize| -> Vec<f32> {
        qkv.chunks_exact(3 * width).flat_map(|row| &row[start..start + head_dim]).copied().collect()
    };
    let pairs: Vec<_> = [0, 11]
        .into_iter()
        .flat_map(|head| {
            let (keys, values) = (column(width + head * head_dim), column(2 * width + head * head_dim));
            sample(n_tokens, 9)
                .flat_map(|token| {
                    let query = &qkv[token * 3 * width + head * head_dim..][..head_dim];
                    let want = plain::attention(query, &keys, &values, f64::from(scale));
                    out[token * width + head * head_dim..].iter().copied().zip(want).collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        })
        .collect();
    case.run(Work::Flops((4 * n_tokens * n_tokens * width) as f64), tolerance, pairs, || {
        attend(&shape, &qkv, &[n_tokens], None, black_box(&mut out)).expect("the lengths fit");
    });
}

/// Keys and values of the decoder, as they are cached.
struct Cache {
    keys: Vec<u16>,
    values: Vec<u16>,
    positions: Vec<u32>,
}

impl Cache {
    /// The numbers of layers differ by `seed`.
    fn new(n_keys: usize, seed: usize) -> Self {
        let n = n_keys * DECODER.n_kv_heads * DECODER.head_dim;
        Self { keys: halves(n, seed), values: halves(n, seed + n), positions: (0..n_keys as u32).collect() }
    }

    fn run(&self) -> KvRun<'_> {
        KvRun {
            keys: KvSlice::F16(&self.keys),
            values: KvSlice::F16(&self.values),
            positions: &self.positions,
            segments: None,
            log_weights: None,
        }
    }

    fn n_bytes(&self) -> usize {
        size_of_val(&self.keys[..]) + size_of_val(&self.values[..])
    }

    /// What a plain loop gives for a row that stands at `position`, head by head.
    fn attend(&self, row: &[f32], position: u32) -> Vec<f64> {
        let (dim, group) = (DECODER.head_dim, DECODER.n_heads / DECODER.n_kv_heads);
        let head_of = |numbers: &[u16], head: usize| -> Vec<f32> {
            let tokens = numbers.chunks_exact(DECODER.n_kv_heads * dim).take(position as usize + 1);
            tokens.flat_map(|token| token[head * dim..][..dim].iter().map(|bits| plain::half(*bits))).collect()
        };
        let mut out = Vec::new();
        for (head, queries) in row.chunks_exact(group * dim).enumerate() {
            let (keys, values) = (head_of(&self.keys, head), head_of(&self.values, head));
            for query in queries.chunks_exact(dim) {
                out.extend(plain::attention(query, &keys, &values, f64::from(DECODER.scale)));
            }
        }
        out
    }
}

/// Bits of halves between 1/16 and 2, of either sign.
fn halves(n: usize, seed: usize) -> Vec<u16> {
    (0..n).map(|i| hash(i + seed)).map(|bits| (bits >> 16) as u16 & 0x8000 | (0x2c00 + bits as u16 % 0x1400)).collect()
}

/// Rows at `positions` attend to the keys that stand before them.
fn causal(case: &Case, positions: Vec<u32>, n_keys: usize) {
    let cache = Cache::new(n_keys, 0);
    let width = DECODER.n_heads * DECODER.head_dim;
    let rows = numbers(positions.len() * width);
    let queries = QueryRows { rows: &rows, positions: &positions, segments: None };
    let (runs, mask) = ([cache.run()], AttentionMask::default());
    let mut out = vec![0.0; rows.len()];
    causal_attention(&DECODER, &queries, &runs, &mask, &mut out, None).expect("the lengths fit");
    let pairs: Vec<_> = sample(positions.len(), 9)
        .flat_map(|r| {
            let want = cache.attend(&rows[r * width..][..width], positions[r]);
            out[r * width..].iter().copied().zip(want).collect::<Vec<_>>()
        })
        .collect();
    let seen: f64 = positions.iter().map(|position| f64::from(position + 1)).sum();
    case.run(Work::Flops(4.0 * seen * width as f64), TOLERANCE, pairs, || {
        causal_attention(&DECODER, &queries, &runs, &mask, black_box(&mut out), None).expect("the lengths fit");
    });
}

/// One token of a model with thirty layers: each has a cache of its own, which together exceed the processor's.
fn decode(bench: &Bench) {
    const LAYERS: usize = 30;
    let shape = format!("{LAYERS} layers of 2048 keys f16, 9/3 heads of 64");
    let Some(case) = bench.case("causal_attention decode", shape) else { return };
    let caches: Vec<Cache> = (0..LAYERS).map(|layer| Cache::new(2048, layer)).collect();
    let row = numbers(DECODER.n_heads * DECODER.head_dim);
    let queries = QueryRows { rows: &row, positions: &[2047], segments: None };
    let mut out = vec![0.0; row.len()];
    let mask = AttentionMask::default();
    causal_attention(&DECODER, &queries, &[caches[0].run()], &mask, &mut out, None).expect("the lengths fit");
    let pairs: Vec<_> = out.iter().copied().zip(caches[0].attend(&row, 2047)).collect();
    let bytes: usize = caches.iter().map(Cache::n_bytes).sum();
    case.run(Work::Bytes(bytes as f64), TOLERANCE, pairs, || {
        for cache in &caches {
            causal_attention(&DECODER, &queries, &[cache.run()], &mask, black_box(&mut out), None)
                .expect("the lengths fit");
        }
    });
}

/// What sixteen passages of 128 tokens receive from the last 32.
fn mass(bench: &Bench) {
    let Some(case) = bench.case("attention_mass", "32 rows, 2048 keys in 16 ranges, 9/3 heads of 64") else { return };
    let cache = Cache::new(2048, 0);
    let width = DECODER.n_heads * DECODER.head_dim;
    let positions: Vec<u32> = (2048..2080).collect();
    let rows = numbers(positions.len() * width);
    let queries = QueryRows { rows: &rows, positions: &positions, segments: None };
    let (runs, mask) = ([cache.run()], AttentionMask::default());
    let ranges: Vec<_> = (0..16).map(|i| i * 128..(i + 1) * 128).collect();
    let (mut out, mut lse) = (vec![0.0; rows.len()], vec![0.0; positions.len() * DECODER.n_heads]);
    causal_attention(&DECODER, &queries, &runs, &mask, &mut out, Some(&mut lse)).expect("the lengths fit");
    let mut mass = vec![0.0; DECODER.n_heads * ranges.len()];
    attention_mass(&DECODER, &queries, &runs, &mask, &lse, &ranges, &mut mass).expect("the lengths fit");
    let group_dim = DECODER.n_kv_heads * DECODER.head_dim;
    let mut want = vec![0.0; mass.len()];
    for row in rows.chunks_exact(width) {
        for (head, query) in row.chunks_exact(DECODER.head_dim).enumerate() {
            let kv_head = head * DECODER.n_kv_heads / DECODER.n_heads;
            let scores: Vec<f64> = cache
                .keys
                .chunks_exact(group_dim)
                .map(|token| {
                    let key = token[kv_head * DECODER.head_dim..][..DECODER.head_dim].iter();
                    let key: Vec<f32> = key.map(|bits| plain::half(*bits)).collect();
                    plain::dot(query, &key) * f64::from(DECODER.scale)
                })
                .collect();
            for (key, share) in plain::softmax(&scores).iter().enumerate() {
                want[head * ranges.len() + key / 128] += share;
            }
        }
    }
    let pairs: Vec<_> = mass.iter().copied().zip(want).collect();
    case.run(Work::Flops((2 * positions.len() * 2048 * width) as f64), TOLERANCE, pairs, || {
        attention_mass(&DECODER, &queries, &runs, &mask, &lse, &ranges, black_box(&mut mass)).expect("the lengths fit");
    });
}

fn merge(bench: &Bench) {
    const ROWS: usize = 512 * 9;
    let Some(case) = bench.case("merge_attention", "512 rows, 9 heads of 64") else { return };
    let dim = DECODER.head_dim;
    let (first, second) = (numbers(ROWS * dim), numbers(2 * ROWS * dim).split_off(ROWS * dim));
    let (first_lse, second_lse) = (numbers(ROWS), numbers(2 * ROWS).split_off(ROWS));
    let (mut out, mut lse) = (first.clone(), first_lse.clone());
    merge_attention(dim, &mut out, &mut lse, &second, &second_lse).expect("the lengths fit");
    let pairs: Vec<_> = (0..ROWS * dim)
        .map(|i| {
            let (a, b) = (f64::from(first_lse[i / dim]).exp(), f64::from(second_lse[i / dim]).exp());
            (out[i], (a * f64::from(first[i]) + b * f64::from(second[i])) / (a + b))
        })
        .collect();
    case.run(Work::Bytes((3 * ROWS * dim * size_of::<f32>()) as f64), 1e-6, pairs, || {
        // The log-sum-exp would grow from turn to turn.
        lse.copy_from_slice(&first_lse);
        merge_attention(dim, black_box(&mut out), &mut lse, &second, &second_lse).expect("the lengths fit");
    });
}

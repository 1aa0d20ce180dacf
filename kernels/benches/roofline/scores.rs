//! What becomes of logits, and scores of many vectors.

use std::hint::black_box;

use raglan_kernels::{
    CENTROID_LANES, Int8Query, OneBitEncoder, OneBitTable, PackedMatrix, ResidualBits, centroid_max_sim,
    decode_residuals, hamming, inner_products, inner_products_f16, max_sim, max_sim_f16, one_bit_block_bytes,
    running_max, softmax, top_k,
};

use crate::{Bench, Work, hash, numbers, plain, sample};

const FLOAT: usize = size_of::<f32>();

pub fn all(bench: &Bench) {
    probabilities(bench);
    for (n, k) in [(49_152, 40), (1 << 20, 100)] {
        best(bench, n, k);
    }
    splade(bench);
    for (n_queries, n_vectors) in [(1, 1 << 18), (16, 1 << 16)] {
        products(bench, n_queries, n_vectors);
    }
    // One query reads what no cache holds; many read again what the nearest caches hold.
    half_products(bench, 1, 1 << 18);
    half_products(bench, 16, 64);
    byte_products(bench, 1, 1_000_000);
    byte_products(bench, 16, 64);
    bit_estimates(bench, 1, 2_000_000);
    bit_estimates(bench, 16, 256);
    distances(bench);
    for (n_query, dim) in [(32, 128), (32, 384), (20, 384)] {
        late_interaction(bench, n_query, dim);
    }
    centroids(bench);
    residuals(bench);
}

fn probabilities(bench: &Bench) {
    let Some(case) = bench.case("softmax", "49152, with the copy") else { return };
    let logits: Vec<f32> = numbers(49_152).iter().map(|x| 10.0 * x).collect();
    let mut row = logits.clone();
    softmax(&mut row);
    let want = plain::softmax(&logits.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
    let pairs: Vec<_> = row.iter().copied().zip(want).collect();
    case.run(Work::Bytes((2 * logits.len() * FLOAT) as f64), 1e-5, pairs, || {
        row.copy_from_slice(&logits);
        softmax(black_box(&mut row));
    });
}

fn best(bench: &Bench, n: usize, k: usize) {
    let Some(case) = bench.case("top_k", format!("{k} of {n}")) else { return };
    let scores = numbers(n);
    let mut sorted = scores.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let best = top_k(&scores, k).expect("there is no NaN");
    let pairs: Vec<_> = best.iter().zip(sorted).map(|(best, want)| (best.0, f64::from(want))).collect();
    case.run(Work::Bytes((n * FLOAT) as f64), 0.0, pairs, || {
        black_box(top_k(black_box(&scores), k).expect("there is no NaN"));
    });
}

fn splade(bench: &Bench) {
    let Some(case) = bench.case("running_max (SPLADE)", "128×30522") else { return };
    let (n_tokens, n_terms) = (128, 30_522);
    let logits = numbers(n_tokens * n_terms);
    let mut max = vec![0.0; n_terms];
    running_max(&logits, n_terms, &mut max).expect("the lengths fit");
    let of_term = |term: usize| {
        let column = logits.iter().skip(term).step_by(n_terms);
        (max[term], f64::from(column.copied().fold(0.0, f32::max)))
    };
    let pairs: Vec<_> = sample(n_terms, 500).map(of_term).collect();
    case.run(Work::Bytes((logits.len() * FLOAT) as f64), 0.0, pairs, || {
        max.fill(0.0);
        running_max(&logits, n_terms, black_box(&mut max)).expect("the lengths fit");
    });
}

fn products(bench: &Bench, n_queries: usize, n_vectors: usize) {
    let Some(case) = bench.case("inner_products f32", format!("{n_queries}×{n_vectors}×384")) else { return };
    let dim = 384;
    let (queries, vectors) = (numbers(n_queries * dim), numbers(n_vectors * dim));
    let mut out = vec![0.0; n_queries * n_vectors];
    inner_products(&queries, &vectors, dim, &mut out).expect("the lengths fit");
    let of_score = |i: usize| {
        let (query, vector) = (&queries[i / n_vectors * dim..][..dim], &vectors[i % n_vectors * dim..][..dim]);
        (out[i], plain::dot(query, vector))
    };
    let pairs: Vec<_> = sample(out.len(), 5000).map(of_score).collect();
    let work = match n_queries {
        1 => Work::Bytes((vectors.len() * FLOAT) as f64),
        _ => Work::Flops((2 * n_queries * vectors.len()) as f64),
    };
    case.run(work, 1e-6, pairs, || {
        inner_products(&queries, &vectors, dim, black_box(&mut out)).expect("the lengths fit");
    });
}

/// A block's look-ups are bound by the processor's shuffles when its bits come from a cache: what counts as an operation
/// is one byte shuffled.
fn bit_estimates(bench: &Bench, n_queries: usize, n: usize) {
    let shape = format!("{n_queries}×{n}×384");
    let Some(case) = bench.case("OneBitTable::block_bounds", shape) else { return };
    let dim = 384;
    let encoder = OneBitEncoder::new(&vec![0.0; dim], 1).expect("there are components");
    let queries = numbers(n_queries * dim);
    let queries: Vec<_> =
        queries.chunks_exact(dim).map(|query| encoder.table(query).expect("the lengths fit")).collect();
    // Bits as they come, with factors 1, 0 and 0.
    let n_bytes = one_bit_block_bytes(dim);
    let mut blocks: Vec<u8> = (0..n / 32 * n_bytes).map(|i| hash(i) as u8).collect();
    for block in blocks.chunks_exact_mut(n_bytes) {
        for (i, factor) in block[n_bytes - 384..].chunks_exact_mut(4).enumerate() {
            factor.copy_from_slice(&if i < 32 { 1f32 } else { 0.0 }.to_le_bytes());
        }
    }
    let mut out = vec![0.0; n_queries * n];
    OneBitTable::block_bounds(&queries, &blocks, 0.0, &mut out).expect("the lengths fit");
    // What a query scores together it scores alone.
    let mut alone = vec![0.0; n];
    let last = n_queries - 1;
    OneBitTable::block_bounds(&queries[last..], &blocks, 0.0, &mut alone).expect("the lengths fit");
    let pairs: Vec<_> = sample(n, 5000).map(|v| (out[last * n + v], f64::from(alone[v]))).collect();
    let work = match n_queries {
        1 => Work::Bytes(blocks.len() as f64),
        _ => Work::Shuffles((n_queries * n * dim / 4) as f64),
    };
    case.run(work, 1e-6, pairs, || {
        OneBitTable::block_bounds(&queries, &blocks, 0.0, black_box(&mut out)).expect("the lengths fit");
    });
}

fn byte_products(bench: &Bench, n_queries: usize, n: usize) {
    let Some(case) = bench.case("Int8Query::inner_products", format!("{n_queries}×{n}×384")) else { return };
    let dim = 384;
    let bytes = |n: usize| -> Vec<i8> { (0..n).map(|i| (hash(i) as i8).max(-127)).collect() };
    let (queries, codes, scales) = (bytes(n_queries * dim), bytes(n * dim), numbers(n));
    let mut out = vec![0.0; n_queries * n];
    let prepared: Vec<_> = queries
        .chunks_exact(dim)
        .map(|query| Int8Query::from_codes(query, 0.01).expect("there are components"))
        .collect();
    Int8Query::inner_products(&prepared, &codes, &scales, &mut out).expect("the lengths fit");
    let of_score = |i: usize| {
        let (query, v) = (&queries[i / n * dim..][..dim], i % n);
        let products = query.iter().zip(&codes[v * dim..]).map(|(a, b)| i64::from(*a) * i64::from(*b));
        (out[i], products.sum::<i64>() as f64 * f64::from(scales[v]) * f64::from(0.01f32))
    };
    let pairs: Vec<_> = sample(out.len(), 5000).map(of_score).collect();
    let work = match n_queries {
        1 => Work::Bytes(codes.len() as f64),
        _ => Work::ByteOps((2 * n_queries * codes.len()) as f64),
    };
    case.run(work, 1e-6, pairs, || {
        Int8Query::inner_products(&prepared, &codes, &scales, black_box(&mut out)).expect("the lengths fit");
    });
}

fn half_products(bench: &Bench, n_queries: usize, n: usize) {
    let Some(case) = bench.case("inner_products_f16", format!("{n_queries}×{n}×384")) else { return };
    let dim = 384;
    let queries = numbers(n_queries * dim);
    let vectors: Vec<u16> = (0..n * dim).map(|i| (hash(i) as u16 & 0x83ff) | 0x3800).collect();
    let mut out = vec![0.0; n_queries * n];
    inner_products_f16(&queries, &vectors, dim, &mut out).expect("the lengths fit");
    let of_score = |i: usize| {
        let vector: Vec<f32> = vectors[i % n * dim..][..dim].iter().map(|&bits| plain::half(bits)).collect();
        (out[i], plain::dot(&queries[i / n * dim..][..dim], &vector))
    };
    let pairs: Vec<_> = sample(out.len(), 5000).map(of_score).collect();
    let work = match n_queries {
        1 => Work::Bytes((2 * vectors.len()) as f64),
        _ => Work::Flops((2 * n_queries * vectors.len()) as f64),
    };
    case.run(work, 1e-6, pairs, || {
        inner_products_f16(&queries, &vectors, dim, black_box(&mut out)).expect("the lengths fit");
    });
}

fn distances(bench: &Bench) {
    let Some(case) = bench.case("hamming", "1×1000000×384 bits") else { return };
    let (n, words) = (1_000_000, 6);
    let bits: Vec<u64> = (0..n * words).map(|i| u64::from(hash(i)) << 32 | u64::from(hash(!i))).collect();
    let query: Vec<u64> = bits[..words].iter().map(|word| !word).collect();
    let mut out = vec![0; n];
    hamming(&query, &bits, &mut out).expect("the lengths fit");
    let of_vector = |v: usize| {
        let differing = (0..words * 64).filter(|bit| {
            let (word, bit) = (bit / 64, bit % 64);
            (query[word] >> bit & 1) != (bits[v * words + word] >> bit & 1)
        });
        (out[v] as f32, differing.count() as f64)
    };
    let pairs: Vec<_> = sample(n, 5000).map(of_vector).collect();
    case.run(Work::Bytes((bits.len() * 8) as f64), 0.0, pairs, || {
        hamming(&query, &bits, black_box(&mut out)).expect("the lengths fit");
    });
}

/// Documents of a hundred tokens; the work is that of the query's own vectors, without those that fill up a register.
fn late_interaction(bench: &Bench, n_query: usize, dim: usize) {
    let (n_documents, length) = (64, 100);
    let shape = format!("{n_query}×{n_documents}×{length}×{dim}");
    let query = numbers(n_query * dim);
    let packed = PackedMatrix::new(&query, n_query, dim).expect("the lengths fit");
    let bits: Vec<u16> = (0..n_documents * length * dim).map(|i| (hash(i) as u16 & 0x83ff) | 0x3800).collect();
    let tokens: Vec<f32> = bits.iter().map(|&bits| plain::half(bits)).collect();
    let ends: Vec<usize> = (1..=n_documents).map(|d| d * length).collect();
    let mut out = vec![0.0; n_documents];
    let best = |query: &[f32], document: &[f32]| {
        document.chunks_exact(dim).map(|token| plain::dot(query, token)).fold(f64::NEG_INFINITY, f64::max)
    };
    let documents = sample(n_documents, 4);
    let want = |d: usize| -> f64 {
        query.chunks_exact(dim).map(|query| best(query, &tokens[d * length * dim..(d + 1) * length * dim])).sum()
    };
    let work = || Work::Flops((2 * n_query * tokens.len()) as f64);
    if let Some(case) = bench.case("max_sim f32", shape.clone()) {
        max_sim(&packed, &tokens, &ends, &mut out).expect("the lengths fit");
        let pairs: Vec<_> = documents.clone().map(|d| (out[d], want(d))).collect();
        case.run(work(), 1e-6, pairs, || {
            max_sim(&packed, &tokens, &ends, black_box(&mut out)).expect("the lengths fit");
        });
    }
    if let Some(case) = bench.case("max_sim f16", shape) {
        max_sim_f16(&packed, &bits, &ends, &mut out).expect("the lengths fit");
        let pairs: Vec<_> = documents.map(|d| (out[d], want(d))).collect();
        case.run(work(), 1e-6, pairs, || {
            max_sim_f16(&packed, &bits, &ends, black_box(&mut out)).expect("the lengths fit");
        });
    }
}

/// The rows of the table that are looked up count as bytes read: they lie in the second-level cache.
fn centroids(bench: &Bench) {
    let Some(case) = bench.case("centroid_max_sim", "5000×130 tokens, 4096 centroids") else { return };
    let (n_documents, length, n_centroids) = (5000, 130, 4096);
    let table: Vec<[u8; CENTROID_LANES]> =
        (0..n_centroids).map(|c| std::array::from_fn(|lane| hash(c * CENTROID_LANES + lane) as u8)).collect();
    let codes: Vec<u16> = (0..n_documents * length).map(|i| (hash(i) as usize % n_centroids) as u16).collect();
    let score = |d: usize| centroid_max_sim(&table, 1, &codes[d * length..(d + 1) * length]).expect("codes are rows");
    let want = |d: usize| -> u32 {
        let codes = &codes[d * length..(d + 1) * length];
        let best = |lane: usize| codes.iter().map(|&code| u32::from(table[usize::from(code)][lane])).max().unwrap_or(0);
        (0..CENTROID_LANES).map(best).sum()
    };
    let pairs: Vec<_> = sample(n_documents, 50).map(|d| (score(d) as f32, f64::from(want(d)))).collect();
    case.run(Work::Bytes((codes.len() * (CENTROID_LANES + 2)) as f64), 0.0, pairs, || {
        black_box((0..n_documents).map(score).fold(0, u32::max));
    });
}

/// Bytes are those of the codes, the centroid and the vector.
fn residuals(bench: &Bench) {
    let (n, dim) = (2000, 384);
    for bits in [ResidualBits::Two, ResidualBits::Four] {
        let Some(case) = bench.case("decode_residuals", format!("{n}×{dim}, {} bits", bits.count())) else { continue };
        let (weights, centroid) = (numbers(bits.n_buckets()), numbers(dim));
        let codes: Vec<u8> = (0..n * bits.n_bytes(dim)).map(|i| hash(i) as u8).collect();
        let mut out = vec![0.0; n * dim];
        let mut decode = || {
            for (out, codes) in out.chunks_exact_mut(dim).zip(codes.chunks_exact(bits.n_bytes(dim))) {
                decode_residuals(bits, &weights, codes, &centroid, out).expect("the lengths fit");
            }
            out[0]
        };
        let first = usize::from(codes[0]) & (bits.n_buckets() - 1);
        let pairs = [(decode(), f64::from(centroid[0] + weights[first]))];
        case.run(Work::Bytes((codes.len() + 2 * n * dim * FLOAT) as f64), 0.0, pairs, || {
            black_box(decode());
        });
    }
}

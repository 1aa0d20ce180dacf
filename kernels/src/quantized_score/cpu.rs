//! The reference: plain loops.

/// `Σ_d query[d] · codes[v, d]` for each vector.
pub fn inner_products(query: &[i8], codes: &[i8]) -> Vec<i64> {
    let mut out = Vec::new();
    for codes in codes.chunks_exact(query.len()) {
        out.push(query.iter().zip(codes).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum());
    }
    out
}

/// In how many bits each vector differs from `query`.
pub fn hamming(query: &[u64], bits: &[u64]) -> Vec<u32> {
    let mut out = Vec::new();
    for words in bits.chunks_exact(query.len()) {
        let mut distance = 0;
        for bit in 0..64 * query.len() {
            let of = |words: &[u64]| words[bit / 64] >> (bit % 64) & 1;
            distance += u32::from(of(query) != of(words));
        }
        out.push(distance);
    }
    out
}

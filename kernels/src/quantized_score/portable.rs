//! Loops that the compiler vectorises on any processor.

/// The sums of products of queries with one vector, all of one length, from component `from` on.
#[inline(always)]
pub fn inner_products<const Q: usize>(queries: [&[i16]; Q], codes: &[i8], from: usize) -> [i32; Q] {
    let mut sums = [0; Q];
    for (sum, query) in sums.iter_mut().zip(queries) {
        *sum = query[from..].iter().zip(&codes[from..]).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
    }
    sums
}

/// The distance of each vector from `query`, which is not empty.
#[inline(always)]
pub fn hamming(query: &[u64], bits: &[u64], out: &mut [u32]) {
    for (out, words) in out.iter_mut().zip(bits.chunks_exact(query.len())) {
        *out = query.iter().zip(words).map(|(a, b)| (a ^ b).count_ones()).sum();
    }
}

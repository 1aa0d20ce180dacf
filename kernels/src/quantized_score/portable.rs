//! Loops that the compiler vectorises on any processor.

/// The sum of products of two slices of one length.
#[inline(always)]
pub fn inner_product(query: &[i16], codes: &[i8]) -> i32 {
    query.iter().zip(codes).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

/// The distance of each vector from `query`, which is not empty.
#[inline(always)]
pub fn hamming(query: &[u64], bits: &[u64], out: &mut [u32]) {
    for (out, words) in out.iter_mut().zip(bits.chunks_exact(query.len())) {
        *out = query.iter().zip(words).map(|(a, b)| (a ^ b).count_ones()).sum();
    }
}

//! Bits counted a word at a time by the processor's own instruction.
//!
//! Several are done in a cycle, so that for vectors of a few words nothing is gained by counting nibbles in AVX2.

/// The distance of each vector from `query`, which is not empty.
#[target_feature(enable = "popcnt")]
pub fn hamming(query: &[u64], bits: &[u64], out: &mut [u32]) {
    match query.len() {
        // The lengths of common dimensions, unrolled: 384, 512, 768 and 1024.
        6 => unrolled::<6>(query, bits, out),
        8 => unrolled::<8>(query, bits, out),
        12 => unrolled::<12>(query, bits, out),
        16 => unrolled::<16>(query, bits, out),
        _ => super::portable::hamming(query, bits, out),
    }
}

#[inline(always)]
fn unrolled<const N: usize>(query: &[u64], bits: &[u64], out: &mut [u32]) {
    let query: &[u64; N] = query.try_into().expect("the caller matched the length");
    let (vectors, _) = bits.as_chunks::<N>();
    for (out, words) in out.iter_mut().zip(vectors) {
        let mut distance = 0;
        for w in 0..N {
            distance += (query[w] ^ words[w]).count_ones();
        }
        *out = distance;
    }
}

//! Bits counted a word at a time by the processor's own instruction.

use super::{OneBitQuery, PLANES, one_bit_words, portable};

/// The bounds of chosen rows, which are there; `out` is as long.
#[target_feature(enable = "popcnt")]
pub fn row_bounds(query: &OneBitQuery, codes: &[u64], rows: &[u32], margin: f32, out: &mut [f32]) {
    match query.planes.len() {
        // The lengths of common dimensions, unrolled: 384, 512, 768 and 1024.
        6 => unrolled::<6>(query, codes, rows, margin, out),
        8 => unrolled::<8>(query, codes, rows, margin, out),
        12 => unrolled::<12>(query, codes, rows, margin, out),
        16 => unrolled::<16>(query, codes, rows, margin, out),
        _ => portable::row_bounds(query, codes, rows, margin, out),
    }
}

#[inline(always)]
fn unrolled<const N: usize>(query: &OneBitQuery, codes: &[u64], rows: &[u32], margin: f32, out: &mut [f32]) {
    let planes: &[[u64; PLANES]; N] = query.planes[..].try_into().expect("the caller matched the length");
    let n_words = one_bit_words(query.dim);
    for (out, &row) in out.iter_mut().zip(rows) {
        let (bits, factors) = codes[row as usize * n_words..][..n_words].split_at(N);
        let bits: &[u64; N] = bits.try_into().expect("a row begins with its bits");
        let mut counts = [0; PLANES];
        for word in 0..N {
            for plane in 0..PLANES {
                counts[plane] += (bits[word] & planes[word][plane]).count_ones() as i32;
            }
        }
        *out = query.row_bound(counts[0] + 2 * counts[1] + 4 * counts[2] - 8 * counts[3], factors, margin);
    }
}

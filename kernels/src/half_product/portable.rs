//! Loops for any processor.

use super::f16_to_f32;
use crate::forms::LANES;

/// The product of two slices of one length.
#[inline]
pub fn product(query: &[f32], vector: &[u16]) -> f32 {
    let mut sums = [0.0; LANES];
    for (query, vector) in query.chunks(LANES).zip(vector.chunks(LANES)) {
        for ((sum, &a), &b) in sums.iter_mut().zip(query).zip(vector) {
            *sum += a * f16_to_f32(b);
        }
    }
    sums.iter().sum()
}

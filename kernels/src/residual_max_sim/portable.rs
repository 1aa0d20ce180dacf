//! Loops over lanes, and over groups, slots and lanes.

use super::{Form, GROUP};
use crate::ResidualBits;
use crate::centroid_max_sim::CENTROID_LANES;

/// Any processor.
pub struct Portable;

impl Form for Portable {
    #[inline(always)]
    fn raise(maxima: &mut [u8; CENTROID_LANES], row: &[u8; CENTROID_LANES]) {
        for lane in 0..CENTROID_LANES {
            maxima[lane] = maxima[lane].max(row[lane]);
        }
    }

    #[inline(always)]
    fn at_least(row: &[u8; CENTROID_LANES], threshold: &[u8; CENTROID_LANES]) -> u32 {
        let mut mask = 0;
        for lane in 0..CENTROID_LANES {
            mask |= u32::from(row[lane] >= threshold[lane]) << lane;
        }
        mask
    }

    #[inline(always)]
    fn product(bits: ResidualBits, weights: &[u8; 16], codes: &[u8], query: &[i8]) -> i32 {
        let (bits, n_slots, mask) = (bits.count(), 8 / bits.count(), bits.n_buckets() as u8 - 1);
        let mut sum = 0;
        for (codes, query) in codes.chunks(GROUP).zip(query.chunks_exact(n_slots * GROUP)) {
            for (slot, query) in query.chunks_exact(GROUP).enumerate() {
                for (byte, &q) in codes.iter().zip(query) {
                    sum += i32::from(weights[usize::from(byte >> (slot * bits) & mask)]) * i32::from(q);
                }
            }
        }
        sum
    }
}

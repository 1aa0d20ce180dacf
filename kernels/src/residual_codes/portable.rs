//! Loops over blocks, slots and lanes; encoding in every form.

use super::BLOCK;
use crate::forms::forms;

forms! {
    /// The codes of a vector; the lengths fit.
    pub fn encode(bits: usize, cutoffs: &[f32], vector: &[f32], centroid: &[f32], codes: &mut [u8]) {
        codes.fill(0);
        let n_slots = 8 / bits;
        for (run, (vector, centroid)) in vector.chunks(BLOCK).zip(centroid.chunks(BLOCK)).enumerate() {
            let mut residual = [f32::NEG_INFINITY; BLOCK];
            for (to, (x, c)) in residual.iter_mut().zip(vector.iter().zip(centroid)) {
                *to = x - c;
            }
            let mut below = [0u32; BLOCK];
            for &cutoff in cutoffs {
                for lane in 0..BLOCK {
                    below[lane] += u32::from(cutoff < residual[lane]);
                }
            }
            let block = &mut codes[run / n_slots * BLOCK..][..BLOCK];
            for lane in 0..BLOCK {
                block[lane] |= (below[lane] as u8) << (run % n_slots * bits);
            }
        }
    }
}

/// The vector of some codes; the lengths fit.
pub fn decode(bits: usize, weights: &[f32], codes: &[u8], centroid: &[f32], out: &mut [f32]) {
    let n_slots = 8 / bits;
    for (run, (out, centroid)) in out.chunks_mut(BLOCK).zip(centroid.chunks(BLOCK)).enumerate() {
        let block = &codes[run / n_slots * BLOCK..][..BLOCK];
        for ((out, c), byte) in out.iter_mut().zip(centroid).zip(block) {
            let code = usize::from(byte >> (run % n_slots * bits)) & (weights.len() - 1);
            *out = c + weights[code];
        }
    }
}

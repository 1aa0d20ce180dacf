//! Plain loops over the packed weights, with the same integers as the other forms.

use super::activations::Row;
use super::matrix::{BLOCK, GROUP, Layout, Scales, scales};

/// The sums of `R` rows with the outputs of one group.
///
/// The rows have as many blocks as the group has records.
pub(super) fn tile<L: Layout, const R: usize>(records: &[u8], rows: [Row<'_>; R]) -> [[f32; GROUP]; R] {
    let mut out = [[0.0; GROUP]; R];
    for (b, record) in records.chunks_exact(L::RECORD_BYTES).enumerate() {
        let [d, m] = scales::<L>(record);
        let packed = &record[L::SCALE_BYTES..];
        for (row, out) in rows.iter().zip(&mut out) {
            let mut sums = [[0i32; GROUP]; 2];
            for (step, a) in row.quants[b * BLOCK..][..BLOCK].as_chunks::<4>().0.iter().enumerate() {
                let sums = &mut sums[step / 4];
                let at = if L::NIBBLES { step / 2 } else { step };
                for (sum, w) in sums.iter_mut().zip(packed[at * 64..][..64].as_chunks::<4>().0) {
                    for (&w, &a) in w.iter().zip(a) {
                        let w = if L::NIBBLES { i32::from(w >> (step % 2 * 4) & 15) } else { i32::from(w as i8) };
                        *sum += w * i32::from(a);
                    }
                }
            }
            for o in 0..GROUP {
                if L::SCALES == Scales::FloatPer16 {
                    out[o] += d[o] * row.scales[b] * sums[0][o] as f32;
                    out[o] += m[o] * row.scales[b] * sums[1][o] as f32;
                } else {
                    out[o] += d[o] * row.scales[b] * (sums[0][o] + sums[1][o]) as f32;
                    if L::HAS_MIN {
                        out[o] += m[o] * row.sums[b];
                    }
                }
            }
        }
    }
    out
}

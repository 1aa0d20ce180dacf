//! Plain loops over panels, which the compiler vectorises.

use super::{PANEL, PairRow, TileShape};

/// The sums of `n_rows` rows with `n_panels` panels: `[n_rows, n_panels · 16]`.
pub fn tile(n_rows: usize, n_panels: usize, rows: &[f32], panels: &[PairRow], shape: TileShape, sums: &mut [f32]) {
    let TileShape { n_in, n_pairs, first, n_inputs } = shape;
    for p in 0..n_panels {
        let panel = &panels[p * n_pairs + first / 2..][..n_inputs.div_ceil(2)];
        for r in 0..n_rows {
            let row = &rows[r * n_in + first..][..n_inputs];
            let mut sum = [0.0f32; PANEL];
            for (inputs, pair) in row.chunks(2).zip(panel) {
                for (i, x) in inputs.iter().enumerate() {
                    for (sum, weights) in sum.iter_mut().zip(&pair.0) {
                        *sum += x * f32::from_bits(u32::from(weights[i]) << 16);
                    }
                }
            }
            sums[(r * n_panels + p) * PANEL..][..PANEL].copy_from_slice(&sum);
        }
    }
}

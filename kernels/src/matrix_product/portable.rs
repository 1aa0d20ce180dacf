//! Plain loops over panels, which the compiler vectorises.

use super::{PANEL, TileShape};

/// The sums of `n_rows` rows with `n_panels` panels, `[n_rows, n_panels · 16]`; added to what is there when inputs came
/// before these.
pub fn tile(n_rows: usize, n_panels: usize, rows: &[f32], panels: &[f32], shape: TileShape, sums: &mut [f32]) {
    let TileShape { n_in, first, n_inputs } = shape;
    for p in 0..n_panels {
        let panel = &panels[p * n_in * PANEL..][first * PANEL..(first + n_inputs) * PANEL];
        for r in 0..n_rows {
            let row = &rows[r * n_in + first..][..n_inputs];
            let mut sum = [0.0f32; PANEL];
            for (x, weights) in row.iter().zip(panel.chunks_exact(PANEL)) {
                for (sum, weight) in sum.iter_mut().zip(weights) {
                    *sum += x * weight;
                }
            }
            let to = &mut sums[(r * n_panels + p) * PANEL..][..PANEL];
            if first == 0 {
                to.copy_from_slice(&sum);
            } else {
                to.iter_mut().zip(sum).for_each(|(to, sum)| *to += sum);
            }
        }
    }
}

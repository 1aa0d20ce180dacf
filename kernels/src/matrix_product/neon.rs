//! NEON: up to twenty-four sums of four lanes in registers.

use std::arch::aarch64::*;

use super::{PANEL, TileShape};

/// Lanes of a register.
const LANES: usize = 4;
/// Registers of a panel.
const PARTS: usize = PANEL / LANES;

/// The sums of `n_rows` rows with `n_panels` panels: `[n_rows, n_panels · 16]`.
///
/// # Safety
///
/// The processor has NEON; `rows` is `[n_rows, n_in]`, `panels` `[n_panels, n_in, 16]`, `sums` as long as said, and
/// `first + n_inputs` is at most `n_in`.
#[target_feature(enable = "neon")]
pub unsafe fn tile(n_rows: usize, n_panels: usize, rows: &[f32], panels: &[f32], shape: TileShape, sums: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        match (n_rows, n_panels) {
            (1, 1) => registers::<1, 1, PARTS>(rows, panels, shape, sums),
            (1, 2) => registers::<1, 2, { 2 * PARTS }>(rows, panels, shape, sums),
            (2, 1) => registers::<2, 1, PARTS>(rows, panels, shape, sums),
            (2, 2) => registers::<2, 2, { 2 * PARTS }>(rows, panels, shape, sums),
            (3, 1) => registers::<3, 1, PARTS>(rows, panels, shape, sums),
            (4, 1) => registers::<4, 1, PARTS>(rows, panels, shape, sums),
            (5, 1) => registers::<5, 1, PARTS>(rows, panels, shape, sums),
            (6, 1) => registers::<6, 1, PARTS>(rows, panels, shape, sums),
            _ => unreachable!("no tile is larger"),
        }
    }
}

/// `R` rows by `P` panels of `V / P` registers each.
///
/// # Safety
///
/// As for [`tile`].
#[target_feature(enable = "neon")]
#[inline]
unsafe fn registers<const R: usize, const P: usize, const V: usize>(
    rows: &[f32],
    panels: &[f32],
    shape: TileShape,
    sums: &mut [f32],
) {
    let TileShape { n_in, first, n_inputs } = shape;
    let mut acc = [[vdupq_n_f32(0.0); V]; R];
    // SAFETY: every row has `n_in` inputs and every panel `n_in` times sixteen weights, of which those from `first` to
    // `first + n_inputs` are read; `sums` has `R` times `P` times sixteen places.
    unsafe {
        let row = rows.as_ptr().add(first);
        let panel = panels.as_ptr().add(first * PANEL);
        for i in 0..n_inputs {
            let mut weights = [vdupq_n_f32(0.0); V];
            for (v, weights) in weights.iter_mut().enumerate() {
                *weights = vld1q_f32(panel.add((v / PARTS * n_in + i) * PANEL + v % PARTS * LANES));
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = vdupq_n_f32(*row.add(r * n_in + i));
                for (acc, weights) in acc.iter_mut().zip(&weights) {
                    *acc = vfmaq_f32(*acc, x, *weights);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                vst1q_f32(sums.as_mut_ptr().add(r * P * PANEL + v * LANES), *acc);
            }
        }
    }
}

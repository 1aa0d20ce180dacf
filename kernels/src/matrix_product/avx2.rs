//! AVX2 with FMA: twelve sums of eight lanes in registers.

use std::arch::x86_64::*;

use super::{PANEL, TileShape};

/// Lanes of a register.
const LANES: usize = 8;

/// The sums of `n_rows` rows with `n_panels` panels, `[n_rows, n_panels · 16]`; added to what is there when inputs came
/// before these.
///
/// # Safety
///
/// The processor has AVX2 and FMA; `rows` is `[n_rows, n_in]`, `panels` `[n_panels, n_in, 16]`, `sums` as long as said, and
/// `first + n_inputs` is at most `n_in`.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn tile(n_rows: usize, n_panels: usize, rows: &[f32], panels: &[f32], shape: TileShape, sums: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        match (n_rows, n_panels) {
            (1, 1) => registers::<1, 1, 2>(rows, panels, shape, sums),
            (1, 4) => registers::<1, 4, 8>(rows, panels, shape, sums),
            (2, 1) => registers::<2, 1, 2>(rows, panels, shape, sums),
            (2, 4) => registers::<2, 4, 8>(rows, panels, shape, sums),
            (3, 1) => registers::<3, 1, 2>(rows, panels, shape, sums),
            (4, 1) => registers::<4, 1, 2>(rows, panels, shape, sums),
            (5, 1) => registers::<5, 1, 2>(rows, panels, shape, sums),
            (6, 1) => registers::<6, 1, 2>(rows, panels, shape, sums),
            _ => unreachable!("no tile is larger"),
        }
    }
}

/// `R` rows by `P` panels of `V / P` registers each.
///
/// # Safety
///
/// As for [`tile`].
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn registers<const R: usize, const P: usize, const V: usize>(
    rows: &[f32],
    panels: &[f32],
    shape: TileShape,
    sums: &mut [f32],
) {
    let TileShape { n_in, first, n_inputs } = shape;
    let mut acc = [[_mm256_setzero_ps(); V]; R];
    // SAFETY: every row has `n_in` inputs and every panel `n_in` times sixteen weights, of which those from `first` to
    // `first + n_inputs` are read; `sums` has `R` times `P` times sixteen places.
    unsafe {
        let row = rows.as_ptr().add(first);
        let panel = panels.as_ptr().add(first * PANEL);
        for i in 0..n_inputs {
            let mut weights = [_mm256_setzero_ps(); V];
            for (v, weights) in weights.iter_mut().enumerate() {
                let (p, part) = (v * LANES / PANEL, v * LANES % PANEL);
                *weights = _mm256_loadu_ps(panel.add((p * n_in + i) * PANEL + part));
            }
            // The weights that come after these, while other rows still meet these.
            for p in 0..P {
                _mm_prefetch::<_MM_HINT_T1>(panel.wrapping_add((p * n_in + i + n_inputs) * PANEL).cast());
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*row.add(r * n_in + i));
                for (acc, weights) in acc.iter_mut().zip(&weights) {
                    *acc = _mm256_fmadd_ps(x, *weights, *acc);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                let to = sums.as_mut_ptr().add(r * P * PANEL + v * LANES);
                _mm256_storeu_ps(to, if first == 0 { *acc } else { _mm256_add_ps(_mm256_loadu_ps(to), *acc) });
            }
        }
    }
}

//! AVX2 with FMA: twelve sums of eight lanes in registers; a shift or a mask widens eight weights.

use std::arch::x86_64::*;

use super::{PANEL, PairRow, TileShape};

/// Lanes of a register.
const LANES: usize = 8;

/// The sums of `n_rows` rows with `n_panels` panels: `[n_rows, n_panels · 16]`.
///
/// # Safety
///
/// The processor has AVX2 and FMA; `rows` is `[n_rows, n_in]`, `panels` `[n_panels, n_pairs]`, `sums` as long as said,
/// `first` is even and `first + n_inputs` at most `n_in`, which is at most `2 · n_pairs`.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn tile(
    n_rows: usize,
    n_panels: usize,
    rows: &[f32],
    panels: &[PairRow],
    shape: TileShape,
    sums: &mut [f32],
) {
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
    panels: &[PairRow],
    shape: TileShape,
    sums: &mut [f32],
) {
    let TileShape { n_in, n_pairs, first, n_inputs } = shape;
    let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
    let mut acc = [[_mm256_setzero_ps(); V]; R];
    // SAFETY: every row has `n_in` inputs, of which those from `first` to `first + n_inputs` are read, and every panel
    // the pairs that hold their weights; `sums` has `R` times `P` times sixteen places.
    unsafe {
        let row = rows.as_ptr().add(first);
        let panel = panels.as_ptr().add(first / 2);
        let weights = |pair: usize, v: usize| {
            let (p, part) = (v * LANES / PANEL, v * LANES % PANEL);
            _mm256_loadu_si256(panel.add(p * n_pairs + pair).cast::<[u16; 2]>().add(part).cast())
        };
        let mut add = |i: usize, weights: [__m256i; V]| {
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*row.add(r * n_in + i));
                for (acc, weights) in acc.iter_mut().zip(&weights) {
                    *acc = _mm256_fmadd_ps(x, _mm256_castsi256_ps(*weights), *acc);
                }
            }
        };
        for pair in 0..n_inputs / 2 {
            add(2 * pair, std::array::from_fn(|v| _mm256_slli_epi32::<16>(weights(pair, v))));
            add(2 * pair + 1, std::array::from_fn(|v| _mm256_and_si256(weights(pair, v), upper)));
        }
        if n_inputs % 2 == 1 {
            let pair = n_inputs / 2;
            add(2 * pair, std::array::from_fn(|v| _mm256_slli_epi32::<16>(weights(pair, v))));
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                _mm256_storeu_ps(sums.as_mut_ptr().add(r * P * PANEL + v * LANES), *acc);
            }
        }
    }
}

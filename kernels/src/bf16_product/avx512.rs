//! AVX-512: up to twenty-four sums of sixteen lanes in registers; a shift or a mask widens sixteen weights.

use std::arch::x86_64::*;

use super::{PANEL, PairRow, TileShape};

/// The sums of `n_rows` rows with `n_panels` panels: `[n_rows, n_panels · 16]`.
///
/// # Safety
///
/// The processor has AVX-512F; `rows` is `[n_rows, n_in]`, `panels` `[n_panels, n_pairs]`, `sums` as long as said,
/// `first` is even and `first + n_inputs` at most `n_in`, which is at most `2 · n_pairs`.
#[target_feature(enable = "avx512f")]
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
        match n_panels {
            1 => high::<1>(n_rows, rows, panels, shape, sums),
            2 => high::<2>(n_rows, rows, panels, shape, sums),
            6 if n_rows == 1 => registers::<1, 6>(rows, panels, shape, sums),
            6 if n_rows == 2 => registers::<2, 6>(rows, panels, shape, sums),
            _ => unreachable!("no tile is wider"),
        }
    }
}

/// Any number of rows by `P` panels.
///
/// # Safety
///
/// As for [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn high<const P: usize>(n_rows: usize, rows: &[f32], panels: &[PairRow], shape: TileShape, sums: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        match n_rows {
            1 => registers::<1, P>(rows, panels, shape, sums),
            2 => registers::<2, P>(rows, panels, shape, sums),
            3 => registers::<3, P>(rows, panels, shape, sums),
            4 => registers::<4, P>(rows, panels, shape, sums),
            5 => registers::<5, P>(rows, panels, shape, sums),
            6 => registers::<6, P>(rows, panels, shape, sums),
            7 => registers::<7, P>(rows, panels, shape, sums),
            8 => registers::<8, P>(rows, panels, shape, sums),
            9 => registers::<9, P>(rows, panels, shape, sums),
            10 => registers::<10, P>(rows, panels, shape, sums),
            11 => registers::<11, P>(rows, panels, shape, sums),
            12 => registers::<12, P>(rows, panels, shape, sums),
            _ => unreachable!("no tile is higher"),
        }
    }
}

/// `R` rows by `P` panels of one register each.
///
/// # Safety
///
/// As for [`tile`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn registers<const R: usize, const P: usize>(
    rows: &[f32],
    panels: &[PairRow],
    shape: TileShape,
    sums: &mut [f32],
) {
    let TileShape { n_in, n_pairs, first, n_inputs } = shape;
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let mut acc = [[_mm512_setzero_ps(); P]; R];
    // SAFETY: every row has `n_in` inputs, of which those from `first` to `first + n_inputs` are read, and every panel
    // the pairs that hold their weights; `sums` has `R` times `P` times sixteen places.
    unsafe {
        let row = rows.as_ptr().add(first);
        let panel = panels.as_ptr().add(first / 2);
        let weights = |pair: usize, p: usize| _mm512_loadu_si512(panel.add(p * n_pairs + pair).cast());
        let mut add = |i: usize, weights: [__m512i; P]| {
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*row.add(r * n_in + i));
                for (acc, weights) in acc.iter_mut().zip(&weights) {
                    *acc = _mm512_fmadd_ps(x, _mm512_castsi512_ps(*weights), *acc);
                }
            }
        };
        for pair in 0..n_inputs / 2 {
            add(2 * pair, std::array::from_fn(|p| _mm512_slli_epi32::<16>(weights(pair, p))));
            add(2 * pair + 1, std::array::from_fn(|p| _mm512_and_si512(weights(pair, p), upper)));
        }
        if n_inputs % 2 == 1 {
            let pair = n_inputs / 2;
            add(2 * pair, std::array::from_fn(|p| _mm512_slli_epi32::<16>(weights(pair, p))));
        }
        for (r, acc) in acc.iter().enumerate() {
            for (p, acc) in acc.iter().enumerate() {
                _mm512_storeu_ps(sums.as_mut_ptr().add((r * P + p) * PANEL), *acc);
            }
        }
    }
}

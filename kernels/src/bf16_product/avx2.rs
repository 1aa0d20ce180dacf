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
            (1, 3) => registers::<1, 3, 6>(rows, panels, shape, sums),
            (2, 1) => registers::<2, 1, 2>(rows, panels, shape, sums),
            (2, 2) => registers::<2, 2, 4>(rows, panels, shape, sums),
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
    let mut acc = [[_mm256_setzero_ps(); V]; R];
    // SAFETY: every row has `n_in` inputs, of which those from `first` to `first + n_inputs` are read, and every panel
    // the pairs that hold their weights; `sums` has `R` times `P` times sixteen places.
    unsafe {
        let row = rows.as_ptr().add(first);
        let panel = panels.as_ptr().add(first / 2);
        let eight = |pair: usize, v: usize| {
            let (p, part) = (v * LANES / PANEL, v * LANES % PANEL);
            panel.add(p * n_pairs + pair).cast::<[u16; 2]>().add(part).cast::<__m256i>()
        };
        for pair in 0..n_inputs / 2 {
            let mut weights = [_mm256_setzero_ps(); V];
            for (v, weights) in weights.iter_mut().enumerate() {
                *weights = even(eight(pair, v).read());
            }
            add(row.add(2 * pair), n_in, &weights, &mut acc);
            for (v, weights) in weights.iter_mut().enumerate() {
                // Volatile, lest the compiler keep what it has just read: with twelve sums there are too few registers,
                // and a sum would go through memory instead (91 GFLOP/s against 102).
                *weights = odd(eight(pair, v).read_volatile());
            }
            add(row.add(2 * pair + 1), n_in, &weights, &mut acc);
        }
        if n_inputs % 2 == 1 {
            let mut weights = [_mm256_setzero_ps(); V];
            for (v, weights) in weights.iter_mut().enumerate() {
                *weights = even(eight(n_inputs / 2, v).read());
            }
            add(row.add(n_inputs - 1), n_in, &weights, &mut acc);
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                _mm256_storeu_ps(sums.as_mut_ptr().add(r * P * PANEL + v * LANES), *acc);
            }
        }
    }
}

/// The weights of the first of two inputs.
#[target_feature(enable = "avx2")]
#[inline]
fn even(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))
}

/// The weights of the second of two inputs.
#[target_feature(enable = "avx2")]
#[inline]
fn odd(pairs: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32.cast_signed())))
}

/// Adds an input's products: `acc[r, v] += row[r · n_in] · weights[v]`.
///
/// # Safety
///
/// The rows are there.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn add<const R: usize, const V: usize>(
    row: *const f32,
    n_in: usize,
    weights: &[__m256; V],
    acc: &mut [[__m256; V]; R],
) {
    for (r, acc) in acc.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        let x = _mm256_set1_ps(unsafe { *row.add(r * n_in) });
        for (acc, weights) in acc.iter_mut().zip(weights) {
            *acc = _mm256_fmadd_ps(x, *weights, *acc);
        }
    }
}

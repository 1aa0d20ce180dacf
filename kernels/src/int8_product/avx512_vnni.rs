//! AVX-512 VNNI: sixty-four products of bytes in an instruction, added four at a time to thirty-two bits.

use std::arch::x86_64::*;

use super::{BLOCK, GROUP, Operands, QUAD};

/// The sums of `n_rows` rows with up to four groups of outputs, in rows of [`BLOCK`].
///
/// # Safety
///
/// The processor has AVX-512F and VNNI, and the operands are as long as they say.
#[target_feature(enable = "avx512f,avx512vnni")]
pub unsafe fn tile(n_rows: usize, operands: &Operands<'_>, sums: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        match n_rows {
            1 if operands.n_groups == 4 => registers::<1, 4>(operands, 0, sums),
            1 => wide::<1>(operands, sums),
            2 => wide::<2>(operands, sums),
            3 => wide::<3>(operands, sums),
            4 => wide::<4>(operands, sums),
            5 => wide::<5>(operands, sums),
            _ => wide::<6>(operands, sums),
        }
    }
}

/// Two groups at a time: each number of a row that is read serves both.
///
/// # Safety
///
/// As for [`tile`].
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
unsafe fn wide<const R: usize>(operands: &Operands<'_>, sums: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        for first in (0..operands.n_groups / 2 * 2).step_by(2) {
            registers::<R, 2>(operands, first, sums);
        }
        if operands.n_groups % 2 == 1 {
            registers::<R, 1>(operands, operands.n_groups - 1, sums);
        }
    }
}

/// `R` rows by `G` groups from `first` on.
///
/// # Safety
///
/// As for [`tile`]; the operands have the groups.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
unsafe fn registers<const R: usize, const G: usize>(operands: &Operands<'_>, first: usize, sums: &mut [f32]) {
    let n_blocks = operands.n_blocks;
    let mut totals = [[_mm512_setzero_ps(); G]; R];
    for b in 0..n_blocks {
        let mut products = [[_mm512_setzero_si512(); G]; R];
        // SAFETY: a block of weights has sixteen quads of sixty-four bytes, a block of a row sixteen quads of four;
        // scales and sums of weights have sixteen numbers a block, steps one a row and block.
        unsafe {
            let place = |g: usize| (first + g) * n_blocks + b;
            let rows = operands.rows.as_ptr().add(b * BLOCK);
            for quad in 0..BLOCK / QUAD {
                let weights: [__m512i; G] = std::array::from_fn(|g| {
                    _mm512_loadu_si512(operands.weights.as_ptr().add((place(g) * BLOCK + quad * QUAD) * GROUP).cast())
                });
                for (r, products) in products.iter_mut().enumerate() {
                    let four = rows.add(r * n_blocks * BLOCK + quad * QUAD).cast::<i32>().read_unaligned();
                    let four = _mm512_set1_epi32(four);
                    for (products, weights) in products.iter_mut().zip(&weights) {
                        *products = _mm512_dpbusd_epi32(*products, four, *weights);
                    }
                }
            }
            for g in 0..G {
                let scales = _mm512_loadu_ps(operands.scales.as_ptr().add(place(g) * GROUP));
                let weight_sums = _mm512_loadu_ps(operands.weight_sums.as_ptr().add(place(g) * GROUP));
                for r in 0..R {
                    let (step, least) = *operands.steps.get_unchecked(r * n_blocks + b);
                    let scale = _mm512_mul_ps(_mm512_set1_ps(step), scales);
                    let total = _mm512_fmadd_ps(_mm512_set1_ps(least), weight_sums, totals[r][g]);
                    totals[r][g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[r][g]), scale, total);
                }
            }
        }
    }
    for (r, totals) in totals.iter().enumerate() {
        for (g, total) in totals.iter().enumerate() {
            // SAFETY: `sums` has room for four groups in each of `R` rows.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(r * BLOCK + (first + g) * GROUP), *total) };
        }
    }
}

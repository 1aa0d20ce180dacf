//! AVX-512 VNNI: sixty-four products of bytes in an instruction, added four at a time to thirty-two bits.

use std::arch::x86_64::*;

use super::{BLOCK, GROUP, Operands, PAIR, QUAD};

/// The sums of `n_rows` rows with a group of outputs, sixteen in each of rows of [`PAIR`].
///
/// # Safety
///
/// The processor has AVX-512F and VNNI, and the operands are as long as they say.
#[target_feature(enable = "avx512f,avx512vnni")]
pub unsafe fn tile(n_rows: usize, operands: &Operands<'_>, sums: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        match n_rows {
            1 => registers::<1>(operands, sums),
            2 => registers::<2>(operands, sums),
            3 => registers::<3>(operands, sums),
            4 => registers::<4>(operands, sums),
            _ => registers::<5>(operands, sums),
        }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
unsafe fn registers<const R: usize>(operands: &Operands<'_>, sums: &mut [f32]) {
    let n_blocks = operands.n_blocks;
    let mut totals = [_mm512_setzero_ps(); R];
    for b in 0..n_blocks {
        // Two chains a row hide the latency of the sums.
        let mut products = [[_mm512_setzero_si512(); 2]; R];
        // SAFETY: a block of weights has eight quads of sixty-four bytes, a block of a row eight quads of four;
        // scales and sums of weights have sixteen numbers a block, steps one a row and block.
        unsafe {
            let weights = operands.weights.as_ptr().add(b * BLOCK * GROUP);
            let rows = operands.rows.as_ptr().add(b * BLOCK);
            for quad in 0..BLOCK / QUAD {
                let w = _mm512_loadu_si512(weights.add(quad * QUAD * GROUP).cast());
                for (r, products) in products.iter_mut().enumerate() {
                    let four = rows.add(r * n_blocks * BLOCK + quad * QUAD).cast::<i32>().read_unaligned();
                    products[quad % 2] = _mm512_dpbusd_epi32(products[quad % 2], _mm512_set1_epi32(four), w);
                }
            }
            let scales = _mm512_loadu_ps(operands.scales.as_ptr().add(b * GROUP));
            let weight_sums = _mm512_loadu_ps(operands.weight_sums.as_ptr().add(b * GROUP));
            for r in 0..R {
                let (step, least) = *operands.steps.get_unchecked(r * n_blocks + b);
                let scale = _mm512_mul_ps(_mm512_set1_ps(step), scales);
                let total = _mm512_fmadd_ps(_mm512_set1_ps(least), weight_sums, totals[r]);
                let product = _mm512_cvtepi32_ps(_mm512_add_epi32(products[r][0], products[r][1]));
                totals[r] = _mm512_fmadd_ps(product, scale, total);
            }
        }
    }
    for (r, total) in totals.iter().enumerate() {
        // SAFETY: `sums` has sixteen places in each of `R` rows of `PAIR`.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(r * PAIR), *total) };
    }
}

//! AVX2: thirty-two products of bytes in an instruction, added in pairs to sixteen bits, then to thirty-two.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{BLOCK, GROUP, Operands, QUAD, portable};

/// Rounds a block of inputs to `n_steps` steps; gives the step and the least number.
///
/// # Safety
///
/// The processor has AVX2 and FMA, and `codes` is as long as a block.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn round(input: &[f32], codes: &mut [u8], n_steps: f32) -> (f32, f32) {
    if input.len() != BLOCK {
        return portable::round(input, codes, n_steps);
    }
    let mut x = [_mm256_setzero_ps(); BLOCK / 8];
    for (i, x) in x.iter_mut().enumerate() {
        // SAFETY: a block has eight times eight numbers.
        *x = unsafe { _mm256_loadu_ps(input.as_ptr().add(8 * i)) };
    }
    let (mut least, mut greatest) = (x[0], x[0]);
    for x in &x[1..] {
        least = _mm256_min_ps(*x, least);
        greatest = _mm256_max_ps(*x, greatest);
    }
    let (mut least_lanes, mut greatest_lanes) = ([0.0f32; 8], [0.0f32; 8]);
    // SAFETY: both arrays have eight places.
    unsafe {
        _mm256_storeu_ps(least_lanes.as_mut_ptr(), least);
        _mm256_storeu_ps(greatest_lanes.as_mut_ptr(), greatest);
    }
    let least = least_lanes.into_iter().fold(f32::INFINITY, f32::min);
    let greatest = greatest_lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let step = (greatest - least) / n_steps;
    let inverse = if step > 0.0 { step.recip() } else { 0.0 };
    let (least8, inverse8, most) = (_mm256_set1_ps(least), _mm256_set1_ps(inverse), _mm256_set1_ps(n_steps));
    let code = |x: __m256| {
        let steps = _mm256_min_ps(_mm256_mul_ps(_mm256_sub_ps(x, least8), inverse8), most);
        _mm256_cvtps_epi32(steps)
    };
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for i in 0..BLOCK / 32 {
        let low = _mm256_packs_epi32(code(x[4 * i]), code(x[4 * i + 1]));
        let high = _mm256_packs_epi32(code(x[4 * i + 2]), code(x[4 * i + 3]));
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
        // SAFETY: `codes` has a place for each number of a block.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().add(32 * i).cast(), bytes) };
    }
    (step, least)
}

/// The sums of `n_rows` rows with up to four groups of outputs, in rows of [`BLOCK`].
///
/// # Safety
///
/// The processor has AVX2 and FMA, and the operands are as long as they say.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn tile(n_rows: usize, operands: &Operands<'_>, sums: &mut [f32]) {
    for (g, operands) in operands.groups().enumerate() {
        let sums = &mut sums[g * GROUP..];
        // SAFETY: as the caller promises.
        unsafe {
            match n_rows {
                1 => registers::<1>(&operands, sums),
                2 => registers::<2>(&operands, sums),
                3 => registers::<3>(&operands, sums),
                4 => registers::<4>(&operands, sums),
                _ => registers::<5>(&operands, sums),
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn registers<const R: usize>(operands: &Operands<'_>, sums: &mut [f32]) {
    let n_blocks = operands.n_blocks;
    let ones = _mm256_set1_epi16(1);
    let mut totals = [[_mm256_setzero_ps(); 2]; R];
    for b in 0..n_blocks {
        let mut products = [[_mm256_setzero_si256(); 2]; R];
        // SAFETY: a block of weights has sixteen quads of sixty-four bytes, a block of a row sixteen quads of four;
        // scales and sums of weights have sixteen numbers a block, steps one a row and block.
        unsafe {
            let weights = operands.weights.as_ptr().add(b * BLOCK * GROUP);
            let rows = operands.rows.as_ptr().add(b * BLOCK);
            for quad in 0..BLOCK / QUAD {
                let low = _mm256_loadu_si256(weights.add(quad * QUAD * GROUP).cast());
                let high = _mm256_loadu_si256(weights.add(quad * QUAD * GROUP + 32).cast());
                for (r, products) in products.iter_mut().enumerate() {
                    let four = rows.add(r * n_blocks * BLOCK + quad * QUAD).cast::<i32>().read_unaligned();
                    let x = _mm256_set1_epi32(four);
                    let pairs = [_mm256_maddubs_epi16(x, low), _mm256_maddubs_epi16(x, high)];
                    products[0] = _mm256_add_epi32(products[0], _mm256_madd_epi16(pairs[0], ones));
                    products[1] = _mm256_add_epi32(products[1], _mm256_madd_epi16(pairs[1], ones));
                    // Sums of whole numbers have no order, and the compiler would choose one in which all of them go
                    // through memory. SAFETY: a comment does nothing.
                    asm!("/* {0} {1} */", inout(ymm_reg) products[0], inout(ymm_reg) products[1],
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
            for half in 0..2 {
                let scales = _mm256_loadu_ps(operands.scales.as_ptr().add(b * GROUP + 8 * half));
                let weight_sums = _mm256_loadu_ps(operands.weight_sums.as_ptr().add(b * GROUP + 8 * half));
                for r in 0..R {
                    let (step, least) = *operands.steps.get_unchecked(r * n_blocks + b);
                    let scale = _mm256_mul_ps(_mm256_set1_ps(step), scales);
                    let total = _mm256_fmadd_ps(_mm256_set1_ps(least), weight_sums, totals[r][half]);
                    totals[r][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[r][half]), scale, total);
                }
            }
        }
    }
    for (r, totals) in totals.iter().enumerate() {
        for (half, total) in totals.iter().enumerate() {
            // SAFETY: `sums` has sixteen places in each of `R` rows of `BLOCK`.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(r * BLOCK + 8 * half), *total) };
        }
    }
}

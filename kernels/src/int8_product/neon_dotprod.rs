//! NEON with DotProd: sixteen products of bytes in an instruction, added four at a time to thirty-two bits.

use std::arch::aarch64::*;

use super::{BLOCK, GROUP, Operands, QUAD};
use crate::neon::dot_lane;

/// Registers of a group's sums.
const PARTS: usize = GROUP / 4;

/// The sums of `n_rows` rows, whose codes are at most 127, with up to four groups of outputs, in rows of [`BLOCK`].
///
/// # Safety
///
/// The processor has NEON and DotProd, and the operands are as long as they say.
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn tile(n_rows: usize, operands: &Operands<'_>, sums: &mut [f32]) {
    for (g, operands) in operands.groups().enumerate() {
        let sums = &mut sums[g * GROUP..];
        // SAFETY: as the caller promises.
        unsafe {
            match n_rows {
                1 => registers::<1>(&operands, sums),
                2 => registers::<2>(&operands, sums),
                3 => registers::<3>(&operands, sums),
                _ => registers::<4>(&operands, sums),
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn registers<const R: usize>(operands: &Operands<'_>, sums: &mut [f32]) {
    let n_blocks = operands.n_blocks;
    let mut totals = [[vdupq_n_f32(0.0); PARTS]; R];
    for b in 0..n_blocks {
        let mut products = [[vdupq_n_s32(0); PARTS]; R];
        // SAFETY: a block of weights has sixteen quads of sixty-four bytes, a block of a row sixteen quads of four;
        // scales and sums of weights have sixteen numbers a block, steps one a row and block.
        unsafe {
            let weights = operands.weights.as_ptr().add(b * BLOCK * GROUP);
            for part in 0..BLOCK / 16 {
                let codes: [int8x16_t; R] = std::array::from_fn(|r| {
                    let codes = operands.rows.as_ptr().add((r * n_blocks + b) * BLOCK + part * 16);
                    vreinterpretq_s8_u8(vld1q_u8(codes))
                });
                let weights = weights.add(part * 4 * QUAD * GROUP);
                quad::<0, R>(weights, &codes, &mut products);
                quad::<1, R>(weights, &codes, &mut products);
                quad::<2, R>(weights, &codes, &mut products);
                quad::<3, R>(weights, &codes, &mut products);
            }
            for part in 0..PARTS {
                let scales = vld1q_f32(operands.scales.as_ptr().add(b * GROUP + part * 4));
                let weight_sums = vld1q_f32(operands.weight_sums.as_ptr().add(b * GROUP + part * 4));
                for r in 0..R {
                    let (step, least) = *operands.steps.get_unchecked(r * n_blocks + b);
                    let total = vfmaq_f32(totals[r][part], vdupq_n_f32(least), weight_sums);
                    let scale = vmulq_f32(vdupq_n_f32(step), scales);
                    totals[r][part] = vfmaq_f32(total, vcvtq_f32_s32(products[r][part]), scale);
                }
            }
        }
    }
    for (r, totals) in totals.iter().enumerate() {
        for (part, total) in totals.iter().enumerate() {
            // SAFETY: `sums` has sixteen places for each of at least `R` rows.
            unsafe { vst1q_f32(sums.as_mut_ptr().add(r * BLOCK + part * 4), *total) };
        }
    }
}

/// Adds the products of the inputs of quad `QUAD_OF_FOUR` with all outputs.
///
/// # Safety
///
/// The processor has NEON and DotProd, and `weights` begins four quads of sixty-four bytes.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn quad<const QUAD_OF_FOUR: usize, const R: usize>(
    weights: *const i8,
    codes: &[int8x16_t; R],
    products: &mut [[int32x4_t; PARTS]; R],
) {
    for part in 0..PARTS {
        // SAFETY: as the caller promises.
        let w = unsafe { vld1q_s8(weights.add((QUAD_OF_FOUR * PARTS + part) * 16)) };
        for (codes, products) in codes.iter().zip(products.iter_mut()) {
            products[part] = dot_lane::<QUAD_OF_FOUR>(products[part], w, *codes);
        }
    }
}

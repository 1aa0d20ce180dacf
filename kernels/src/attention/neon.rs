//! NEON: four lanes and thirty-two registers.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::simd::{Simd, Singles};
use super::tile::{Job, Scratch, State, attend, mass_of_block};
use crate::neon::halves;

/// Four lanes.
#[derive(Clone, Copy)]
pub struct Neon;

impl Simd for Neon {
    type Vector = float32x4_t;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        // SAFETY: the caller has NEON and four numbers.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> float32x4_t {
        // SAFETY: the caller has NEON and four numbers.
        unsafe { halves(vld1_u16(from)) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: float32x4_t) {
        // SAFETY: the caller has NEON and room for four numbers.
        unsafe { vst1q_f32(to, x) }
    }

    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vmaxq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn clamp(x: float32x4_t, low: f32, high: f32) -> float32x4_t {
        // SAFETY: the caller has NEON. The instructions give NaN when one operand is.
        unsafe { vminq_f32(vdupq_n_f32(high), vmaxq_f32(vdupq_n_f32(low), x)) }
    }

    #[inline(always)]
    unsafe fn round(x: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vrndnq_f32(x) }
    }

    #[inline(always)]
    unsafe fn power_of_two(n: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has NEON.
        unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)))) }
    }

    #[inline(always)]
    unsafe fn zero_below(x: float32x4_t, limit: f32, y: float32x4_t) -> float32x4_t {
        // SAFETY: the caller has NEON. A comparison with NaN is false, so that its lane keeps `y`.
        unsafe {
            let below = vcltq_f32(x, vdupq_n_f32(limit));
            vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), below))
        }
    }

    #[inline(always)]
    fn prefetch(line: *const u8) {
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) line, options(nostack, readonly, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller has NEON and squares of four rows and columns.
        unsafe {
            let [a, b, c, d] = [0, 1, 2, 3].map(|row| vld1q_f32(from.add(row * from_stride)));
            let pairs = |a, b| (vreinterpretq_f64_f32(vtrn1q_f32(a, b)), vreinterpretq_f64_f32(vtrn2q_f32(a, b)));
            let ((ab_even, ab_odd), (cd_even, cd_odd)) = (pairs(a, b), pairs(c, d));
            vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even)));
            vst1q_f32(to.add(to_stride), vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd)));
            vst1q_f32(to.add(2 * to_stride), vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even)));
            vst1q_f32(to.add(3 * to_stride), vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd)));
        }
    }
}

/// [`attend`] in these instructions.
///
/// # Safety
///
/// As [`attend`], on a processor with NEON.
#[target_feature(enable = "neon")]
pub unsafe fn attend_tile(
    job: &Job,
    kv_head: usize,
    tokens: Range<usize>,
    blocks: Range<usize>,
    scratch: &mut Scratch,
    state: &mut State,
) {
    // SAFETY: the caller's promise.
    unsafe { attend::<Neon, Singles>(job, kv_head, tokens, blocks, scratch, state) }
}

/// [`mass_of_block`] in these instructions.
///
/// # Safety
///
/// As [`mass_of_block`], on a processor with NEON.
#[target_feature(enable = "neon")]
pub unsafe fn mass_tile(
    job: &Job,
    kv_head: usize,
    tokens: Range<usize>,
    block: usize,
    lse: &[f32],
    scratch: &mut Scratch,
    sums: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe { mass_of_block::<Neon>(job, kv_head, tokens, block, lse, scratch, sums) }
}

/// [`tile::merge_states`](super::tile::merge_states) in these instructions.
///
/// # Safety
///
/// The processor has NEON; both states are of one shape.
#[target_feature(enable = "neon")]
pub unsafe fn merge_states(state: &mut State, block: &mut State) {
    // SAFETY: the caller's promise.
    unsafe { super::tile::merge_states::<Neon>(state, block) }
}

//! AVX2 with FMA and F16C: eight lanes.

use std::arch::x86_64::*;
use std::ops::Range;

use super::simd::{Simd, Singles};
use super::tile::{Job, Scratch, State, attend, mass_of_block};

/// Eight lanes.
#[derive(Clone, Copy)]
pub struct Avx2;

impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: the caller has AVX2 and eight numbers.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m256 {
        // SAFETY: the caller has F16C and eight numbers.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m256) {
        // SAFETY: the caller has AVX2 and room for eight numbers.
        unsafe { _mm256_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the caller has FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn clamp(x: __m256, low: f32, high: f32) -> __m256 {
        // SAFETY: the caller has AVX2. The instructions give their second operand when one is NaN.
        unsafe { _mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), x)) }
    }

    #[inline(always)]
    unsafe fn round(x: __m256) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    unsafe fn power_of_two(n: __m256) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(x: __m256, limit: f32, y: __m256) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(limit)), y) }
    }

    #[inline(always)]
    fn prefetch(line: *const u8) {
        // SAFETY: every x86-64 has SSE, and a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller has AVX2 and squares of eight rows and columns.
        unsafe {
            // Rows i and i + 4 share a register, so that what is left is a transposition of 4 x 4 in each half.
            let pair = |row: usize, column: usize| {
                let low = _mm_loadu_ps(from.add(row * from_stride + column));
                let high = _mm_loadu_ps(from.add((row + 4) * from_stride + column));
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
            };
            for half in [0, 4] {
                let (a, b, c, d) = (pair(0, half), pair(1, half), pair(2, half), pair(3, half));
                let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                let to = to.add(half * to_stride);
                _mm256_storeu_ps(to, _mm256_shuffle_ps::<0x44>(ab_low, cd_low));
                _mm256_storeu_ps(to.add(to_stride), _mm256_shuffle_ps::<0xee>(ab_low, cd_low));
                _mm256_storeu_ps(to.add(2 * to_stride), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
                _mm256_storeu_ps(to.add(3 * to_stride), _mm256_shuffle_ps::<0xee>(ab_high, cd_high));
            }
        }
    }
}

/// [`attend`] in these instructions.
///
/// # Safety
///
/// As [`attend`], on a processor with AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn attend_tile(
    job: &Job,
    kv_head: usize,
    tokens: Range<usize>,
    blocks: Range<usize>,
    scratch: &mut Scratch,
    state: &mut State,
) {
    // SAFETY: the caller's promise.
    unsafe { attend::<Avx2, Singles>(job, kv_head, tokens, blocks, scratch, state) }
}

/// [`mass_of_block`] in these instructions.
///
/// # Safety
///
/// As [`mass_of_block`], on a processor with AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
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
    unsafe { mass_of_block::<Avx2>(job, kv_head, tokens, block, lse, scratch, sums) }
}

/// [`tile::merge_states`](super::tile::merge_states) in these instructions.
///
/// # Safety
///
/// The processor has AVX2, FMA and F16C; both states are of one shape.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn merge_states(state: &mut State, block: &mut State) {
    // SAFETY: the caller's promise.
    unsafe { super::tile::merge_states::<Avx2>(state, block) }
}

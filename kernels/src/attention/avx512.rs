//! AVX-512: sixteen lanes and thirty-two registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::simd::{Lanes, Simd, Singles};
use super::tile::{Job, Scratch, State, attend, mass_of_block};

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub struct Avx512;

impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: the caller has AVX-512F and sixteen numbers.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        // SAFETY: the caller has AVX-512F and sixteen numbers.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        // SAFETY: the caller has AVX-512F and room for sixteen numbers.
        unsafe { _mm512_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn clamp(x: __m512, low: f32, high: f32) -> __m512 {
        // SAFETY: the caller has AVX-512F. The instructions give their second operand when one is NaN.
        unsafe { _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), x)) }
    }

    #[inline(always)]
    unsafe fn round(x: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    unsafe fn power_of_two(n: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(x: __m512, limit: f32, y: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(limit)), y) }
    }

    #[inline(always)]
    fn prefetch(line: *const u8) {
        // SAFETY: every x86-64 has SSE, and a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller has AVX-512F and squares of sixteen rows and columns.
        unsafe {
            for column in [0, 4, 8, 12] {
                let at = from.add(column);
                let (a, b) = (quarters(at, from_stride), quarters(at.add(from_stride), from_stride));
                let at = at.add(2 * from_stride);
                let (c, d) = (quarters(at, from_stride), quarters(at.add(from_stride), from_stride));
                let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let to = to.add(column * to_stride);
                _mm512_storeu_ps(to, _mm512_shuffle_ps::<0x44>(ab_low, cd_low));
                _mm512_storeu_ps(to.add(to_stride), _mm512_shuffle_ps::<0xee>(ab_low, cd_low));
                _mm512_storeu_ps(to.add(2 * to_stride), _mm512_shuffle_ps::<0x44>(ab_high, cd_high));
                _mm512_storeu_ps(to.add(3 * to_stride), _mm512_shuffle_ps::<0xee>(ab_high, cd_high));
            }
        }
    }
}

/// Two bf16 a lane, whose products are added in one instruction.
pub struct Bf16Pairs;

impl Lanes<Avx512> for Bf16Pairs {
    const NUMBERS: usize = 2;

    #[inline(always)]
    unsafe fn add_products(a: __m512, b: __m512, sums: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512 BF16; bits are bits.
        unsafe {
            _mm512_dpbf16_ps(
                sums,
                std::mem::transmute::<__m512, __m512bh>(a),
                std::mem::transmute::<__m512, __m512bh>(b),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, low: __m512, high: __m512) {
        // SAFETY: the caller has AVX-512 BF16 and room for sixteen lanes; bits are bits.
        unsafe { _mm512_storeu_ps(to, std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low))) }
    }

    #[inline(always)]
    unsafe fn pairs(first: __m512, second: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512F and BF16; bits are bits.
        unsafe {
            let lanes =
                |x: __m512| _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)));
            let (first, second) = (lanes(first), lanes(second));
            _mm512_castsi512_ps(_mm512_or_si512(first, _mm512_slli_epi32::<16>(second)))
        }
    }
}

/// Four columns of rows 0, 4, 8 and 12, so that what is left of a transposition is one of 4 x 4 in each quarter.
///
/// It is no closure: those have no features, and vectors would go in and out of them through memory.
///
/// # Safety
///
/// The processor has AVX-512F, and the rows have four columns.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn quarters(from: *const f32, stride: usize) -> __m512 {
    // SAFETY: as the caller promises.
    unsafe {
        let low = _mm512_castps128_ps512(_mm_loadu_ps(from));
        let low = _mm512_insertf32x4::<1>(low, _mm_loadu_ps(from.add(4 * stride)));
        let low = _mm512_insertf32x4::<2>(low, _mm_loadu_ps(from.add(8 * stride)));
        _mm512_insertf32x4::<3>(low, _mm_loadu_ps(from.add(12 * stride)))
    }
}

/// [`attend`] in these instructions.
///
/// # Safety
///
/// As [`attend`], on a processor with AVX-512F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
pub unsafe fn attend_tile(
    job: &Job,
    kv_head: usize,
    tokens: Range<usize>,
    blocks: Range<usize>,
    scratch: &mut Scratch,
    state: &mut State,
) {
    // SAFETY: the caller's promise.
    unsafe { attend::<Avx512, Singles>(job, kv_head, tokens, blocks, scratch, state) }
}

/// [`attend`] in these instructions, with products of numbers that are rounded to bf16.
///
/// # Safety
///
/// As [`attend`], on a processor with AVX-512F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c")]
pub unsafe fn attend_tile_in_bf16(
    job: &Job,
    kv_head: usize,
    tokens: Range<usize>,
    blocks: Range<usize>,
    scratch: &mut Scratch,
    state: &mut State,
) {
    // SAFETY: the caller's promise.
    unsafe { attend::<Avx512, Bf16Pairs>(job, kv_head, tokens, blocks, scratch, state) }
}

/// [`mass_of_block`] in these instructions.
///
/// # Safety
///
/// As [`mass_of_block`], on a processor with AVX-512F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
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
    unsafe { mass_of_block::<Avx512>(job, kv_head, tokens, block, lse, scratch, sums) }
}

/// [`tile::merge_states`](super::tile::merge_states) in these instructions.
///
/// # Safety
///
/// The processor has AVX-512F, BW, DQ and VL; both states are of one shape.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
pub unsafe fn merge_states(state: &mut State, block: &mut State) {
    // SAFETY: the caller's promise.
    unsafe { super::tile::merge_states::<Avx512>(state, block) }
}

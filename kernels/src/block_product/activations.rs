//! Activations as 8-bit integers.

use rayon::prelude::*;

use super::matrix::BLOCK;
use crate::device::CpuForm;

/// Rows of activations, each 32 of which are `scale · q` with `q` in −127..=127.
pub(super) struct Activations {
    n_blocks: usize,
    quants: Vec<i8>,
    scales: Vec<f32>,
    /// `scale · Σ q` of each block, which the weights' minimum is multiplied with.
    sums: Vec<f32>,
    /// `Σ q` of each half block, by which a form with unsigned weights corrects its sums.
    half_sums: Vec<[i32; 2]>,
}

/// [`quantize`] in one form.
type Quantize = unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [f32], &mut [[i32; 2]]);

/// One row of [`Activations`].
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) quants: &'a [i8],
    pub(super) scales: &'a [f32],
    pub(super) sums: &'a [f32],
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no form there needs it"))]
    pub(super) half_sums: &'a [[i32; 2]],
}

impl Activations {
    /// Rounds rows of `dim` numbers, a multiple of 32, by a form that is available.
    pub(super) fn new(form: CpuForm, input: &[f32], dim: usize, parallel: bool) -> Self {
        let n_blocks = dim / BLOCK;
        let n = input.len() / BLOCK;
        let mut to = Self {
            n_blocks,
            quants: vec![0; input.len()],
            scales: vec![0.0; n],
            sums: vec![0.0; n],
            half_sums: vec![[0; 2]; n],
        };
        let quantize: Quantize = match form {
            #[cfg(target_arch = "x86_64")]
            CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => quantize_avx512,
            #[cfg(target_arch = "x86_64")]
            CpuForm::Avx2 => quantize_avx2,
            _ => quantize,
        };
        if parallel {
            // 16 Ki numbers are some 5 µs of work.
            let blocks = (1 << 14) / BLOCK;
            let outputs = to.scales.par_chunks_mut(blocks).zip(to.sums.par_chunks_mut(blocks));
            let outputs = outputs.zip(to.half_sums.par_chunks_mut(blocks));
            let numbers = input.par_chunks(blocks * BLOCK).zip(to.quants.par_chunks_mut(blocks * BLOCK));
            numbers.zip(outputs).for_each(|((input, quants), ((scales, sums), half_sums))| {
                // SAFETY: the form is available.
                unsafe { quantize(input, quants, scales, sums, half_sums) };
            });
        } else {
            // SAFETY: the form is available.
            unsafe { quantize(input, &mut to.quants, &mut to.scales, &mut to.sums, &mut to.half_sums) };
        }
        to
    }

    /// The row, which is there.
    #[inline]
    pub(super) fn row(&self, row: usize) -> Row<'_> {
        let blocks = row * self.n_blocks..(row + 1) * self.n_blocks;
        Row {
            quants: &self.quants[blocks.start * BLOCK..blocks.end * BLOCK],
            scales: &self.scales[blocks.clone()],
            sums: &self.sums[blocks.clone()],
            half_sums: &self.half_sums[blocks],
        }
    }
}

/// [`quantize`] as the compiler vectorises it with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2(input: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [f32], half_sums: &mut [[i32; 2]]) {
    quantize(input, quants, scales, sums, half_sums);
}

/// [`quantize`] a vector of AVX-512 at a time, with the same bits.
///
/// # Safety
///
/// The processor has AVX-512F, and all slices are of one number of blocks.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn quantize_avx512(
    input: &[f32],
    quants: &mut [i8],
    scales: &mut [f32],
    sums: &mut [f32],
    half_sums: &mut [[i32; 2]],
) {
    use std::arch::x86_64::*;
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let blocks = input.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    for ((input, quants), ((scale, sum), halves)) in blocks.zip(scales.iter_mut().zip(sums).zip(half_sums)) {
        // SAFETY: a block has two vectors of sixteen numbers.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(input.as_ptr()), _mm512_loadu_ps(input.as_ptr().add(16)));
            let of = |x: __m512| _mm512_and_si512(_mm512_castps_si512(x), magnitude);
            let max = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(of(low), of(high))));
            let inverse;
            (*scale, inverse) = scale_of(max);
            let inverse = _mm512_set1_ps(inverse);
            // What is not a number would be the least integer; it is 0, and the scale tells of it.
            let (low, high) = (_mm512_mul_ps(low, inverse), _mm512_mul_ps(high, inverse));
            let low = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(low, low), low);
            let high = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(high, high), high);
            _mm_storeu_si128(quants.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(low));
            _mm_storeu_si128(quants.as_mut_ptr().add(16).cast(), _mm512_cvtepi32_epi8(high));
            *halves = [_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(high)];
        }
        *sum = *scale * (halves[0] + halves[1]) as f32;
    }
}

/// The scale of a block and what its numbers are multiplied with, by its greatest magnitude.
#[inline(always)]
fn scale_of(max: f32) -> (f32, f32) {
    let inverse = 127.0 / max;
    // Below 2^-120 nothing is left, because the inverse is infinite; above all numbers the scale says so.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    (if inverse > 0.0 || !max.is_finite() { max / 127.0 } else { 0.0 }, inverse)
}

/// Rounds whole blocks; all slices are of one number of blocks.
#[inline(always)]
fn quantize(input: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [f32], half_sums: &mut [[i32; 2]]) {
    let blocks = input.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    for ((input, quants), ((scale, sum), halves)) in blocks.zip(scales.iter_mut().zip(sums).zip(half_sums)) {
        // As integers, magnitudes are in their order, then comes infinity, then what is not a number.
        let max = input.iter().map(|x| (x.to_bits() & 0x7fff_ffff).cast_signed()).fold(0, i32::max);
        let max = f32::from_bits(max.cast_unsigned());
        let inverse;
        (*scale, inverse) = scale_of(max);
        for (half, (input, quants)) in halves.iter_mut().zip(input.chunks_exact(16).zip(quants.chunks_exact_mut(16))) {
            let mut n = 0;
            for (x, quant) in input.iter().zip(quants) {
                // Adding 1.5 · 2^23 leaves the nearest whole number, ties to even, in the lowest bits.
                let q = (x * inverse + 12_582_912.0).to_bits() as i8;
                *quant = q;
                n += i32::from(q);
            }
            *half = n;
        }
        *sum = *scale * (halves[0] + halves[1]) as f32;
    }
}

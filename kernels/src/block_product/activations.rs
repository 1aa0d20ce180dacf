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
            CpuForm::Avx2 | CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => quantize_avx2,
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

/// Rounds whole blocks; all slices are of one number of blocks.
#[inline(always)]
fn quantize(input: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [f32], half_sums: &mut [[i32; 2]]) {
    let blocks = input.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    for ((input, quants), ((scale, sum), halves)) in blocks.zip(scales.iter_mut().zip(sums).zip(half_sums)) {
        // As integers, magnitudes are in their order, then comes infinity, then what is not a number.
        let max = input.iter().map(|x| (x.to_bits() & 0x7fff_ffff).cast_signed()).fold(0, i32::max);
        let max = f32::from_bits(max.cast_unsigned());
        let inverse = 127.0 / max;
        // Below 2^-120 nothing is left, because the inverse is infinite; above all numbers the scale says so.
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        *scale = if inverse > 0.0 || !max.is_finite() { max / 127.0 } else { 0.0 };
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

//! Products of rows with a weight matrix in bytes.
//!
//! Weights are rounded to −127…127 with a scale for each output and each block of inputs. A row of inputs is rounded
//! when it comes, block by block, to the steps between its least and its greatest number; products of bytes are summed
//! exactly, and the scales are applied once a block:
//!
//! `Σ_i x_i w_i ≈ Σ_block s_x s_w Σ_i q_i p_i + min_x s_w Σ_i p_i` with `x_i ≈ min_x + s_x q_i`, `w_i ≈ s_w p_i`.
//!
//! Inputs have 128 steps where the processor adds pairs of products in sixteen bits (2 · 127 · 127 just fits), and 256
//! where it adds them in thirty-two. A row gives the same bits alone and in a batch.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(test)]
mod cpu;
#[cfg(target_arch = "aarch64")]
mod neon_dotprod;
mod portable;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::matrix_product::{Output, rows};
use crate::parallel::{Tiles, for_each_task};
use crate::{Error, Result};

/// Outputs side by side: two AVX2 registers of sums, one of AVX-512.
const GROUP: usize = 16;
/// Inputs that share a scale.
const BLOCK: usize = 32;
/// Inputs whose products one lane adds.
const QUAD: usize = 4;
/// Rows that one task multiplies.
const TASK_ROWS: usize = 128;
/// Groups of outputs that one task multiplies.
const TASK_GROUPS: usize = 16;
/// Rows of a register tile, at most.
const TALL: usize = 4;
/// Rows of any form's tile, at most.
#[cfg(target_arch = "x86_64")]
const HIGHEST: usize = amx::TALL;
#[cfg(not(target_arch = "x86_64"))]
const HIGHEST: usize = TALL;

/// The weights of a linear map, `[n_out, n_in]`, as bytes, packed for [`int8_product`].
#[derive(Clone, Debug)]
pub struct Int8Matrix {
    n_out: usize,
    n_in: usize,
    /// `[groups, blocks, 8 quads, 16 outputs, 4 inputs]`
    codes: Vec<i8>,
    /// `[groups, blocks, 16 outputs]`
    scales: Vec<f32>,
    /// Scale times the sum of a block's codes; as `scales`.
    sums: Vec<f32>,
}

impl Int8Matrix {
    /// Rounds and packs weights `[n_out, n_in]`, row-major.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when there are not `n_out · n_in` weights; [`Error::ZeroDimension`] when either is 0;
    /// [`Error::NotANumber`] for a weight that is not finite.
    pub fn new(weights: &[f32], n_out: usize, n_in: usize) -> Result<Self> {
        if n_out == 0 || n_in == 0 {
            return Err(Error::ZeroDimension);
        }
        let expected = n_out.checked_mul(n_in).ok_or(Error::ZeroDimension)?;
        if weights.len() != expected {
            return Err(Error::Shape { what: "weights", expected, found: weights.len() });
        }
        if let Some(index) = weights.iter().position(|weight| !weight.is_finite()) {
            return Err(Error::NotANumber { index });
        }
        let (n_groups, n_blocks) = (n_out.div_ceil(GROUP), n_in.div_ceil(BLOCK));
        let mut codes = vec![0; n_groups * n_blocks * BLOCK * GROUP];
        let mut scales = vec![0.0; n_groups * n_blocks * GROUP];
        let mut sums = scales.clone();
        for (o, row) in weights.chunks_exact(n_in).enumerate() {
            for (b, block) in row.chunks(BLOCK).enumerate() {
                let place = (o / GROUP * n_blocks + b) * GROUP;
                let codes = &mut codes[place * BLOCK..][..BLOCK * GROUP];
                let largest = block.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
                let scale = largest / 127.0;
                let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
                let mut sum = 0;
                for (i, weight) in block.iter().enumerate() {
                    let code = (weight * inverse).round().clamp(-127.0, 127.0) as i8;
                    codes[(i / QUAD * GROUP + o % GROUP) * QUAD + i % QUAD] = code;
                    sum += i32::from(code);
                }
                scales[place + o % GROUP] = scale;
                sums[place + o % GROUP] = scale * sum as f32;
            }
        }
        Ok(Self { n_out, n_in, codes, scales, sums })
    }

    /// Length of a result row.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Length of an input row.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Memory held.
    pub fn n_bytes(&self) -> usize {
        self.codes.len() + (self.scales.len() + self.sums.len()) * size_of::<f32>()
    }
}

/// Multiplies rows by weights in bytes: `out[r, o] ≈ Σ_i input[r, i] · weights[o, i] + bias[o]`, or adds that to `out`.
///
/// `input` is `[n_rows, n_in]`, `bias` `[n_out]`, `out` `[n_rows, n_out]`, row-major. What is lost is the rounding of
/// both sides, about a hundredth of a typical row's length.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit.
pub fn int8_product(
    input: &[f32],
    weights: &Int8Matrix,
    bias: Option<&[f32]>,
    output: Output,
    out: &mut [f32],
) -> Result<()> {
    let n_rows = rows(weights.n_in, weights.n_out, input, bias, out)?;
    product(CpuForm::best(), n_rows, input, weights, bias, output, out);
    Ok(())
}

/// The product by one form. The lengths fit and `form` is available.
fn product(
    form: CpuForm,
    n_rows: usize,
    input: &[f32],
    weights: &Int8Matrix,
    bias: Option<&[f32]>,
    output: Output,
    out: &mut [f32],
) {
    let (n_in, n_out) = (weights.n_in, weights.n_out);
    let n_groups = n_out.div_ceil(GROUP);
    let rounded = RoundedRows::new(form, input, n_in);
    let group_runs = n_groups.div_ceil(TASK_GROUPS);
    let n_tasks = n_rows.div_ceil(TASK_ROWS) * group_runs;
    let tiles = Tiles::new(out);
    for_each_task(n_tasks, n_rows * n_in * n_out / 2, |task| {
        let rows = task / group_runs * TASK_ROWS..n_rows.min((task / group_runs + 1) * TASK_ROWS);
        let mut sums = [0.0; HIGHEST * GROUP];
        for group in task % group_runs * TASK_GROUPS..n_groups.min((task % group_runs + 1) * TASK_GROUPS) {
            let mut row = rows.start;
            while row < rows.end {
                let n_rows = height(form, rows.end - row);
                let sums = &mut sums[..n_rows.max(TALL) * GROUP];
                tile(form, &rounded, row, n_rows, weights, group, sums);
                for (r, sums) in sums.chunks_exact(GROUP).take(n_rows).enumerate() {
                    let first = group * GROUP;
                    let width = (n_out - first).min(GROUP);
                    // SAFETY: `out` is borrowed by the product, and each of its elements belongs to one tile.
                    let out = unsafe { tiles.slice((row + r) * n_out + first, width) };
                    for (o, out) in out.iter_mut().enumerate() {
                        let sum = sums[o] + bias.map_or(0.0, |bias| bias[first + o]);
                        *out = if output == Output::Add { *out + sum } else { sum };
                    }
                }
                row += n_rows;
            }
        }
    });
}

/// Input rows rounded to bytes.
struct RoundedRows {
    n_blocks: usize,
    /// `[n_rows, blocks, 32]`
    codes: Vec<u8>,
    /// The step and the least number of each block, `[n_rows, blocks]`.
    blocks: Vec<(f32, f32)>,
}

impl RoundedRows {
    fn new(form: CpuForm, input: &[f32], n_in: usize) -> Self {
        let n_blocks = n_in.div_ceil(BLOCK);
        let n_rows = input.len() / n_in;
        let mut codes = vec![0; n_rows * n_blocks * BLOCK];
        let mut blocks = vec![(0.0, 0.0); n_rows * n_blocks];
        let per_row = codes.chunks_exact_mut(n_blocks * BLOCK).zip(blocks.chunks_exact_mut(n_blocks));
        for (row, (codes, blocks)) in input.chunks_exact(n_in).zip(per_row) {
            for (input, (codes, block)) in row.chunks(BLOCK).zip(codes.chunks_exact_mut(BLOCK).zip(blocks)) {
                *block = match form {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: these forms are chosen only where the processor has AVX2.
                    CpuForm::Avx2 | CpuForm::Avx512 => unsafe { avx2::round(input, codes, 127.0) },
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: as above.
                    CpuForm::Avx512Vnni | CpuForm::Amx => unsafe { avx2::round(input, codes, 255.0) },
                    _ => portable::round(input, codes, 127.0),
                };
            }
        }
        Self { n_blocks, codes, blocks }
    }
}

/// Rows of the next tile where `n_rows` are left.
fn height(form: CpuForm, n_rows: usize) -> usize {
    match form {
        #[cfg(target_arch = "x86_64")]
        CpuForm::Amx if n_rows >= amx::WORTHWHILE => n_rows.min(amx::TALL),
        _ => n_rows.min(TALL),
    }
}

/// The sums of as many rows as [`height`] says with one group of outputs: `[n_rows, 16]`, in a place for four at least.
fn tile(
    form: CpuForm,
    rounded: &RoundedRows,
    row: usize,
    n_rows: usize,
    weights: &Int8Matrix,
    group: usize,
    sums: &mut [f32],
) {
    let n_blocks = rounded.n_blocks;
    let operands = Operands {
        n_blocks,
        rows: &rounded.codes[row * n_blocks * BLOCK..(row + n_rows) * n_blocks * BLOCK],
        steps: &rounded.blocks[row * n_blocks..(row + n_rows) * n_blocks],
        weights: &weights.codes[group * n_blocks * BLOCK * GROUP..][..n_blocks * BLOCK * GROUP],
        scales: &weights.scales[group * n_blocks * GROUP..][..n_blocks * GROUP],
        weight_sums: &weights.sums[group * n_blocks * GROUP..][..n_blocks * GROUP],
    };
    #[cfg(target_arch = "x86_64")]
    if n_rows > TALL {
        // SAFETY: only the AMX form has tiles of so many rows, and it is chosen only where the processor and the system
        // allow it; the slices are cut to shape above.
        return unsafe { amx::tile(n_rows, &operands, sums) };
    }
    let sums = sums.first_chunk_mut().expect("there is place for four rows");
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX-512F and VNNI; the slices are cut to shape
        // above.
        CpuForm::Avx512Vnni | CpuForm::Amx => unsafe { avx512_vnni::tile(n_rows, &operands, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX2 and FMA; the rest as above.
        CpuForm::Avx2 | CpuForm::Avx512 => unsafe { avx2::tile(n_rows, &operands, sums) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the form is chosen only where the processor has NEON and DotProd; the rest as above.
        CpuForm::NeonDotprod => unsafe { neon_dotprod::tile(n_rows, &operands, sums) },
        _ => portable::tile(n_rows, &operands, sums),
    }
}

/// What a register tile reads.
struct Operands<'a> {
    n_blocks: usize,
    /// `[n_rows, blocks, 32]`
    rows: &'a [u8],
    /// `[n_rows, blocks]`
    steps: &'a [(f32, f32)],
    /// `[blocks, 8 quads, 16 outputs, 4 inputs]`
    weights: &'a [i8],
    /// `[blocks, 16 outputs]`
    scales: &'a [f32],
    /// `[blocks, 16 outputs]`
    weight_sums: &'a [f32],
}

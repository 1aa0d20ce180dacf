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

use std::ops::Range;

use rayon::prelude::*;

use crate::activation::Activation;
use crate::device::CpuForm;
use crate::epilogue::{Epilogue, Output, biases, store};
use crate::forms::{fold_lanes, forms};
use crate::parallel::{Tiles, even_parts, for_each_task};
use crate::{Error, Result};

/// Outputs side by side: two AVX2 registers of sums, one of AVX-512.
const GROUP: usize = 16;
/// Inputs that share a scale, and outputs that are finished together, since they are a block of the next product.
const BLOCK: usize = 64;
/// Inputs whose products one lane adds.
const QUAD: usize = 4;
/// Rows that one task multiplies.
const TASK_ROWS: usize = 128;
/// Blocks of outputs that one task multiplies, at most.
const TASK_BLOCKS: usize = 4;
/// Multiplications of one task where few rows leave a choice: some five microseconds, many times what a task costs.
const TASK_WORK: usize = 1 << 19;
/// Rows of a register tile, at most.
const TALL: usize = 6;

/// The weights of a linear map, `[n_out, n_in]`, as bytes, packed for [`int8_product`].
#[derive(Clone, Debug)]
pub struct Int8Matrix {
    n_out: usize,
    n_in: usize,
    /// `[groups, blocks, 16 quads, 16 outputs, 4 inputs]`
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
        let form = CpuForm::best();
        let of_groups = codes.par_chunks_exact_mut(n_blocks * BLOCK * GROUP);
        let of_groups = of_groups.zip(scales.par_chunks_exact_mut(n_blocks * GROUP));
        let of_groups = of_groups.zip(sums.par_chunks_exact_mut(n_blocks * GROUP));
        of_groups.zip(weights.par_chunks(GROUP * n_in)).for_each(|(((codes, scales), sums), rows)| {
            round_group(form, rows, n_in, codes, scales, sums);
        });
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

forms! {
    /// Rounds and packs the weights of a group of outputs, or of what there is of one, `[up to 16, n_in]`.
    fn round_group(rows: &[f32], n_in: usize, codes: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
        for (o, row) in rows.chunks_exact(n_in).enumerate() {
            for (b, block) in row.chunks(BLOCK).enumerate() {
                let largest = fold_lanes(block, 0.0, |largest, weight| largest.max(weight.abs()), f32::max);
                let scale = largest / 127.0;
                let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
                let mut rounded = [0.0; BLOCK];
                for (rounded, weight) in rounded.iter_mut().zip(block) {
                    *rounded = (weight * inverse).round_ties_even().clamp(-127.0, 127.0);
                }
                let codes = &mut codes[b * BLOCK * GROUP..][..BLOCK * GROUP];
                for (quad, rounded) in rounded.as_chunks::<QUAD>().0.iter().enumerate() {
                    let place = (quad * GROUP + o) * QUAD;
                    codes[place..place + QUAD].copy_from_slice(&rounded.map(|code| code as i8));
                }
                scales[b * GROUP + o] = scale;
                // A sum of whole numbers below 2¹³ is exact in any order.
                sums[b * GROUP + o] = scale * rounded.iter().sum::<f32>();
            }
        }
    }
}

/// Rows rounded to bytes, as [`int8_product`] reads them: block by block, to the steps between the least and the greatest
/// number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Int8Rows {
    n_rows: usize,
    n_in: usize,
    /// `[n_rows, blocks, 64]`, zeros after a row's last number.
    codes: Vec<u8>,
    /// The step and the least number of each block, `[n_rows, blocks]`.
    blocks: Vec<(f32, f32)>,
}

impl Int8Rows {
    /// Rounds rows of `n_in` numbers, in place of what was here.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when the rows are not all of that length; [`Error::ZeroDimension`] when it is 0.
    pub fn round(&mut self, rows: &[f32], n_in: usize) -> Result<()> {
        if n_in == 0 {
            return Err(Error::ZeroDimension);
        }
        if !rows.len().is_multiple_of(n_in) {
            let expected = rows.len().next_multiple_of(n_in);
            return Err(Error::Shape { what: "rows", expected, found: rows.len() });
        }
        self.round_by(CpuForm::best(), rows, n_in);
        Ok(())
    }

    fn round_by(&mut self, form: CpuForm, rows: &[f32], n_in: usize) {
        self.resize(rows.len() / n_in, n_in);
        let n_blocks = n_in.div_ceil(BLOCK);
        let per_row = self.codes.chunks_exact_mut(n_blocks * BLOCK).zip(self.blocks.chunks_exact_mut(n_blocks));
        for (row, (codes, blocks)) in rows.chunks_exact(n_in).zip(per_row) {
            for (numbers, (codes, block)) in row.chunks(BLOCK).zip(codes.chunks_exact_mut(BLOCK).zip(blocks)) {
                *block = round(form, numbers, codes);
            }
        }
    }

    /// Makes room for rows; what they hold is any numbers, but zeros after each row's last.
    fn resize(&mut self, n_rows: usize, n_in: usize) {
        let n_blocks = n_in.div_ceil(BLOCK);
        if n_in != self.n_in {
            self.codes.clear();
        }
        self.codes.resize(n_rows * n_blocks * BLOCK, 0);
        self.blocks.resize(n_rows * n_blocks, (0.0, 0.0));
        (self.n_rows, self.n_in) = (n_rows, n_in);
    }

    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }
}

/// Multiplies rows by weights in bytes: `s[r, o] ≈ Σ_i input[r, i] · weights[o, i]`, of which the epilogue makes `out`.
///
/// `out` is `[n_rows, n_out]`, or half as wide when it is gated, row-major. What is lost is the rounding of both sides, about a hundredth of a typical
/// row's length.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit.
pub fn int8_product(input: &Int8Rows, weights: &Int8Matrix, epilogue: Epilogue<'_>, out: &mut [f32]) -> Result<()> {
    check_rows(input, weights)?;
    epilogue.check(weights.n_in, weights.n_out, input.n_rows * weights.n_in, out.len())?;
    product(CpuForm::best(), input, weights, epilogue, out);
    Ok(())
}

/// [`int8_product`] whose result, after the bias and the activation, is rounded for the next product as soon as it is
/// there: `out` holds the rows that [`Int8Rows::round`] makes of that result, to the bit, which itself never is in memory.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit.
pub fn int8_product_rounded(
    input: &Int8Rows,
    weights: &Int8Matrix,
    bias: Option<&[f32]>,
    activation: Option<Activation>,
    out: &mut Int8Rows,
) -> Result<()> {
    check_rows(input, weights)?;
    let epilogue = Epilogue { bias, output: activation.map_or(Output::Replace, Output::Activate) };
    epilogue.check(weights.n_in, weights.n_out, input.n_rows * weights.n_in, input.n_rows * weights.n_out)?;
    rounded_product(CpuForm::best(), input, weights, epilogue, out);
    Ok(())
}

/// A matrix has at least one input, so that rows of which there are none may be of any length.
fn check_rows(input: &Int8Rows, weights: &Int8Matrix) -> Result<()> {
    if input.n_rows > 0 && input.n_in != weights.n_in {
        return Err(Error::Shape { what: "input", expected: weights.n_in, found: input.n_in });
    }
    Ok(())
}

/// The product by one form. The lengths fit and `form` is available.
fn product(form: CpuForm, input: &Int8Rows, weights: &Int8Matrix, epilogue: Epilogue<'_>, out: &mut [f32]) {
    let width = out.len().checked_div(input.n_rows).unwrap_or(0);
    let out = Tiles::new(out);
    for_each_tile(form, input, weights, width, epilogue, |tile, sums| {
        let biases: [f32; BLOCK] = biases(epilogue.bias, tile.first + tile.outputs.start);
        let mut places: [&mut [f32]; TALL] = Default::default();
        for (place, row) in places.iter_mut().zip(tile.rows.clone()) {
            // SAFETY: `out` is borrowed by the product, and each of its elements belongs to one task, which has no other
            // reference to it.
            *place = unsafe { out.slice(row * width + tile.outputs.start, tile.outputs.len()) };
        }
        store(form, sums, &biases, tile.output, &mut places[..tile.rows.len()]);
    });
}

/// The rounded product by one form, likewise, for outputs that need nothing of what is in `out`.
fn rounded_product(form: CpuForm, input: &Int8Rows, weights: &Int8Matrix, epilogue: Epilogue<'_>, out: &mut Int8Rows) {
    out.resize(input.n_rows, weights.n_out);
    let n_blocks = weights.n_out.div_ceil(BLOCK);
    let (codes, blocks) = (Tiles::new(&mut out.codes), Tiles::new(&mut out.blocks));
    for_each_tile(form, input, weights, weights.n_out, epilogue, |tile, sums| {
        let biases: [f32; BLOCK] = biases(epilogue.bias, tile.outputs.start);
        let mut finished = [[0.0; BLOCK]; TALL];
        store(form, sums, &biases, tile.output, &mut finished.each_mut().map(|row| &mut row[..]));
        for (row, finished) in tile.rows.zip(&finished) {
            let block = row * n_blocks + tile.outputs.start / BLOCK;
            // SAFETY: `out` is borrowed by the product, and each of its blocks belongs to one tile.
            let (codes, place) = unsafe { (codes.slice(block * BLOCK, BLOCK), blocks.slice(block, 1)) };
            place[0] = round(form, &finished[..tile.outputs.len()], codes);
        }
    });
}

/// Some rows and outputs of a result whose sums are finished.
struct Tile {
    /// At most [`TALL`].
    rows: Range<usize>,
    /// The output at which the pass begins.
    first: usize,
    /// At most [`BLOCK`] of the pass, which are those of a row of the result.
    outputs: Range<usize>,
    output: Output,
}

/// Gives the sums of each tile, `[n_rows, BLOCK]`, to `finish`, once a pass and pass by pass. Rows of the result are as
/// long as `width`.
fn for_each_tile(
    form: CpuForm,
    input: &Int8Rows,
    weights: &Int8Matrix,
    width: usize,
    epilogue: Epilogue<'_>,
    finish: impl Fn(Tile, &[f32]) + Sync + Send,
) {
    let (n_rows, n_in, n_out) = (input.n_rows, weights.n_in, weights.n_out);
    let n_blocks = width.div_ceil(BLOCK);
    let task_blocks = (TASK_WORK / (n_rows * n_in * BLOCK).max(1)).clamp(1, TASK_BLOCKS);
    let block_runs = n_blocks.div_ceil(task_blocks);
    let row_runs: Vec<_> = even_parts(0..n_rows, TASK_ROWS).collect();
    for_each_task(row_runs.len() * block_runs, n_rows * n_in * n_out / 2, |task| {
        let rows = row_runs[task / block_runs].clone();
        let blocks = task % block_runs * task_blocks..n_blocks.min((task % block_runs + 1) * task_blocks);
        let height = height(form, rows.len());
        let mut sums = [0.0; TALLEST * BLOCK];
        // Rows stay in the nearest cache, weights come from the next one, which is fast enough for rows so high.
        for part in even_parts(rows, height) {
            for block in blocks.clone() {
                let outputs = block * BLOCK..width.min((block + 1) * BLOCK);
                let n_groups = outputs.len().div_ceil(GROUP);
                for (first, output) in epilogue.passes(width) {
                    let group = (first + outputs.start) / GROUP;
                    sum(form, input, part.clone(), weights, group..group + n_groups, &mut sums);
                    for rows in even_parts(part.clone(), TALL) {
                        let sums = &sums[(rows.start - part.start) * BLOCK..(rows.end - part.start) * BLOCK];
                        finish(Tile { rows, first, outputs: outputs.clone(), output }, sums);
                    }
                }
            }
        }
    });
}

/// Rounds a block of a row, or what there is of one; gives the step and the least number.
fn round(form: CpuForm, numbers: &[f32], codes: &mut [u8]) -> (f32, f32) {
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX2, and `codes` are of a whole block.
        CpuForm::Avx2 | CpuForm::Avx512 => unsafe { avx2::round(numbers, codes, 127.0) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => unsafe { avx2::round(numbers, codes, 255.0) },
        _ => portable::round(numbers, codes, 127.0),
    }
}

/// Rows of any form's tile, at most.
#[cfg(target_arch = "x86_64")]
const TALLEST: usize = amx::TALL;
#[cfg(not(target_arch = "x86_64"))]
const TALLEST: usize = TALL;

/// Rows of a form's tile, at most, where there are `n_rows`.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "only tiles of AMX depend on it"))]
fn height(form: CpuForm, n_rows: usize) -> usize {
    match form {
        #[cfg(target_arch = "x86_64")]
        CpuForm::Amx if n_rows >= amx::WORTHWHILE => amx::TALL,
        #[cfg(target_arch = "x86_64")]
        CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => TALL,
        #[cfg(target_arch = "aarch64")]
        CpuForm::NeonDotprod => 4,
        _ => 5,
    }
}

/// The sums of as many rows as [`height`] says with at most as many groups of outputs as a block has, in rows of [`BLOCK`].
fn sum(
    form: CpuForm,
    input: &Int8Rows,
    rows: Range<usize>,
    weights: &Int8Matrix,
    groups: Range<usize>,
    sums: &mut [f32],
) {
    let n_blocks = weights.n_in.div_ceil(BLOCK);
    let n_rows = rows.len();
    let operands = Operands {
        n_blocks,
        n_groups: groups.len(),
        rows: &input.codes[rows.start * n_blocks * BLOCK..rows.end * n_blocks * BLOCK],
        steps: &input.blocks[rows.start * n_blocks..rows.end * n_blocks],
        weights: &weights.codes[groups.start * n_blocks * BLOCK * GROUP..groups.end * n_blocks * BLOCK * GROUP],
        scales: &weights.scales[groups.start * n_blocks * GROUP..groups.end * n_blocks * GROUP],
        weight_sums: &weights.sums[groups.start * n_blocks * GROUP..groups.end * n_blocks * GROUP],
    };
    let sums = &mut sums[..n_rows * BLOCK];
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: only the AMX form has tiles of so many rows, and it is chosen only where the processor and the system
        // allow it; the slices are cut to shape above.
        CpuForm::Amx if n_rows > TALL => unsafe { amx::tile(n_rows, &operands, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX-512F and VNNI; the rest as above.
        CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => unsafe {
            avx512_vnni::tile(n_rows, &operands, sums);
        },
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
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "forms there go from group to group"))]
    n_groups: usize,
    /// `[n_rows, blocks, 64]`
    rows: &'a [u8],
    /// `[n_rows, blocks]`
    steps: &'a [(f32, f32)],
    /// `[groups, blocks, 16 quads, 16 outputs, 4 inputs]`
    weights: &'a [i8],
    /// `[groups, blocks, 16 outputs]`
    scales: &'a [f32],
    /// `[groups, blocks, 16 outputs]`
    weight_sums: &'a [f32],
}

impl<'a> Operands<'a> {
    /// Those of each group alone.
    fn groups(&self) -> impl Iterator<Item = Operands<'a>> {
        let n_scales = self.n_blocks * GROUP;
        let weights = self.weights.chunks_exact(n_scales * BLOCK);
        let scales = self.scales.chunks_exact(n_scales).zip(self.weight_sums.chunks_exact(n_scales));
        let (n_blocks, rows, steps) = (self.n_blocks, self.rows, self.steps);
        weights.zip(scales).map(move |(weights, (scales, weight_sums))| Operands {
            n_groups: 1,
            n_blocks,
            rows,
            steps,
            weights,
            scales,
            weight_sums,
        })
    }
}

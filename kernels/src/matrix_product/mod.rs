//! Products of rows with a weight matrix that was packed when the model was loaded.
//!
//! Weights lie in panels of sixteen outputs, input by input, so that a register tile reads them in a straight line. An
//! output is summed in one order, whatever rows stand around it and however many threads work: a row gives the same
//! bits alone and in a batch. Forms for different instruction sets differ in the last bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(feature = "cuda")]
pub(crate) mod split;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use crate::device::CpuForm;
use crate::epilogue::{Epilogue, Output, biases, store};
use crate::parallel::{Tiles, even_parts, for_each_task};
use crate::{Error, Result};

/// Outputs of a panel: two AVX2 registers, one of AVX-512.
pub(crate) const PANEL: usize = 16;
/// Rows of a register tile, at most.
const TALLEST: usize = 12;
/// Panels of a register tile, at most.
const WIDEST: usize = 4;
/// Inputs of a block: a panel of them, 12 kB, stays in the first-level cache while all rows pass, also in half of one that two
/// threads of a core share.
pub(crate) const BLOCK: usize = 192;
/// Rows that one task multiplies, half as many when they are longer than two blocks: they stay in the second-level cache.
const TASK_ROWS: usize = 128;
/// Panels that one task multiplies, at most.
const TASK_PANELS: usize = 16;
/// Multiplications of one task where few rows leave a choice: some five microseconds, many times what a task costs.
const TASK_WORK: usize = 1 << 18;

/// The weights of a linear map, `[n_out, n_in]`, packed for [`matrix_product`].
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    n_out: usize,
    n_in: usize,
    /// `[⌈n_out / 16⌉, n_in, 16]`, zeros where there are no more outputs.
    panels: Vec<f32>,
}

impl PackedMatrix {
    /// Packs weights `[n_out, n_in]`, row-major.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when there are not `n_out · n_in` weights; [`Error::ZeroDimension`] when either is 0.
    pub fn new(weights: &[f32], n_out: usize, n_in: usize) -> Result<Self> {
        if n_out == 0 || n_in == 0 {
            return Err(Error::ZeroDimension);
        }
        let expected = n_out.checked_mul(n_in).ok_or(Error::ZeroDimension)?;
        if weights.len() != expected {
            return Err(Error::Shape { what: "weights", expected, found: weights.len() });
        }
        let mut panels = vec![0.0; n_out.div_ceil(PANEL) * PANEL * n_in];
        let of_panels = panels.par_chunks_exact_mut(PANEL * n_in).zip(weights.par_chunks(PANEL * n_in));
        of_panels.for_each(|(panel, rows)| {
            // Squares of sixteen: a kilobyte is written, and sixteen lines are read, before the next ones.
            for (square, inputs) in panel.chunks_mut(PANEL * PANEL).zip((0..n_in).step_by(PANEL)) {
                for (output, row) in rows.chunks_exact(n_in).enumerate() {
                    for (place, &weight) in square[output..].iter_mut().step_by(PANEL).zip(&row[inputs..]) {
                        *place = weight;
                    }
                }
            }
        });
        Ok(Self { n_out, n_in, panels })
    }

    /// Length of a result row.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Length of an input row.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Some panels, `[n_panels, n_in, 16]`.
    pub(crate) fn panels(&self, first: usize, n_panels: usize) -> &[f32] {
        let length = self.n_in * PANEL;
        &self.panels[first * length..(first + n_panels) * length]
    }

    /// Memory held.
    pub fn n_bytes(&self) -> usize {
        self.panels.len() * size_of::<f32>()
    }
}

/// Multiplies rows by weights: `s[r, o] = Σ_i input[r, i] · weights[o, i]`, of which the epilogue makes `out`.
///
/// `input` is `[n_rows, n_in]`, `out` `[n_rows, n_out]`, or half as wide when it is gated, row-major.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit.
pub fn matrix_product(input: &[f32], weights: &PackedMatrix, epilogue: Epilogue<'_>, out: &mut [f32]) -> Result<()> {
    epilogue.check(weights.n_in, weights.n_out, input.len(), out.len())?;
    product(CpuForm::best(), input, weights, epilogue, out);
    Ok(())
}

/// The product by one form. The lengths fit and `form` is available.
fn product(form: CpuForm, input: &[f32], weights: &PackedMatrix, epilogue: Epilogue<'_>, out: &mut [f32]) {
    let (n_in, n_out) = (weights.n_in, weights.n_out);
    let n_rows = input.len() / n_in;
    let width = out.len().checked_div(n_rows).unwrap_or(0);
    // A few rows are bound by memory and by the latency of additions: more panels side by side.
    let (tall, wide) = tile_size(form);
    let wide_for_few = if matches!(form, CpuForm::Neon | CpuForm::NeonDotprod) { 2 } else { WIDEST };
    let n_panels = width.div_ceil(PANEL);
    let task_rows = if n_in <= 2 * BLOCK { TASK_ROWS } else { TASK_ROWS / 2 };
    let task_panels = (TASK_WORK / (n_rows * n_in * PANEL).max(1)).next_multiple_of(WIDEST).clamp(WIDEST, TASK_PANELS);
    let panel_groups = n_panels.div_ceil(task_panels);
    let row_groups: Vec<_> = even_parts(0..n_rows, task_rows).collect();
    // Blocks of inputs of nearly one length.
    let block = n_in.div_ceil(n_in.div_ceil(BLOCK));
    let tile = Tile { form, input, weights, bias: epilogue.bias, width, out: Tiles::new(out) };
    for_each_task(row_groups.len() * panel_groups, n_rows * n_in * n_out, |task| {
        let rows = row_groups[task / panel_groups].clone();
        let wide = if rows.len() <= 2 { wide_for_few } else { wide };
        let panels = task % panel_groups * task_panels..n_panels.min((task % panel_groups + 1) * task_panels);
        // Sums of all rows with some panels, `[n_rows, wide · 16]`.
        let mut sums = vec![0.0; rows.len() * wide * PANEL];
        let mut panel = panels.start;
        while panel < panels.end {
            let wide = if panels.end - panel >= wide { wide } else { 1 };
            for (first, output) in epilogue.passes(width) {
                for input in (0..n_in).step_by(block) {
                    let inputs = input..n_in.min(input + block);
                    let mut done = 0;
                    for tile_rows in even_parts(rows.clone(), tall) {
                        let sums = &mut sums[done * wide * PANEL..][..tile_rows.len() * wide * PANEL];
                        tile.sum(tile_rows.clone(), first / PANEL + panel, wide, inputs.clone(), sums);
                        done += tile_rows.len();
                        if inputs.end == n_in {
                            tile.store(tile_rows, first, panel, wide, output, sums);
                        }
                    }
                }
            }
            panel += wide;
        }
    });
}

/// What a register tile needs to know.
struct Tile<'a> {
    form: CpuForm,
    input: &'a [f32],
    weights: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    /// Length of a row of `out`.
    width: usize,
    out: Tiles<f32>,
}

impl Tile<'_> {
    /// Sums some inputs of some rows with some panels.
    fn sum(&self, rows: Range<usize>, panel: usize, n_panels: usize, inputs: Range<usize>, sums: &mut [f32]) {
        let n_in = self.weights.n_in;
        let n_rows = rows.len();
        let rows = &self.input[rows.start * n_in..rows.end * n_in];
        let shape = TileShape { n_in, first: inputs.start, n_inputs: inputs.len() };
        sum_tile(self.form, n_rows, n_panels, rows, self.weights.panels(panel, n_panels), shape, sums);
    }

    /// Stores finished sums of a pass whose outputs begin at `first`.
    fn store(&self, rows: Range<usize>, first: usize, panel: usize, n_panels: usize, output: Output, sums: &[f32]) {
        let at = panel * PANEL;
        let width = (self.width - at).min(n_panels * PANEL);
        let biases: [f32; WIDEST * PANEL] = biases(self.bias, first + at);
        let mut places: [&mut [f32]; TALLEST] = Default::default();
        for (place, row) in places.iter_mut().zip(rows.clone()) {
            // SAFETY: `out` is borrowed by the product, and each of its elements belongs to one task, which has no other
            // reference to it.
            *place = unsafe { self.out.slice(row * self.width + at, width) };
        }
        store(self.form, sums, &biases[..n_panels * PANEL], output, &mut places[..rows.len()]);
    }
}

/// Rows and panels of a register tile of many rows.
pub(crate) fn tile_size(form: CpuForm) -> (usize, usize) {
    match form {
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => (12, 2),
        _ => (6, 1),
    }
}

/// The sums of some inputs of `n_rows` rows with `n_panels` panels, `[n_rows, n_panels · 16]`; added to what is there when
/// inputs came before these. `form` is available, and there is a tile of this size: one no larger than [`tile_size`].
pub(crate) fn sum_tile(
    form: CpuForm,
    n_rows: usize,
    n_panels: usize,
    rows: &[f32],
    panels: &[f32],
    shape: TileShape,
    sums: &mut [f32],
) {
    let TileShape { n_in, first, n_inputs } = shape;
    assert!(first <= n_in && n_inputs <= n_in - first, "the inputs are there");
    assert!(rows.len() == n_rows * n_in && panels.len() == n_panels * n_in * PANEL, "rows and panels are whole");
    assert!(sums.len() == n_rows * n_panels * PANEL, "there is a place for each sum");
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX-512F; the lengths are checked above.
        CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => unsafe {
            avx512::tile(n_rows, n_panels, rows, panels, shape, sums);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the form is chosen only where the processor has AVX2 and FMA; the rest as above.
        CpuForm::Avx2 => unsafe { avx2::tile(n_rows, n_panels, rows, panels, shape, sums) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: these forms are chosen only where the processor has NEON; the rest as above.
        CpuForm::Neon | CpuForm::NeonDotprod => unsafe {
            neon::tile(n_rows, n_panels, rows, panels, shape, sums);
        },
        _ => portable::tile(n_rows, n_panels, rows, panels, shape, sums),
    }
}

/// Which inputs a register tile sums.
#[derive(Clone, Copy)]
pub(crate) struct TileShape {
    /// Length of an input row, and of a panel.
    pub n_in: usize,
    pub first: usize,
    pub n_inputs: usize,
}

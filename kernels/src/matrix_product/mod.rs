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
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::parallel::{Tiles, for_each_task};
use crate::{Error, Result};

/// Outputs of a panel: two AVX2 registers, one of AVX-512.
const PANEL: usize = 16;
/// Rows that one task multiplies: what they hold of one block of inputs stays in the second-level cache.
const TASK_ROWS: usize = 120;
/// Panels that one task multiplies.
const TASK_PANELS: usize = 16;
/// Inputs of a block: a panel of them, 24 kB, stays in the first-level cache while all rows pass.
const BLOCK: usize = 384;

/// The weights of a linear map, `[n_out, n_in]`, packed for [`matrix_product`].
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    n_out: usize,
    n_in: usize,
    /// `[⌈n_out / 16⌉, n_in, 16]`, zeros where there are no more outputs.
    panels: Vec<f32>,
}

/// What a product does with what is already in `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// It is written over.
    Replace,
    /// It is added to, as a residual connection does.
    Add,
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
        for (panel, rows) in panels.chunks_exact_mut(PANEL * n_in).zip(weights.chunks(PANEL * n_in)) {
            for (output, row) in rows.chunks_exact(n_in).enumerate() {
                for (input, &weight) in row.iter().enumerate() {
                    panel[input * PANEL + output] = weight;
                }
            }
        }
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

    /// Memory held.
    pub fn n_bytes(&self) -> usize {
        self.panels.len() * size_of::<f32>()
    }

    /// The shape check that all products share; gives the number of rows.
    fn rows(&self, input: &[f32], bias: Option<&[f32]>, out: &[f32]) -> Result<usize> {
        rows(self.n_in, self.n_out, input, bias, out)
    }
}

/// Multiplies rows by weights: `out[r, o] = Σ_i input[r, i] · weights[o, i] + bias[o]`, or adds that to `out`.
///
/// `input` is `[n_rows, n_in]`, `bias` `[n_out]`, `out` `[n_rows, n_out]`, row-major.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit.
pub fn matrix_product(
    input: &[f32],
    weights: &PackedMatrix,
    bias: Option<&[f32]>,
    output: Output,
    out: &mut [f32],
) -> Result<()> {
    let n_rows = weights.rows(input, bias, out)?;
    product(CpuForm::best(), n_rows, input, weights, bias, output, out);
    Ok(())
}

pub fn rows(n_in: usize, n_out: usize, input: &[f32], bias: Option<&[f32]>, out: &[f32]) -> Result<usize> {
    if !input.len().is_multiple_of(n_in) {
        let expected = input.len().next_multiple_of(n_in);
        return Err(Error::Shape { what: "input", expected, found: input.len() });
    }
    let n_rows = input.len() / n_in;
    match bias {
        Some(bias) if bias.len() != n_out => Err(Error::Shape { what: "bias", expected: n_out, found: bias.len() }),
        _ if out.len() != n_rows * n_out => {
            Err(Error::Shape { what: "out", expected: n_rows * n_out, found: out.len() })
        }
        _ => Ok(n_rows),
    }
}

/// The product by one form. The lengths fit and `form` is available.
fn product(
    form: CpuForm,
    n_rows: usize,
    input: &[f32],
    weights: &PackedMatrix,
    bias: Option<&[f32]>,
    output: Output,
    out: &mut [f32],
) {
    let (n_in, n_out) = (weights.n_in, weights.n_out);
    let n_panels = n_out.div_ceil(PANEL);
    let panel_groups = n_panels.div_ceil(TASK_PANELS);
    let n_tasks = n_rows.div_ceil(TASK_ROWS) * panel_groups;
    // Blocks of inputs of nearly one length.
    let block = n_in.div_ceil(n_in.div_ceil(BLOCK));
    let tiles = Tiles::new(out);
    for_each_task(n_tasks, n_rows * n_in * n_out, |task| {
        let rows = task / panel_groups * TASK_ROWS..n_rows.min((task / panel_groups + 1) * TASK_ROWS);
        let panels = task % panel_groups * TASK_PANELS..n_panels.min((task % panel_groups + 1) * TASK_PANELS);
        let mut tile = Tile { form, input, weights, bias, tiles, output, inputs: 0..0 };
        for first in (0..n_in).step_by(block) {
            tile.inputs = first..n_in.min(first + block);
            tile.output = if first == 0 { output } else { Output::Add };
            tile.bias = if first == 0 { bias } else { None };
            tile.multiply(rows.clone(), panels.clone());
        }
    });
}

/// What a register tile needs to know.
struct Tile<'a> {
    form: CpuForm,
    input: &'a [f32],
    weights: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    tiles: Tiles<f32>,
    output: Output,
    /// The inputs that are summed now.
    inputs: std::ops::Range<usize>,
}

impl Tile<'_> {
    fn multiply(&self, rows: std::ops::Range<usize>, panels: std::ops::Range<usize>) {
        // A few rows are bound by memory and by the latency of additions: more panels side by side.
        let (tall, wide, wide_for_few) = match self.form {
            CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Amx => (12, 2, 4),
            CpuForm::Neon | CpuForm::NeonDotprod => (6, 1, 2),
            _ => (6, 1, 4),
        };
        let wide = if rows.len() <= 2 { wide_for_few } else { wide };
        let mut panel = panels.start;
        while panel < panels.end {
            let n_panels = if panels.end - panel >= wide { wide } else { 1 };
            let mut row = rows.start;
            while row < rows.end {
                let n_rows = (rows.end - row).min(tall);
                self.tile(row, n_rows, panel, n_panels);
                row += n_rows;
            }
            panel += n_panels;
        }
    }

    fn tile(&self, row: usize, n_rows: usize, panel: usize, n_panels: usize) {
        let (n_in, n_out) = (self.weights.n_in, self.weights.n_out);
        let n_inputs = self.inputs.len();
        let mut sums = [0.0; 12 * 4 * PANEL];
        let sums = &mut sums[..n_rows * n_panels * PANEL];
        let rows = &self.input[row * n_in..(row + n_rows) * n_in];
        let panels = &self.weights.panels[panel * n_in * PANEL..(panel + n_panels) * n_in * PANEL];
        let shape = TileShape { n_in, first: self.inputs.start, n_inputs };
        match self.form {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: these forms are chosen only where the processor has AVX-512F; the slices hold `n_rows` rows and
            // `n_panels` panels of `n_in` inputs, of which `n_inputs` from `first` on are there.
            CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Amx => unsafe {
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
        for (i, sums) in sums.chunks_exact(n_panels * PANEL).enumerate() {
            let first = panel * PANEL;
            let width = (n_out - first).min(n_panels * PANEL);
            // SAFETY: `out` is borrowed by the product, and each of its elements belongs to one tile of one task.
            let out = unsafe { self.tiles.slice((row + i) * n_out + first, width) };
            match (self.output, self.bias) {
                (Output::Replace, None) => out.copy_from_slice(&sums[..width]),
                (Output::Add, None) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
                (Output::Replace, Some(bias)) => {
                    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[first..]) {
                        *out = sum + bias;
                    }
                }
                (Output::Add, Some(bias)) => {
                    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[first..]) {
                        *out += sum + bias;
                    }
                }
            }
        }
    }
}

/// Which inputs a register tile sums.
#[derive(Clone, Copy)]
struct TileShape {
    /// Length of an input row, and of a panel.
    n_in: usize,
    first: usize,
    n_inputs: usize,
}

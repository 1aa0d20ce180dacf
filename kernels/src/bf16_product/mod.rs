//! Products of rows with a weight matrix in bf16: the upper half of an `f32`, eight bits of significand.
//!
//! Weights take half the memory of `f32`, which is what a product of one or two rows waits for; a model that was stored
//! in bf16 loses nothing. Forms without bf16 instructions widen weights on the way and keep the inputs in `f32`; those
//! with them round the inputs to bf16 too. Sums are `f32` everywhere. An output is summed in one order, whatever rows stand
//! around it and however many threads work: a row gives the same bits alone and in a batch.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(test)]
mod cpu;
mod portable;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::activation::{activate, gated};
use crate::device::CpuForm;
use crate::epilogue::{Epilogue, Output};
use crate::parallel::{Tiles, for_each_task};
#[cfg(target_arch = "x86_64")]
use crate::tiles::Amx;
use crate::{Error, Result};

/// Outputs of a panel: two AVX2 registers of sums, one of AVX-512, the columns of an AMX tile.
const PANEL: usize = 16;
/// Inputs of one AMX step; panels are filled up to a multiple with zeros.
const STEP: usize = 32;
/// Rows that one task multiplies: what they hold of one block of inputs stays in the second-level cache.
const TASK_ROWS: usize = 120;
/// Panels that one task multiplies; a multiple of all widths of register tiles.
const TASK_PANELS: usize = 18;
/// Inputs of a block: a panel of them, 16 kB, stays in the first-level cache while all rows pass.
const BLOCK: usize = 512;

/// The weights of a linear map, `[n_out, n_in]`, in bf16, packed for [`bf16_product`].
#[derive(Clone, Debug)]
pub struct Bf16Matrix {
    n_out: usize,
    n_in: usize,
    /// `[⌈n_out / 16⌉, ⌈n_in / 32⌉ · 16]`, zeros where there are no more outputs or inputs.
    panels: Vec<PairRow>,
}

/// The weights of sixteen outputs for two neighbouring inputs: a cache line, a row of an AMX tile.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct PairRow([[u16; 2]; PANEL]);

impl Bf16Matrix {
    /// Rounds weights `[n_out, n_in]`, row-major, to the nearest bf16, ties to even, and packs them.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when there are not `n_out · n_in` weights; [`Error::ZeroDimension`] when either is 0.
    pub fn new(weights: &[f32], n_out: usize, n_in: usize) -> Result<Self> {
        Self::pack(weights, n_out, n_in, round)
    }

    /// Packs weights `[n_out, n_in]`, row-major, that are bf16 already, bit by bit as they are.
    ///
    /// # Errors
    ///
    /// As [`Bf16Matrix::new`].
    pub fn from_bits(weights: &[u16], n_out: usize, n_in: usize) -> Result<Self> {
        Self::pack(weights, n_out, n_in, |bits| bits)
    }

    fn pack<T: Copy>(weights: &[T], n_out: usize, n_in: usize, bits: impl Fn(T) -> u16) -> Result<Self> {
        if n_out == 0 || n_in == 0 {
            return Err(Error::ZeroDimension);
        }
        let expected = n_out.checked_mul(n_in).ok_or(Error::ZeroDimension)?;
        if weights.len() != expected {
            return Err(Error::Shape { what: "weights", expected, found: weights.len() });
        }
        let n_pairs = n_in.next_multiple_of(STEP) / 2;
        let mut panels = vec![PairRow([[0; 2]; PANEL]); n_out.div_ceil(PANEL) * n_pairs];
        for (panel, rows) in panels.chunks_exact_mut(n_pairs).zip(weights.chunks(PANEL * n_in)) {
            for (output, row) in rows.chunks_exact(n_in).enumerate() {
                for (pair, weights) in panel.iter_mut().zip(row.chunks(2)) {
                    for (place, &weight) in pair.0[output].iter_mut().zip(weights) {
                        *place = bits(weight);
                    }
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
        size_of_val(self.panels.as_slice())
    }

    /// Pairs of inputs in a panel.
    fn n_pairs(&self) -> usize {
        self.n_in.next_multiple_of(STEP) / 2
    }
}

/// The nearest bf16, ties to even; what is not a number stays none.
#[inline(always)]
pub(crate) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // A quiet bit, lest the part that is left be all zeros, which is infinity.
    let kept = if x.is_nan() { bits | 0x40_0000 } else { nearest };
    (kept >> 16) as u16
}

/// Multiplies rows by weights in bf16: `out[r, o] = Σ_i input[r, i] · weights[o, i] + bias[o]`, or adds that to `out`.
///
/// `input` is `[n_rows, n_in]`, `bias` `[n_out]`, `out` `[n_rows, n_out]`, row-major. Products and sums are as exact as
/// those of [`matrix_product`](crate::matrix_product) with the same weights, except in the forms that round the inputs to
/// bf16, AMX and AVX-512 BF16: a relative error of 2⁻⁹ an input at most, and numbers below the normal ones are zeros.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit.
pub fn bf16_product(input: &[f32], weights: &Bf16Matrix, epilogue: Epilogue<'_>, out: &mut [f32]) -> Result<()> {
    epilogue.check(weights.n_in, weights.n_out, input.len(), out.len())?;
    let form = CpuForm::best();
    match epilogue.output {
        Output::Replace | Output::Add => product(form, input, weights, epilogue.bias, epilogue.output, out),
        Output::Activate(activation) => {
            product(form, input, weights, epilogue.bias, Output::Replace, out);
            activate(out, activation);
        }
        Output::Gated(activation) => {
            let mut gate_up = vec![0.0; 2 * out.len()];
            product(form, input, weights, epilogue.bias, Output::Replace, &mut gate_up);
            gated(&gate_up, weights.n_out / 2, activation, out)?;
        }
    }
    Ok(())
}

/// The product by one form, in `out` or added to it. The lengths fit and `form` is available.
fn product(form: CpuForm, input: &[f32], weights: &Bf16Matrix, bias: Option<&[f32]>, output: Output, out: &mut [f32]) {
    let sink = Sink { n_out: weights.n_out, bias, output, tiles: Tiles::new(out) };
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the form is chosen only where the processor and the system allow its tiles.
        CpuForm::Amx => unsafe { amx::product::<Amx>(input, weights, &sink) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the form is chosen only where the processor has AVX-512F and BF16; the sink is of the product's shape.
        CpuForm::Avx512Bf16 => unsafe { avx512_bf16::product(input, weights, &sink) },
        _ => by_blocks(form, input, weights, &sink),
    }
}

/// Where sums go.
struct Sink<'a> {
    n_out: usize,
    bias: Option<&'a [f32]>,
    output: Output,
    tiles: Tiles<f32>,
}

impl Sink<'_> {
    /// Takes the sums of a row with the outputs from `first` on; those past the last output fall away.
    ///
    /// Of a row's blocks of inputs, the first is taken as the caller of the product wants, the others are added.
    ///
    /// # Safety
    ///
    /// `out` is still borrowed by the product, and no other thread gives sums of these outputs.
    unsafe fn take(&self, row: usize, first: usize, sums: &[f32], is_first_block: bool) {
        let width = (self.n_out - first).min(sums.len());
        // SAFETY: as the caller promises.
        let out = unsafe { self.tiles.slice(row * self.n_out + first, width) };
        let add = self.output == Output::Add || !is_first_block;
        match self.bias.filter(|_| is_first_block) {
            None if add => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
            None => out.copy_from_slice(&sums[..width]),
            Some(bias) => {
                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[first..]) {
                    *out = if add { *out + (sum + bias) } else { sum + bias };
                }
            }
        }
    }
}

/// The product by register tiles of a form without matrix registers, block of inputs by block.
fn by_blocks(form: CpuForm, input: &[f32], weights: &Bf16Matrix, sink: &Sink<'_>) {
    let (n_in, n_out) = (weights.n_in, weights.n_out);
    let (n_rows, n_panels) = (input.len() / n_in, n_out.div_ceil(PANEL));
    let panel_runs = n_panels.div_ceil(TASK_PANELS);
    // Blocks of nearly one length, of whole pairs.
    let block = n_in.div_ceil(n_in.div_ceil(BLOCK)).next_multiple_of(2);
    for_each_task(n_rows.div_ceil(TASK_ROWS) * panel_runs, n_rows * n_in * n_out, |task| {
        let rows = task / panel_runs * TASK_ROWS..n_rows.min((task / panel_runs + 1) * TASK_ROWS);
        let panels = task % panel_runs * TASK_PANELS..n_panels.min((task % panel_runs + 1) * TASK_PANELS);
        for first in (0..n_in).step_by(block) {
            let tile = Tile { form, input, weights, sink, inputs: first..n_in.min(first + block) };
            tile.multiply(rows.clone(), panels.clone());
        }
    });
}

/// What a register tile needs to know.
struct Tile<'a> {
    form: CpuForm,
    input: &'a [f32],
    weights: &'a Bf16Matrix,
    sink: &'a Sink<'a>,
    /// The inputs that are summed now; the first is even.
    inputs: Range<usize>,
}

impl Tile<'_> {
    fn multiply(&self, rows: Range<usize>, panels: Range<usize>) {
        // A few rows are bound by memory and by the latency of additions: more panels side by side, as registers allow.
        let (tall, wide) = match (self.form, rows.len()) {
            (CpuForm::Avx512 | CpuForm::Avx512Vnni, 1 | 2) => (2, 6),
            (_, 1) => (1, 3),
            (_, 2) => (2, 2),
            (CpuForm::Avx512 | CpuForm::Avx512Vnni, _) => (12, 2),
            _ => (6, 1),
        };
        let mut panel = panels.start;
        while panel < panels.end {
            let n_panels = if panels.end - panel >= wide { wide } else { 1 };
            for row in rows.clone().step_by(tall) {
                self.tile(row, (rows.end - row).min(tall), panel, n_panels);
            }
            panel += n_panels;
        }
    }

    fn tile(&self, row: usize, n_rows: usize, panel: usize, n_panels: usize) {
        let (n_in, n_pairs) = (self.weights.n_in, self.weights.n_pairs());
        let mut sums = [0.0; 12 * 2 * PANEL];
        let sums = &mut sums[..n_rows * n_panels * PANEL];
        let rows = &self.input[row * n_in..(row + n_rows) * n_in];
        let panels = &self.weights.panels[panel * n_pairs..(panel + n_panels) * n_pairs];
        let shape = TileShape { n_in, n_pairs, first: self.inputs.start, n_inputs: self.inputs.len() };
        match self.form {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: these forms are chosen only where the processor has AVX-512F; the slices hold `n_rows` rows of
            // `n_in` inputs, of which `n_inputs` from `first` on are there, and `n_panels` panels with their pairs.
            CpuForm::Avx512 | CpuForm::Avx512Vnni => unsafe {
                avx512::tile(n_rows, n_panels, rows, panels, shape, sums);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the form is chosen only where the processor has AVX2 and FMA; the rest as above.
            CpuForm::Avx2 => unsafe { avx2::tile(n_rows, n_panels, rows, panels, shape, sums) },
            _ => portable::tile(n_rows, n_panels, rows, panels, shape, sums),
        }
        for (r, sums) in sums.chunks_exact(n_panels * PANEL).enumerate() {
            // SAFETY: `out` is borrowed by the product, and each of its elements belongs to one tile of one task.
            unsafe { self.sink.take(row + r, panel * PANEL, sums, self.inputs.start == 0) };
        }
    }
}

/// Which inputs a register tile sums.
#[derive(Clone, Copy)]
struct TileShape {
    /// Length of an input row.
    n_in: usize,
    /// Length of a panel.
    n_pairs: usize,
    /// Even.
    first: usize,
    n_inputs: usize,
}

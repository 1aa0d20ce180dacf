//! Products of activations with weights that are kept in blocks of few bits, as GGUF files store them.
//!
//! Weights are repacked once ([`BlockMatrix`]): sixteen outputs side by side, so that one load serves sixteen sums.
//! Activations are brought to 8-bit integers, a scale for each 32, once a call; the inner loop is in integers and one
//! unpacking of the weights serves four rows.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod format;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon_dotprod;
mod portable;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use crate::device::CpuForm;
use crate::{Error, Result};
use activations::{Activations, Row};
use matrix::{GROUP, Layout, with_layout};

pub use format::{BlockFormat, dequantize_blocks};
pub use matrix::BlockMatrix;

/// Multiplies activations with quantised weights: `out[r, o] = Σ_i input[r, i] · weights[o, i]`.
///
/// Row-major shapes: `input` is `[n_rows, n_in]`, `weights` is `[n_out, n_in]`, `out` is `[n_rows, n_out]` and is
/// overwritten.
///
/// Each 32 activations of a row are rounded to `d · q` with `d = max |x| / 127` and `q` a whole number, which moves an
/// output by about half a percent of `‖input[r]‖ · ‖weights[o]‖ / √n_in`; nothing else is approximate. A row that
/// holds a NaN or an infinity gives NaN. A row's result is the same to the bit alone, in any batch and on any number
/// of threads.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit those of `weights`.
pub fn block_product(input: &[f32], weights: &BlockMatrix, out: &mut [f32]) -> Result<()> {
    product(CpuForm::best(), input, weights, out, Store::Overwrite)
}

/// Adds the product of [`block_product`] to what is in `out`: `out[r, o] += Σ_i input[r, i] · weights[o, i]`.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit those of `weights`.
pub fn block_product_add(input: &[f32], weights: &BlockMatrix, out: &mut [f32]) -> Result<()> {
    product(CpuForm::best(), input, weights, out, Store::Add)
}

/// What becomes of the old value of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Overwrite,
    Add,
}

/// How many rows pass by a group of weights while it is in the first cache; their activations lie in the second.
const ROW_TILE: usize = 128;
/// Products of two numbers that are worth a task of their own, some 30 µs of work.
const TASK: usize = 1 << 20;
/// The same for a single row, which is bound by memory.
const ROW_TASK: usize = 1 << 18;

/// The sums of `R` rows with the outputs of one group.
type Tile<const R: usize> = unsafe fn(&[u8], [Row<'_>; R]) -> [[f32; GROUP]; R];

/// One form's kernels for one layout.
struct Tiles {
    four: Tile<4>,
    two: Tile<2>,
    one: Tile<1>,
}

impl Tiles {
    fn new<L: Layout>(form: CpuForm) -> Self {
        match form {
            #[cfg(target_arch = "x86_64")]
            CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => {
                Self { four: avx512::tile::<L, 4>, two: avx512::tile::<L, 2>, one: avx512::tile::<L, 1> }
            }
            #[cfg(target_arch = "x86_64")]
            CpuForm::Avx2 | CpuForm::Avx512 => {
                Self { four: avx2::tile::<L, 4>, two: avx2::tile::<L, 2>, one: avx2::tile::<L, 1> }
            }
            #[cfg(target_arch = "aarch64")]
            CpuForm::NeonDotprod => Self {
                four: neon_dotprod::tile::<L, 4>,
                two: neon_dotprod::tile::<L, 2>,
                one: neon_dotprod::tile::<L, 1>,
            },
            _ => Self { four: portable::tile::<L, 4>, two: portable::tile::<L, 2>, one: portable::tile::<L, 1> },
        }
    }
}

/// The product by one form, which is available.
fn product(form: CpuForm, input: &[f32], weights: &BlockMatrix, out: &mut [f32], store: Store) -> Result<()> {
    let (n_in, n_out) = (weights.n_in(), weights.n_out());
    if !input.len().is_multiple_of(n_in) {
        let expected = input.len().next_multiple_of(n_in);
        return Err(Error::Shape { what: "input", expected, found: input.len() });
    }
    let n_rows = input.len() / n_in;
    if n_rows.checked_mul(n_out) != Some(out.len()) {
        let expected = n_rows.saturating_mul(n_out);
        return Err(Error::Shape { what: "out", expected, found: out.len() });
    }
    if out.is_empty() {
        return Ok(());
    }
    let tiles = with_layout!(weights.layout(), L => Tiles::new::<L>(form));
    let n_groups = n_out.div_ceil(GROUP);
    let task = if n_rows == 1 { ROW_TASK } else { TASK };
    let many = n_rows * n_in * n_out >= 3 * ROW_TASK && rayon::current_num_threads() > 1;
    let activations = Activations::new(form, input, n_in, many);
    let work = Work { tiles: &tiles, weights, activations: &activations, out: out.as_mut_ptr(), store };
    if many {
        let groups_a_task = (task / (n_rows.min(ROW_TILE) * n_in * GROUP)).max(1);
        let n_parts = n_groups.div_ceil(groups_a_task);
        (0..n_rows.div_ceil(ROW_TILE) * n_parts).into_par_iter().for_each(|task| {
            let (row, group) = (task / n_parts * ROW_TILE, task % n_parts * groups_a_task);
            let rows = row..(row + ROW_TILE).min(n_rows);
            // SAFETY: no two tasks have a row and a group in common; both are within the shape of `out`, whose length
            // was checked.
            unsafe { work.run(rows, group..(group + groups_a_task).min(n_groups)) };
        });
    } else {
        for row in (0..n_rows).step_by(ROW_TILE) {
            // SAFETY: nothing else writes to `out`; rows and groups are within its shape.
            unsafe { work.run(row..(row + ROW_TILE).min(n_rows), 0..n_groups) };
        }
    }
    Ok(())
}

/// A product that any thread may do a part of.
struct Work<'a> {
    tiles: &'a Tiles,
    weights: &'a BlockMatrix,
    activations: &'a Activations,
    out: *mut f32,
    store: Store,
}

// SAFETY: `out` is the only part that is not shared for reading, and `run` asks its caller for parts of it that do not
// overlap.
unsafe impl Sync for Work<'_> {}

impl Work<'_> {
    /// The outputs of `groups` for `rows`.
    ///
    /// # Safety
    ///
    /// `rows` and `groups` are within the shape of `out`, and nothing else has access to these outputs meanwhile.
    unsafe fn run(&self, rows: Range<usize>, groups: Range<usize>) {
        for group in groups {
            let mut row = rows.start;
            while row < rows.end {
                // SAFETY: as the caller promises; each arm takes no more rows than are left.
                row += unsafe {
                    match rows.end - row {
                        4.. => self.tile(self.tiles.four, row, group),
                        2.. => self.tile(self.tiles.two, row, group),
                        _ => self.tile(self.tiles.one, row, group),
                    }
                };
            }
        }
    }

    /// `R` rows from `row` on with one group; `R` is returned.
    ///
    /// # Safety
    ///
    /// As [`Work::run`]; the processor runs `tile`.
    #[inline]
    unsafe fn tile<const R: usize>(&self, tile: Tile<R>, row: usize, group: usize) -> usize {
        let rows = std::array::from_fn(|r| self.activations.row(row + r));
        // SAFETY: the form of `tile` is available, and weights and activations have one number of blocks.
        let sums = unsafe { tile(self.weights.group(group), rows) };
        let n_out = self.weights.n_out();
        let first = group * GROUP;
        let n = GROUP.min(n_out - first);
        for (r, sums) in sums.iter().enumerate() {
            // SAFETY: row and outputs are within `out`, and no other thread has access to them.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.add((row + r) * n_out + first), n) };
            // Whole groups are stored as vectors, not copied by a call.
            match (self.store, <&mut [f32; GROUP]>::try_from(&mut *out)) {
                (Store::Overwrite, Ok(out)) => *out = *sums,
                (Store::Overwrite, Err(_)) => out.copy_from_slice(&sums[..n]),
                (Store::Add, Ok(out)) => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out += sum;
                    }
                }
                (Store::Add, Err(_)) => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
            }
        }
        R
    }
}

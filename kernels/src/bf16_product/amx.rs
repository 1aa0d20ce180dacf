//! AMX: up to four tiles of sixteen rows by sixteen outputs, thirty-two inputs a step.

use super::{Bf16Matrix, PANEL, STEP, Sink, TASK_PANELS, round};
use crate::forms::forms;
use crate::parallel::{Tiles, for_each_task};
use crate::tiles::{ROW_BYTES, ROWS, TileConfig, TileUnit};

/// Tiles of rows that one task multiplies.
const TASK_TILES: usize = 8;
/// Rows of `f32` sums: those of two tiles side by side.
const SUMS: usize = 2 * PANEL;

/// Thirty-two inputs of a row: a row of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Inputs([u16; STEP]);

/// The sums of four tiles.
#[repr(C, align(64))]
struct Sums([[f32; SUMS]; 2 * ROWS]);

/// Rounds the rows to bf16 and multiplies them.
///
/// # Safety
///
/// The processor has the unit and the system lets the process use it; `sink` has a place for each row and output.
pub unsafe fn product<U: TileUnit>(input: &[f32], weights: &Bf16Matrix, sink: &Sink<'_>) {
    let (n_in, n_out) = (weights.n_in, weights.n_out);
    let (n_rows, n_panels, n_steps) = (input.len() / n_in, n_out.div_ceil(PANEL), n_in.div_ceil(STEP));
    let (row_tiles, panel_runs) = (n_rows.div_ceil(ROWS), n_panels.div_ceil(TASK_PANELS));
    let rounded = rounded(input, n_in);
    for_each_task(row_tiles.div_ceil(TASK_TILES) * panel_runs, n_rows * n_in * n_out / 8, |task| {
        let tiles = task / panel_runs * TASK_TILES..row_tiles.min((task / panel_runs + 1) * TASK_TILES);
        let panels = task % panel_runs * TASK_PANELS..n_panels.min((task % panel_runs + 1) * TASK_PANELS);
        let mut unit = U::default();
        let mut sums = Sums([[0.0; SUMS]; 2 * ROWS]);
        for tile in tiles.clone().step_by(2) {
            let n_tiles = (tiles.end - tile).min(2);
            let n_rows = (n_rows - tile * ROWS).min(n_tiles * ROWS);
            let inputs = &rounded[tile * n_steps * ROWS..][..n_tiles * n_steps * ROWS];
            // SAFETY: the caller promises the unit; the shapes are those that `block` wants.
            unsafe { unit.configure(&config(n_rows)) };
            for panel in panels.clone().step_by(2) {
                let beside = (panels.end - panel).min(2);
                let weights = &weights.panels[panel * n_steps * ROWS..][..beside * n_steps * ROWS];
                let (a, b) = (inputs.as_ptr().cast(), weights.as_ptr().cast());
                // SAFETY: the tiles are configured for `n_tiles` tiles of rows; inputs and weights have as many tiles
                // of `n_steps` kilobytes as are named.
                unsafe {
                    match (n_tiles, beside) {
                        (1, 1) => block::<U, 1, 1>(&mut unit, a, b, n_steps, &mut sums),
                        (1, _) => block::<U, 1, 2>(&mut unit, a, b, n_steps, &mut sums),
                        (_, 1) => block::<U, 2, 1>(&mut unit, a, b, n_steps, &mut sums),
                        _ => block::<U, 2, 2>(&mut unit, a, b, n_steps, &mut sums),
                    }
                }
                for (r, sums) in sums.0[..n_rows].iter().enumerate() {
                    // SAFETY: `out` is borrowed by the product, and each of its elements belongs to one task.
                    unsafe { sink.take(tile * ROWS + r, panel * PANEL, &sums[..beside * PANEL], true) };
                }
            }
        }
        // SAFETY: the caller promises the unit.
        unsafe { unit.release() };
    });
}

/// The rows in bf16, `[⌈n_rows / 16⌉, ⌈n_in / 32⌉, 16 rows, 32 inputs]`, zeros where there is nothing.
fn rounded(input: &[f32], n_in: usize) -> Vec<Inputs> {
    let n_steps = n_in.div_ceil(STEP);
    let n_tiles = (input.len() / n_in).div_ceil(ROWS);
    let mut rounded = vec![Inputs([0; STEP]); n_tiles * n_steps * ROWS];
    let tiles = Tiles::new(&mut rounded);
    // Rounding a number takes the time of some ten multiplications.
    for_each_task(n_tiles, 10 * input.len(), |tile| {
        // SAFETY: `rounded` is borrowed until all tasks are done, and each has a tile of its own.
        let to = unsafe { tiles.slice(tile * n_steps * ROWS, n_steps * ROWS) };
        for (r, row) in input.chunks_exact(n_in).skip(tile * ROWS).take(ROWS).enumerate() {
            round_row(crate::device::CpuForm::best(), row, &mut to[r..]);
        }
    });
    rounded
}

forms! {
    /// Rounds a row into every sixteenth place.
    fn round_row(row: &[f32], to: &mut [Inputs]) {
        for (to, inputs) in to.iter_mut().step_by(ROWS).zip(row.chunks(STEP)) {
            for (to, x) in to.0.iter_mut().zip(inputs) {
                *to = round(*x);
            }
        }
    }
}

/// Tiles 0 to 3 are sums (two of rows by two of outputs), 4 and 5 inputs, 6 and 7 weights.
fn config(n_rows: usize) -> TileConfig {
    let (upper, lower) = (n_rows.min(ROWS), n_rows.saturating_sub(ROWS));
    let rows = [upper, upper, lower, lower, upper, lower, ROWS, ROWS];
    rows.into_iter().enumerate().fold(TileConfig::new(), |config, (tile, rows)| config.with(tile, rows, ROW_BYTES))
}

/// The sums of `R` tiles of rows with `P` panels.
///
/// # Safety
///
/// The unit is configured by [`config`] for more than `16 · (R − 1)` rows; `inputs` has `R` and `weights` `P` times
/// `n_steps` tiles of sixteen rows of 64 bytes.
#[inline(always)]
unsafe fn block<U: TileUnit, const R: usize, const P: usize>(
    unit: &mut U,
    inputs: *const u8,
    weights: *const u8,
    n_steps: usize,
    sums: &mut Sums,
) {
    const TILE: usize = ROWS * ROW_BYTES;
    // SAFETY: the caller promises the unit, its shapes and the inputs and weights; `sums` has four tiles' places.
    unsafe {
        unit.zero::<0>();
        if P == 2 {
            unit.zero::<1>();
        }
        if R == 2 {
            unit.zero::<2>();
        }
        if R == 2 && P == 2 {
            unit.zero::<3>();
        }
        for step in 0..n_steps {
            unit.load::<4>(inputs.add(step * TILE), ROW_BYTES);
            unit.load::<6>(weights.add(step * TILE), ROW_BYTES);
            unit.add_bf16_products::<0, 4, 6>();
            if P == 2 {
                unit.load::<7>(weights.add((n_steps + step) * TILE), ROW_BYTES);
                unit.add_bf16_products::<1, 4, 7>();
            }
            if R == 2 {
                unit.load::<5>(inputs.add((n_steps + step) * TILE), ROW_BYTES);
                unit.add_bf16_products::<2, 5, 6>();
            }
            if R == 2 && P == 2 {
                unit.add_bf16_products::<3, 5, 7>();
            }
        }
        let stride = SUMS * size_of::<f32>();
        let sums: *mut f32 = sums.0.as_mut_ptr().cast();
        unit.store::<0>(sums.cast(), stride);
        if P == 2 {
            unit.store::<1>(sums.add(PANEL).cast(), stride);
        }
        if R == 2 {
            unit.store::<2>(sums.add(ROWS * SUMS).cast(), stride);
        }
        if R == 2 && P == 2 {
            unit.store::<3>(sums.add(ROWS * SUMS + PANEL).cast(), stride);
        }
    }
}

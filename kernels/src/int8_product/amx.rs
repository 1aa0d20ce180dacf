//! AMX: up to three tiles of sixteen rows by a group of outputs, a block of inputs a step.
//!
//! A block's products are summed exactly, in any order; its scales are then applied as the VNNI form does, operation by
//! operation, so that both forms give the same bits.

use super::{BLOCK, GROUP, Operands, QUAD};
use crate::tiles::{Amx, ROWS, TileConfig, TileUnit};

/// Rows of a tile of sums, at most.
pub const TALL: usize = 3 * ROWS;
/// Rows for which setting up the tiles pays; fewer are the VNNI form's.
pub const WORTHWHILE: usize = 8;

/// Exact sums of products: a row of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Products([i32; GROUP]);

/// The sums of `n_rows` rows with up to four groups of outputs, in rows of [`BLOCK`].
///
/// # Safety
///
/// The processor has AVX-512F and AMX, which the system lets the process use, and the operands are as long as they say.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
pub unsafe fn tile(n_rows: usize, operands: &Operands<'_>, sums: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe { on_tiles::<Amx>(n_rows, operands, sums) }
}

/// The same by any unit of tiles.
///
/// # Safety
///
/// The processor has the unit, and the operands are as long as they say.
#[inline(always)]
pub unsafe fn on_tiles<U: TileUnit>(n_rows: usize, operands: &Operands<'_>, sums: &mut [f32]) {
    for (g, operands) in operands.groups().enumerate() {
        let mut group = [[0.0; GROUP]; TALL];
        let of_group = &mut group[..n_rows];
        // SAFETY: as the caller promises.
        unsafe {
            match n_rows.div_ceil(ROWS) {
                1 => rows_of_tiles::<U, 1>(&operands, of_group),
                2 => rows_of_tiles::<U, 2>(&operands, of_group),
                3 => rows_of_tiles::<U, 3>(&operands, of_group),
                _ => unreachable!("no tile is higher"),
            }
        }
        for (sums, of_group) in sums.chunks_exact_mut(BLOCK).zip(of_group) {
            sums[g * GROUP..][..GROUP].copy_from_slice(of_group);
        }
    }
}

/// `R` tiles of rows, the last of which need not be full.
///
/// # Safety
///
/// As for [`on_tiles`]; there are more than `16 · (R − 1)` rows.
#[inline(always)]
unsafe fn rows_of_tiles<U: TileUnit, const R: usize>(operands: &Operands<'_>, sums: &mut [[f32; GROUP]]) {
    let (n_blocks, n_rows) = (operands.n_blocks, sums.len());
    let stride = n_blocks * BLOCK;
    let mut unit = U::default();
    let mut products = [Products([0; GROUP]); TALL];
    // SAFETY: the caller promises the unit. A block of weights has sixteen quads of sixty-four bytes; `n_rows` rows of
    // inputs have a block of sixty-four bytes every `stride` bytes, and the last tile has the rows that are left;
    // there is a step for each row and block.
    unsafe {
        unit.configure(&config(n_rows));
        for b in 0..n_blocks {
            unit.load::<6>(operands.weights.as_ptr().add(b * BLOCK * GROUP).cast(), QUAD * GROUP);
            let inputs = operands.rows.as_ptr().add(b * BLOCK);
            multiply::<U, 0, 3>(&mut unit, inputs, stride, &mut products);
            if R > 1 {
                multiply::<U, 1, 4>(&mut unit, inputs.add(ROWS * stride), stride, &mut products[ROWS..]);
            }
            if R > 2 {
                multiply::<U, 2, 5>(&mut unit, inputs.add(2 * ROWS * stride), stride, &mut products[2 * ROWS..]);
            }
            let scales = *operands.scales[b * GROUP..].first_chunk().expect("a scale an output");
            let weight_sums = *operands.weight_sums[b * GROUP..].first_chunk().expect("a sum an output");
            for (r, (sums, products)) in sums.iter_mut().zip(&products).enumerate() {
                let (step, least) = *operands.steps.get_unchecked(r * n_blocks + b);
                add_scaled(products, step, least, &scales, &weight_sums, sums);
            }
        }
        unit.release();
    }
}

/// Tiles 0 to 2 are sums, 3 to 5 inputs, 6 weights.
fn config(n_rows: usize) -> TileConfig {
    let mut config = TileConfig::new().with(6, BLOCK / QUAD, QUAD * GROUP);
    for tile in 0..3 {
        let rows = n_rows.saturating_sub(tile * ROWS).min(ROWS);
        config = config.with(tile, rows, size_of::<Products>()).with(3 + tile, rows, BLOCK);
    }
    config
}

/// The exact sums of the rows of tile `A` with tile 6, by way of tile `C`.
///
/// # Safety
///
/// The unit is configured by [`config`]; the tiles' rows of inputs are there, `stride` bytes apart.
#[inline(always)]
unsafe fn multiply<U: TileUnit, const C: usize, const A: usize>(
    unit: &mut U,
    inputs: *const u8,
    stride: usize,
    products: &mut [Products],
) {
    assert!(products.len() >= ROWS, "a tile has sixteen rows");
    // SAFETY: as the caller promises; the products have room for a whole tile.
    unsafe {
        unit.zero::<C>();
        unit.load::<A>(inputs, stride);
        unit.add_byte_products::<C, A, 6>();
        unit.store::<C>(products.as_mut_ptr().cast(), size_of::<Products>());
    }
}

/// Adds a block's part of a row: `sum += least · weight_sum`, then `sum += product · (step · scale)`.
#[inline(always)]
fn add_scaled(
    products: &Products,
    step: f32,
    least: f32,
    scales: &[f32; GROUP],
    weight_sums: &[f32; GROUP],
    sums: &mut [f32; GROUP],
) {
    for o in 0..GROUP {
        let sum = least.mul_add(weight_sums[o], sums[o]);
        sums[o] = (products.0[o] as f32).mul_add(step * scales[o], sum);
    }
}
